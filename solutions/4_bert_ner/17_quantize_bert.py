# %% [markdown]
# # Why did int8 destroy my F1, and how do I get it back?
#
# **The question.** You quantize a model that found names well, every number in 8 bits, and F1 falls from .94 to .10. This has been published for one encoder. What happens to
# ours, which part of it is to blame, and what brings the F1 back?
#
# **You will build** a search for outlier columns, a choice of nodes to leave in float under a budget, a scale for each token, SmoothQuant, and a calibration that does not look at
# the padding. On the way two well-known pieces of advice fail on this model, and you will see why.
#
# **Needs** lesson 06 (scale, zero point, the integer product) and lesson 15 (the model and its F1). Lesson 07 helps.
#
# {{lesson}}

# %% [markdown]
# ## A measurement first
#
# Lesson 06 quantized *weights*, and at 8 bits nothing happened. **Activations** are harder: they are different for every sentence. A tool that quantizes a whole graph
# gives every *node* (each tensor that a layer reads or puts out) one scale and one zero point, from the smallest and the largest value that it met
# in a few *calibration* sentences. That is called **static** quantization with **min-max** ranges.
#
# Here is the teacher of lesson 15. All choices below are made on validation sentences; calibration sees training sentences only.

# %%
import copy
import tempfile
from pathlib import Path

import torch

from course_lib.calibration import Channels, calibration_batches
from course_lib.data.align import make_windows, pad_id
from course_lib.deploy.engines import OnnxEngine, TorchEngine
from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.exercises.trained import corpus, teacher
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.evaluate import entity_f1, f1_difference, f1_interval
from course_lib.ner.predict import predict_tags
from course_lib.quantization.apply import apply
from course_lib.quantization.nodes import node_ranges, node_scan, quantize_nodes
from course_lib.quantization.scheme import Scheme
from course_lib.show.text import prose

folder, ENCODER = teacher(), "*encoder.layer.*"
model, tokenizer = load_token_classifier(folder).eval(), load_tokenizer(folder)
tags, padding = model_tags(model), pad_id(tokenizer)
scored = corpus().validation[: pick(250, 60)]
gold = [s.tags for s in scored]

# %%
windows = make_windows([s.words for s in corpus().train], tokenizer)
batches = calibration_batches(windows, padding, count=pick(128, 24))


def tags_of(engine) -> list[list[str]]:
    """What an engine predicts for the validation sentences that are scored."""
    return predict_tags([s.words for s in scored], engine, tokenizer, tags)


def f1_of(candidate: torch.nn.Module) -> float:
    """Entity F1 on them."""
    return entity_f1(gold, tags_of(TorchEngine(candidate)))


whole = f1_of(model)
low, high = f1_interval(gold, tags_of(TorchEngine(model)))[1:]
ranges = node_ranges(model, batches)  # "name:input" and "name:output" -> smallest and largest value
prose(
    f"In float: F1 {whole:.3f} on {len(scored)} sentences, 95 % interval {low:.3f} to {high:.3f}. {len(ranges)} nodes have a range."
)

# %%
predict("f1_all_nodes", "All of these nodes through 8 bits, each with its min-max range: which F1 (0 to 1)?")

# %%
every_node = copy.deepcopy(model)
quantize_nodes(every_node, ranges)
f1_every_node = f1_of(every_node)
reveal("f1_all_nodes", measured=f1_every_node)

# %%
lost, most, least = (-d for d in f1_difference(gold, tags_of(TorchEngine(every_node)), tags_of(TorchEngine(model))))
prose(
    f"Lost: {100 * lost:.1f} points of F1, sentence by sentence compared; 95 % interval {100 * least:.1f} to {100 * most:.1f}."
)

# %% [markdown]
# `quantize_nodes` *simulates*: it rounds each activation to one of 256 levels and goes on in float, so that we may switch nodes on and off. The weights stay in float for now, so what you
# see is the activations alone.
#
# So: damage, and no collapse. (The interval compares both models on the *same* resampled sentences, as lesson 15 did; with so few sentences it is wide all the same.) Two questions follow. Where does this damage come from? And where did the *published* collapse come from, if not from here? The
# first takes most of this lesson. The answer to the second is worse than you think, and comes near the end.

# %% [markdown]
# ## One column, one token
#
# Let us look at one sentence, where the ranges are widest: at what the feed-forward block of the first layer puts out, a matrix $X$ of shape $(L, D)$, a row for each word piece, $D = 384$
# columns.

# %%
from course_lib.show.activations import outlier_map

NODE = "bert.encoder.layer.0.output.dense"
seen = {}
hook = model.get_submodule(NODE).register_forward_hook(lambda module, inputs, output: seen.update(x=output))
words = ["Maria", "Lopez", "flew", "to", "Oslo", "on", "Monday", "."]
(window,) = make_windows([words], tokenizer)
ids = torch.tensor([window.ids])
with torch.no_grad():
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
hook.remove()
X = seen["x"][0]  # (L, D)
outlier_map(X, [tokenizer.id_to_token(i) for i in window.ids])

