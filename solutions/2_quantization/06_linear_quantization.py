# %% [markdown]
# # What exactly is an int8 weight?
#
# **The question.** A library says that it has turned 32-bit weights into 8-bit ones. Which number is stored, how does one get back from it, and
# how far off is it?
#
# **You will build** a scale and a zero point from two conditions, the step from numbers to codes and back, a bound on the error that holds for
# every single weight, and the corrections that let a processor multiply bytes and still get the right sum. On the way you meet a published
# formula that cannot store a zero, and a zero point that quietly ruins a layer.
#
# **Needs** lesson 00, matrix products. (One picture uses a mask of lesson 02.)
#
# {{lesson}}

# %% [markdown]
# ## One weight among 589 824
#
# Here is a matrix of the encoder of this course, all-MiniLM-L6-v2: the second matrix of the feed-forward part of its first layer. Write $W$ for it,
# shape $(D, F) = (384, 1536)$: a row for each output, a column for each input.
#
# The simplest way to make bytes of it needs no more than a sentence. Divide the largest magnitude by 127, call that a *step*, and store for each weight
# how many steps it is from zero, rounded to a whole number: something from −127 to 127, which fits a byte. That is what "int8, per tensor, symmetric" means.

# %%
import torch

from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.models.zoo import find_encoder, load_encoder, load_tokenizer
from course_lib.quantization.affine import choose_affine, fake_quantize, quantize
from course_lib.show.text import prose

encoder, tokenizer = load_encoder("minilm").eval(), load_tokenizer(find_encoder("minilm"))
layer = encoder.encoder.layer[0].output.dense
W = layer.weight.detach()  # (D, F)
sizes = W.abs().flatten().sort(descending=True).values
prose(
    f"{W.numel():,} weights, {W.numel() * 4:,} bytes as floats. Half of them are smaller than {sizes[len(sizes) // 2]:.3f}. "
    f"The three largest: {sizes[0]:.2f}, {sizes[1]:.2f}, {sizes[2]:.2f}."
)

# %%
predict(
    "zero_codes", "With one step for the whole matrix: what share of the weights gets the code 0, and so becomes 0?", unit="%"
)

# %%
from course_lib.show.quantized import code_histograms

codes = {}
for name, granularity in {"one scale for all": "tensor", "a scale for each row": "channel"}.items():
    scale, zero_point = choose_affine(W, bits=8, symmetric=True, granularity=granularity)
    codes[name] = quantize(W, scale, zero_point, bits=8, symmetric=True)
code_histograms(codes)

# %%
share = {name: float((c == 0).float().mean()) for name, c in codes.items()}
reveal("zero_codes", measured=100 * share["one scale for all"], unit="%")

# %% [markdown]
# The left picture is a matrix of bytes in which hardly any byte carries information, because **one** weight is much larger than the others, and the step
# is made to fit that weight. On the right every row has a step of its own (and the two spikes at ±127 are the 384 weights that are the largest of
# their row). The file is 1.5 kB larger, 384 floats, and that is all.
#
# So a code means nothing without its step, and everything in this lesson is about choosing it. Let us start with a line and a few numbers.

# %% [markdown]
# ## The number line
#
# With $b$ bits there are $2^b$ codes, $0, 1, \dots, 2^b - 1$. Each stands for one real number, its *level*, and in **linear** quantization the levels are
# evenly spaced. The picture shows them as ticks with their codes, and a few values that are sent to the nearest one. Below it is the error that *every*
# number would suffer: level minus value.

# %%
from course_lib.show.number_line import turn_bits_and_range

turn_bits_and_range()

# %% [markdown]
# Three things to see before any formula. Inside the range the error is a saw that stays within half a step: **rounding**. Outside it the error grows
# without end: **clipping**. One bit less makes the teeth about twice as long (left and middle); a narrower range makes them shorter, and pays with those values that
# lie beyond it (left and right). And in each panel one level, with a ring around it, lies exactly at 0. That is no accident.

# %% [markdown]
# ## A scale and a zero point from two conditions
#
# Evenly spaced levels are a straight line. For a real number $x$, before any rounding,
#
# $$\text{code} = \frac{x}{s} + z ,$$
#
# with a **scale** $s > 0$, the distance of two levels, and a shift $z$. Two unknowns, so we may ask for two things. Let the values lie between
# $x_{\min}$ and $x_{\max}$, and ask that the ends of this range get the first and the last code:
#
# $$\frac{x_{\min}}{s} + z = 0 , \qquad \frac{x_{\max}}{s} + z = 2^b - 1 .$$
#
# The second minus the first gives the scale, and the first then gives the shift:
#
# $$s = \frac{x_{\max} - x_{\min}}{2^b - 1}, \qquad z = -\frac{x_{\min}}{s}.$$
#
# Now put $x = 0$ in: its code is $z$. If $z = 63.75$, no code stands for 0, and a zero comes back as a quarter of a step. So $z$ is **rounded to a
# whole number**; the range moves by at most half a step, which nobody will miss. That whole number is the **zero point**: the code of exactly 0.
#
# For this to work, 0 must lie inside the range. If all values lie between 3 and 5, the code of 0 would be $-382$, and there is no such code.
# So the range is first **widened to hold 0**: from 3 … 5 to 0 … 5.

