# %% [markdown]
# # Which weights can go?
#
# **The question.** Magnitude, gradient or Taylor: by which score should weights be removed?
#
# **You will build** the step from scores to a mask of an exact sparsity, one threshold for a whole network, the first-order estimate of what
# removing a weight does to the loss, and training that keeps pruned weights at zero. You will hold each score against the truth,
# measured weight by weight.
#
# **Needs** lesson 01 (why weights become zero at all).
#
# {{lesson}}

# %% [markdown]
# ## Three ways to lose the same number of weights
#
# Two small networks that read handwritten digits of 8 × 8 pixels: an *MLP* (64 → 128 → 64 → 10, all matrices) and a *CNN* (two convolutions and one
# matrix). Both are trained in a few seconds. The data has three parts that share no image: training, validation and test. **Every choice
# in this lesson is made on validation data; the test part is looked at once, at the end.**

# %%
import copy

import torch
from scipy.stats import spearmanr
from torch.nn.utils import prune

from course_lib.data.digits import load_digits
from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.models.digits import accuracy, digits_cnn, digits_mlp, fit, losses, mean_loss
from course_lib.pruning import masks as library
from course_lib.pruning.scores import fisher_scores, gradient_scores, magnitude_scores, taylor_scores
from course_lib.show.curves import metric_against_sparsity
from course_lib.show.text import prose
from course_lib.show.weights import bars_by_layer, estimate_against_truth, weight_histograms

digits = load_digits(seed=0, train=pick(None, 300))
networks = {"MLP": digits_mlp(seed=0), "CNN": digits_cnn(seed=0)}
for network in networks.values():
    fit(network, digits.train, epochs=pick(20, 4), seed=0)


