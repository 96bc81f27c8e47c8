# %% [markdown]
# # Why does an L1 penalty give exact zeros?
#
# **The question.** Add $\lambda\sum|w|$ to a loss, and many weights become zero: not small, but zero. Why? And does every penalty do that?
#
# **You will build** the soft threshold, a solver made of it, a check that proves the solver right without knowing the solution, and a threshold that
# hits a sparsity exactly, beside a rule found in print that is meant to.
#
# **Needs** lesson 00, derivatives, matrix products.
#
# {{lesson}}

# %% [markdown]
# ## Two penalties, one fit
#
# The digits that come with scikit-learn are images of 8 × 8 pixels. From the pixels of an image, let us tell by a weighted sum whether it shows a 3:
# the target is +1 for a 3 and −1 for any other digit. Write
#
# - $X$, shape $(n, d)$, for $n = 1\,000$ images with $d$ pixels each (pixels that are blank in all images are left out),
# - $y$, shape $(n,)$, for the targets, and $w$, shape $(d,)$, for the weights, one for each pixel.
#
# Column means are subtracted, so that no constant is needed. scikit-learn fits the weights twice: with an L1 penalty, and with an L2 penalty
# that is chosen so that the fit is just as good.

# %%
import torch
from sklearn.linear_model import Lasso, Ridge

from course_lib.data.digits import load_digits
from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.show.text import prose

images, labels = load_digits().train
pixels = images.flatten(1).double()
used = (pixels > 0).any(0)
X = pixels[:, used] - pixels[:, used].mean(0)  # (n, d)
y = 2.0 * (labels == 3).double() - 1
y = y - y.mean()  # (n,)
n, d = X.shape
lam = 0.01  # λ


def loss(w: torch.Tensor) -> float:
    return float((y - X @ w).square().mean() / 2)


