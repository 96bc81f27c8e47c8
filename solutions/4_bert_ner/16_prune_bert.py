# %% [markdown]
# # How small can this NER model get by pruning?
#
# **The question.** A survey says that L1 pruning takes BERT from about 110 to 40 million parameters "with almost no loss of F1" (claim C1 of those
# that this course tests), and that pruning makes it faster (claim C3). Is either true of the recogniser of lesson 15?
#
# **You will build** the arithmetic that says what such a claim asks of each layer, the masks that ask it of the right weights, movement scores,
# a choice of heads and neurons under a budget of parameters, and the rule that turns an interval into a verdict.
#
# **Needs** lesson 02 (scores and masks), lesson 04 (removing structure) and lesson 15 (the model and its F1).
#
# {{lesson}}

# %% [markdown]
# ## A measurement first
#
# Our teacher finds people, places, organisations and other names in text. `bench()` holds it together with its sentences: a few hundred of
# validation to score on, 128 of training for gradients, and 2 000 for a short training, each seen once.
# **Every choice in this lesson is made on validation sentences; the test part is looked at once, at the end.**
#
# Let us set half of the weights in its encoder to zero, the smallest ones, save both models, and look at the files.

# %%
import copy
import tempfile
from pathlib import Path

import torch
from torch.nn.utils import prune

from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.measure.prune_sweep import bench, scored
from course_lib.models.zoo import WEIGHTS, hugging_face, save_model
from course_lib.ner.evaluate import entity_f1, f1_difference
from course_lib.pruning.apply import Prune, apply
from course_lib.pruning.masks import Masks
from course_lib.show.text import prose

# %%
predict("zeros_file", "Half of the encoder's weights are zero. By how many per cent is the saved file smaller?", unit="%")

# %%
ENCODER = "*.encoder.layer.*"  # the linear layers of all Transformer layers
gold = [s.tags for s in scored()]


def f1_of(model: torch.nn.Module) -> float:
    """Entity F1 on the validation sentences that are scored."""
    return entity_f1(gold, bench().predict(model, scored()))