# %% [markdown]
# ## Exercise: a scale and a zero point
#
# {{exercise scale_and_zero_point}}
#
# Python's numbers are enough; `round` gives a whole one.


# %% exercise="scale_and_zero_point"
def scale_and_zero_point(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Scale and zero point of the codes 0 … 2^b − 1 for a range, which is first widened to hold 0.

    Args:
        low, high: the ends of the range, low ≤ high, not both 0.
        bits: 2 to 8.
    Returns:
        The scale, above 0, and the zero point: the code of the real number 0.

    >>> scale_and_zero_point(-1.0, 254.0)
    (1.0, 1)
    """
    ### BEGIN SOLUTION
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)  # that many steps between the first code and the last
    return scale, round(-low / scale)
    ### END SOLUTION


# %% check="scale_and_zero_point"
check("scale_and_zero_point", scale_and_zero_point)

# %% [markdown]
# Stuck? `hint("scale_and_zero_point")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** After widening, $-low/s$ lies between 0 and $2^b - 1$, so its rounded value is a code: nothing has to be pushed into the range
# afterwards. A zero point that needs clipping is a sign that the range was not widened.

# %%
scale_and_zero_point = use("scale_and_zero_point", scale_and_zero_point)

# %% [markdown]
# It goes to work on what flows *into* our layer. We run sentences through the encoder and keep the inputs of $W$: a matrix $X$ with a row of $F = 1536$ numbers for each
# word piece. They come out of a GELU, a smooth cousin of the ReLU that never goes below −0.17.

# %%
from course_lib.data.generated import generate
from course_lib.models.matching import embed

caught = []
hook = layer.register_forward_hook(lambda module, inputs, output: caught.append(inputs[0].reshape(-1, W.shape[1])))
with torch.no_grad():
    embed(encoder, tokenizer, [s.words for s in generate(0, {"train": pick(24, 6), "validation": 1, "test": 1}).train])
hook.remove()
X = torch.cat(caught).detach()  # (N, F)
x_scale, x_zero = scale_and_zero_point(float(X.min()), float(X.max()))
symmetric_step = float(X.abs().max()) / 127
used = round(float(X.max()) / symmetric_step) - round(float(X.min()) / symmetric_step) + 1
prose(
    f"X is {X.shape[0]} × {X.shape[1]}, from {float(X.min()):.2f} to {float(X.max()):.2f}: scale {x_scale:.4f}, zero point {x_zero}. "
    f"Symmetric codes would use {used} of their 255; with a zero point the step is half as long."
)

# %% [markdown]
# ## A formula without a zero point
#
# Surveys like to give another formula. For weights between $w_{\min}$ and $w_{\max}$,
#
# $$\text{code} = \operatorname{round}\!\left(\frac{w - w_{\min}}{w_{\max} - w_{\min}}\,(2^b - 1)\right), \qquad
# \hat w = w_{\min} + \text{code}\cdot\frac{w_{\max} - w_{\min}}{2^b - 1} .$$
#
# It is the same straight line with the shift *not* rounded. Both ends are met exactly, and where all values have one sign the step is even a little
# finer, since nothing is spent on 0. What is lost? Let us prune half of $W$ first (the smaller weights become 0, as in lesson 02), then
# quantize with 8 bits and a range for each row, by this formula and with a zero point. (In the library, `choose_affine` picks scales and zero points as you have
# just done, and `fake_quantize` goes to codes and back in one step.)

# %%
predict(
    "zeros_by_formula",
    "Half of the weights are exactly 0 before. What share is exactly 0 after the survey's formula?",
    unit="%",
)

# %%
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.quantization.survey_formula import dequantize_by_formula, quantize_by_formula

pruned = W * mask_by_sparsity(W.abs(), 0.5)
by_formula = torch.stack([dequantize_by_formula(*quantize_by_formula(row, 8), 8) for row in pruned])
by_zero_point = fake_quantize(pruned, *choose_affine(pruned, 8, symmetric=False, granularity="channel"), 8, symmetric=False)
gone = pruned == 0

# %%
reveal("zeros_by_formula", measured=100 * float((by_formula == 0).float().mean()), unit="%")


# %%
def relative(approximation: torch.Tensor, exact: torch.Tensor) -> float:
    """‖approximation − exact‖ / ‖exact‖."""
    return float((approximation - exact).norm() / exact.norm())


rows = {"survey's formula": by_formula, "integer zero point": by_zero_point}
lines = [
    f"| {name} | {int((w[gone] == 0).sum()):,} of {int(gone.sum()):,} | {relative(w, pruned):.2%} | {relative(X @ w.T, X @ pruned.T):.2%} |"
    for name, w in rows.items()
]
prose("\n".join(["| | zeros kept | error of the weights | error of the layer's output |", "|---|---|---|---|", *lines]))

# %% [markdown]
# Look at the last two columns. The formula is worse already in the weights, since half of them get an error they need not have. In the output of the layer the
# gap widens, because those errors are **all equal within a row**. Rounding errors of ordinary weights have both signs and cancel when a sum runs over 1536
# of them; an offset that is the same for every zero adds up. And the matrix is no longer sparse.
#
# Three kinds of zeros are everywhere in a network: pruned weights, the output of a ReLU, and padding. A fourth place is the integer product
# at the end of this lesson, which needs a *whole* number there.

# %% [markdown]
# ## From numbers to codes
#
# With scale and zero point the code of $x$ is
#
# $$q = \operatorname{clamp}\!\left(\operatorname{round}\!\left(\tfrac{x}{s}\right) + z,\; 0,\; 2^b - 1\right), \qquad \hat x = (q - z)\,s .$$
#
# The clamp is for values beyond the range: they get the code of the end. (Why would there be any, if the range came from the smallest and the largest value? Because tomorrow's
# inputs are not today's, and because one may choose a narrower range on purpose.) The order matters. A byte holds 0 … 255 and silently **wraps
# around**: 256 becomes 0. A value just above the range would turn into the lowest one.

# %% [markdown]
# ## Exercise: from numbers to codes
#
# {{exercise to_codes}}


# %% exercise="to_codes"
def to_codes(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    """The code of each value; values beyond the range get the first or the last code.

    Args:
        x: floats of any shape.
        scale: the distance of two levels, above 0.
        zero_point: the code of 0.
        bits: 2 to 8.
    Returns:
        uint8 of the shape of ``x``, from 0 to 2^b − 1.

    >>> to_codes(torch.tensor([-0.3, 0.0, 0.26, 99.0]), scale=0.1, zero_point=3, bits=4)
    tensor([ 0,  3,  6, 15], dtype=torch.uint8)
    """
    ### BEGIN SOLUTION
    steps = torch.round(x / scale)  # from 0, still floats: nothing can wrap around yet
    return (steps + zero_point).clamp(0, 2**bits - 1).to(torch.uint8)
    ### END SOLUTION


# %% check="to_codes"
check("to_codes", to_codes)

# %% [markdown]
# Stuck? `hint("to_codes")` gives one step at a time.

# %%
to_codes = use("to_codes", to_codes)

# %% [markdown]
# PyTorch has the same mapping built in, codes and back in one step. A difference of one code can only occur where a value lies so close to the middle of two levels that dividing by the
# scale and multiplying by its inverse round differently.

# %%
q = to_codes(X, x_scale, x_zero)
theirs = torch.fake_quantize_per_tensor_affine(X, x_scale, x_zero, 0, 255)
apart = ((q.float() - x_zero) * x_scale - theirs).abs() > x_scale / 2
prose(f"{int(apart.sum())} of {X.numel():,} values get another code from PyTorch.")

# %% compare=true
print("the real number 0 comes back as", (int(to_codes(torch.zeros(1), x_scale, x_zero)) - x_zero) * x_scale)

# %% [markdown]
# ## The error has a bound, and a shape
#
# Inside the range the nearest level is never further than half a step:
#
# $$|\hat x - x| \le \frac{s}{2} .$$
#
# If values are spread over many steps, every place between two levels is about equally likely, so the errors are spread **evenly** over $\pm s/2$, with
# a mean of 0 and a standard deviation of $s/\sqrt{12} \approx 0.29\,s$. Here are the errors of every weight and every input, divided by the scale.

# %%
from course_lib.show.quantized import rounding_errors


def errors_in_steps(w: torch.Tensor, bits: int, granularity: str) -> torch.Tensor:
    """Errors of symmetric codes, in steps of the scale that each weight has."""
    scale, zero_point = choose_affine(w, bits, True, granularity)
    return (fake_quantize(w, scale, zero_point, bits, True) - w) / scale


steps = {
    "W, 8 bits, a scale for each row": errors_in_steps(W, 8, "channel"),
    "W, 2 bits, a scale for each row": errors_in_steps(W, 2, "channel"),
    "inputs X, 8 bits": ((q.float() - x_zero) * x_scale - X) / x_scale,
}
rounding_errors(steps)

# %%
prose(
    "Largest error, and standard deviation, in steps: "
    + "; ".join(f"{name}: {float(e.abs().max()):.3f} and {float(e.std()):.3f}" for name, e in steps.items())
    + f". Evenly spread would be {12**-0.5:.3f}."
)

# %% [markdown]
# Left, the textbook. In the middle and on the right the bound holds just as strictly, but the errors are not evenly spread, because the *values* are not spread over many steps. With 2
# bits nearly every weight has the code 0, so its error is minus the weight itself. And most outputs of a GELU lie between −0.17 and 0, within two steps of
# each other. The bound is a theorem; the even spread is a model, good when there are many steps.

# %% [markdown]
# ## Exercise: how far off can a value be?
#
# {{exercise error_bounds}}
#
# Now for weights, with the symmetric codes of the first section: $-q_{\max} \dots q_{\max}$ with $q_{\max} = 2^{b-1} - 1$ and zero point 0, and a range
# that is cut at $\pm c$ on purpose. So $s = c / q_{\max}$, and both ends are levels themselves. What is the bound for each value, inside and beyond?


# %% exercise="error_bounds"
def error_bounds(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    """How far each value can be from what its symmetric code stands for, when the range is cut at ±clip.

    Args:
        x: floats of any shape.
        clip: the end of the range, above 0; the largest code, 2^(b−1) − 1, stands for it.
        bits: 2 to 8.
    Returns:
        A bound for each value, the shape of ``x``: by rounding inside the range, by clipping beyond it.

    >>> error_bounds(torch.tensor([0.3, -127.0, 130.0]), clip=127.0)
    tensor([0.5000, 0.5000, 3.0000])
    """
    ### BEGIN SOLUTION
    half_a_step = clip / (2 ** (bits - 1) - 1) / 2
    size = x.abs()
    return torch.where(size <= clip, torch.full_like(x, half_a_step), size - clip)
    ### END SOLUTION


# %% check="error_bounds"
check("error_bounds", error_bounds)

# %% [markdown]
# Stuck? `hint("error_bounds")` gives one step at a time.

# %%
error_bounds = use("error_bounds", error_bounds)

# %% [markdown]
# ## Cut the outlier?
#
# A tempting idea: the one large weight makes the step long for all the others. So cut the range well below it. 589 823 weights get a shorter step, and one
# is wrong. Your bounds tell what that does to the worst and to the typical weight; but what does it do to the layer?

# %%
predict(
    "cut_at_2",
    "W in 8 bits, one scale, the range cut at ±2: compared with no cut, what happens to the errors of W and of the layer's output?",
    choices=["both fall", "W's falls, the output's rises", "W's rises, the output's falls", "both rise"],
)

# %%
from course_lib.show.quantized import error_against_clip

clips = torch.logspace(-1, torch.log10(W.abs().max()).item(), pick(25, 7)).tolist()
zero = torch.zeros(1, dtype=torch.int32)


def cut(clip: float, bits: int) -> torch.Tensor:
    """W with one scale for a range that ends at ±clip."""
    return fake_quantize(W, torch.tensor([clip / (2 ** (bits - 1) - 1)]), zero, bits)


within = all(bool(((cut(c, 8) - W).abs() <= error_bounds(W, c) + 1e-5).all()) for c in clips)  # 1e-5: W has 7 digits
curves = {f"W, {bits} bits": [relative(cut(c, bits), W) for c in clips] for bits in (8, 4)}
curves["output of the layer, 8 bits"] = [relative(X @ cut(c, 8).T, X @ W.T) for c in clips]
row, column = divmod(int(W.abs().argmax()), W.shape[1])  # of the outlier
reaches = f"input up to {float(X[:, column].abs().max()):.1f}, output up to {float((X @ W.T)[:, row].abs().max()):.0f}"
error_against_clip(clips, curves, note=f"the outlier: row {row}, column {column}\n{reaches}")

# %%
before, after = (cut(c, 8) for c in (float(W.abs().max()), 2.0))
change = [relative(after, W) - relative(before, W), relative(X @ after.T, X @ W.T) - relative(X @ before.T, X @ W.T)]
outcome = {(-1, -1): "both fall", (-1, 1): "W's falls, the output's rises", (1, -1): "W's rises, the output's falls"}
reveal("cut_at_2", measured=outcome.get(tuple(-1 if c < 0 else 1 for c in change), "both rise"))

# %%
lowest = ", ".join(f"{name}: ±{clips[min(range(len(clips)), key=line.__getitem__)]:.2g}" for name, line in curves.items())
prose(
    f"The rings mark where each line is lowest ({lowest}). All weights stay within your bounds, at every cut: {within}. Cut at ±2, the error of W goes from {relative(before, W):.0%} to {relative(after, W):.0%}, that "
    f"of the output from {relative(X @ before.T, X @ W.T):.0%} to {relative(X @ after.T, X @ W.T):.0%}.\n\n"
    f"The outlier is W[{row}, {column}] = {float(W[row, column]):.2f}. Column {column} of X lies near 0 for most word pieces "
    f"(median {float(X[:, column].median()):.4f}) and above 20, up to {float(X[:, column].max()):.1f}, for {int((X[:, column] > 20).sum())} of {len(X)}."
)

# %% [markdown]
# For the weights alone a cut helps, and the fewer the codes, the narrower it wants to be, since a long step costs more when there are few of them. Now look at the
# line of the output. Where the two disagree, believe the output. The outlier is not a mistake of training that one may cut off: it sits in a column whose input is now and then very large, and together they make one
# output that the following layers rely on. **The error of the weights is not the error of the layer.** Choosing a range by what it does to values is the subject of lesson
# 07; choosing it by what it does to a model, of lesson 17. For this matrix there is a better way: let the outlier keep its range, and do not make the others share it.

# %% [markdown]
# ## Who shares a scale
#
# Nothing says that all of $W$ needs one scale. Usual choices:
#
# - **per tensor**: one for all, $s$ of shape $(1,)$;
# - **per channel**: one for each output row, $s$ of shape $(D, 1)$;
# - **per group**: one for each $g$ neighbours in a row, $s$ of shape $(D, F/g)$; $g = 64$ is common.
#
# Codes and back work as before, block by block; only the bookkeeping is new. In stored form the zero points are bytes like the codes, and this is where a classic
# slip waits: bytes have no sign, so `9 − 10` is 255.

# %% [markdown]
# ## Exercise: back to numbers, with a scale for each group
#
# {{exercise dequantize}}


# %% exercise="dequantize"
def dequantize(codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    """The numbers codes stand for: ``(code − zero_point) · scale``, each with the scale and zero point of its group.

    Args:
        codes: uint8 (R, C).
        scale: float32 (R, G), where G divides C: the first scale of a row belongs to its first C / G codes, and so on.
        zero_point: uint8 (R, G).
    Returns:
        float32 (R, C).

    >>> dequantize(torch.tensor([[9, 10, 10, 12]], dtype=torch.uint8), torch.tensor([[0.5, 2.0]]),
    ...            torch.tensor([[10, 10]], dtype=torch.uint8))
    tensor([[-0.5000,  0.0000,  0.0000,  4.0000]])
    """
    ### BEGIN SOLUTION
    size = codes.shape[1] // scale.shape[1]  # of a group
    scale = scale.repeat_interleave(size, dim=1)  # (R, C)
    zero_point = zero_point.repeat_interleave(size, dim=1)
    return (codes.float() - zero_point.float()) * scale  # floats before the difference: bytes have no sign
    ### END SOLUTION


# %% check="dequantize"
check("dequantize", dequantize)

# %% [markdown]
# Stuck? `hint("dequantize")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** `repeat_interleave` keeps the copies of a scale together, as groups are neighbours; `repeat` would deal them out in turn. Another way
# is to view the codes as (R, G, C/G) and let scales of shape (R, G, 1) broadcast.

# %%
dequantize = use("dequantize", dequantize)

# %%
predict(
    "bits_per_row",
    "8 bits with one scale for all, or fewer bits with a scale for each row: how many bits per row have a smaller error already?",
    unit="bits",
)

# %%
from course_lib.quantization.scheme import Scheme, weight_bytes
from course_lib.show.quantized import error_against_bits


def round_trip(w: torch.Tensor, bits: int, granularity: str | int) -> torch.Tensor:
    """Symmetric codes and back, with your function."""
    scale, zero_point = choose_affine(w, bits, True, granularity)
    coded = quantize(w, scale, zero_point, bits, True)
    return dequantize(coded, scale.expand(len(w), -1), zero_point.expand(len(w), -1))


ways = {"one scale": "tensor", "a scale for each row": "channel", "a scale for 64 neighbours": 64}
back = {name: {bits: round_trip(W, bits, g) for bits in range(8, 1, -1)} for name, g in ways.items()}
stored = {n: {b: 8 * weight_bytes(W.shape, Scheme(b, g)) / W.numel() for b in range(8, 1, -1)} for n, g in ways.items()}
error_against_bits({name: {b: (stored[name][b], relative(w, W)) for b, w in line.items()} for name, line in back.items()})

# %%
per_tensor_8 = relative(back["one scale"][8], W)
enough = min(b for b, w in back["a scale for each row"].items() if relative(w, W) < per_tensor_8)
reveal("bits_per_row", measured=enough, unit="bits")

# %%
lines = [
    f"| {name} | "
    + " | ".join(f"{relative(X @ back[name][b].T, X @ W.T):.1%}" for b in (8, 6, 4, 3, 2))
    + f" | {stored[name][4]:.2f} |"
    for name in ways
]
head = [
    "Error of the layer's output:\n",
    "| | 8 bits | 6 bits | 4 bits | 3 bits | 2 bits | stored bits at 4 |",
    "|---|---|---|---|---|---|---|",
]
prose("\n".join([*head, *lines]))

# %% [markdown]
# The numbers in the picture are the bits of a code. Read it from right to left. With a scale for 64 neighbours every bit less about doubles the error, as the saw on the number
# line said it must, down to 3 bits. At 2 bits only −1, 0 and 1 are left, and most weights become 0. With one scale for all, even 8 bits are not worth having for this matrix. Scales
# cost something too: with groups of 64 they are half a bit for each weight, which is why the lines are shifted against each other.
#
# The line of the rows **bends** towards 8 bits: there a further bit no longer halves the error. Where does the rest come from? Not from 384 rows, but from one.

# %%
others = torch.arange(len(W)) != row
by_row = {b: (w - W).square().sum(1) for b, w in back["a scale for each row"].items()}  # squared errors, (D,) each
gain = {
    "all rows": (by_row[7].sum() / by_row[8].sum()) ** 0.5,
    "others": (by_row[7][others].sum() / by_row[8][others].sum()) ** 0.5,
}
prose(
    f"Row {row}, the outlier's, makes {float(by_row[8][row] / by_row[8].sum()):.0%} of the squared error at 8 bits, but {float(by_row[3][row] / by_row[3].sum()):.1%} at 3. "
    f"From 7 bits to 8 the error is divided by {float(gain['all rows']):.2f}; without that row, by {float(gain['others']):.2f}."
)

# %% [markdown]
# The outlier's row still has the long step that all of $W$ had before, and most of its weights lie within a step of 0 even at 8 bits, so its error falls slowly. As long as the other rows
# have long steps too, it is one row of 384 and drowns. When they become fine, it is what is left. (In groups of 64 it spoils 63 neighbours, not 1535.)
#
# **A caution about the table.** Look at "one scale": its output seems no worse at 3 bits than at 6. Is a matrix of 3 bits nearly as good as one of 8, then?

# %%
Y = X @ W.T
kept = back["one scale"][3]
error = {name: relative((X @ kept.T)[:, rows], Y[:, rows]) for name, rows in {"all": slice(None), "others": others}.items()}
prose(
    f"At 3 bits {int((kept != 0).sum())} of {W.numel():,} weights is not 0: the outlier. Its output, row {row}, holds {float(Y[:, row].square().sum() / Y.square().sum()):.0%} of the squared norm of "
    f"all outputs together, and so the error over all looks like {error['all']:.0%}. Over the other {len(W) - 1} outputs it is {error['others']:.0%}: all of them are gone."
)

# %% [markdown]
# So a relative error over a whole output is a judgement about its **largest** parts. Where one output towers above the rest, look at the others on their own, or at the model's result.
#
# A group fences an outlier in: only its 63 neighbours suffer. That is the reason why 4-bit formats are sold with groups, and 8-bit formats are content with rows. Does the library agree?

# %% compare=true
scale, zero_point = choose_affine(W, 8, symmetric=False, granularity=64)
coded = quantize(W, scale, zero_point, 8, symmetric=False)
library = fake_quantize(W, scale, zero_point, 8, symmetric=False)
print("scales:", tuple(scale.shape), "- groups:", scale.numel())
print("same numbers as the library's:", torch.allclose(dequantize(coded, scale, zero_point.to(torch.uint8)), library))

# %% [markdown]
# ## What goes wrong in practice: a zero point pushed into its range
#
# The function below is written as several teaching libraries have it. It looks careful: a zero point has to be a code, so it is clipped to the codes. Its test quantizes normally
# distributed numbers, and passes. We give it numbers that are all positive: the gains of a LayerNorm of the encoder, 384 factors that its outputs are multiplied by.


# %%
def clipped_zero_point(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """What is wrong here?"""
    scale = (high - low) / (2**bits - 1)
    zero_point = round(-low / scale)
    return scale, max(0, min(2**bits - 1, zero_point))


gains = encoder.encoder.layer[0].output.LayerNorm.weight.detach()
low, high = float(gains.min()), float(gains.max())
normal = torch.randn(1000, generator=torch.Generator().manual_seed(0))
prose(f"{len(gains)} gains, from {low:.2f} to {high:.2f}.")

# %%
predict("gains_damaged", "How many per cent of the gains come back wrong by more than a whole step?", unit="%")

# %%
recipes = {"zero point clipped": clipped_zero_point, "range widened (yours)": scale_and_zero_point}
found = {}
for recipe, function in recipes.items():
    for data, x in {"normal": normal, "gains": gains}.items():
        scale, zero_point = function(float(x.min()), float(x.max()))
        there = (to_codes(x, scale, zero_point).float() - zero_point) * scale
        found[recipe, data] = (float(there.max()), float(((there - x).abs() > scale).float().mean()))
reveal("gains_damaged", measured=100 * found["zero point clipped", "gains"][1], unit="%")

# %%
lines = [f"| {recipe} | {data} | {top:.2f} | {share:.1%} |" for (recipe, data), (top, share) in found.items()]
prose("\n".join(["| | numbers | largest after | wrong by more than a step |", "|---|---|---|---|", *lines]))

# %% [markdown]
# What happened? Without the clip the zero point would be far below 0: the codes cover exactly the gains, and nothing else. Clipping it *moves* the line of levels: code 0 now
# stands for 0, and the last code for `high − low`. All gains above that are cut down to it. No error, no NaN; a network that has become a little strange in every
# layer. (Leaving the zero point unclipped is no cure: then the gains are fine and 0 is not among the levels.) The cure is to widen the range first. A test that would have
# caught it takes all-positive numbers, and a tolerance of half a step instead of "about right".

# %% [markdown]
# ## A product of bytes
#
# So far codes were a way of *storing*. But bytes can also be multiplied, faster than floats, and their products added up in 32-bit integers
# without any rounding. What does the sum of products of codes have to do with the sum we want?
#
# Let $a_{mk}$ be the codes of $X$, shape $(M, K)$, with one scale $s$ and zero point $z$; and $b_{kn}$ the codes of $W^\top$, shape $(K, N)$, with a scale $s_n$ and a zero point $z_n$ for
# each column, that is for each output. Put $\hat x = s\,(a - z)$ and $\hat w = s_n (b - z_n)$ into a matrix product:
#
# $$\hat y_{mn} = \sum_k \hat x_{mk} \hat w_{kn} = s\, s_n \sum_{k} (a_{mk} - z)(b_{kn} - z_n) .$$
#
# The scales have left the sum, because they do not depend on $k$. (That is why a scale for each *group* of $k$ does not fit here: integer products want rows.) What is left is a sum of
# integers. But $a - z$ runs from −255 to 255 and no longer fits a byte, so processors do not subtract first. Multiply out:
#
# $$\sum_k (a_{mk} - z)(b_{kn} - z_n) = \underbrace{\sum_k a_{mk} b_{kn}}_{\text{bytes times bytes}} \;-\; z \underbrace{\sum_k b_{kn}}_{\text{a column's sum}}
# \;-\; z_n \underbrace{\sum_k a_{mk}}_{\text{a row's sum}} \;+\; K\, z\, z_n .$$
#
# The first term is the work, $M N K$ products of bytes. The second depends on the weights alone and is computed once; the third is one sum for each row; the last
# is a constant. Symmetric weights have $z_n = 0$, and the last two vanish: this is why weights are usually symmetric and activations are not.

# %% [markdown]
# ## Exercise: the corrections of an integer product
#
# {{exercise correct_sums}}


# %% exercise="correct_sums"
def correct_sums(
    products: torch.Tensor, a_sums: torch.Tensor, b_sums: torch.Tensor, inner: int, a_zero: int, b_zero: torch.Tensor
) -> torch.Tensor:
    """``Σ_k (a_mk − z)(b_kn − z_n)`` from the products of the codes themselves and from their sums.

    Args:
        products: ``Σ_k a_mk·b_kn``, int32 (M, N).
        a_sums: ``Σ_k a_mk``, int32 (M,).
        b_sums: ``Σ_k b_kn``, int32 (N,).
        inner: K, the number of products in each sum.
        a_zero: z, the zero point of all of a.
        b_zero: z_n, the zero points of the columns of b, int32 (N,).
    Returns:
        int32 (M, N), exact.

    >>> one = torch.ones(1, dtype=torch.int32)  # a = (3 4), b = (4 5)ᵀ: products 12 + 20, sums 7 and 9
    >>> correct_sums(32 * one[None], 7 * one, 9 * one, inner=2, a_zero=1, b_zero=2 * one)  # 2·2 + 3·3
    tensor([[13]], dtype=torch.int32)
    """
    ### BEGIN SOLUTION
    inputs = a_zero * b_sums  # (N,), the same for all rows
    weights = a_sums[:, None] * b_zero  # (M, 1) times (N,): (M, N)
    return products - inputs - weights + inner * a_zero * b_zero
    ### END SOLUTION


# %% check="correct_sums"
check("correct_sums", correct_sums)

# %% [markdown]
# Stuck? `hint("correct_sums")` gives one step at a time.

# %%
correct_sums = use("correct_sums", correct_sums)

# %% [markdown]
# Now a whole layer in integers: the inputs $X$ as bytes, $W$ as bytes with a scale and a zero point for each row, your corrections, and the scales last. First the sums. They must be those of
# the centred codes **to the last digit**; whole numbers leave no room for "close".

# %%
w_scale, w_zero = choose_affine(W, 8, symmetric=False, granularity="channel")  # (N, 1) each
b = quantize(W, w_scale, w_zero, 8, symmetric=False).T  # (K, N), uint8
a = to_codes(X, x_scale, x_zero)  # (M, K), uint8
products = (a.double() @ b.double()).int()  # exact: whole numbers far below 2⁵³
b_zero = w_zero.flatten()
sums = correct_sums(products, a.sum(1, dtype=torch.int32), b.sum(0, dtype=torch.int32), a.shape[1], x_zero, b_zero)
centred = (a.double() - x_zero) @ (b.double() - b_zero)

# %% compare=true
print("sums that differ from those of the centred codes:", int((sums.double() != centred).sum()))
print("all fit 32 bits:", bool(products.double().abs().max() < 2**31 - 1), "| worst case K·255·255 =", 1536 * 255 * 255)

# %% [markdown]
# And the outputs? They differ from $Y = X W^\top$ by the rounding of the codes, and by no more. Subtract and add $x\,\hat w$ in each term:
#
# $$\hat x \hat w - x w = (\hat x - x)\,\hat w + x\,(\hat w - w), \qquad\text{so}\qquad
# |\hat y_{mn} - y_{mn}| \;\le\; \frac{s}{2} \sum_k |\hat w_{kn}| + \frac{s_n}{2} \sum_k |x_{mk}| .$$
#
# A bound for each single output, from two sums of magnitudes. How close does the truth come to it?

# %%
Y = X @ W.T
outputs = x_scale * w_scale.flatten() * sums  # (M, N): the scales come last
w_back = (b.float() - b_zero) * w_scale.flatten()  # ŵ, (K, N)
bound = x_scale / 2 * w_back.abs().sum(0) + X.abs().sum(1, keepdim=True) * w_scale.flatten() / 2
prose(
    f"Relative error of the outputs: {relative(outputs, Y):.2%}. Outputs beyond their bound: {int(((outputs - Y).abs() > bound).sum())} of {Y.numel():,}. "
    f"The largest error is {float(((outputs - Y).abs() / bound).max()):.0%} of its bound, the typical one {float(((outputs - Y).abs() / bound).median()):.1%}."
)

# %% [markdown]
# The bound assumes that all 1536 errors conspire. They do not: errors with a mean of 0 grow like $\sqrt{K}$ when they are added, the bound like $K$. This is why quantization works at all, and why an error
# that is *always of the same sign* (a lost zero, a truncation instead of a rounding) is so much worse than its size.
#
# The library's integer layer does the same, with the processor's instructions for bytes where there are any.

# %%
from course_lib.quantization.linear import Int8Linear

scheme = Scheme(bits=8, granularity="channel", symmetric=False, activation="static")
ready = Int8Linear.from_float(layer, scheme, input_range=(X.min(), X.max())).eval()
difference = (ready(X) - (outputs + layer.bias.detach())).abs().max()
prose(
    f"`{ready}`\n\nLargest difference from your layer: {float(difference):.1e}; the outputs themselves reach {float(Y.abs().max()):.1f}."
)

# %% [markdown]
# ## Questions for reflection

# %%
quiz("zero_point_of_a_range")

# %%
quiz("zero_point_not_whole")

# %%
quiz("outlier_in_a_row")

# %% [markdown] open="what_is_an_int8_weight" points=2
# **In your own words** (an instructor reads this one): a colleague loads a file of int8 weights into an int8 tensor, multiplies with it, and wonders about the
# result. What is missing, where does it enter the computation, and which two tests would you write before trusting any quantized layer?
#
# <!-- BEGIN SOLUTION -->
# A code is a count of steps from the zero point; without scale and zero point it is no weight. The zero points enter before the sum (as corrections), the scales after it,
# one for each output row. Tests: exact zeros, all-positive and all-negative ranges come back within half a step (zero exactly); and the integer sums equal those of the
# centred codes exactly, while the outputs stay within the bound by rounding. A third would look at outliers: the share of codes that are 0.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. A weight in int8 is a code, a scale and a zero point: $\hat w = (q - z)\,s$. The code alone says nothing.
# 2. Scale and zero point follow from the ends of a range that holds 0; the zero point is a whole number, so that 0 is exact.
# 3. Inside the range the error is at most half a step; beyond it, all that was cut off. Errors of one sign add up, others cancel.
# 4. One outlier makes the step long for all who share its scale: rows at 8 bits, groups at 4.
# 5. Bytes times bytes, exact sums in 32 bits, three corrections for the zero points, and the scales last.
#
# **Sources.** Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, 2017, arXiv 1712.05877. Krishnamoorthi, *Quantizing deep
# convolutional networks for efficient inference*, 2018, arXiv 1806.08342. Nagel et al., *A White Paper on Neural Network Quantization*, 2021, arXiv 2106.08295. Gholami et al., *A Survey of
# Quantization Methods for Efficient Neural Network Inference*, 2021, arXiv 2103.13630. Dettmers et al., *LLM.int8()*, 2022, arXiv 2208.07339 (outliers).