fit_l1 = Lasso(alpha=lam, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(X.numpy(), y.numpy())
w_l1 = torch.from_numpy(fit_l1.coef_)
strengths = torch.logspace(-3, 1, 201).tolist()
ridges = [torch.from_numpy(Ridge(alpha=n * s, fit_intercept=False).fit(X.numpy(), y.numpy()).coef_) for s in strengths]
w_l2 = min(ridges, key=lambda w: abs(loss(w) - loss(w_l1)))  # the one that fits as well
prose(f"{d} weights each. Loss of the fit: {loss(w_l1):.4f} with L1, {loss(w_l2):.4f} with L2.")

# %% [markdown]
# Before you see the weights, commit yourself.

# %%
predict("zeros_l1", f"Of the {d} weights fitted with the L1 penalty, how many are exactly 0?", unit="weights")

# %%
predict("zeros_l2", f"And of the {d} weights fitted with the L2 penalty?", unit="weights")

# %% [markdown]
# Each weight is drawn at the place of its pixel: + or − for its sign, nothing for an exact zero. Pixels without a weight are marked ×.

# %%
from course_lib.show.pixels import weight_images

weight_images({"L1 penalty": w_l1, "L2 penalty": w_l2}, used)

# %%
reveal("zeros_l1", measured=int((w_l1 == 0).sum()), unit="weights")

# %%
reveal("zeros_l2", measured=int((w_l2 == 0).sum()), unit="weights")

# %% [markdown]
# The empty cells are zero to the last bit. That is odd. A computer can hold billions of different numbers in a `float`, and a search for the best one
# has no reason to prefer one of them. Something must *hold* these weights where they are. To see what, one weight is enough.

# %% [markdown]
# ## One weight: a corner that holds
#
# Let a single weight $u$ have the loss $L(u) = \tfrac12 (u - a)^2$. Left alone it would become $a$. Now add a penalty and look for the minimum of
#
# $$f(u) = \tfrac12 (u - a)^2 + \lambda\,|u| \qquad\text{or}\qquad f(u) = \tfrac12 (u - a)^2 + \tfrac{\lambda}{2}\,u^2 .$$
#
# In the picture the loss is dashed, the penalty dotted. As λ grows, follow the minimum of their sum.

# %%
from course_lib.show.corner import turn_the_corner

turn_the_corner(a=1.0)

# %% [markdown]
# With L2 the minimum comes closer to zero and never arrives. With L1 it arrives, and stays, because the curve has a **corner** there. Compare the slopes
# on its two sides. The slope of $|u|$ is $-1$ on the left of zero and $+1$ on the right, so the slope of $f$ is
#
# $$L'(0) - \lambda \;\text{ just left of zero,} \qquad L'(0) + \lambda \;\text{ just right of it.}$$
#
# Zero is the minimum when the curve falls towards it from the left and rises from it on the right: $L'(0) - \lambda \le 0 \le L'(0) + \lambda$. In short,
#
# $$\boxed{\;u = 0 \text{ is the minimum} \iff |L'(0)| \le \lambda\;}$$
#
# **A corner holds a weight against any pull up to λ.** That is a whole range of losses, not one lucky case. The L2 penalty has the slope $\lambda \cdot 0 = 0$ at
# zero, so it holds a weight there only if the loss does not pull at all. We used nothing about $L$ but its slope: the same holds for any smooth convex
# loss, a fact we shall need twice.

# %% [markdown]
# ## The soft threshold, by cases
#
# Where is the minimum when the corner does not hold?

# %%
predict("one_weight", "The loss alone would choose a = −1.4, and λ = 0.5. Where is the minimum with the L1 penalty?")

# %% [markdown]
# Away from zero $f$ is smooth, so its slope at the minimum is zero. Three cases:
#
# 1. **$u > 0$:** the slope is $u - a + \lambda = 0$, so $u = a - \lambda$. That is positive only if $a > \lambda$.
# 2. **$u < 0$:** the slope is $u - a - \lambda = 0$, so $u = a + \lambda$. That is negative only if $a < -\lambda$.
# 3. **$u = 0$:** the corner holds when $|L'(0)| = |a| \le \lambda$.
#
# Every $a$ is in exactly one of them. So a weight moves towards zero by λ, and if it gets there it stops. With many weights,
# $\tfrac12\sum_i (u_i - w_i)^2 + t \sum_i |u_i|$ is a sum over weights, each of which can be minimised for itself. The minimum is the **soft threshold**
# of $w$ at $t$, entry by entry:
#
# $$S(w; t)_i = \begin{cases} w_i - t & w_i > t \\ 0 & |w_i| \le t \\ w_i + t & w_i < -t \end{cases}$$
#
# (We write $t$ and not λ, since it will not always be λ.) For example, $t = 1$ turns $(-3, -1, 0.5, 2)$ into $(-2, 0, 0, 1)$.

# %% [markdown]
# ## Exercise: the soft threshold
#
# {{exercise soft_threshold}}
#
# Try to write it without a loop. The three cases can be told in one line, if you think of a weight as a sign and a size.


# %% exercise="soft_threshold"
def soft_threshold(w: torch.Tensor, threshold: float) -> torch.Tensor:
    """Move every weight towards zero by ``threshold``; one that gets there stops at exactly 0.

    Args:
        w: weights of any shape, floating point.
        threshold: t, at least 0.
    Returns:
        A tensor of the shape of ``w``: the u that minimises ½‖u − w‖² + t·‖u‖₁.

    >>> soft_threshold(torch.tensor([-3.0, -1.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  0.,  1.])
    """
    ### BEGIN SOLUTION
    return w.sign() * (w.abs() - threshold).clamp(min=0)
    ### END SOLUTION


# %% check="soft_threshold"
check("soft_threshold", soft_threshold)

# %% [markdown]
# Stuck? `hint("soft_threshold")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** Of a size $|w|$ above $t$, the part above is left: $|w| - t$. Of one below, nothing: that is the clamp, and it gives a true 0, no rounding
# involved. The sign puts the rest back on the side it came from. `w - w.clamp(-threshold, threshold)` says the same: it takes away what lies inside $[-t, t]$.

# %%
soft_threshold = use("soft_threshold", soft_threshold)
reveal("one_weight", measured=float(soft_threshold(torch.tensor([-1.4]), 0.5)))

# %% [markdown]
# Two independent witnesses: a search over 80 001 values of $u$ for the lowest $f(u)$, which knows no calculus, and PyTorch's own function.

# %% compare=true
grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)  # 0.0001 apart
w = torch.tensor([-2.7, -0.9, -0.3, 0.0, 0.5, 1.1, 3.2], dtype=torch.float64)
found = torch.stack([grid[((grid - a).square() / 2 + 0.8 * grid.abs()).argmin()] for a in w])
print("best of 80 001 values:", [round(v, 3) + 0.0 for v in found.tolist()])  # + 0.0 makes a 0 of a −0
print("soft threshold:       ", [round(v, 3) + 0.0 for v in soft_threshold(w, 0.8).tolist()])
print("equal to PyTorch's softshrink:", torch.equal(soft_threshold(w, 0.8), torch.nn.functional.softshrink(w, 0.8)))

# %%
from course_lib.show.corner import shrinkage