# %%
step = float(ranges[f"{NODE}:output"][1] - ranges[f"{NODE}:output"][0]) / 255
prose(
    f"The typical entry of X has a magnitude of {float(X.abs().median()):.2f}. The min-max range of this node is "
    f"{float(ranges[f'{NODE}:output'][0]):.1f} to {float(ranges[f'{NODE}:output'][1]):.1f}, so a step is {step:.2f} long: "
    f"{float((X.abs() < step / 2).float().mean()):.0%} of all entries become exactly 0."
)

# %% [markdown]
# This is the whole problem in one picture. A single scale has to hold the largest number, and it is many times larger than all others. It is no accident of one sentence: the special token
# `[CLS]` stands at the start of every sentence and means nothing by itself, and networks of this kind use such a token as a place to park attention that has nowhere useful to go. The outlier
# marks it. It is a property of the *trained* network, and the network relies on it.
#
# Let us make "outlier column" a definition. The **size** of a column is its largest magnitude over all tokens. A column is an outlier if its size is more than $k$ times that of the *median* column.

# %% [markdown]
# ## Exercise: find the outlier columns
#
# {{exercise outlier_columns}}


# %% exercise="outlier_columns"
def outlier_columns(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    """The columns whose largest magnitude is more than ``factor`` times that of the median column, the largest first.

    Args:
        x: activations (N, D), a row for each token.
        factor: above 0.
    Returns:
        The numbers of the columns, int64; empty where there is none.

    >>> outlier_columns(torch.tensor([[1.0, -20.0, 0.5], [2.0, 0.0, 1.0]]))
    tensor([1])
    """
    ### BEGIN SOLUTION
    sizes = x.abs().amax(0)  # (D,): one large token is enough
    order = sizes.argsort(descending=True)
    return order[sizes[order] > factor * sizes.median()]
    ### END SOLUTION


# %% check="outlier_columns"
check("outlier_columns", outlier_columns)

# %% [markdown]
# Stuck? `hint("outlier_columns")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** A maximum, because a range must hold *every* token, also the one in a hundred; an average would hide it. The median, because a mean is moved by the very outliers one looks for.

# %%
outlier_columns = use("outlier_columns", outlier_columns)

# %% [markdown]
# It goes to work on the real tokens of a batch of calibration sentences, at the sum after each feed-forward block: what its LayerNorm reads.

# %%
caught = {}
layers = range(model.config.num_hidden_layers)
hooks = [
    model.bert.encoder.layer[i].output.LayerNorm.register_forward_pre_hook(lambda m, inputs, i=i: caught.update({i: inputs[0]}))
    for i in layers
]
with torch.no_grad():
    model(**batches[0])
for hook in hooks:
    hook.remove()
real = batches[0]["attention_mask"].bool()
lines = [
    "| layer | outlier columns, largest first | largest magnitude | at the token | largest elsewhere |",
    "|---|---|---|---|---|",
]
for i in layers:
    x, pieces = caught[i][real], batches[0]["input_ids"][real]
    columns, row = outlier_columns(x).tolist(), int(x.abs().amax(1).argmax())
    elsewhere = float(x[pieces != pieces[row]].abs().max())
    named = ", ".join(map(str, columns[:4])) + (" …" if len(columns) > 4 else "") or "none"
    lines.append(
        f"| {i} | {named} | {float(x.abs().max()):.1f} | {tokenizer.id_to_token(int(pieces[row]))} | {elsewhere:.1f} |"
    )
prose("\n".join(lines))

# %% [markdown]
# The same few columns come back in layer after layer, because the residual connection carries them on. That suggests a suspect. A suspicion is no evidence, though: a wide range costs F1
# only if what got rounded away mattered.

# %% [markdown]
# ## Who did it? A scan, node by node
#
# Quantize **one** node, leave all others in float, and measure; then the next. The obvious measure is F1, and it is a bad one: on a hundred sentences F1 changes only when some answer flips, either way, by
# luck. We need a measure that moves when logits move. Let $p_t$ be the probabilities of the tags that the float model gives to piece $t$, shape $(T,)$ for $T$ tags, and
# $q_t$ those of the quantized one. The **divergence**
#
# $$\mathrm{KL}(p \,\|\, q) = \frac1N \sum_{t=1}^{N} \sum_{c=1}^{T} p_{tc} \log \frac{p_{tc}}{q_{tc}}$$
#
# over $N$ real pieces is 0 when the two agree and grows with every disagreement. It needs no labels. We shall scan with it, and let F1 judge the outcome.

# %%
predict(
    "worst_node",
    "Where in a layer is the node that costs the most when it alone is quantized?",
    choices=["queries, keys or values", "after the attention", "after the feed-forward block", "another"],
)

# %%
from course_lib.quantization.sensitivity import Divergence
from course_lib.show.activations import cost_bars

few = corpus().validation[: pick(32, 12)]
asked = calibration_batches(make_windows([s.words for s in few], tokenizer), padding, count=len(few))
divergence = Divergence(model, asked)
scan = node_scan(model, ranges, metric=lambda candidate: -divergence(candidate))
costs = {s.name.replace("bert.encoder.layer.", "layer "): s.drop for s in scan}
cost_bars(dict(list(costs.items())[:12]), "divergence from this node alone, nats")

# %%
worst = next(iter(costs))
places = {
    "attention.self": "queries, keys or values",
    "attention.output": "after the attention",
    ".output.": "after the feed-forward block",
}
kind = next((place for part, place in places.items() if part in worst), "another")
reveal("worst_node", measured=kind)

# %%
top = sum(list(costs.values())[:6])
prose(
    f"Six of {len(costs)} nodes cause {top / sum(costs.values()):.0%} of all the divergence. All single costs add up to {sum(costs.values()):.4f} nats; all nodes "
    f"quantized at once measure {divergence(every_node):.4f}."
)

# %% [markdown]
# The names are those of the layer that lesson 15 writes out: `output.dense` is the second matrix of the feed-forward block, `output.LayerNorm:input` the sum of its output and the residual;
# with `attention.` before it, the same after the attention. The words behind the colon say whether it is what the module reads or what it puts out.
#
# Compare the last two numbers. Single costs **add up**, at least to the right size: when many nodes are rounded at once their errors meet, and the whole may come out larger than
# the sum. So a scan gives the *order* of the nodes and a first estimate, and turns the choice
# into arithmetic: leave out nodes, the most costly first, until the sum of the others is within a budget.
#
# (Some nodes are listed twice, as what one module puts out and what the next reads. Quantizing the second time changes nothing, so the sum counts those twice. They are small here.)

# %% [markdown]
# ## Exercise: which nodes to leave in float?
#
# {{exercise nodes_to_exclude}}
#
# Measurements can come out below 0 by luck (those of F1 often do). Luck must not pay for real costs.


# %% exercise="nodes_to_exclude"
def nodes_to_exclude(costs: dict[str, float], budget: float) -> list[str]:
    """The fewest nodes to leave in float so that the costs of all others, added up, are within a budget.

    Args:
        costs: name → what quantizing that node alone costs; below 0 counts as 0.
        budget: at least 0; a sum equal to it is within it.
    Returns:
        Names, the most costly first; empty where all can be quantized.

    >>> nodes_to_exclude({"a": 0.01, "b": 0.30, "c": 0.02}, budget=0.05)
    ['b']
    """
    ### BEGIN SOLUTION
    order = sorted(costs, key=lambda name: -costs[name])
    count = 0
    while sum(max(0.0, costs[name]) for name in order[count:]) > budget:  # an empty sum is 0: it ends
        count += 1
    return order[:count]
    ### END SOLUTION


# %% check="nodes_to_exclude"
check("nodes_to_exclude", nodes_to_exclude)

# %% [markdown]
# Stuck? `hint("nodes_to_exclude")` gives one step at a time.

# %%
nodes_to_exclude = use("nodes_to_exclude", nodes_to_exclude)

# %% [markdown]
# Divergence is not what anybody pays for. So we let your function choose for several budgets, and measure each choice by **F1 on validation**. The rule, fixed beforehand: the fewest nodes in float
# with which F1 is at most one point below that of the float model.

# %%
from course_lib.show.activations import exclusion_curves

by_node = {s.name: s.drop for s in scan}
rows = []
for share in pick((1.0, 0.5, 0.3, 0.15, 0.08), (1.0, 0.3)):
    left = nodes_to_exclude(by_node, budget=share * sum(max(0.0, c) for c in by_node.values()))
    candidate = copy.deepcopy(model)
    quantize_nodes(candidate, ranges, exclude=left)
    rest = sum(cost for name, cost in by_node.items() if name not in left)
    rows.append((len(left), f1_of(candidate), divergence(candidate), rest, left))
counts, f1s, measured, summed, _ = zip(*rows, strict=True)
exclusion_curves(counts, f1s, whole, measured, summed)

# %%
chosen = next((row for row in rows if row[1] >= whole - 0.01), rows[-1])
prose(
    f"The rule takes {chosen[0]} of {len(ranges)} nodes out: F1 {chosen[1]:.3f}, after {f1_every_node:.3f} with every node in 8 bits and {whole:.3f} in float. "
    "Left in float:\n\n" + "\n".join(f"- `{name}`" for name in chosen[4])
)

# %% [markdown]
# F1 may even come out above that of the float model in the left panel: with so few sentences that is luck, and no reason to prefer that point. The costliest nodes are sums of vectors and what goes into them,
# and no matrix product reads them, only a LayerNorm: in float they take next to no time, and no weights. This is how the problem is solved in practice, in every serious tool: `nodes_to_exclude` is even the name
# of an argument of ONNX Runtime's quantizer.

# %% [markdown]
# ## A tempting idea: cut the range
#
# One number is too large, so let us clip it. Lesson 07 chose ranges that hold 99.99 % of all values, or those with the least squared error. Would that not be simpler than leaving nodes out?

# %%
predict(
    "cut_ranges",
    "Every node in 8 bits, each range cut to hold 99.99 % of its values: what happens to the divergence, compared with min-max?",
    choices=["falls to a tenth or less", "falls somewhat", "about the same or larger"],
)

# %%
from course_lib.quantization.observers import Mse, Percentile

cut = {"min-max": (f1_every_node, divergence(every_node))}
for name, observer in {"99.99 %": Percentile, "least squared error": lambda: Mse(symmetric=False)}.items():
    candidate = copy.deepcopy(model)
    quantize_nodes(candidate, node_ranges(model, batches, observer))
    cut[name] = (f1_of(candidate), divergence(candidate))
ratio = cut["99.99 %"][1] / cut["min-max"][1]
reveal(
    "cut_ranges",
    measured="falls to a tenth or less" if ratio <= 0.1 else "falls somewhat" if ratio < 0.9 else "about the same or larger",
)

# %%
lines = [f"| {name} | {f1:.3f} | {moved:.4f} |" for name, (f1, moved) in cut.items()]
least = min(moved for name, (_, moved) in cut.items() if name != "min-max")
prose(
    "\n".join(["| ranges of all nodes | F1 | divergence, nats |", "|---|---|---|", *lines])
    + f"\n\nThe better of the two cut ranges still leaves {least / cut['min-max'][1]:.0%} of the divergence of min-max."
)

# %% [markdown]
# Cutting trades one error for another. The picture at the start says why there is not more to win: the large number is rare, and it is not noise. It marks the token at which attention is parked, every sentence has it, and the next layers rely on it. Rounding
# the small numbers and clipping the large one are both wrong; there is no good range, **because one scale is asked to serve two kinds of tokens.**

# %% [markdown]
# ## Ask each token: dynamic quantization
#
# So do not ask it. If each token $t$ gets a scale of its own when it comes,
#
# $$s_t = \frac{\max_j |X_{tj}|}{127}, \qquad q_{tj} = \operatorname{round}(X_{tj} / s_t),$$
#
# then `[CLS]` has a long step, and no other token notices. This is **dynamic** quantization: no calibration, no range that tomorrow's sentences can leave. The price is a pass over the numbers to find
# each maximum. In a matrix product the scales come out of the sum again, because $s_t$ does not depend on the column $j$ over which the sum runs (lesson 06):
# $y_{tn} = s_t\, s_n \sum_j q_{tj} w_{nj}$ for weight codes $w_{nj}$ with a scale $s_n$ for each row.

# %% [markdown]
# ## Exercise: a scale for each token
#
# {{exercise quantize_tokens}}


# %% exercise="quantize_tokens"
def quantize_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 codes of each row, with a scale of its own: ``scale = max|x| / 127``.

    Args:
        x: float32 (M, K), a row for each token.
    Returns:
        Codes int8 (M, K), and scales (M, 1), 1 for a row of zeros.

    >>> codes, scale = quantize_tokens(torch.tensor([[254.0, -3.0], [0.0, 0.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[127, -2], [0, 0]], [[2.0], [1.0]])
    """
    ### BEGIN SOLUTION
    largest = x.abs().amax(1, keepdim=True)  # (M, 1): keeps the dimension, so that it divides row by row
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / 127)
    return torch.round(x / scale).to(torch.int8), scale
    ### END SOLUTION


# %% check="quantize_tokens"
check("quantize_tokens", quantize_tokens)

# %% [markdown]
# Stuck? `hint("quantize_tokens")` gives one step at a time.

# %%
quantize_tokens = use("quantize_tokens", quantize_tokens)

# %%
from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.token_nodes import quantize_nodes_by_token

codes, scale = quantize_tokens(X)
static = fake_quantize(X, *choose_from_range(*ranges[f"{NODE}:output"], 8, symmetric=False), 8, symmetric=False)
errors = {name: ((v - X)[1:].norm() / X[1:].norm()).item() for name, v in {"static": static, "dynamic": codes * scale}.items()}
predict("f1_dynamic", "All nodes in 8 bits again, none left out, but each token with its own scale: which F1?")

# %%
by_token = copy.deepcopy(model)
quantize_nodes_by_token(by_token, ranges)
f1_by_token = f1_of(by_token)
reveal("f1_dynamic", measured=f1_by_token)

# %%
prose(
    f"At the node of the picture, over all tokens but the first: relative error {errors['static']:.0%} with the static range, {errors['dynamic']:.1%} with your codes. All nodes: "
    f"F1 {f1_by_token:.3f} dynamic, {f1_every_node:.3f} static, {whole:.3f} float; divergence {divergence(by_token):.5f} against {divergence(every_node):.5f} nats."
)

# %% [markdown]
# ## When it has to be static: SmoothQuant
#
# Some chips and runtimes want scales that are known beforehand. For the inputs of a **linear layer** there is another way out. Its weight $W$ has the shape $(R, C)$: $R$ outputs, and $C$ inputs, which are the columns of
# $X$. Divide column $j$ of the input by a number $s_j > 0$ and multiply column $j$ of the weight by it ($\oslash$ divides entry by entry):
#
# $$y = x W^\top = \underbrace{(x \oslash s)}_{\text{smoother}} \; \underbrace{(W \operatorname{diag}(s))^\top}_{\text{a little rougher}},
# \qquad s_j = \frac{\max_t |X_{tj}|^{\alpha}}{\max_r |W_{rj}|^{1-\alpha}} .$$
#
# The first equation holds for *any* $s$: in float nothing changes. The second is a choice. With $\alpha = 1$ all input columns become equally large and the weights get all the difficulty; with
# $\alpha = 0$ it is the other way round. Weights have a scale for each row and are known beforehand, so they can bear more. The paper recommends $\alpha = 0.5$.

# %% [markdown]
# ## Exercise: move the difficulty into the weights
#
# {{exercise smoothed}}


# %% exercise="smoothed"
def smoothed(absmax: torch.Tensor, weight: torch.Tensor, alpha: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """SmoothQuant's scales, and the weight that belongs behind a division of the input by them.

    Args:
        absmax: ``max_t |X_tj|``, the size of each input column, (C,), at least 0.
        weight: W, (R, C); every column has a weight that is not 0.
        alpha: how much of the difficulty moves to the weights, 0 to 1.
    Returns:
        s (C,), which is 1 where absmax is 0, and the new weight (R, C).

    >>> smoothed(torch.tensor([16.0, 1.0]), torch.tensor([[1.0, -4.0]]))
    (tensor([4.0000, 0.5000]), tensor([[ 4., -2.]]))
    """
    ### BEGIN SOLUTION
    sizes = weight.abs().amax(0)  # (C,): over the outputs
    s = absmax**alpha / sizes ** (1 - alpha)
    s = torch.where(absmax == 0, torch.ones_like(s), s)
    return s, weight * s  # (R, C) times (C,): column by column
    ### END SOLUTION


# %% check="smoothed"
check("smoothed", smoothed)

# %% [markdown]
# Stuck? `hint("smoothed")` gives one step at a time.

# %%
smoothed = use("smoothed", smoothed)

# %% [markdown]
# **An equivalent transform must not change the output.** Here on the second matrix of the first feed-forward block, in float64, and against the library's own layer:

# %%
from course_lib.layerwise import collect
from course_lib.plan import match, replace_module
from course_lib.quantization.smooth import InputScaledLinear

linears = {name: linear for name, (linear, _) in match(model, {ENCODER: None}).found.items()}
sizes = {name: statistic.absmax() for name, statistic in collect(model, linears, batches, Channels).items()}
W = linears[NODE].weight.detach()  # (R, C) = (384, 1536)
x = torch.randn(64, W.shape[1], generator=torch.Generator().manual_seed(0)) * sizes[NODE]
s, W_new = smoothed(sizes[NODE], W, alpha=0.5)
inside = torch.nn.Linear(*W.T.shape, bias=False)
inside.weight.data.copy_(W_new)
library = InputScaledLinear(inside, s)(x).detach()

# %% compare=true
same = (x.double() / s.double()) @ (W.double() * s.double()).T - x.double() @ W.double().T
print(
    "float64, before and after, within 1e-12 of the sums:",
    bool(same.abs().max() < 1e-12 * (x.double().abs() @ W.double().abs().T).max()),
)
print("your layer and the library's agree:", torch.allclose((x / s) @ W_new.T, library, rtol=1e-4, atol=1e-4))

# %% [markdown]
# What does it do to the columns? Turn $\alpha$ and watch the largest input, at the far left: a static range has to hold it, and the farther it stands above the others, the coarser are their steps. A small $\alpha$ levels the
# *weights*: where the column with the largest inputs has the largest weights too, its inputs may stand out more afterwards than before. That is no mistake of the picture. What it means comes below.

# %%
from course_lib.show.activations import column_balance
from course_lib.show.knobs import knob


def draw(alpha=0.5):
    """The columns of this layer before and after."""
    s, new = smoothed(sizes[NODE], W, alpha)
    after = sizes[NODE] / s
    ratios = [float(v.max() / v.median()) for v in (sizes[NODE], after)]
    return column_balance(
        {"as trained": sizes[NODE], "smoothed": after},
        {"as trained": W.abs().amax(0), "smoothed": new.abs().amax(0)},
        f"α = {alpha}: the largest input column is {ratios[0]:.1f} times the median one before, {ratios[1]:.1f} times after",
    )


knob(draw, alpha=[0.0, 0.25, 0.5, 0.75, 1.0])

# %% [markdown]
# Does it help the model? We quantize the inputs and weights of all linear layers of the encoder, in real integer arithmetic, with static ranges of 8, 6 and 5 bits for the inputs: at 8 bits there may be nothing to cure, since
# the worst nodes of the scan are *sums*, which no linear layer reads.

# %%
predict(
    "smooth_half",
    "Static 6-bit inputs in all linear layers. What does SmoothQuant with the recommended α = 0.5 do to the divergence?",
    choices=["more than halves it", "changes it by less than a factor of 2", "more than doubles it"],
)


# %%
def smooth_all(alpha: float | None) -> tuple[torch.nn.Module, str]:
    """A copy of the model with your scales in every linear layer of the encoder (None: as it is), and the pattern of these layers."""
    new = copy.deepcopy(model)
    if alpha is None:
        return new, ENCODER
    for name, absmax in sizes.items():
        linear = new.get_submodule(name)
        s, weight = smoothed(absmax, linear.weight.detach(), alpha)
        linear.weight.data.copy_(weight)
        replace_module(new, name, InputScaledLinear(linear, s))
    return new.eval(), f"{ENCODER}.linear"


# %%
from course_lib.quantization.static import input_ranges
from course_lib.show.activations import divergence_against_alpha

alphas, widths = pick([0.25, 0.5, 0.75, 0.9], [0.5, 0.75]), pick((8, 6, 5), (8, 6))
moved = {}
for alpha in (None, *alphas):
    smooth_model, pattern = smooth_all(alpha)
    its_ranges = input_ranges(smooth_model, [pattern], batches)
    for bits in widths:
        candidate = copy.deepcopy(smooth_model)
        apply(candidate, {pattern: Scheme(8, activation="static", activation_bits=bits)}, its_ranges)
        moved[alpha, bits] = (divergence(candidate), candidate if bits == 6 or alpha is None else None)
divergence_against_alpha(
    alphas,
    {f"{b}-bit inputs": [moved[a, b][0] for a in alphas] for b in widths},
    {f"{b}-bit inputs": moved[None, b][0] for b in widths},
)

# %%
ratio = moved[0.5, 6][0] / moved[None, 6][0]
reveal(
    "smooth_half",
    measured="more than halves it"
    if ratio < 0.5
    else "more than doubles it"
    if ratio > 2
    else "changes it by less than a factor of 2",
)

# %%
best = min(alphas, key=lambda a: moved[a, 6][0])
column = int(sizes[NODE].argmax())
f1_smooth = {a: f1_of(moved[a, 6][1]) for a in dict.fromkeys((None, 0.5, best))}
f1_static = f1_of(moved[None, 8][1])
prose(
    f"6-bit static inputs: F1 {f1_smooth[None]:.3f} without SmoothQuant, {f1_smooth[0.5]:.3f} with α = 0.5, {f1_smooth[best]:.3f} with α = {best:g}, which the divergence on validation chose "
    f"(8 bits without it: {f1_static:.3f}; float: {whole:.3f}). In the layer above, the largest input column is {column}: its inputs reach {float(sizes[NODE][column]):.1f} "
    f"(median column {float(sizes[NODE].median()):.1f}), and its **weights** reach {float(W[:, column].abs().max()):.2f} (median column {float(W.abs().amax(0).median()):.2f})."
)

# %% [markdown]
# The recommended ½ balances inputs *against weights*. Look at the last two pairs of numbers, and at the picture above: a column that is large on both sides has an $s_j$ no larger than everybody else's, here
# even a smaller one. Divided by it, the outlier stands out *more* than before. A larger α listens to the inputs alone. **A hyperparameter from a paper is a starting point; choose it on your validation data.**
#
# And what SmoothQuant cannot reach are the sums that the scan found. The division has to be taken back somewhere, and after a sum there is no matrix to do it. (The paper folds the division into the
# LayerNorm before the layer. In BERT that would change the model, since the residual connection reads that LayerNorm too. So here it is a step of its own.)

# %% [markdown]
# ## What goes wrong in practice: the collapse
#
# Back to the published collapse. So far we never had one: the nodes above are what *modules* read and put out. A tool that works on the exported graph sees more, such as the attention scores $QK^\top / \sqrt{d}$
# *after the mask was added*. We take ONNX Runtime's `quantize_static`, min-max ranges, every node. The recipe below calibrates it with the same sentences, and once more with the
# same sentences in padded batches of eight, as one does to save time.

# %%
predict("ort_padded", "F1 of static int8 by ONNX Runtime, calibrated on padded batches (0 to 1)?")

# %%
from course_lib.deploy.peers import static_qdq

pieces = [list(w.ids) for w in windows[: pick(64, 16)]]
onnx = {}
for size in (1, 8):
    with tempfile.TemporaryDirectory() as scratch:
        made = static_qdq(folder, Path(scratch), pieces, size)
        onnx[size] = entity_f1(gold, tags_of(OnnxEngine(made, threads=torch.get_num_threads())))
reveal("ort_padded", measured=onnx[8])

# %%
from course_lib.quantization.scores import quantized_scores, score_ranges

careless = score_ranges(model, batches, lambda scores, mask: scores.aminmax())
(bottom, top), real_score = careless[0], 5.0
prose(
    f"ONNX Runtime: F1 {onnx[1]:.3f} calibrated sentence by sentence, **{onnx[8]:.3f}** on padded batches. The range of the scores of layer 0 over padded batches: "
    f"{float(bottom):.2g} to {float(top):.1f}. A step is {(float(top) - float(bottom)) / 255:.1g} long, so a score of {real_score:g} gets the same code as a score of −{real_score:g}."
)

# %% [markdown]
# There it is. To hide padding, a mask adds $-3.4 \cdot 10^{38}$, the most negative float32, to the scores of all padding keys. Min-max calibration takes it for data. All real scores get *one* code; after the softmax every
# piece attends to all others alike; the network is blind. One such node in each layer is enough. No error, no warning, and on a single unpadded sentence the float model shows nothing.
#
# Two cures: calibrate without padding, or compute the range from real entries only. Then masked scores are clipped to the lowest code. Is that low enough to stay hidden? The softmax of a
# score that lies 20 below the largest is $e^{-20}$, about $2 \cdot 10^{-9}$.

# %% [markdown]
# ## Exercise: a range that does not see the padding
#
# {{exercise score_range}}


# %% exercise="score_range"
def score_range(scores: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest score of a real query with a real key.

    Args:
        scores: after the mask was added, (B, H, L, L): sentence, head, query, key.
        attention_mask: (B, L), 1 at real tokens, 0 at padding.
    Returns:
        Two scalars, the smallest first.

    >>> score_range(torch.tensor([[[[1.0, -3e38], [5.0, -3e38]]]]), torch.tensor([[1, 0]]))
    (tensor(1.), tensor(1.))
    """
    ### BEGIN SOLUTION
    mask = attention_mask.bool()
    pairs = mask[:, :, None] & mask[:, None, :]  # (B, L, L): query and key are real
    real = scores[pairs[:, None].expand_as(scores)]  # the same for every head
    return real.min(), real.max()
    ### END SOLUTION


# %% check="score_range"
check("score_range", score_range)

# %% [markdown]
# Stuck? `hint("score_range")` gives one step at a time.

# %%
score_range = use("score_range", score_range)

# %%
careful = score_ranges(model, batches, score_range)
lines = ["| 8 bits for the masked scores alone, range from | F1 | divergence, nats |", "|---|---|---|"]
for name, its in {"all entries of padded batches": careless, "real entries (yours)": careful}.items():
    with quantized_scores(model, its):
        lines.append(f"| {name} | {f1_of(model):.3f} | {divergence(model):.4f} |")
widths = [float(top - bottom) for bottom, top in careful]
prose("\n".join(lines) + f"\n\nYour ranges are {min(widths):.0f} to {max(widths):.0f} wide, layer by layer.")

# %% [markdown]
# The same collapse, from these nodes alone, in our own few lines of PyTorch, and gone with your range: it is wide enough for its lowest code to hide what is masked. When an int8 model of yours collapses, look at the calibration data first.

# %% [markdown]
# ## Smaller and faster? (claim C4)
#
# A survey says: int8 weights make the file four times smaller and inference faster. Count bytes by component first.

# %%
from course_lib.machine import machine
from course_lib.measure.bench import median_ms
from course_lib.report import tensor_bytes

dynamic, both = copy.deepcopy(model), copy.deepcopy(model)
apply(dynamic, {ENCODER: Scheme(8, activation="dynamic")})
apply(both, {ENCODER: Scheme(8, activation="dynamic"), "*word_embeddings": Scheme(8)})
forms = {"float": model, "linear layers int8": dynamic, "word embeddings too": both}
lines = ["| | word embeddings, MB | layers, MB | all, MB | times smaller |", "|---|---|---|---|---|"]
for name, m in forms.items():
    parts = [tensor_bytes(p) / 1e6 for p in (m.bert.embeddings.word_embeddings, m.bert.encoder, m)]
    lines.append(f"| {name} | " + " | ".join(f"{p:.1f}" for p in parts) + f" | {tensor_bytes(model) / 1e6 / parts[2]:.2f} |")
prose("\n".join(lines))

# %%
f1_dynamic = f1_of(dynamic)
with torch.inference_mode():
    float_ms, int8_ms = median_ms(lambda: model(**batches[-1]), lambda: dynamic(**batches[-1]), repeats=pick(9, 3))
about = machine(torch.get_num_threads())
prose(
    f"F1 with dynamic int8 linear layers {f1_dynamic:.3f} (float {whole:.3f}). A batch of {len(batches[-1]['input_ids'])} sentences in PyTorch: {float_ms:.0f} ms in float, {int8_ms:.0f} ms in int8, "
    f"{float_ms / int8_ms:.2f} times as fast on {about['cpu']}, {about['threads']} thread(s), flags {', '.join(about['flags'])}. "
    f"**C4: true of the layers, which become nearly four times smaller; the file as a whole only once the embeddings are int8 as well; faster "
    f"{'here, by less than the bytes suggest' if float_ms > int8_ms else 'not here'}.**"
)

# %% [markdown]
# Only the product of matrices gets faster; LayerNorm, softmax and GELU stay in float. Without the instructions for bytes that the flags name (VNNI, AMX) even that gain may be gone. Lesson 21 races the runtimes.

# %% [markdown]
# ## Prune first, or quantize first? (claim C6)
#
# Another survey: prune, then quantize, "the two are complementary". Does the order matter? Take symmetric codes with a scale for each row, and prune the smallest weights of each
# matrix. The largest weight of a row survives if anything in that row does, so **the scale is the same in either order**, and every survivor has the same code. What is left is a question of ties: after rounding, many weights are equally small.
#
# And is it worth it, at equal bytes? A pruned matrix stored as a bitmask and its survivors takes $1 + (1-p)\,b$ bits for each weight at sparsity $p$. With $p = \tfrac12$: 8-bit codes take 5 bits, 6-bit codes 4, and 4-bit
# codes 3. We compare with plain rounding to 5, 4 and 3 bits. Nothing is trained again.

# %%
predict(
    "at_equal_bytes",
    "At 3 bits for each weight: plain 3-bit codes, or half pruned and the rest in 4 bits? Which F1 is higher?",
    choices=["3-bit codes", "half pruned, 4 bits"],
)

# %%
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.quantization.affine import choose_affine


def rounded(w: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric codes with a scale for each row, and back."""
    return fake_quantize(w, *choose_affine(w, bits, True, "channel"), bits, True)


def halved(w: torch.Tensor) -> torch.Tensor:
    """The smaller half of the weights set to zero."""
    return w * mask_by_sparsity(w.abs(), 0.5)


def tags_with(change) -> list[list[str]]:
    """Predictions with every matrix of the encoder changed."""
    new = copy.deepcopy(model)
    for name in linears:
        weight = new.get_submodule(name).weight
        weight.data.copy_(change(weight.detach()))
    return tags_of(TorchEngine(new))


table = {}
for stored, bits in {5: 8, 4: 6, 3: 4}.items():
    first = tags_with(lambda w, b=bits: rounded(halved(w), b))
    last = tags_with(lambda w, b=bits: halved(rounded(w, b)))
    table[stored] = (tags_with(lambda w, b=stored: rounded(w, b)), first, last)
f1s = {stored: [entity_f1(gold, found) for found in row] for stored, row in table.items()}

# %%
reveal("at_equal_bytes", measured="3-bit codes" if f1s[3][0] > f1s[3][1] else "half pruned, 4 bits")
lines = [
    "| bits for each weight | rounding alone | half pruned, then rounded | the second less the first, 95 % interval | rounded, then half pruned |"
]
lines.append("|---|---|---|---|---|")
beyond = {"better": 0, "worse": 0, "order": 0}
for stored, (alone, first, last) in table.items():
    gap, gap_low, gap_high = f1_difference(gold, first, alone)
    _, order_low, order_high = f1_difference(gold, first, last)
    beyond["better"] += gap_low > 0
    beyond["worse"] += gap_high < 0
    beyond["order"] += order_low > 0 or order_high < 0
    a, b, c = f1s[stored]
    lines.append(f"| {stored} | {a:.3f} | {b:.3f} | {gap:+.3f} [{gap_low:+.3f}, {gap_high:+.3f}] | {c:.3f} |")
verdict = (
    f"At equal bytes and without training, pruning with rounding is better than rounding alone at {beyond['better']} of {len(table)} sizes and worse at "
    f"{beyond['worse']}, where better and worse mean that the 95 % interval of the difference excludes 0. The order makes such a difference at {beyond['order']}."
)
prose("\n".join(lines) + f"\n\n**C6: {verdict}**")

# %% compare=true
survivors = halved(W) != 0
pairs = rounded(halved(W), 4)[survivors] == rounded(W, 4)[survivors]
print("survivors with the same value in either order:", bool(pairs.all()))

# %% [markdown]
# This is without recovery. With training in between, the order *does* matter: codes pass no gradient, so what is to be trained has to be trained before. That is why recipes prune, recover, and quantize last.

# %% [markdown]
# ## What to take along
#
# Everything this lesson measured, on validation:

# %%
lines = [
    ("float", whole),
    ("every node, static min-max", f1_every_node),
    (f"the same, {chosen[0]} nodes left in float", chosen[1]),
    ("every node, ranges cut at 99.99 %", cut["99.99 %"][0]),
    ("every node, a scale for each token", f1_by_token),
    ("linear layers, static 8 bits", f1_static),
    ("linear layers, dynamic", f1_dynamic),
    ("linear layers, static 6-bit inputs", f1_smooth[None]),
    (f"the same after SmoothQuant, α = {best:g}", f1_smooth[best]),
    ("ONNX Runtime static, single sentences", onnx[1]),
    ("ONNX Runtime static, padded calibration", onnx[8]),
]
prose("\n".join(["| | F1 |", "|---|---|", *(f"| {name} | {f1:.3f} |" for name, f1 in lines)]))

# %% [markdown]
# ## Questions for reflection

# %%
quiz("codes_left")

# %%
quiz("scan_of_noise")

# %%
quiz("smooth_both_large")

# %% [markdown] open="my_int8_model_collapsed" points=2
# **In your own words** (an instructor reads this one): a colleague's encoder falls from .91 to .30 after static int8. They have an afternoon. In which order do you look at what, which measurement decides each
# step, and which data do you use for it?
#
# <!-- BEGIN SOLUTION -->
# First the calibration data: real sentences, no padding seen, and the widest ranges printed; a range of 1e38 ends the search. Then dynamic quantization as a control: if that is fine, activations and
# their shared scale are to blame, not the weights. Then a scan node by node by divergence on validation sentences (F1 is too coarse), the worst nodes left in float until the budget is met, confirmed by F1 on
# validation. If it must be static everywhere, SmoothQuant with α chosen on validation for the inputs of linear layers. Calibration uses training sentences; the test set is looked at once, at the end.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. Activations of a BERT have outliers in a few columns at a few tokens; one static scale must hold them, and rounds the rest away.
# 2. Scan node by node with a measure that moves (divergence), leave the worst in float, and let F1 on validation confirm it.
# 3. Cutting the range is no cure, because the network relies on the outlier; a scale for each token is one.
# 4. SmoothQuant moves the difficulty into the weights and changes nothing in float; its α has to be chosen, and it does not reach sums.
# 5. A collapse to almost nothing came from padding in the calibration: look at the data before you look at the method.
#
# **Sources.** Bondarenko, Nagel and Blankevoort, *Understanding and Overcoming the Challenges of Efficient Transformer Quantization*, 2021, arXiv 2109.12948. Kovaleva et al., *BERT Busters: Outlier Dimensions that Disrupt
# Transformers*, 2021, arXiv 2105.06990. Xiao et al., *SmoothQuant*, 2022, arXiv 2211.10438. Yao et al., *ZeroQuant* (a scale for each token), 2022, arXiv 2206.01861. Wu et al., *Integer Quantization for Deep Learning
# Inference*, 2020, arXiv 2004.09602. Dettmers et al., *LLM.int8()*, 2022, arXiv 2208.07339.