def file_bytes(model: torch.nn.Module) -> int:
    """Bytes of the saved weights."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, bench().tokenizer, Path(folder))
        return (Path(folder) / WEIGHTS).stat().st_size


teacher = bench().fresh().eval()
zeroed = copy.deepcopy(teacher)
apply(zeroed, {ENCODER: Prune(0.5, scope="global")})
sizes_on_disk = {name: file_bytes(model) for name, model in {"teacher": teacher, "half zeroed": zeroed}.items()}
reveal("zeros_file", measured=100 * (1 - sizes_on_disk["half zeroed"] / sizes_on_disk["teacher"]), unit="%")

# %%
prose(
    f"The files have {sizes_on_disk['teacher']:,} and {sizes_on_disk['half zeroed']:,} bytes. F1 on validation: "
    f"{f1_of(teacher):.3f} before, {f1_of(zeroed):.3f} after, with nothing trained again."
)

# %% [markdown]
# A zero is a number like any other: four bytes. The masked model is *sparse*, and not small. Two honest ways lead from sparse to small: store the
# survivors with their places (lesson 05), or remove whole units, so that matrices shrink (lesson 04). When somebody reports "40 million
# parameters", ask which one they mean. In this lesson **stored** parameters are those in the file, **nonzero** ones those that are left.

# %% [markdown]
# ## Where the parameters sit
#
# Before asking how much can go, look at what there is. The table of word pieces has a row of $D = 384$ numbers for each of 30 522 pieces.
# An encoder layer has four $D \times D$ matrices for attention, and two of $D \times F$ for the feed-forward block, $F = 4D$.

# %%
from course_lib.show.sizes import plot_parts


def part_of(name: str, p: torch.Tensor) -> str:
    """The part of the model a parameter belongs to."""
    if "word_embeddings" in name:
        return "word pieces"
    if ".encoder.layer." not in name or p.dim() == 1:
        return "everything else"
    return "attention" if ".attention." in name else "feed-forward"


parts = dict.fromkeys(("word pieces", "attention", "feed-forward", "everything else"), 0)
for name, p in teacher.named_parameters():
    parts[part_of(name, p)] += p.numel()
plot_parts({part: 4 * count / 1e6 for part, count in parts.items()})

# %% [markdown]
# Pruning methods for BERT work on the two middle bars. A row of the first one may belong to a rare word of tomorrow's text: taking
# *rows* out is another technique (lesson 12), and thinning them out is not what the claim is about. So there is a floor.

# %% [markdown]
# ## Exercise: the sparsity that a size asks for
#
# {{exercise sparsity_for_target}}
#
# A model has parameters of several names; only some of them may be pruned. Which share of *those* must go, so that the *whole* model keeps
# `target` parameters?


# %% exercise="sparsity_for_target"
def sparsity_for_target(sizes: dict[str, int], prunable: list[str], target: int) -> float:
    """The share of the prunable parameters that must go so that a model keeps ``target`` parameters in all.

    Args:
        sizes: name -> number of parameters.
        prunable: the names that may be pruned.
        target: parameters that are left, of the whole model; never fewer than cannot be pruned.
    Returns:
        A fraction from 0 to 1; 0.0 where the model is small enough already.

    >>> sparsity_for_target({"words": 60, "layers": 40}, ["layers"], target=80)
    0.5
    """
    ### BEGIN SOLUTION
    able = sum(sizes[name] for name in prunable)
    return max(0.0, (sum(sizes.values()) - target) / able)
    ### END SOLUTION


# %% check="sparsity_for_target"
check("sparsity_for_target", sparsity_for_target)

# %% [markdown]
# Stuck? `hint("sparsity_for_target")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** What must go is the total minus the target, whoever has to give it; dividing by the prunable parameters says what that means for
# them. The ratio in a headline divides by the total instead, and so looks gentler than what the layers are asked for.

# %%
sparsity_for_target = use("sparsity_for_target", sparsity_for_target)

# %% [markdown]
# Now the claim. BERT-base, the model it speaks of, need not be downloaded to be counted: its configuration says all sizes, and on PyTorch's
# `meta` device a model has shapes and no numbers.

# %% compare=true
library = hugging_face()
with torch.device("meta"):
    base = library.BertModel(library.BertConfig(vocab_size=28_996), add_pooling_layer=False)
sizes = {name: p.numel() for name, p in base.named_parameters()}
matrices = [name for name, p in base.named_parameters() if "encoder.layer." in name and p.dim() == 2]
able = sum(sizes[name] for name in matrices)
asked = sparsity_for_target(sizes, matrices, target=40_000_000)
print(f"BERT-base, cased: {sum(sizes.values()):,} parameters, {able:,} of them in {len(matrices)} matrices of the encoder")
print(f"40 million in all: {asked:.1%} of these matrices must be zeros")

# %%
ours = {name: p.numel() for name, p in teacher.named_parameters()}
floor = parts["word pieces"] + parts["everything else"]
share = 40_000_000 / sum(sizes.values())
prose(
    f"Our model has {sum(ours.values()):,} parameters. The same ratio, {share:.0%} of them, would be {share * sum(ours.values()):,.0f}. "
    f"But {floor:,}, which is {floor / sum(ours.values()):.0%}, are not in the encoder's matrices and would be left by an encoder of nothing but zeros."
)

# %% [markdown]
# So "64 % smaller" is out of reach here before a single F1 is measured, and would be for any small BERT with a full vocabulary. What can be carried over
# is the demand on the encoder: about **80 % zeros**. That is the sparsity we shall mark in each plot.

# %% [markdown]
# ## Exercise: masks for the encoder's matrices
#
# {{exercise encoder_masks}}
#
# Scores $s$ for every parameter of the model come in; masks come out for the matrices of the encoder's layers *and for nothing else*, from one
# ranking of all their entries together. A published recipe prunes everything that has a name: biases, and the gains of LayerNorm, where a zero
# switches off one of the $D$ dimensions that all later layers read.


# %% exercise="encoder_masks"
def encoder_masks(scores: dict[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """Masks with one threshold for the matrices of the encoder's layers, and for nothing else.

    Args:
        scores: parameter name -> scores of the parameter's shape, of the whole model; names as in
            "bert.encoder.layer.0.attention.self.query.weight".
        sparsity: the fraction of the entries of these matrices together.
    Returns:
        parameter name -> bool mask, True where a weight stays, for names with ".encoder.layer." and two dimensions.

    >>> encoder_masks({"bert.encoder.layer.0.w": torch.tensor([[1.0, 2.0]]), "classifier.w": torch.tensor([[0.0, 0.0]])}, 0.5)
    {'bert.encoder.layer.0.w': tensor([[False,  True]])}
    """
    ### BEGIN SOLUTION
    chosen = {name: s for name, s in scores.items() if ".encoder.layer." in name and s.dim() == 2}
    together = torch.cat([s.flatten() for s in chosen.values()])
    mask = torch.ones(len(together), dtype=torch.bool)
    mask[together.argsort(stable=True)[: round(sparsity * len(together))]] = False
    pieces = mask.split([s.numel() for s in chosen.values()])
    return {name: piece.view(s.shape) for (name, s), piece in zip(chosen.items(), pieces, strict=True)}
    ### END SOLUTION


# %% check="encoder_masks"
check("encoder_masks", encoder_masks)

# %% [markdown]
# Stuck? `hint("encoder_masks")` gives one step at a time.

# %%
encoder_masks = use("encoder_masks", encoder_masks)

# %% [markdown]
# Your masks, the library's and PyTorch's own, on the 36 matrices of the teacher (fewer in fast mode):


# %%
masks = encoder_masks({name: p.detach().abs() for name, p in teacher.named_parameters()}, 0.5)
theirs = copy.deepcopy(teacher)
places = [(theirs.get_submodule(name.removesuffix(".weight")), "weight") for name in masks]
prune.global_unstructured(places, prune.L1Unstructured, amount=0.5)
same = sum(
    int((module.weight_mask.bool() == masks[f"{n}.weight"]).sum())
    for n, module in theirs.named_modules()
    if f"{n}.weight" in masks
)
entries = sum(m.numel() for m in masks.values())
prose(f"{len(masks)} masks of {entries:,} entries; {same:,} of them are as PyTorch's `global_unstructured` has them.")

# %% [markdown]
# ## Without training again
#
# Three scores from lesson 02, at equal sparsity: **magnitude** $|w|$; **Taylor** $\sum_b |w\,g_b|$, with $g_b$ the gradient of the weight on batch $b$,
# the first-order guess of what the loss does when the weight goes; and the **gradient** $\sum_b |g_b|$, as a warning. For single weights "L1 pruning" by norm *is* magnitude pruning: $|w|$ is the L1
# norm of one number. The L1 *penalty* of lesson 01, which acts while training, comes in the next section.

# %%
predict(
    "best_at_70",
    "70 % zeros, nothing trained again. Which score keeps the most F1?",
    choices=["magnitude", "taylor", "gradient"],
)

# %%
predict("f1_at_70", "And what is that F1, between 0 and 1?")

# %% [markdown]
# A few dozen prunings and scorings are quick; the trainings of the next section are not. Both were measured beforehand and stored with the hash
# of the code that made them (`course sweeps pruning` makes them again). One point we run here and compare.

# %%
from course_lib.measure.sweeps import live_point, load_sweep, provenance

points = load_sweep("pruning")
prose(provenance("pruning"))
live_point("pruning", {"method": "magnitude", "sparsity": 0.5, "recovery": 0}, {"f1": f1_of(zeroed)})

# %%
from course_lib.show.pruned import f1_against_sparsity


def line(method: str, trained: bool) -> list[tuple[float, list[float]]]:
    """The stored points of a method: sparsity and [F1, low, high]."""
    return [(p["sparsity"], p["f1"]) for p in points if p["method"] == method and (p["recovery"] > 0) == trained]


def at(method: str, sparsity: float, trained: bool) -> float:
    """One stored F1."""
    return dict(line(method, trained))[sparsity][0]


raw = {method: at(method, 0.7, trained=False) for method in ("magnitude", "taylor", "gradient")}
reveal("best_at_70", measured=max(raw, key=raw.get))

# %%
reveal("f1_at_70", measured=max(raw.values()))

# %%
prose(
    "At 70 %: "
    + ", ".join(f"{m} {v:.3f}" for m, v in raw.items())
    + f". At the claim's 80 % magnitude has {at('magnitude', 0.8, False):.3f} left."
)

# %% [markdown]
# By magnitude, half of the encoder costs a few points; then F1 falls off a cliff. The gradient alone fails at once: where training has settled a weight, its
# gradient is small however much the weight carries. (In the picture below its line need not even fall: an order that means nothing hits the wrong weights by chance.) And Taylor, which looked so good in lesson 02? It judges one weight at a time, near where the model is; and
# with one threshold for all it is free to bleed a few matrices white. Who pays, at 50 %?

# %%
from course_lib.pruning.scores import taylor_scores

inside = {name: p for name, p in teacher.named_parameters() if name in masks}
by_taylor = encoder_masks(taylor_scores(inside, bench().losses(teacher)), 0.5)


def spread(chosen: dict[str, torch.Tensor]) -> str:
    """The least and the most pruned matrix."""
    each = [1 - float(m.float().mean()) for m in chosen.values()]
    return f"between {min(each):.0%} and {max(each):.0%}"


prose(f"Of single matrices, magnitude prunes {spread(masks)}, Taylor {spread(by_taylor)}.")

# %% [markdown]
# ## With a short training
#
# No one ships a pruned model untrained. Each point in the right panel below had one pass over 2 000 sentences, with the teacher's own settings and the mask
# applied after every step (lesson 02). Four ways to use that training:
#
# - *magnitude*, *taylor*: prune first, then train what is left;
# - *l1*: train with the penalty of lesson 01, a soft threshold $\operatorname{soft}(w, \eta\lambda)$ after each step of size $\eta$, then prune to the exact sparsity;
# - *movement*: collect scores while training (its own section below).
#
# And one line that most reports leave out: **the teacher itself after the same training**.

# %%
predict("best_trained", "80 % zeros and the short training: which keeps the most F1?", choices=["magnitude", "taylor", "l1"])

# %%
panels = {
    "no training": {m: line(m, False) for m in ("magnitude", "taylor", "gradient")},
    "short training": {m: line(m, True) for m in ("magnitude", "taylor", "l1", "movement")},
}
levels = {"no training": at("dense", 0.0, False), "short training": at("dense", 0.0, True)}
f1_against_sparsity(panels, levels, marked=0.8)

# %%
last = {m: at(m, 0.8, True) for m in ("magnitude", "taylor", "l1")}
reveal("best_trained", measured=max(last, key=last.get))

# %%
long_run = next(p for p in points if p["method"] == "gradual")
prose(
    "\n".join(
        ["| zeros | training | magnitude | taylor | l1 |", "|---|---|---|---|---|"]
        + [f"| {s:.0%} | none | {at('magnitude', s, False):.3f} | {at('taylor', s, False):.3f} | |" for s in (0.5, 0.7, 0.8)]
        + [f"| {s:.0%} | short | " + " | ".join(f"{at(m, s, True):.3f}" for m in last) + " |" for s in (0.5, 0.7, 0.8)]
    )
    + f"\n\nThe teacher itself went from {levels['no training']:.3f} to {levels['short training']:.3f} in the same training. Magnitude with "
    f"{long_run['recovery']} passes, the sparsity raised step by step (lesson 03): {long_run['f1'][0]:.3f} at 80 %."
)

# %%
behind = [s for s, _ in panels["no training"]["taylor"] if at("taylor", s, False) < at("magnitude", s, False)]
ahead = [s for s in (0.5, 0.7, 0.8) if at("taylor", s, True) > at("magnitude", s, True)]
prose(
    f"Untrained, Taylor is behind magnitude at {len(behind)} of {len(panels['no training']['taylor'])} sparsities; after one pass it is ahead at {len(ahead)} of 3, at 80 % "
    f"by {100 * (last['taylor'] - last['magnitude']):+.1f} points."
)

# %% [markdown]
# Three readings.
#
# **The order before training is not the order after it.** A likely reason is the uneven sharing you saw: matrices that the loss cares about stay nearly whole, and the training has something to build on.
# Who chooses a score by the left panel, for a model that will be trained, chooses by the wrong experiment.
#
# **The L1 penalty helps at high sparsity** compared with cutting the same weights at once: they were made small before they were cut.
#
# **Part of a gap may not be pruning at all.** A short training at a high rate can unsettle a finished model: that is what the thin line in the right panel,
# the teacher's own, is there to show. A lower rate costs the teacher less, and recovers less at 80 % (we tried a third of it). Compare a pruned model with *the teacher given the same training*, or you will blame the mask for what the optimizer did.

# %% [markdown]
# ## Movement: a negative result
#
# Movement pruning (Sanh et al. 2020) asks not how large a weight is but where training is taking it. Let $g_t$ be the gradient of step $t$ for the masked weight;
# then the score of a weight grows by
#
# $$S \leftarrow S - w_t\, g_t .$$
#
# A step of gradient descent is $w_{t+1} - w_t = -\eta g_t$. If $w_t$ and that step have the same sign, the weight moves away from zero and $S$ goes up. Adding up,
#
# $$\eta S = \sum_t w_t (w_{t+1} - w_t) = \tfrac12 \left(w_T^2 - w_0^2\right) - \tfrac12 \sum_t (w_{t+1} - w_t)^2 :$$
#
# the score is how much $w^2$ has *grown*, but for the squares of the steps. The paper reports that at 3 % of the weights left this beats magnitude by far. In the right panel
# above it stands at the bottom. First build it, then see why.

# %% [markdown]
# ## Exercise: the movement scores of some steps
#
# {{exercise movement_of_steps}}


# %% exercise="movement_of_steps"
def movement_of_steps(w: torch.Tensor, gradients: list[torch.Tensor], lr: float) -> torch.Tensor:
    """The movement scores after some steps of SGD, with nothing masked yet.

    In each step the score grows by -w * g, with the weight before the step; then w becomes w - lr * g.

    Args:
        w: weights at the start, any shape.
        gradients: one for each step, the shape of ``w``.
        lr: learning rate.
    Returns:
        Scores of the shape of ``w``; zeros when there is no step.

    >>> movement_of_steps(torch.tensor([1.0, 1.0]), [torch.tensor([-1.0, 1.0])] * 2, lr=0.5)
    tensor([ 2.5000, -1.5000])
    """
    ### BEGIN SOLUTION
    scores = torch.zeros_like(w)
    for gradient in gradients:
        scores = scores - w * gradient
        w = w - lr * gradient
    return scores
    ### END SOLUTION


# %% check="movement_of_steps"
check("movement_of_steps", movement_of_steps)

# %% [markdown]
# Stuck? `hint("movement_of_steps")` gives one step at a time.

# %%
movement_of_steps = use("movement_of_steps", movement_of_steps)

# %% [markdown]
# Your function goes to work on one matrix of the teacher, with the gradients of a few batches of training sentences. The rate is that of the short training.
# Then we sort the weights by size into ten groups and ask how many of each would go at 50 %.

# %%
predict("largest_tenth", "Of the *largest* tenth of the weights, how many per cent does movement prune at 50 %?", unit="%")

# %%
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.show.pruned import pruned_by_size

chosen = list(masks)[4]  # the first feed-forward matrix, (F, D)
weight = dict(teacher.named_parameters())[chosen]
gradients = [torch.autograd.grad(loss, weight)[0] for loss in bench().losses(teacher)]
moving = movement_of_steps(weight.detach(), gradients, lr=bench().settings.learning_rate)
tenths = weight.detach().abs().flatten().argsort().tensor_split(10)
goes = {"magnitude": ~mask_by_sparsity(weight.detach().abs(), 0.5), "movement": ~mask_by_sparsity(moving, 0.5)}
shares = {name: [float(gone.flatten()[t].float().mean()) for t in tenths] for name, gone in goes.items()}
pruned_by_size(shares)

# %%
reveal("largest_tenth", measured=100 * shares["movement"][-1], unit="%")

# %% [markdown]
# At its minimum a model has no direction left: batches pull each weight away from zero about as often as towards it. The *size* of $w\,g$ is larger for
# large weights, its *sign* is a coin toss, so half of the largest weights land at the bottom of the ranking, and large weights are what the network is made of.
# Let us do it to every matrix of the encoder:

# %%
scores = {name: torch.zeros_like(p) for name, p in inside.items()}
for loss in bench().losses(teacher):
    for name, gradient in zip(inside, torch.autograd.grad(loss, list(inside.values())), strict=True):
        scores[name] -= inside[name].detach() * gradient
moved = copy.deepcopy(teacher)
Masks(encoder_masks(scores, 0.5)).apply(moved)
tags = {tag for sentence in bench().predict(moved, scored()) for tag in sentence}
prose(
    f"F1 with 50 % gone by movement: **{f1_of(moved):.3f}**; different tags it still uses: {len(tags)}. In the stored sweep, with the scores "
    f"collected during the whole short training and the weights adapting all the while: {at('movement', 0.5, True):.3f} at 50 %, "
    f"{at('movement', 0.8, True):.3f} at 80 %."
)

# %% [markdown]
# Does this refute the paper? No. There the model starts from a *pretrained* encoder with a fresh classifier, so that weights do have somewhere to go; it trains
# for many epochs, and scores get an optimizer and a rate of their own. What is refuted is the short version: take a fine-tuned model, collect
# movement for a while, prune. **A method comes with its conditions.** Naming them is part of reporting it, and so is a failure.

# %% [markdown]
# ## Removing heads and neurons
#
# The other way to become small. A *unit* is an attention head (rows of query, key and value, columns of the output projection) or a feed-forward neuron (a row of one
# matrix, a column of the next). With heads of size $d = 32$ a head is $4dD + 3d$ parameters, a neuron $2D + 1$: sixty-four times less. So which goes first, a head
# of score 9 or a neuron of score 1? Scores must be compared **per parameter saved**.

# %% [markdown]
# ## Exercise: units under a budget of parameters
#
# {{exercise units_within}}


# %% exercise="units_within"
def units_within(scores: dict[str, torch.Tensor], costs: dict[str, int], budget: int) -> dict[str, torch.Tensor]:
    """Take units out, the lowest score for each parameter first, until at least ``budget`` parameters are gone.

    Args:
        scores: group name -> (units,), higher means keep.
        costs: group name -> parameters of one of its units.
        budget: parameters to remove, from 0 to those of all units.
    Returns:
        group name -> bool mask (units,), True where a unit stays.

    >>> units_within({"heads": torch.tensor([9.0, 30.0]), "neurons": torch.tensor([1.0, 4.0, 2.0])}, {"heads": 10, "neurons": 2}, 12)
    {'heads': tensor([False,  True]), 'neurons': tensor([False,  True,  True])}
    """
    ### BEGIN SOLUTION
    units = [(float(s) / costs[name], name, i) for name, group in scores.items() for i, s in enumerate(group)]
    masks = {name: torch.ones(len(group), dtype=torch.bool) for name, group in scores.items()}
    removed = 0
    for _, name, i in sorted(units):
        if removed >= budget:
            break
        masks[name][i] = False
        removed += costs[name]
    return masks
    ### END SOLUTION


# %% check="units_within"
check("units_within", units_within)

# %% [markdown]
# Stuck? `hint("units_within")` gives one step at a time.

# %%
units_within = use("units_within", units_within)

# %% [markdown]
# We take a quarter of the encoder away with it. Scores are first-order, as for weights, but at a *gate* that multiplies all that a unit puts out.
# Mask, look, then `compact`, which cuts the matrices down. An equivalence must hold: **the compacted model puts out what the masked one did**.

# %%
from course_lib.models.groups import unit_parameters
from course_lib.pruning.unit_masks import compact, encoder_groups, mask_units
from course_lib.pruning.unit_scores import group_taylor_scores

smaller = copy.deepcopy(teacher)
groups = encoder_groups(smaller)
unit_scores = group_taylor_scores(smaller, bench().losses(smaller), groups).absolute
costs = {g.name: unit_parameters(smaller, g) for g in groups}
quarter = (parts["attention"] + parts["feed-forward"]) // 4
chosen_units = units_within(unit_scores, costs, quarter)
mask_units(smaller, chosen_units)
masked_units = copy.deepcopy(smaller)
report = compact(smaller)
few = bench().batches()[0]
with torch.no_grad():
    before, after = (model(**few).logits for model in (masked_units, smaller))
prose(
    f"{report.parameters_before:,} → {report.parameters_after:,} stored parameters. Largest difference between masked and compacted logits: "
    f"{float((before - after).abs().max()):.1e}. F1: {f1_of(smaller):.3f}."
)

# %%
gone = {kind: sum(int((~m).sum()) for n, m in chosen_units.items() if n.endswith(kind)) for kind in ("heads", "neurons")}
same_sparsity = copy.deepcopy(teacher)
apply(same_sparsity, {ENCODER: Prune(0.25, scope="global")})
prose(
    f"{gone['heads']} heads and {gone['neurons']} neurons are gone. Single weights, as many of them and chosen by magnitude, leave F1 at "
    f"{f1_of(same_sparsity):.3f}: freedom to choose each weight is worth more F1 than whole units. What do units buy, then?"
)

# %% [markdown]
# ## Claim C3: is it faster?
#
# Batches of 32 sentences, in turns with the whole teacher, medians.

# %%
predict("zeros_speed", "How many times as fast as the teacher is the model with half of its encoder zeroed?", unit="×")

# %%
predict("units_speed", "And the one with a quarter of its encoder removed as units?", unit="×")

# %%
speeds = {
    "half of the weights zero": bench().pace(zeroed)[1],
    "a quarter masked as units": bench().pace(masked_units)[1],
    "the same quarter removed": bench().pace(smaller)[1],
}
reveal("zeros_speed", measured=speeds["half of the weights zero"])

# %%
reveal("units_speed", measured=speeds["the same quarter removed"])

# %%
prose("\n".join(["| model | times as fast as the teacher |", "|---|---|", *(f"| {n} | {v:.2f} |" for n, v in speeds.items())]))

# %% [markdown]
# A dense kernel multiplies by zero as fast as by anything else. *Sparse* kernels skip zeros, but must look up where the others are. PyTorch has one for
# compressed rows. Here is its time for one feed-forward matrix and 512 tokens, over that of the dense product, from 50 % of the weights left down to 1 %:

# %%
import warnings

from course_lib.measure.bench import median_ms
from course_lib.show.pruned import time_against_density

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
tokens = torch.randn(weight.shape[1], 512, generator=torch.Generator().manual_seed(0))
densities, ratios = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01), []
for density in densities:
    left = weight.detach() * mask_by_sparsity(weight.detach().abs(), 1 - density)
    rows = left.to_sparse_csr()
    sparse, dense = median_ms(lambda rows=rows: rows @ tokens, lambda left=left: left @ tokens, pick(9, 3))
    ratios.append(sparse / dense)
time_against_density(densities, ratios)

# %%
faster = [d for d, r in zip(densities, ratios, strict=True) if r < 1]
prose(
    f"At 50 % zeros the sparse product takes {ratios[0]:.1f} times as long as the dense one. "
    + (f"It is the faster one from {max(faster):.0%} of the weights left. " if faster else "It is never faster here. ")
    + f"With 20 % left the best F1 of this lesson is {max(last.values()):.3f}; with 10 %, untrained, {at('magnitude', 0.9, False):.3f}."
)

# %% [markdown]
# ## The plot to keep: F1 against bytes
#
# Everything measured, on one scale. For masked weights the bytes are those of a bitmask, one bit an entry, and the survivors; for removed units those of the
# smaller matrices. The grey stretch is what no method of this lesson touches. The slider is the question a product owner asks: *how much F1 may it cost?*
# The ring marks the smallest model whose loss stays within that, counted at the **bad end of its interval**.

# %%
from course_lib.show.pruned import size_knob

names = {
    "dense": "the teacher",
    "heads": "heads removed",
    "neurons": "neurons removed",
    "layers": "layers removed",
    "l1": "L1 in training",
}
rows = [
    {**p, "removed": p["method"] in ("heads", "neurons", "layers"), "trained": p["recovery"] > 0, "name": f"{names.get(p['method'], p['method'])} {p['sparsity']:.0%}{', trained' if p['recovery'] else ''}"}
    for p in points
]  # fmt: skip
whole = next(p for p in points if p["method"] == "dense")
masked = {p["sparsity"]: p["megabytes"] for p in points if p["method"] == "magnitude"}
matrices = (masked[0.5] - masked[0.8]) / 0.3  # MB of the encoder's matrices: between the two lie 30 % of their weights
size_knob(rows, floor=whole["megabytes"] - matrices)

# %% [markdown]
# At equal bytes, well chosen masks keep more F1 than removed units, though after the training the gap is small; removed units are what makes it faster. Which
# one wins depends on what you pay for.

# %% [markdown]
# ## Exercise: a verdict from an interval
#
# {{exercise verdict}}
#
# A claim allows some loss; you have the measured difference, pruned minus whole, with a 95 % interval. When does the claim *hold*? Not when the interval contains
# zero: a sloppy measurement has a wide interval, and "not shown to be worse" would become "as good" by not measuring well. The whole interval must lie on the claim's side.


# %% exercise="verdict"
def verdict(difference: list[float], allowed: float) -> str:
    """Whether a model loses no more than a claim allows.

    Args:
        difference: [value, low, high] of F1, pruned minus whole: negative where it lost.
        allowed: the loss that the claim allows, 0 or more, such as 0.02.
    Returns:
        "holds" where the whole interval is at -allowed or above, "refuted" where all of it is below, else "open".

    >>> verdict([-0.004, -0.008, 0.001], 0.01)
    'holds'
    """
    ### BEGIN SOLUTION
    _, low, high = difference
    if low >= -allowed:
        return "holds"
    return "refuted" if high < -allowed else "open"
    ### END SOLUTION


# %% check="verdict"
check("verdict", verdict)

# %% [markdown]
# Stuck? `hint("verdict")` gives one step at a time.

# %%
verdict = use("verdict", verdict)

# %% [markdown]
# ## Verdicts on C1 and C3
#
# "Almost no loss" is not a number; we are generous and allow two points of F1.

# %%
wanted = [("magnitude", 0.5, 0), ("magnitude", 0.8, 0), ("magnitude", 0.5, 1)]
wanted += [(m, 0.8, 1) for m in ("magnitude", "l1", "taylor")] + [("gradual", 0.8, long_run["recovery"])]
found = [p for key in wanted for p in points if (p["method"], p["sparsity"], p["recovery"]) == key]
table = ["| method | zeros | passes of training | F1 | difference | two points allowed |", "|---|---|---|---|---|---|"]
for p in found:
    value, low, high = p["difference"]
    table.append(
        f"| {p['method']} | {p['sparsity']:.0%} | {p['recovery']} | {p['f1'][0]:.3f} | {value:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"| {verdict(p['difference'], 0.02)} |"
    )
prose("\n".join(table))

# %%
at_80 = [p for p in found if p["sparsity"] == 0.8]
best_80 = max(at_80, key=lambda p: p["f1"][0])
same_count = {p["stored"] for p in found} == {whole["stored"]}
prose(
    f"**C1**, at the {asked:.0%} that it asks of the encoder: *{verdict(best_80['difference'], 0.02)}* on this model and these budgets of training; the best "
    f"of {len(at_80)} loses {-best_80['difference'][0]:.3f}. And {'in no row' if same_count else 'not in every row'} did the number of *stored* "
    f"parameters change: it is {whole['stored']:,} throughout.\n\n"
    f"**C3**: zeros alone, {speeds['half of the weights zero']:.2f} times as fast: "
    f"{'no gain' if speeds['half of the weights zero'] < 1.1 else 'a gain'}. Removed units, {speeds['the same quarter removed']:.2f} times: "
    f"{'a gain' if speeds['the same quarter removed'] > 1.05 else 'no gain that shows'}."
)

# %% [markdown]
# What this does *not* say: that BERT-base on CoNLL-2003 must behave so. It has five times our encoder, and more to spare. It says what to ask of whoever claims it: which
# weights, stored or nonzero, after how much training, with what interval.

# %% [markdown]
# ## What goes wrong in practice
#
# The surest way to lose no F1 is to change nothing. Two "compress" functions as they are published, on our teacher:


# %%
def edits_the_config(model: torch.nn.Module) -> torch.nn.Module:
    """Asks for half of the layers, of a model that is already built."""
    model.config.num_hidden_layers //= 2
    model.config.intermediate_size //= 2
    return model


def reloads(model: torch.nn.Module) -> torch.nn.Module:
    """Prunes, and then loads 'the compressed model' from where the whole one was saved."""
    apply(model, {ENCODER: Prune(0.8, scope="global")})
    return bench().fresh().eval()


predict("no_op_f1", "How much F1 do these two lose?", choices=["nothing", "a few points", "nearly all"])

# %%
from course_lib.measure.size import effective_parameters, stored_parameters

results = {f.__name__: f(copy.deepcopy(teacher)) for f in (edits_the_config, reloads)}
lost = {name: f1_of(teacher) - f1_of(model) for name, model in results.items()}
reveal("no_op_f1", measured="nothing" if max(map(abs, lost.values())) < 0.002 else "a few points")

# %%
head = ["| | stored | nonzero | F1 lost |", "|---|---|---|---|"]
rows = [f"| `{n}` | {stored_parameters(m):,} | {effective_parameters(m):,} | {lost[n]:.3f} |" for n, m in results.items()]
prose("\n".join([*head, f"| the teacher | {stored_parameters(teacher):,} | {effective_parameters(teacher):,} | |", *rows]))

# %% [markdown]
# "80 % smaller without loss": both halves of the sentence were measured, on two different models. A config is a description; a model that is already built does not read it.
# Two lines catch all of this: **count stored and nonzero parameters of the model you evaluate, and evaluate what you load from the file you ship.**

# %% [markdown]
# ## One look at the test part

# %%
test = bench().context.corpus.test
answers = {
    name: bench().predict(m, test)
    for name, m in {"teacher": teacher, "half zeroed": zeroed, "a quarter removed": smaller}.items()
}
truth = [s.tags for s in test]
table = ["| | F1, test | difference from the teacher |", "|---|---|---|"]
for name, tags in answers.items():
    value, low, high = f1_difference(truth, tags, answers["teacher"])
    table.append(f"| {name} | {entity_f1(truth, tags):.3f} | {value:+.3f} [{low:+.3f}, {high:+.3f}] |")
prose("\n".join(table))

# %% [markdown]
# ## Questions for reflection

# %%
quiz("smallest_by_encoder")

# %%
quiz("masked_or_removed")

# %%
quiz("fair_baseline")

# %% [markdown] open="report_on_pruning" points=2
# **In your own words** (an instructor reads this one): a colleague writes "we pruned our NER model by 80 % and lost 0.4 points". Which five things do you ask before you believe it,
# and what would each answer change?
#
# <!-- BEGIN SOLUTION -->
# 1. 80 % of what: all parameters, or those of the encoder? The whole model may be only 40 % smaller. 2. Zeroed or removed: did the file shrink, is it faster, in
# which runtime? 3. Lost against what: the whole model given the same further training? 4. On which data was the sparsity chosen, and how wide is the interval around
# 0.4? 5. Were zeros counted in the very model that was scored, loaded from the file that ships? A model whose mask was forgotten in training, or that was reloaded, loses nothing.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. A zero takes as many bytes and as much time as any number: masks make a model sparse, not small or fast.
# 2. In a small BERT half of the parameters are word pieces, which these methods leave alone: that is the floor.
# 3. Half of an encoder's weights go for a few points of F1; at 80 % only training brings it back, in part, and the best score then is not the best one before.
# 4. Removed units cost more F1 for each byte than masked weights, and are what makes the model faster.
# 5. A claim holds when the whole interval does, against a baseline with the same training, on the model that was counted.
#
# **Sources.** Han et al., *Learning both Weights and Connections*, 2015, arXiv 1506.02626. Sanh, Wolf, Rush, *Movement Pruning*, 2020, arXiv 2005.07683. Michel, Levy,
# Neubig, *Are Sixteen Heads Really Better than One?*, 2019, arXiv 1905.10650. Molchanov et al., 2016, arXiv 1611.06440. Zhu and Gupta, *To prune, or not to prune*, 2017,
# arXiv 1710.01878. Blalock et al., *What is the State of Neural Network Pruning?*, 2020, arXiv 2003.03033. Piaggio et al., *CONSORT for non-inferiority trials*, 2012.