def matrices(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights that may be pruned: matrices and filters, never biases."""
    return {name: p for name, p in network.named_parameters() if p.dim() > 1}


dense = {name: accuracy(network, digits.validation) for name, network in networks.items()}
prose("Accuracy on validation: " + ", ".join(f"{name} {value:.1%}" for name, value in dense.items()) + ".")

# %% [markdown]
# Now we take half of the weights of the MLP away in three ways: at random; those of the smallest size; those whose gradient is smallest. Before you
# look: which of the three does the least harm, and how good is it still?

# %%
predict(
    "best_of_three",
    "Half of the weights go. Which choice keeps the most accuracy?",
    choices=["random", "smallest size", "smallest gradient"],
)

# %%
predict("accuracy_after_half", "And how accurate is the MLP then, on validation, with nothing trained again?", unit="%")


# %%
def pruned(network: torch.nn.Module, masks: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A copy of the network with the masked weights set to zero."""
    smaller = copy.deepcopy(network)
    with torch.no_grad():
        for name, p in matrices(smaller).items():
            p.mul_(masks[name])
    return smaller


mlp = networks["MLP"]
draw = torch.Generator().manual_seed(0)
candidates = {
    "random": {name: torch.rand(p.shape, generator=draw) for name, p in matrices(mlp).items()},
    "smallest size": {name: p.detach().abs() for name, p in matrices(mlp).items()},
    "smallest gradient": gradient_scores(matrices(mlp), losses(mlp, digits.train)),
}
half = {way: pruned(mlp, library.global_masks(scores, 0.5)) for way, scores in candidates.items()}
left = {way: accuracy(network, digits.validation) for way, network in half.items()}
prose(
    "Accuracy on validation with half of the weights gone: "
    + ", ".join(f"**{way}** {value:.1%}" for way, value in left.items())
    + "."
)

# %%
best = max(left, key=left.get)
reveal("best_of_three", measured=best)

# %%
reveal("accuracy_after_half", measured=100 * left[best], unit="%")

# %% [markdown]
# Same network, same number of zeros. *Which* weights go is what counts. A **score** is a number for each weight that says how much it
# matters; the lowest scores go. The rest of this lesson is about good scores, and about turning them into masks without the slips that make published
# code prune something else than it says.

# %% [markdown]
# ## Look before you cut
#
# Here are the weights of the MLP, layer by layer, over one range. The widths of the histograms differ. The neurons of layer 2 have 128
# inputs each, those of the other two layers 64; and a layer with more inputs has smaller weights, because training starts it that way
# (PyTorch draws the first weights from $\pm 1/\sqrt{\text{inputs}}$).

# %%
weight_histograms({f"layer {i + 1}": p for i, p in enumerate(matrices(mlp).values())})

# %% [markdown]
# ## From scores to a mask
#
# Let $s \in \mathbb{R}^n$ be the scores of the $n$ weights of a tensor, higher meaning *keep*. A **mask** $m \in \{0, 1\}^n$ of sparsity $\sigma$ has exactly
#
# $$k = \operatorname{round}(\sigma n)$$
#
# zeros, and they stand where the scores are lowest. The pruned weight is $m \odot w$, the product entry by entry. In this course a mask is a
# tensor of booleans, **True where a weight stays**. (Here the letter $s$ is for scores, so the sparsity, $s(w)$ in lesson 00, is called $\sigma$.)
#
# Two things go wrong here in practice. One: a *threshold* cannot tell equal scores apart, and equal scores are common (think of weights
# that an L1 penalty has made exactly zero, or of int8 weights): then the mask has more zeros than were asked for, or fewer. A *rank* can.
# Two: the mask of what *goes* is taken for the mask of what *stays*.

# %% [markdown]
# ## Exercise: from scores to a mask
#
# {{exercise mask_by_sparsity}}
#
# Among equal scores any choice is right, as long as the count is exact.


# %% exercise="mask_by_sparsity"
def mask_by_sparsity(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Prune the lowest scores: exactly ``round(sparsity * n)`` of the n entries.

    Args:
        scores: one for each weight, any shape; higher means keep.
        sparsity: the fraction to prune, 0 to 1.
    Returns:
        A bool tensor of the shape of ``scores``: True where the weight stays.

    >>> mask_by_sparsity(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.25)
    tensor([ True, False,  True,  True])
    """
    ### BEGIN SOLUTION
    k = round(sparsity * scores.numel())
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort()[:k]] = False  # the positions of the k lowest
    return mask.view(scores.shape)
    ### END SOLUTION


# %% check="mask_by_sparsity"
check("mask_by_sparsity", mask_by_sparsity)

# %% [markdown]
# Stuck? `hint("mask_by_sparsity")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** `argsort` gives every entry a rank of its own, equal or not, so exactly `k` positions are set to False. The flat mask gets its
# shape back at the end: forgetting that is a published defect (the mask made of the flattened tensor and used on the other one).

# %%
mask_by_sparsity = use("mask_by_sparsity", mask_by_sparsity)

# %% compare=true
ties = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 3.0])
print("by rank:     ", int(mask_by_sparsity(ties, 0.5).sum()), "of 8 stay")
print("by threshold:", int((ties > ties.kthvalue(4).values).sum()), "of 8 stay")

# %% [markdown]
# With your function we cut the smallest 80 % of each layer. What is left has a hole in the middle:

# %%
sizes = {name: magnitude_scores(p) for name, p in matrices(mlp).items()}
cut = pruned(mlp, {name: mask_by_sparsity(scores, 0.8) for name, scores in sizes.items()})
names = {name: f"layer {i + 1}" for i, name in enumerate(matrices(mlp))}
weight_histograms({names[n]: p for n, p in matrices(mlp).items()}, {names[n]: p for n, p in matrices(cut).items()})

# %% [markdown]
# For single weights it makes no difference whether size means $|w|$ (L1) or $w^2$ (L2): the order is the same. For whole rows, such as all
# weights that go into one neuron, it does: L2 favours rows with one large weight. An identity to hold on to:

# %% compare=true
first = next(iter(matrices(mlp).values()))
same = torch.equal(mask_by_sparsity(magnitude_scores(first, p=1), 0.5), mask_by_sparsity(magnitude_scores(first, p=2), 0.5))
print("single weights, L1 and L2 give the same mask:", same)
theirs = prune.L1Unstructured(amount=round(0.5 * first.numel())).compute_mask(first.detach(), torch.ones_like(first))
print("PyTorch's own pruning gives it too:", torch.equal(mask_by_sparsity(magnitude_scores(first), 0.5), theirs.bool()))

# %% [markdown]
# ## One threshold for all layers?
#
# So far every layer lost the same share. But why should a layer whose weights are all needed lose as many as one that has plenty to spare?
# The alternative is **global** pruning: all scores of all layers compete in one ranking. If the layers have $n_1, \dots, n_L$
# weights, the mask has $\operatorname{round}(\sigma \sum_l n_l)$ zeros *in all*, and each layer keeps what is above the common threshold.

# %% [markdown]
# ## Exercise: one threshold for all layers
#
# {{exercise global_masks}}


# %% exercise="global_masks"
def global_masks(scores: dict[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """Masks for many tensors from one ranking: exactly ``round(sparsity * total)`` entries are False in all.

    Args:
        scores: name -> scores, tensors of any shapes.
        sparsity: the fraction of all entries to prune.
    Returns:
        name -> bool mask of the same shape, True where a weight stays.

    >>> global_masks({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, 0.5)
    {'a': tensor([False, False]), 'b': tensor([True, True])}
    """
    ### BEGIN SOLUTION
    together = torch.cat([s.flatten() for s in scores.values()])
    pieces = mask_by_sparsity(together, sparsity).split([s.numel() for s in scores.values()])
    return {name: piece.view(s.shape) for (name, s), piece in zip(scores.items(), pieces, strict=True)}
    ### END SOLUTION


# %% check="global_masks"
check("global_masks", global_masks)

# %% [markdown]
# Stuck? `hint("global_masks")` gives one step at a time.

# %%
global_masks = use("global_masks", global_masks)

# %% [markdown]
# Which layers pay when the smallest 70 % go everywhere, and when they go by one threshold?


# %%
def shares(masks: dict[str, torch.Tensor]) -> dict[str, float]:
    """The sparsity of each layer."""
    return {name: 1 - float(m.float().mean()) for name, m in masks.items()}


each, one = ({n: mask_by_sparsity(s, 0.7) for n, s in sizes.items()}, global_masks(sizes, 0.7))
bars_by_layer({names[n]: {"same share": shares(each)[n], "one threshold": shares(one)[n]} for n in sizes}, "weights pruned, %")

# %%
total = sum(int((~m).sum()) for m in one.values()) / sum(m.numel() for m in one.values())
prose(
    f"In all {total:.1%} are gone both times. Accuracy on validation: {accuracy(pruned(mlp, each), digits.validation):.1%} with the same share, "
    f"{accuracy(pruned(mlp, one), digits.validation):.1%} with one threshold."
)

# %% [markdown]
# ## What does removing a weight do to the loss?
#
# Size is only a stand-in. What we want to know is how the loss $L$ changes when weight $w_i$ becomes zero. We could try: set each weight to zero,
# compute the loss, put it back. For a network of millions of weights that is millions of passes over the data. So let us *estimate* it.
#
# Near the current weights the loss is nearly a straight line in $w_i$, with the slope $g_i = \partial L / \partial w_i$. Moving $w_i$ to zero is a step of
# $-w_i$, so
#
# $$L(w_i = 0) - L \;\approx\; -\,w_i\, g_i .$$
#
# This is the first term of a Taylor series, hence the name. One backward pass gives $g_i$ for all weights at once. A weight matters if this
# number is large *in size*, whatever its sign: hence $|w_i g_i|$. With the data in batches $b = 1, \dots, B$ the sizes are added up,
#
# $$s_i = \sum_{b=1}^{B} |\, w_i \, g_{b,i} \,| ,$$
#
# because batches that pull in opposite directions would otherwise cancel, and at the end of training they do: there the mean
# gradient is about zero for every weight, important or not.
#
# The *gradient threshold* that some articles propose is this formula without the $w_i$. Look at what that forgets: a weight that is almost zero already
# can have a large gradient.

# %% [markdown]
# ## Exercise: first-order saliency
#
# {{exercise first_order_saliency}}


# %% exercise="first_order_saliency"
def first_order_saliency(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """How much the loss changes, to first order, when each weight becomes zero: sizes, added up over the batches.

    Args:
        w: weights of any shape.
        gradients: (batches, *w.shape), the gradient of each batch's loss.
    Returns:
        Scores of the shape of ``w``, none below 0.

    >>> first_order_saliency(torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 0.0], [-1.0, 3.0]]))
    tensor([4., 3.])
    """
    ### BEGIN SOLUTION
    return (w * gradients).abs().sum(dim=0)
    ### END SOLUTION


# %% check="first_order_saliency"
check("first_order_saliency", first_order_saliency)

# %% [markdown]
# Stuck? `hint("first_order_saliency")` gives one step at a time.

# %%
first_order_saliency = use("first_order_saliency", first_order_saliency)

# %%
middle = list(matrices(mlp))[1]
gradients = torch.stack([torch.autograd.grad(loss, matrices(mlp)[middle])[0] for loss in losses(mlp, digits.train)])
ours = first_order_saliency(matrices(mlp)[middle].detach(), gradients)
theirs = taylor_scores(matrices(mlp), losses(mlp, digits.train))[middle]
prose(f"Largest difference from the library's scores: {float((ours - theirs).abs().max()):.1e}.")

# %% [markdown]
# ## Estimates against the truth
#
# Now we can afford what nobody can afford for a large network: a few hundred weights of the middle layer, each set to zero in turn, the loss on the
# training data measured, the weight put back. The measured change is the truth that each score tries to rank. Rank correlation is 1 when a score
# puts the weights in exactly the right order, 0 when it is no better than chance.

# %%
predict("best_estimate", "Which score ranks the weights best?", choices=["size", "gradient", "first order"])


# %%
def measured_changes(network: torch.nn.Module, name: str, positions: torch.Tensor) -> torch.Tensor:
    """How much the training loss changes, in size, when each of these weights is set to zero alone."""
    w, before = matrices(network)[name], mean_loss(network, digits.train)
    changes = []
    with torch.no_grad():
        for position in positions.tolist():
            kept = w.view(-1)[position].item()
            w.view(-1)[position] = 0.0
            changes.append(abs(mean_loss(network, digits.train) - before))
            w.view(-1)[position] = kept
    return torch.tensor(changes)


chosen = torch.randperm(matrices(mlp)[middle].numel(), generator=draw)[: pick(400, 40)]
truth = measured_changes(mlp, middle, chosen)
single = fisher_scores(matrices(mlp), losses(mlp, digits.train, size=1))
all_scores = {
    "size": sizes[middle],
    "gradient": candidates["smallest gradient"][middle],
    "first order": ours,
    "second order": single[middle],
}
estimates = {way: scores.flatten()[chosen] for way, scores in all_scores.items()}
correlations = {way: float(spearmanr(e, truth).statistic) for way, e in estimates.items()}
estimate_against_truth(truth, estimates, correlations)

# %%
reveal("best_estimate", measured=max(["size", "gradient", "first order"], key=correlations.get))

# %%
felt = truth > 0
among = {way: float(spearmanr(e[felt], truth[felt]).statistic) for way, e in estimates.items()}
lead, rest = (c["first order"] - c["size"] for c in (correlations, among))
prose(
    f"{int((~felt).sum())} of the {len(truth)} weights change nothing at all. Among the others the rank correlation is "
    + ", ".join(f"{value:.2f} for {way}" for way, value in among.items())
    + f". First order is {lead:+.2f} away from size when all count, and {rest:+.2f} without those that change nothing."
)

# %% [markdown]
# Each dot is a weight. Look at the bottom row first: dots that lie there changed *nothing*. They come from a neuron that fires for no image, or lead
# to one. Size spreads them over its whole range, since it cannot know. All scores with a gradient put them on one point, at the lower left, because their
# gradient is exactly 0: this is what a gradient knows and a size does not, and where many weights are asleep it is worth a lot.
#
# Now the others. The gradient alone says little about them: its panel is a cloud. And is $|w g|$ better than plain $|w|$? The line above says
# what is left of its lead once the sleepers are out. If little is left, the lead was about *them*, and a network without dead neurons (GELU instead of ReLU, as in
# the encoder at the end of this lesson) will not repeat it. One number over all dots would have hidden that.
#
# The panel on the right adds the second order, $\tfrac{1}{2} w_i^2 F_i$ with $F_i$ the mean square of the gradient over single images (the *Fisher
# information*, which here stands in for the second derivative): the idea of "optimal brain damage", 1990. It needs no sum of sizes to keep batches from
# cancelling, since squares cannot cancel.
#
# And be careful once more. The truth above is about *one* weight at a time. Pruning takes thousands at once.

# %% [markdown]
# ## Thousands at once
#
# The curves that a practitioner keeps: accuracy on validation against sparsity, nothing trained again, one line for each score.

# %%
predict("curve_winner", "At 80 % sparsity, with one threshold: which score keeps the MLP the most accurate?", choices=["size", "gradient", "first order", "second order"])  # fmt: skip

# %%
levels = [0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


def scores_of(network: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """Every score of every matrix of a network."""
    weights = matrices(network)
    return {
        "size": {name: magnitude_scores(p) for name, p in weights.items()},
        "gradient": gradient_scores(weights, losses(network, digits.train)),
        "first order": taylor_scores(weights, losses(network, digits.train)),
        "second order": fisher_scores(weights, losses(network, digits.train, size=1)),
    }


def curve(network: torch.nn.Module, scores: dict[str, torch.Tensor]) -> list[float]:
    """Accuracy on validation at each level, one threshold for all layers."""
    return [100 * accuracy(pruned(network, global_masks(scores, level)), digits.validation) for level in levels]


curves = {title: {way: curve(net, scores) for way, scores in scores_of(net).items()} for title, net in networks.items()}
metric_against_sparsity(levels, curves, "accuracy on validation, %", {k: 100 * v for k, v in dense.items()})

# %%
at_80 = {way: line[levels.index(0.8)] for way, line in curves["MLP"].items()}
reveal("curve_winner", measured=max(at_80, key=at_80.get))

# %%
order = sorted(at_80, key=at_80.get, reverse=True)
prose(
    "At 80 % sparsity the MLP keeps "
    + ", ".join(f"{at_80[way]:.1f} % by {way}" for way in order)
    + f". The score that ranked single weights best was **{max(correlations, key=correlations.get)}**."
)

# %% [markdown]
# If the two do not agree, that is the lesson: a first-order score is true near the current weights, and removing most of a network is not near.
# Plain size has no such assumption, costs nothing, and is hard to beat at high sparsity without training again. The gradient alone comes
# last of the four, long before 80 %. Which score is best depends on the network, the sparsity and whether you train again: **measure it, on validation data.**

# %% [markdown]
# ## Where does it hurt?
#
# A *sensitivity scan* prunes one layer at a time and leaves the others whole. It tells how to share a budget between layers. It belongs on
# validation data: whoever reads off the test curve how much to prune has trained on the test set by hand.


# %%
def scan(network: torch.nn.Module) -> dict[str, list[float]]:
    """Accuracy on validation with one layer pruned by size and the others whole."""
    lines = {}
    for number, (name, p) in enumerate(matrices(network).items(), start=1):
        whole = {n: torch.ones(q.shape, dtype=torch.bool) for n, q in matrices(network).items()}
        masked = [{**whole, name: mask_by_sparsity(magnitude_scores(p), level)} for level in levels]
        lines[f"layer {number}"] = [100 * accuracy(pruned(network, m), digits.validation) for m in masked]
    return lines


metric_against_sparsity(levels, {title: scan(net) for title, net in networks.items()}, "accuracy on validation, %")

# %% [markdown]
# At sparsity 0 every line starts at the accuracy of the whole network: if it does not, the scan changes something it should not. Layers differ:
# the one that can lose most of its weights is the one with the most to spare, and the first and last layers of a network are often the touchy ones.

# %% [markdown]
# ## Training on, and staying sparse
#
# After pruning one trains on, so that the weights that are left take over. This is where published code fails most often: the optimizer knows
# nothing of the mask. With SGD and momentum, for gradient $g$, velocity $v$ and learning rate $\eta$,
#
# $$v \leftarrow \mu v + g, \qquad w \leftarrow w - \eta v ,$$
#
# a pruned weight is at zero before the step and somewhere else after it. Masking the gradient is not enough either: the velocity that the weight had
# before, the averages of Adam, weight decay all move it. What works is simple: apply the mask **after each step**.

# %% [markdown]
# ## Exercise: pruned weights stay zero
#
# {{exercise masked_sgd}}


# %% exercise="masked_sgd"
def masked_sgd(
    w: torch.Tensor, mask: torch.Tensor, gradients: list[torch.Tensor], lr: float, momentum: float = 0.9
) -> torch.Tensor:
    """Some steps of SGD with momentum, after each of which the pruned weights are zero.

    Args:
        w: weights of any shape.
        mask: bool, the same shape, True where a weight stays.
        gradients: one for each step, the shape of ``w``.
        lr: learning rate.
        momentum: the velocity starts at 0 and is ``momentum`` times the old one plus the gradient.
    Returns:
        The weights after the last step.

    >>> masked_sgd(torch.ones(2), torch.tensor([True, False]), [torch.ones(2)], lr=0.5)
    tensor([0.5000, 0.0000])
    """
    ### BEGIN SOLUTION
    velocity = torch.zeros_like(w)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        w = mask * (w - lr * velocity)
    return w
    ### END SOLUTION


# %% check="masked_sgd"
check("masked_sgd", masked_sgd)

# %% [markdown]
# Stuck? `hint("masked_sgd")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** The mask is the last thing that happens in a step, so whatever moved a pruned weight is undone. Masking the
# velocity as well changes nothing in the result, as long as the mask stays the same.

# %%
masked_sgd = use("masked_sgd", masked_sgd)

# %% [markdown]
# Would it do to mask once, after the *last* step? In this function, yes: the gradients are given, and no weight sees another. In training, no. Each gradient
# is computed with the weights as they are then, so a pruned weight that is alive in between shapes all the others, and they break when it goes.
#
# ## What goes wrong in practice
#
# The MLP at 90 % sparsity by size, trained on for a few epochs with AdamW: once with the mask applied after each step, once without.

# %%
predict(
    "zeros_left", "Without the mask in the loop: how many per cent of the weights are still zero after training on?", unit="%"
)

# %%
masks90 = global_masks(sizes, 0.9)
recovered = {"mask applied after each step": pruned(mlp, masks90), "mask forgotten": pruned(mlp, masks90)}


def reapply() -> None:
    """Set the pruned weights of the first network back to zero."""
    with torch.no_grad():
        for name, p in matrices(recovered["mask applied after each step"]).items():
            p.mul_(masks90[name])


for way, network in recovered.items():
    fit(network, digits.train, epochs=pick(8, 2), lr=1e-3, seed=1, after_step=reapply if "applied" in way else None)
zeros = {
    way: sum(int((p == 0).sum()) for p in matrices(n).values()) / sum(p.numel() for p in matrices(n).values())
    for way, n in recovered.items()
}
rows = {way: (zeros[way], accuracy(network, digits.validation)) for way, network in recovered.items()}
prose(
    "\n".join(
        [
            "| | zeros | accuracy on validation |",
            "|---|---|---|",
            *(f"| {w} | {z:.1%} | {a:.1%} |" for w, (z, a) in rows.items()),
        ]
    )
)

# %%
reveal("zeros_left", measured=100 * zeros["mask forgotten"], unit="%")

# %%
silent = gradient_scores(matrices(pruned(mlp, masks90)), losses(pruned(mlp, masks90), digits.train))
remaining = {name: p == 0 for name, p in matrices(recovered["mask forgotten"]).items()}
asleep = sum(int((z & (silent[name] == 0)).sum()) for name, z in remaining.items())
prose(
    f"Of the {sum(int(z.sum()) for z in remaining.values()):,} zeros that remain without the mask, {asleep:,} had no gradient when training began."
)

# %% [markdown]
# The second network looks better and is not the network that was asked for: its zeros came back to life at the first step. All that stay zero are weights
# that never get a gradient: those of pixels that are blank in every image, and those of neurons that fire for none. They were not doing anything in
# the dense network either. Reports of "90 % sparsity without loss" that forgot the mask are reports about a dense network. Count the
# zeros **after** training.

# %% [markdown]
# ## The same scores on the real encoder
#
# Now the encoder of this course, all-MiniLM-L6-v2, and its 36 layer matrices (10.6 million weights). It was trained to find the text that belongs
# to a text, so we test it on that: given a sentence, find its copy in which every second word, more or less, is missing, among all the copies. No labels needed.

# %%
from course_lib.data.generated import generate
from course_lib.models.matching import gapped, matching_accuracy, matching_losses
from course_lib.models.zoo import find_encoder, load_encoder, load_tokenizer

encoder, tokenizer = load_encoder("minilm"), load_tokenizer(find_encoder("minilm"))
corpus = generate(0, {"train": pick(120, 60), "validation": pick(320, 80), "test": 1})
training, validation = (gapped([s.words for s in part], seed=0) for part in (corpus.train, corpus.validation))
training, validation = training[: pick(64, 16)], validation[: pick(200, 40)]
layers = {name: p for name, p in encoder.named_parameters() if p.dim() == 2 and "layer" in name}
encoder_scores = {
    "size": {name: magnitude_scores(p) for name, p in layers.items()},
    "first order": taylor_scores(layers, matching_losses(encoder, tokenizer, training)),
}
prose(
    f"{len(layers)} matrices, {sum(p.numel() for p in layers.values()):,} weights; not pruned, it finds {matching_accuracy(encoder, tokenizer, validation):.1%}."
)

# %%
kept_weights = {name: p.detach().clone() for name, p in layers.items()}
encoder_levels = pick([0.0, 0.5, 0.65, 0.8], [0.0, 0.5])


def found(masks: dict[str, torch.Tensor]) -> float:
    """Accuracy of the encoder with these masks, in per cent; its weights are put back."""
    with torch.no_grad():
        for name, p in layers.items():
            p.mul_(masks[name])
        result = 100 * matching_accuracy(encoder, tokenizer, validation)
        for name, p in layers.items():
            p.copy_(kept_weights[name])
    return result


real = {}
for way, scores in encoder_scores.items():
    real[f"{way}, one threshold"] = [found(library.global_masks(scores, level)) for level in encoder_levels]
    real[f"{way}, same share"] = [
        found({n: library.mask_by_sparsity(s, level) for n, s in scores.items()}) for level in encoder_levels
    ]
metric_against_sparsity(encoder_levels, {"all-MiniLM-L6-v2": real}, "right copy found, %", real["size, same share"][0])

# %%
last = {way: line[-1] for way, line in real.items()}
ranking = sorted(last, key=last.get, reverse=True)
prose(
    f"At {encoder_levels[-1]:.0%} sparsity: "
    + "; ".join(f"{way} {last[way]:.1f} %" for way in ranking)
    + f". One sentence is {100 / len(validation):.1f} %."
)

# %% [markdown]
# A step of one or two sentences, up or down, is chance. Compare the two scores instead: does the one that ranked single weights best do best here? What was said
# of the MLP holds all the more for millions of weights at once. The share matters less than the score where the matrices are as alike as these 36.
#
# The file of this encoder is as large as before (lesson 00), and nothing was trained again. Lesson 03 prunes step by step and trains in between; lesson 16
# does it for a named-entity recogniser and asks how far one really gets.
#
# At last the one look at the test part, for the two networks of the section before, finished now:

# %%
prose(
    "Accuracy on test: " + ", ".join(f"{way} {accuracy(network, digits.test):.1%}" for way, network in recovered.items()) + "."
)

# %% [markdown]
# ## Questions for reflection

# %%
quiz("same_share_everywhere")

# %%
quiz("gradient_alone")

# %%
quiz("kept_by_mask")

# %% [markdown] open="score_for_my_network" points=2
# **In your own words** (an instructor reads this one): you may spend one hour to prune a network you have never seen. How do you choose the score and the share of
# each layer, and on which data?
#
# <!-- BEGIN SOLUTION -->
# Score: start with size (free), try first and second order from a few hundred training examples, and compare curves on validation data, with the short recovery
# training one can afford, because the order of the scores can change with it. Shares: a sensitivity scan per layer on validation data, or one
# threshold if the scan does not contradict it. The test data is used once, for the finished network.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. A score says how much a weight matters; a mask of exact sparsity comes from ranks, not from a threshold.
# 2. One threshold for all layers gives each layer what it needs, as long as scores of different layers can be compared.
# 3. $|w\,g|$ estimates what removing one weight does to the loss, and finds those that do nothing; the gradient alone says little about the rest.
# 4. Removing thousands at once is another matter: measure on validation data.
# 5. The mask is applied after every step of the optimizer, and zeros are counted after training.
#
# **Sources.** LeCun, Denker, Solla, *Optimal Brain Damage*, 1990. Han, Pool, Tran, Dally, *Learning both Weights and Connections*, 2015, arXiv 1506.02626.
# Molchanov et al., *Pruning Convolutional Neural Networks for Resource Efficient Inference*, 2016, arXiv 1611.06440. Theis et al., *Faster gaze prediction with
# dense networks and Fisher pruning*, 2018, arXiv 1801.05787. Blalock et al., *What is the State of Neural Network Pruning?*, 2020, arXiv 2003.03033.
# The digits: Alpaydin and Kaynak, 1998.