shrinkage(
    {
        "L1: soft threshold": lambda u: soft_threshold(u, 1.0),
        "hard threshold": lambda u: u * (u.abs() > 1),
        "L2": lambda u: u / 2,
    }
)

# %% [markdown]
# The flat piece is the corner at work. Note its price too: weights that survive a soft threshold have all lost $t$. A hard threshold
# leaves them alone, but it jumps. We come back to that loss at the end.

# %% [markdown]
# ## Two weights: the diamond
#
# Let $w = (w_1, w_2)$ and $L(w) = \tfrac12 (w - c)^\top A\,(w - c)$, with $A$ of shape $(2, 2)$, symmetric and positive definite. The points of equal loss
# are ellipses around $c$, where $L$ alone has its minimum. Suppose that $L(w) + \lambda\|w\|_1$ is smallest at $\hat w$, and let $r = \|\hat w\|_1 = |\hat w_1| + |\hat w_2|$. Then no
# point with $\|w\|_1 \le r$ has a lower loss, or the sum would be lower there. So the ellipse through $\hat w$ and the set $\|w\|_1 \le r$ touch at $\hat w$ and do
# not cross. That set is a **diamond**. For L2 it is a disc.
#
# In the picture below, the cross is $c$, the dot $\hat w$, with its ellipse and its diamond or disc. The dotted line is the way of $\hat w$ as λ grows.

# %%
FIRST = ("w₁, the smaller one", "w₂, the larger one", "both at once")
predict(
    "first_zero",
    "The loss alone chooses w = (1.0, 1.3). As λ grows, which weight is the first to reach zero with L1?",
    choices=FIRST,
)

# %%
from course_lib.show.diamond import minimum, turn_the_diamond

turn_the_diamond()

# %%
lams = [0.05 * i for i in range(1, 40)]
gone = [next(s for s in lams if minimum("L1", s)[j] == 0) for j in (0, 1)]  # the smallest λ at which w₁, w₂ is zero
reveal("first_zero", measured=FIRST[2] if gone[0] == gone[1] else FIRST[0] if gone[0] < gone[1] else FIRST[1])

# %% [markdown]
# The corners of the diamond lie on the axes, where a weight is zero. Ellipses of many slopes touch the diamond at one and the same corner, as many
# pulls are held by one corner above. On a disc every slope has a point of its own, and one that lies on an axis takes a coincidence.
#
# Did the larger weight go first? What counts is not how large a weight would like to be, but how hard the loss pulls at it near zero. This loss is flat in the
# direction of $w_2$, as its ellipses show, so it pulls weakly there. Keep that for lesson 02: **a large weight need not be an important one.**

# %% [markdown]
# ## Many weights: a step that ends in the corner
#
# For our $d$ pixels the loss has no formula for its minimum with the penalty, so we walk. Let
#
# $$L(w) = \frac{1}{2n}\,\|y - Xw\|^2, \qquad g = \nabla L(w) = \frac1n X^\top (Xw - y), \quad \text{shape } (d,).$$
#
# This problem, $\min_w L(w) + \lambda\|w\|_1$, is the **lasso**. Around the present $w$ we replace $L$ by a parabola that lies above it and touches it at $w$:
#
# $$L(u) \;\le\; L(w) + g^\top (u - w) + \frac{1}{2\eta}\,\|u - w\|^2 .$$
#
# That is true for every $u$ if the step size η is at most $1/C$, where $C$ is the largest curvature of $L$, here the largest eigenvalue of $X^\top X / n$. To the right-hand side we
# add $\lambda\|u\|_1$ and minimise over $u$. Multiply by η, and complete the square, with
# $\eta g^\top(u - w) + \tfrac12\|u - w\|^2 = \tfrac12\|u - w + \eta g\|^2 - \tfrac12\|\eta g\|^2$:
#
# $$\tfrac12\,\big\|u - (w - \eta g)\big\|^2 + \eta\lambda\,\|u\|_1 + \text{something without } u .$$
#
# This we have solved already: it is the problem of the soft threshold, with $w - \eta g$ in place of $w$ and $t = \eta\lambda$. So the next weights are
#
# $$\boxed{\;w^{+} = S(w - \eta g;\; \eta\lambda)\;}$$
#
# An ordinary step of gradient descent, then a soft threshold. Since the parabola lies above the loss and touches it at $w$, the objective cannot rise.
# The method is called ISTA, the *iterative soft-thresholding algorithm*; with other penalties, *proximal gradient descent*.

# %% [markdown]
# ## Exercise: a step of ISTA
#
# {{exercise ista_step}}
#
# `soft_threshold` from above is at hand: yours, or the library's. With $w = 1$, $g = 2$, $\eta = 0.25$ and $\lambda = 1$ the result is 0.25: the gradient takes 0.5 and the
# penalty another 0.25.


# %% exercise="ista_step"
def ista_step(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    """One step of ISTA on L(w) + λ‖w‖₁.

    Args:
        w: weights, any shape.
        gradient: of L alone at ``w``, same shape.
        step: η, above 0.
        lam: λ, at least 0.
    Returns:
        The next weights, same shape.

    >>> ista_step(torch.tensor([1.0]), torch.tensor([2.0]), step=0.25, lam=1.0)
    tensor([0.2500])
    """
    ### BEGIN SOLUTION
    return soft_threshold(w - step * gradient, step * lam)
    ### END SOLUTION


# %% check="ista_step"
check("ista_step", ista_step)

# %% [markdown]
# Stuck? `hint("ista_step")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** It is the boxed formula. The order matters: the threshold comes last, so the step *ends* on exact zeros. And the threshold is ηλ, not λ: with
# half the step, both the loss and the penalty pull for half as long. With threshold λ the iteration still settles, but at the minimum of another problem,
# one with the penalty λ/η.

# %% [markdown]
# Now it goes to work on the digits, from $w = 0$.

# %%
predict("settled", "Of 1 000 steps of ISTA: after which one does the set of exact zeros no longer change?", unit="steps")

# %%
from course_lib.pruning.l1 import lasso_gradient, lasso_loss
from course_lib.show.lasso import convergence

ista_step = use("ista_step", ista_step)
C = float(torch.linalg.eigvalsh(X.T @ X / n)[-1])
trace = [torch.zeros(d, dtype=torch.float64)]
for _ in range(1000):
    trace.append(ista_step(trace[-1], lasso_gradient(X, y, trace[-1]), 1 / C, lam))
w = trace[-1]
zero_sets = torch.stack(trace) == 0  # (1001, d)
reveal("settled", measured=1 + int((zero_sets != zero_sets[-1]).any(1).nonzero().max()), unit="steps")

# %%
convergence([float(lasso_loss(X, y, v, lam)) for v in trace], zero_sets.sum(1).tolist(), of=d)

# %% [markdown]
# ## Have we arrived?
#
# A curve that has become flat proves little. But the boxed fact about the corner, applied to each weight while the others stand still, gives conditions for the minimum. With $g = \nabla L(w)$:
#
# $$|g_j| \le \lambda \;\text{ where } w_j = 0, \qquad\qquad g_j = -\lambda\,\mathrm{sign}(w_j) \;\text{ where } w_j \ne 0 .$$
#
# The first says that the corner holds; the second, that loss and penalty have opposite slopes. Since $L$ is smooth and $L$ and the penalty are convex, and the penalty is a sum with one
# term for each weight, a point where no single weight can improve is the minimum. So **a solution can be checked without knowing it**: the largest amount by which any of the conditions is missed is 0
# at a minimum and nowhere else.
#
# For example, let $\lambda = 0.5$ and $w = (1, 0)$. With $g = (-0.5, 0.2)$ both conditions are met. With $g = (-0.5, 0.7)$ the zero is wrong, by 0.2.
# With $g = (-0.4, 0.2)$ the first weight is wrong, by 0.1.

# %% [markdown]
# ## Exercise: is this the minimum?
#
# {{exercise lasso_violation}}


# %% exercise="lasso_violation"
def lasso_violation(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    """How far ``w`` is from a minimum of L(w) + λ‖w‖₁: the largest amount by which a condition is missed.

    Args:
        gradient: of L alone at ``w``, any shape.
        w: weights, same shape.
        lam: λ, at least 0.
    Returns:
        A single number of at least 0; 0 at a minimum.

    >>> round(lasso_violation(torch.tensor([-0.5, 0.7]), torch.tensor([1.0, 0.0]), lam=0.5), 4)
    0.2
    """
    ### BEGIN SOLUTION
    at_zero = (gradient.abs() - lam).clamp(min=0)
    elsewhere = (gradient + lam * w.sign()).abs()
    return float(torch.where(w == 0, at_zero, elsewhere).max())
    ### END SOLUTION


# %% check="lasso_violation"
check("lasso_violation", lasso_violation)

# %% [markdown]
# Stuck? `hint("lasso_violation")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** `at_zero` is what the pull has in excess of what the corner can hold, `elsewhere` the distance of the slope from the one it should have. `torch.where` picks
# the condition that applies. The maximum, because a minimum needs *all* conditions: a mean would hide one bad weight among thousands of good ones.

# %%
from course_lib.show.lasso import certificate

lasso_violation = use("lasso_violation", lasso_violation)
g = lasso_gradient(X, y, w)
certificate(g, w, lam)

# %%
prose(
    f"The worst miss is {lasso_violation(g, w, lam):.1e}, against λ = {lam:g}. After 10 steps it was "
    f"{lasso_violation(lasso_gradient(X, y, trace[10]), trace[10], lam):.1e}, and for the weights fitted with L2 it is "
    f"{lasso_violation(lasso_gradient(X, y, w_l2), w_l2, lam):.1e}."
)

# %% [markdown]
# This is a picture to keep: zeros anywhere in the band, all others on its edges. And scikit-learn, which solves the lasso in quite another way, one coordinate at a time?

# %% compare=true
print("the same zeros as scikit-learn:", torch.equal(w == 0, w_l1 == 0))
print("no weight differs by more than 0.000 001:", bool((w - w_l1).abs().max() < 1e-6))

# %% [markdown]
# ## From no penalty to nothing left
#
# When are *all* weights zero? When every corner holds at $w = 0$: there $g = -X^\top y / n$, so it takes
#
# $$\lambda \;\ge\; \lambda_{\max} = \max_j\, |X_j^\top y| / n ,$$
#
# with $X_j$ of shape $(n,)$ for column $j$ of $X$. It can be computed before anything is solved, which makes it the natural unit of λ.

# %%
predict("half_way", f"At λ = λ_max / 2, how many of the {d} weights are exactly zero?", unit="weights")

# %%
from course_lib.pruning.l1 import lambda_max, lasso_path
from course_lib.show.lasso import paths

top = lambda_max(X, y)
lams_l1 = top * torch.logspace(-2, 0.05, 42, dtype=torch.float64)
lams_l2 = torch.logspace(-3, 2, 42, dtype=torch.float64)
weights_l1 = lasso_path(X, y, lams_l1.flip(0).tolist()).flip(0)  # from the strongest on, each started from the one before
weights_l2 = torch.stack([torch.linalg.solve(X.T @ X / n + s * torch.eye(d), X.T @ y / n) for s in lams_l2])
paths({"L1: λ‖w‖₁": (lams_l1, weights_l1), "L2: λ/2 ‖w‖²": (lams_l2, weights_l2)})

# %%
reveal("half_way", measured=int((lasso_path(X, y, [top / 2])[0] == 0).sum()), unit="weights")

# %% [markdown]
# Each line is a weight; the five strongest are in colour. On the left they arrive at zero one by one, at λs of their own. On the right all fade together, and none ever
# arrives, however strong the penalty.

# %% [markdown]
# ## What goes wrong in practice: the penalty inside the loss
#
# Many a recipe does not bother with a soft threshold. It adds the penalty to the loss and lets an optimizer do the rest:
# `(loss + lam * w.abs().sum()).backward()`. It is the same objective, with the same minimum. Here it is for our digits, with Adam.

# %%
predict(
    "adam_zeros",
    f"Adam minimises the same objective for 1 000 steps. How many of the {d} weights are exactly zero at the end?",
    unit="weights",
)

# %%
from course_lib.show.lasso import zeros_and_near_zeros

p = torch.zeros(d, dtype=torch.float64, requires_grad=True)
adam, adam_trace = torch.optim.Adam([p], lr=0.01), []
for _ in range(1000):
    adam.zero_grad()
    lasso_loss(X, y, p, lam).backward()
    adam.step()
    adam_trace.append(p.detach().clone())
w_adam = adam_trace[-1]
crossings = (torch.stack(adam_trace).sign().diff(dim=0) != 0).sum(0)
j = int(torch.where(w == 0, crossings, -1).argmax())  # of the weights that should be zero, the most restless one
traces = {"Adam": [v[j] for v in adam_trace[:300]], "ISTA": [v[j] for v in trace[1:301]]}
reveal("adam_zeros", measured=int((w_adam == 0).sum()), unit="weights")

# %%
zeros_and_near_zeros(traces, {"Adam": w_adam, "ISTA": w})

# %%
counts = ", ".join(f"{int((w_adam.abs() < t).sum())} of them if below {t:g} counts as zero" for t in (0.01, 0.001, 0.0001))
prose(
    f"Adam's objective is {float(lasso_loss(X, y, w_adam, lam)):.5f}, the minimum {float(lasso_loss(X, y, w, lam)):.5f}. "
    f"How many of Adam's weights are zero? {counts}. At the minimum it is {int((w == 0).sum())}. "
    f"Adam's largest weight of those that should be zero has the size {float(w_adam[w == 0].abs().max()):.4f}, "
    f"the smallest of the others {float(w_adam[w != 0].abs().min()):.4f}. "
    f"The weight on the left crosses zero {int(crossings[j])} times in its 1 000 steps."
)

# %% [markdown]
# Why? The slope that Adam is given, $\lambda\,\mathrm{sign}(w)$, pushes a weight towards zero with full force until it is across, and then back: it hops over the corner, a step
# at a time, and has no reason to end on it. Smaller steps make smaller hops. So the number of zeros becomes a matter of taste: it depends on what one is willing to call zero. There are two ways out:
#
# - **step, then threshold**: let the optimizer see the loss alone and apply `soft_threshold` after each of its steps, as ISTA does;
# - **cut by rank**: say how many weights are to go, and cut off as many of the smallest. Which is an exercise.

# %% [markdown]
# ## Exercise: a threshold for an exact sparsity
#
# {{exercise threshold_for_sparsity}}
#
# Of $n$ weights of any shape a fraction $s$ is to go: $k = \mathrm{round}(s\,n)$ of them, the smallest in size. Find the threshold $t$ for which
# $|w| \le t$ says which. That is the size of the $k$-th smallest weight, a number that occurs in the tensor. For $(3, -1, 2, -4)$ and $s = 0.5$ two go, and $t = 2$.
# For $k = 0$ let $t = 0$, which takes nothing but zeros. Weights of equal size go or stay together here; lesson 02 breaks such ties.


# %% exercise="threshold_for_sparsity"
def threshold_for_sparsity(w: torch.Tensor, sparsity: float) -> float:
    """The threshold t at which ``w.abs() <= t`` holds for the fraction ``sparsity`` of the weights.

    Args:
        w: weights, any shape.
        sparsity: fraction that is to go, from 0 to 1.
    Returns:
        The size of the k-th smallest weight (smallest in size), k = round(sparsity · number of weights); 0.0 when k is 0.

    >>> threshold_for_sparsity(torch.tensor([3.0, -1.0, 2.0, -4.0]), 0.5)
    2.0
    """
    ### BEGIN SOLUTION
    k = round(sparsity * w.numel())
    return float(w.abs().flatten().kthvalue(k).values) if k else 0.0
    ### END SOLUTION


# %% check="threshold_for_sparsity"
check("threshold_for_sparsity", threshold_for_sparsity)

# %% [markdown]
# Stuck? `hint("threshold_for_sparsity")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** A sparsity is a count, so the threshold has to come from a count: a rank. `kthvalue` starts to count at 1. `torch.quantile(w.abs(), s)` looks like the same, but it interpolates
# between two weights, and it refuses tensors of more than 16 million entries, fewer than the word table of BERT-base has.

# %% [markdown]
# It goes to work on a real matrix: the one of the encoder's first layer that spreads a word's 384 numbers out to 1 536.

# %%
from course_lib.models.zoo import find_encoder, load_encoder, load_tokenizer
from course_lib.pruning.masks import sparsity

threshold_for_sparsity = use("threshold_for_sparsity", threshold_for_sparsity)
encoder = load_encoder("minilm")
dense = encoder.encoder.layer[0].intermediate.dense
W = dense.weight.detach()  # (F, D) = (1536, 384)

# %% compare=true
for s in (0.25, 0.5, 0.9):
    t = threshold_for_sparsity(W, s)
    zeros = sparsity(soft_threshold(W, t)), sparsity(W * (W.abs() > t))
    print(f"asked for {s:.0%}: the soft threshold leaves {zeros[0]:.3%} zeros, a cut {zeros[1]:.3%}")

# %% [markdown]
# ## A rule found in print
#
# Some recipes take another threshold: the norm of the matrix times the sparsity, $t = s\,\|W\|$ with $\|W\| = \sqrt{\sum w^2}$. It
# looks reasonable: it scales with the weights, and it grows with $s$.

# %%
predict("norm_rule", "With s = 0.5, which percentage of this matrix is at or below the threshold norm × s?", unit="%")

# %%
from course_lib.pruning.l1 import norm_ratio_threshold
from course_lib.show.asked_and_got import asked_and_got

reveal("norm_rule", measured=100 * float((W.abs() <= norm_ratio_threshold(W, 0.5)).double().mean()), unit="%")
asked = [i / 20 for i in range(20)]
got = {"k-th smallest size": [float((W.abs() <= threshold_for_sparsity(W, s)).double().mean()) for s in asked]}
for name, part in {"an 8 × 8 corner": W[:8, :8], "a 64 × 64 corner": W[:64, :64], "the whole matrix": W}.items():
    got[f"norm × s, {name}"] = [float((part.abs() <= norm_ratio_threshold(part, s)).double().mean()) for s in asked]
asked_and_got(asked, got)

# %%
norm, largest, typical = (float(v) for v in (W.norm(), W.abs().max(), W.square().mean().sqrt()))
prose(
    f"The norm of the matrix is {norm:.1f}; its largest weight is {largest:.2f}, its typical one {typical:.3f}. "
    f"Everything is below the threshold as soon as s exceeds {largest / norm:.3f}."
)

# %% [markdown]
# A norm adds up. For $n$ weights of typical size σ it is about $\sigma\sqrt{n}$, so the threshold depends on how *many* weights there are, and for a large matrix it is above them all. On
# eight by eight weights it prunes too much; on a whole matrix, everything. One line would have caught it in any size: `assert abs(sparsity(pruned) - s) < 0.01`.

# %% [markdown]
# ## The same step on a real matrix
#
# A layer multiplies its inputs, $X$ of shape $(n, D)$ for $n$ word pieces, by $W$ of shape $(F, D)$. We look for a sparse $V$ of the same shape whose outputs differ little:
#
# $$\min_V\; \frac{1}{2n}\,\|X (V - W)^\top\|^2 + \lambda\|V\|_1, \qquad \nabla L(V) = (V - W)\,H, \quad H = \tfrac1n X^\top X \text{ of shape } (D, D).$$
#
# That is a lasso for each of the $F$ rows, and `ista_step` takes all of them at once. The inputs are those of real words: the layer is watched while the encoder reads some sentences, and errors are
# measured on *other* sentences.

# %%
from course_lib.calibration import Sample, calibration_batches
from course_lib.data.align import make_windows, pad_id
from course_lib.data.generated import generate
from course_lib.layerwise import collect

tokenizer = load_tokenizer(find_encoder("minilm"))
corpus = generate(seed=0, sizes={"train": pick(600, 60), "validation": pick(150, 30), "test": 1})


def inputs_of_the_layer(sentences) -> torch.Tensor:
    """Rows (n, D) that the layer gets while the encoder reads these sentences."""
    windows = make_windows([s.words for s in sentences], tokenizer)
    batches = calibration_batches(windows, pad_id(tokenizer), count=len(windows))
    return collect(encoder, {"layer": dense}, batches, lambda features: Sample(features, 20_000, seed=0))["layer"].matrix()


X_seen, X_new = inputs_of_the_layer(corpus.train), inputs_of_the_layer(corpus.validation)
H = X_seen.T @ X_seen / len(X_seen)
curvature = float(torch.linalg.eigvalsh(H)[-1])
prose(f"{len(X_seen):,} word pieces to fit on, {len(X_new):,} others to measure on; {W.numel():,} weights.")

# %% [markdown]
# ISTA starts at $W$ and takes 100 steps with each of five λ. Whatever sparsity it ends at, two simple ways get the same one, by your threshold: `soft_threshold` once, and a cut that leaves the survivors as they are.
# Finally, since survivors of ISTA are too small, a *refit*: 100 more steps without the penalty, with the zeros held. The cut gets that too, to be fair.

# %%
METHODS = ("one soft threshold", "cut", "cut + refit", "ISTA", "ISTA + refit")
predict("best_at_80", "At about 80 % zeros, which one's outputs are nearest to those of the dense layer?", choices=METHODS)


# %%
outputs = X_new @ W.T  # (n, F), those of the dense layer


def error(V: torch.Tensor) -> float:
    """Relative error of the outputs for words that were not fitted on."""
    return float((X_new @ V.T - outputs).norm() / outputs.norm())


def walk(V: torch.Tensor, lam: float, mask: torch.Tensor | float = 1.0) -> torch.Tensor:
    for _ in range(pick(100, 10)):
        V = mask * ista_step(V, (V - W) @ H, 1 / curvature, lam)
    return V


reached, misses, errors = [], [], {name: [] for name in METHODS}
for s in (0.01, 0.02, 0.03, 0.05, 0.08):
    V = walk(W, lam=s)
    t = threshold_for_sparsity(W, sparsity(V))
    cut = W * (W.abs() > t)
    results = (soft_threshold(W, t), cut, walk(cut, 0.0, cut != 0), V, walk(V, 0.0, V != 0))
    reached.append(sparsity(V))
    misses.append(lasso_violation((V - W) @ H, V, s) / s)
    for name, result in zip(METHODS, results, strict=True):
        errors[name].append(100 * error(result))

# %%
from course_lib.show.curves import metric_against_sparsity

metric_against_sparsity(reached, {"": errors}, "error of the outputs, %")

# %%
at = min(range(len(reached)), key=lambda i: abs(reached[i] - 0.8))
reveal("best_at_80", measured=min(METHODS, key=lambda name: errors[name][at]))
best = [min(METHODS, key=lambda name: errors[name][i]) for i in range(len(reached))]
rows = "\n".join(
    f"| {s:.0%} | {errors['cut'][i]:.1f} % | {errors['ISTA'][i]:.1f} % | {best[i]} |" for i, s in enumerate(reached)
)
better = sum(a < b for a, b in zip(errors["ISTA + refit"], errors["ISTA"], strict=True))
prose(f"ISTA is not at its minimum yet: its worst miss is {min(misses):.1f} to {max(misses):.1f} times λ.")
prose(
    f"The refit lowered the error of ISTA at {better} of {len(reached)} sparsities, "
    f"at the highest from {errors['ISTA'][-1]:.1f} % to {errors['ISTA + refit'][-1]:.1f} %."
)
prose(f"| zeros | error of the cut | error of ISTA | best of all five |\n|---|---|---|---|\n{rows}")

# %% [markdown]
# Read the curves from the top. After **one soft threshold** all survivors are too small by $t$, and nothing makes up for it. The **cut** leaves them as they are, and is blind to
# the inputs. **ISTA** knows the inputs: survivors can take over what the lost weights did. That is worth the more, the more is lost; but the penalty still holds the
# survivors too close to zero. The **refit** gives that back, since it has no penalty. **L1 is a way to choose zeros, not a way to set the others.** And look at the table before you choose: where few weights have to go, being clever about them may not pay.

# %% [markdown]
# ## Questions for reflection

# %%
quiz("gradient_at_a_zero")

# %%
quiz("norm_of_a_million")

# %%
quiz("survivors_are_biased")

# %% [markdown] open="l1_without_zeros" points=2
# **In your own words** (an instructor reads this one): a colleague adds $\lambda\sum|w|$ to the loss of a network, trains with Adam, counts the zeros, finds none, and concludes that
# L1 does not work. What do you tell them, and what would you change in their code?
#
# <!-- BEGIN SOLUTION -->
# The objective is right and the optimizer cannot land on its corner: the slope λ·sign(w) carries a weight across zero, not onto it. Two remedies: take the penalty out of the loss and apply a soft threshold of step × λ
# after each step of the optimizer; or keep the training as it is and cut by rank, at the threshold for the sparsity that is wanted. Then hold the zeros with a mask and train on without the penalty, because it keeps the survivors too small.
# Good answers also ask whether λ was of a sensible size (compare λ_max), and warn that a threshold of ηλ presupposes plain gradient steps: Adam divides each weight's step by its own number, so its
# threshold would have to be divided too.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. The corner of $|w|$ holds a weight at exactly zero against any pull of the loss up to λ; a smooth penalty cannot.
# 2. The soft threshold moves every weight towards zero by $t$ and stops there: $\mathrm{sign}(w)\max(|w| - t, 0)$.
# 3. ISTA is a gradient step and then a soft threshold at step × λ; at the minimum zeros have $|g_j| \le \lambda$ and all others $g_j = -\lambda\,\mathrm{sign}(w_j)$, which anyone can check.
# 4. The penalty inside the loss of an optimizer gives near-zeros; cut those by rank. A threshold made from a norm is not a sparsity.
# 5. L1 chooses the zeros and leaves the survivors too small: refit them without it.
#
# **Sources.** Tibshirani, *Regression Shrinkage and Selection via the Lasso*, 1996. Donoho, *De-noising by Soft-Thresholding*, 1995. Daubechies, Defrise and De Mol, *An Iterative Thresholding
# Algorithm for Linear Inverse Problems with a Sparsity Constraint*, 2004, arXiv math/0307152. Beck and Teboulle, *A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems*, 2009.
# Friedman, Hastie, Höfling and Tibshirani, *Pathwise Coordinate Optimization*, 2007, arXiv 0708.1485 (how scikit-learn solves it). Parikh and Boyd, *Proximal Algorithms*, 2014.
