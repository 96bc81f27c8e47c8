# %% [markdown]
# # Why is my pruned model not smaller or faster?
#
# **The question.** Half of the weights are zero. The file has not shrunk, and the clock says the same as before. What has to go instead, so that both do?
#
# **You will build** the removal of a neuron, of a channel and of an attention head with everything that belongs to it; a mask that hides a neuron exactly as if it
# were gone; and the decision that prunes a whole tree of modules, one subtree after the other. On the way you meet a mask that hides less than it says.
#
# **Needs** lesson 02 (scores and masks), matrix products.
#
# {{lesson}}

# %% [markdown]
# ## Half of the weights, none of the time
#
# The encoder of this course, all-MiniLM-L6-v2, has six layers. We prepare two copies of it. In the first the smaller half of the weights of every matrix in these layers is set to zero, as
# in lesson 02. In the second, half of the attention heads and half of the feed-forward neurons are *removed*; how, is the subject of this lesson. Both have lost half of
# what is in their matrices.

# %%
import copy
import statistics
import tempfile
from pathlib import Path

import torch

from course_lib.data.digits import load_digits
from course_lib.deploy.fair import speedup, take_turns
from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.models.surgery import encoder_layers
from course_lib.models.zoo import find_encoder, load_encoder, load_tokenizer, save_model
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.pruning.unit_masks import compact, encoder_groups, mask_by_plan, mask_units
from course_lib.report import parameter_count
from course_lib.show.structure import against_removed, coupled_parts, turn_the_unit, turns
from course_lib.show.text import prose

encoder, tokenizer = load_encoder("minilm").eval(), load_tokenizer(find_encoder("minilm"))
zeroed, smaller = copy.deepcopy(encoder), copy.deepcopy(encoder)
with torch.no_grad():
    for p in encoder_layers(zeroed).parameters():
        if p.dim() == 2:
            p *= mask_by_sparsity(p.abs(), 0.5)
mask_by_plan(smaller, {"*.heads": 0.5, "*.neurons": 0.5})
compact(smaller)
contenders = {"as it was": encoder, "half of the weights zero": zeroed, "half of the units removed": smaller}

# %%
predict("time_saved_by_zeros", "Half of the weights are zero: how much less time does a batch take?", unit="%")

# %%
predict("bytes_saved_by_zeros", "And how much smaller is the file?", unit="%")

# %% [markdown]
# How to measure so that the answer can be trusted? A machine that does other things in between is slow for a while, and whoever is measured in that while looks bad. So the contenders **take
# turns**, A B C, A B C, and each is compared with the others *of the same round*. The first round warms up and does not count. Of the ratios we take the median, which a
# single bad moment cannot move.

# %%
ids = torch.randint(
    1000, 20000, pick((4, 64), (2, 16)), generator=torch.Generator().manual_seed(0)
)  # a batch of pieces, no padding


@torch.no_grad()
def in_turns(models: dict[str, torch.nn.Module], rounds: int) -> dict[str, list[float]]:
    """Milliseconds for the batch, a number for each model and round."""
    return take_turns({name: lambda model=model: model(input_ids=ids) for name, model in models.items()}, rounds)


times = in_turns(contenders, pick(40, 3))
turns(times)

# %%
reveal(
    "time_saved_by_zeros", measured=100 * (1 - 1 / speedup(times["as it was"], times["half of the weights zero"], 1)), unit="%"
)


# %%
def file_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights' file."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, tokenizer, Path(folder))
        return (Path(folder) / "model.safetensors").stat().st_size


sizes = {name: file_bytes(model) for name, model in contenders.items()}
reveal("bytes_saved_by_zeros", measured=100 * (1 - sizes["half of the weights zero"] / sizes["as it was"]), unit="%")

# %%
lines = [
    f"| {name} | {parameter_count(encoder_layers(model)) / 1e6:.2f} M | {sizes[name] / 1e6:.1f} MB | {statistics.median(times[name][1:]):.0f} ms | "
    f"{speedup(times['as it was'], times[name], 1):.2f} |"
    for name, model in contenders.items()
]
head = ["| | parameters of the layers | file | batch | times as fast |", "|---|---|---|---|---|"]
prose(
    "\n".join([*head, *lines]) + f"\n\nA batch of {tuple(ids.shape)} pieces; threads: {torch.get_num_threads()}; this machine."
)

# %% [markdown]
# The zeros bought nothing. A matrix product asks neither how many of its numbers are zero nor where: an $(N, K)$ times a $(K, M)$ matrix takes $N K M$ multiplications, and a float takes
# 32 bits whatever its value. **Only the three sizes count.** Time and bytes fall when $N$, $K$ or $M$ does, that is, when a whole row or column is taken out. (Storing and multiplying
# *scattered* zeros at a profit is possible, at a price: lesson 05.)
#
# The third model has smaller matrices, so its time does fall. Its file shrinks less than its layers, because half of this encoder's parameters are the table of word
# embeddings, which nobody has touched. First we learn how to take a unit out; which units may go, and what is lost with them, comes after that, on a network that
# is small enough to try everything (and on this encoder in lesson 16).

# %% [markdown]
# ## What belongs to a neuron
#
# The feed-forward block of a Transformer layer maps each token's vector $x$, a row of $D$ numbers, to $F$ numbers and back:
#
# $$h = \operatorname{GELU}(x W_1^\top + b_1), \qquad y = h\, W_2^\top + b_2 ,$$
#
# with $W_1$ of shape $(F, D)$, $b_1$ of shape $(F,)$, $W_2$ of shape $(D, F)$ and $b_2$ of shape $(D,)$. Look at a single one of the $F$ numbers, a **neuron** $f$, and write the second product as the sum that it is:
#
# $$y = b_2 + \sum_{f=1}^{F} \operatorname{GELU}\big(x \cdot W_1[f, :] + b_1[f]\big)\; W_2[:, f] .$$
#
# Every neuron is one term of the sum. Its term needs **row** $f$ of the first matrix, **entry** $f$ of the first bias and **column** $f$ of the second matrix, and no other term needs any of these.
# So the three go together, and nothing else changes. A set of things that only makes sense together is called a **coupled group**. The library writes it down as an object that can be read before anything is cut:

# %%
from course_lib.models.digits_transformer import digits_transformer
from course_lib.models.surgery import head_groups, neuron_groups

network = digits_transformer(seed=0)  # of 3 layers, D = 64, 8 heads, F = 256; to be trained further down
print(neuron_groups(network)[0])

# %% [markdown]
# The same works wherever numbers are *made* by rows of one weight and *read* by columns of another:
#
# - **A channel** of a convolution is one filter with its bias. The next convolution reads it with the slice $[:, c]$ of its filters. If a linear layer comes next, the $h \times w$ map of a channel
#   was flattened, and it is read by $h w$ columns side by side, $c\,hw \dots c\,hw + hw - 1$. (A BatchNorm in between has an entry for the channel too, and loses it.)
# - **An attention head**: further down.
#
# In the picture each weight is a grid, darker where a number is larger: rows are outputs, columns are inputs. A filter of a convolution is laid out in one row, with $k \cdot k$ numbers for
# each input channel, so the slice $[:, c]$ is $k \cdot k$ columns side by side. The white strip beside a weight stands for its bias. Orange is one unit.

# %%
from course_lib.models.digits import accuracy, digits_cnn, fit, losses, mean_loss
from course_lib.pruning.channels import channel_groups

cnn = digits_cnn(seed=0)
kinds = {
    "neuron": (network, neuron_groups(network)[0]),
    "channel, read by a convolution": (cnn, channel_groups(cnn)[0]),
    "channel, flattened and read": (cnn, channel_groups(cnn)[1]),
}
turn_the_unit(kinds)

# %% [markdown]
# ## Exercise: a unit and all that belongs to it
#
# {{exercise remove_units}}
#
# One function for neurons and channels. The shape of the reader says how many columns a unit has.


# %% exercise="remove_units"
def remove_units(
    weight: torch.Tensor, bias: torch.Tensor, reader: torch.Tensor, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep only some neurons, or channels: their rows, their biases, and the columns of the next weight that read them.

    Args:
        weight: what makes the U units: (U, in) of a linear layer, (U, in, k, k) of a convolution.
        bias: (U,).
        reader: the next weight, (out, U·P, …): P columns for each unit, unit by unit. P is 1, or the positions of a map that
            was flattened.
        keep: int64 (kept,), numbers of the units that stay, ascending.
    Returns:
        The three with fewer units: (kept, …), (kept,) and (out, kept·P, …).

    >>> w, b, r, keep = torch.zeros(5, 3), torch.zeros(5), torch.zeros(2, 20), torch.tensor([0, 4])
    >>> [tuple(t.shape) for t in remove_units(w, b, r, keep)]
    [(2, 3), (2,), (2, 8)]
    """
    ### BEGIN SOLUTION
    size = reader.shape[1] // len(weight)  # columns of one unit
    columns = (keep[:, None] * size + torch.arange(size)).flatten()
    return weight[keep], bias[keep], reader[:, columns]
    ### END SOLUTION


# %% check="remove_units"
check("remove_units", remove_units)

# %% [markdown]
# Stuck? `hint("remove_units")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** `keep[:, None] * size` is the first column of each unit, shape (kept, 1); adding `arange(size)` of shape (size,) makes (kept, size), and flattening reads it unit by unit, as
# `flatten` wrote the maps. Another way: give the reader the shape (out, U, P) with `unflatten`, take `[:, keep]`, and flatten again.

# %%
remove_units = use("remove_units", remove_units)

# %% [markdown]
# It goes to work on a small network of convolutions that reads handwritten digits (1 → 16 → 32 channels). We train it, remove half of the second convolution's channels, those whose filters
# have the smallest norm, and put together a smaller network from what your function returns.

# %%
digits = load_digits(seed=0, train=pick(None, 300))
fit(cnn, digits.train, epochs=pick(10, 3), seed=0)
before = cnn.state_dict()  # 0 and 2 are the convolutions, 6 is the linear layer
strongest = before["2.weight"].flatten(1).norm(dim=1).argsort(descending=True)[:16].sort().values
filters, biases, reader = remove_units(before["2.weight"], before["2.bias"], before["6.weight"], strongest)

small = digits_cnn(seed=0, channels=(16, 16))
small.load_state_dict(before | {"2.weight": filters, "2.bias": biases, "6.weight": reader})
hidden = copy.deepcopy(cnn)
mask_units(hidden, {"2.channels": torch.zeros(32).bool().index_fill(0, strongest, True)}, channel_groups(hidden))
apart = (small(digits.validation[0]) - hidden(digits.validation[0])).detach().abs().max()
prose(
    f"{parameter_count(cnn):,} parameters before, {parameter_count(small):,} after; accuracy on validation {accuracy(cnn, digits.validation):.1%} and "
    f"{accuracy(small, digits.validation):.1%}. A copy of the first network in which these channels are only *masked* gives the same logits within {float(apart):.0e}."
)

# %% [markdown]
# ## What belongs to a head
#
# Self-attention makes queries, keys and values $Q = xW_Q^\top + b_Q$ and so on, each with $D$ numbers for a token, and splits them into $H$ **heads** of $d = D/H$ numbers. Head $h$ owns the rows
# $hd \dots hd + d - 1$ of $W_Q$, $W_K$, $W_V$ and of their biases. It computes $d$ numbers for each token,
#
# $$o_h = \operatorname{softmax}\!\left(\frac{Q_h K_h^\top}{\sqrt d}\right) V_h \qquad (L, d),$$
#
# for $L$ tokens, and the output projection $W_O$, shape $(D, Hd)$, reads the heads side by side:
#
# $$y = b_O + \sum_{h} o_h\, W_O[:, hd : hd + d]^\top .$$
#
# A sum over heads again, so a head can go like a neuron: $3d$ rows with $3d$ biases, and $d$ *columns* of the output projection. The width $D$ of the model stays as it is. Only the inner width, $Hd$, shrinks.

# %%
coupled_parts(network, head_groups(network)[0], unit=2)

# %% [markdown]
# ## Exercise: remove attention heads
#
# {{exercise remove_attention_heads}}
#
# To keep it short the three weights come stacked in one tensor, and so do their biases.


# %% exercise="remove_attention_heads"
def remove_attention_heads(
    qkv: torch.Tensor, biases: torch.Tensor, out: torch.Tensor, keep: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep only some attention heads: ``size`` rows each of query, key and value, and ``size`` columns of what reads them.

    Args:
        qkv: the weights of query, key and value, (3, H·size, D); head h has the rows h·size … h·size + size − 1 of each.
        biases: theirs, (3, H·size).
        out: the weight of the output projection, (D, H·size).
        keep: int64 (kept,), numbers of the heads that stay, ascending.
        size: of a head.
    Returns:
        The three with fewer heads: (3, kept·size, D), (3, kept·size) and (D, kept·size).

    >>> qkv, biases, out = torch.zeros(3, 12, 12), torch.zeros(3, 12), torch.zeros(12, 12)
    >>> [tuple(t.shape) for t in remove_attention_heads(qkv, biases, out, torch.tensor([2]), size=4)]
    [(3, 4, 12), (3, 4), (12, 4)]
    """
    ### BEGIN SOLUTION
    rows = (keep[:, None] * size + torch.arange(size)).flatten()
    return qkv[:, rows], biases[:, rows], out[:, rows]
    ### END SOLUTION


# %% check="remove_attention_heads"
check("remove_attention_heads", remove_attention_heads)

# %% [markdown]
# Stuck? `hint("remove_attention_heads")` gives one step at a time.

# %%
remove_attention_heads = use("remove_attention_heads", remove_attention_heads)

# %% [markdown]
# Does the library agree, on the first layer of the real encoder, with 12 heads of size 32? And does `transformers`, whose function takes the rows or the columns of one linear layer?

# %%
from transformers.pytorch_utils import prune_linear_layer

from course_lib.pruning.structure import remove_heads

attention = encoder_layers(encoder)[0].attention
made = [getattr(attention.self, part) for part in ("query", "key", "value")]
stay = torch.tensor([0, 1, 4, 5, 9, 11])
mine = remove_attention_heads(
    torch.stack([m.weight for m in made]), torch.stack([m.bias for m in made]), attention.output.dense.weight, stay, size=32
)
by_library = copy.deepcopy(encoder)
remove_heads(by_library, [stay, *[torch.arange(12)] * 5])
theirs = encoder_layers(by_library)[0].attention
their_columns = prune_linear_layer(attention.output.dense, (stay[:, None] * 32 + torch.arange(32)).flatten(), dim=1)

# %% compare=true
print("query like the library's:", torch.equal(mine[0][0], theirs.self.query.weight))
print("value's bias like the library's:", torch.equal(mine[1][2], theirs.self.value.bias))
print("output like the library's:", torch.equal(mine[2], theirs.output.dense.weight))
print("output like that of transformers:", torch.equal(mine[2], their_columns.weight))
print("parameters of a head:", (parameter_count(encoder) - parameter_count(by_library)) // 6, "=", 4 * 32 * 384 + 3 * 32)

# %% [markdown]
# ## Hidden as if removed
#
# Cutting is final. Before we cut we want to try: what would the loss be without this head, and without that one? So first a **mask**: it leaves all weights where they are and makes the network compute *as if* a
# unit were gone. Then, when the choice is made, the model is **compacted**, and the output must not change:
#
# $$\text{masked} = \text{compacted}.$$
#
# This identity is the test for everything in this lesson. It makes a demand on the mask: a hidden neuron's term in the sum $y = b_2 + \sum_f h_f\, W_2[:, f]$ must be exactly zero.

# %% [markdown]
# ## Exercise: a feed-forward block with hidden neurons
#
# {{exercise masked_block}}


# %% exercise="masked_block"
def masked_block(
    x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The output of the feed-forward block as if the hidden neurons were removed; all matrices keep their sizes.

    Args:
        x: (N, D).
        w1, b1: (F, D) and (F,).
        w2, b2: (D, F) and (D,).
        mask: bool (F,), True where a neuron stays.
    Returns:
        (N, D). The activation is ``torch.nn.functional.gelu``.

    >>> one = torch.ones(1, 1)
    >>> masked_block(one, one, one[0], one, 3 * one[0], torch.tensor([False]))
    tensor([[3.]])
    """
    ### BEGIN SOLUTION
    hidden = torch.nn.functional.gelu(x @ w1.T + b1)  # (N, F)
    return (hidden * mask) @ w2.T + b2
    ### END SOLUTION


# %% check="masked_block"
check("masked_block", masked_block)

# %% [markdown]
# Stuck? `hint("masked_block")` gives one step at a time.

# %%
masked_block = use("masked_block", masked_block)

# %%
layer = encoder_layers(encoder)[0]
w1, b1 = layer.intermediate.dense.weight.detach(), layer.intermediate.dense.bias.detach()
w2, b2 = layer.output.dense.weight.detach(), layer.output.dense.bias.detach()
with torch.no_grad():
    x = layer.attention(encoder.embeddings(ids))[0].flatten(0, 1)  # (N, D), what this block is given
weak = mask_by_sparsity(w1.norm(dim=1), 0.5)  # True: one of the 768 neurons with the larger rows
cut1, cut_bias, cut2 = remove_units(w1, b1, w2, weak.nonzero()[:, 0])
removed = torch.nn.functional.gelu(x @ cut1.T + cut_bias) @ cut2.T + b2
masked = masked_block(x, w1, b1, w2, b2, weak)

# %% compare=true
print("the second matrix:", tuple(w2.shape), "→", tuple(cut2.shape))
print("masked and removed agree to rounding:", bool((masked - removed).abs().max() < 1e-5 * masked.abs().max()))

# %% [markdown]
# Not to the bit: a sum of 1536 terms, half of them zero, is added up in another order than one of 768. But within rounding, and this is what your own code should be held to as well.

# %% [markdown]
# ## What goes wrong in practice: a mask that hides less than it says
#
# PyTorch's own structured pruning, `torch.nn.utils.prune.ln_structured`, sets whole rows of a *weight* to zero. It is called with a module and the name of one of its parameters, nearly always `"weight"`. Somebody prunes half of
# the rows of $W_1$ with it, checks the model's quality, and then removes those neurons to gain speed: rows of $W_1$, entries of $b_1$, columns of $W_2$, all correct.

# %%
predict("change_after_compacting", "By how much does the block's output change when the zeroed neurons are removed?", unit="%")

# %%
from torch.nn.utils import prune

first = copy.deepcopy(layer.intermediate.dense)
prune.ln_structured(first, "weight", amount=0.5, n=2, dim=0)  # the rows with the smallest norm become 0
alive = first.weight.abs().sum(dim=1) > 0  # (F,)
zero_rows = (torch.nn.functional.gelu(first(x)) @ w2.T + b2).detach()
compacted = masked_block(x, w1, b1, w2, b2, alive)
change = float((compacted - zero_rows).norm() / zero_rows.norm())
reveal("change_after_compacting", measured=100 * change, unit="%")

# %%
constant = torch.nn.functional.gelu(b1[~alive]) @ w2[:, ~alive].T  # (D,), the same for all tokens
left = float((compacted + constant - zero_rows).norm() / zero_rows.norm())
prose(
    f"{int((~alive).sum())} rows are zero; their biases go from {float(b1[~alive].min()):.2f} to {float(b1[~alive].max()):.2f}. Removing them changes the output by {change:.1%}. "
    f"With one vector added to $b_2$ the difference is {left:.1e}."
)

# %% [markdown]
# A neuron whose row is zero still has its bias. It puts out $\operatorname{GELU}(b_1[f])$ for every token, a constant, and the second matrix passes it on. The quality that was checked belongs to a network that contains these constants; the network
# that was shipped does not. Two honest ways out: hide a unit *where it is read*, behind bias and activation, as your function does and as the library's gates do; or add the constants to $b_2$,
# since a constant times a column is a vector that can be added once and for all:
#
# $$b_2' = b_2 + \sum_{f\ \text{gone}} \operatorname{GELU}(b_1[f])\; W_2[:, f] .$$
#
# The same trap waits for heads. A head whose query is set to zero is not silent: its scores are all 0, their softmax is $1/L$, and it puts out the mean of all values.

# %% [markdown]
# ## Which units?
#
# In lesson 02 a weight's score was its size, or its first-order effect on the loss. Units want the same two, made for units.
#
# **From the weights alone.** What goes through a neuron is the map $W_2[:, f]\, W_1[f, :]$, of rank one; its norm is the product of two norms, $\lVert W_1[f,:]\rVert \cdot \lVert W_2[:,f]\rVert$. For a head it is the (Frobenius) norm of
# $W_O[:, h]\, W_V[h, :]$, with $h$ for all $d$ columns and rows of the head. Looking at both sides matters: a strong row that nobody reads is useless.
#
# **From the loss.** Put a factor $g$, a **gate**, where the unit is read. At $g = 1$ nothing changes, at $g = 0$ the unit is masked. So to first order, removing it changes the loss by
#
# $$\Delta L \approx -\frac{\partial L}{\partial g}\bigg|_{g=1},$$
#
# and one backward pass gives this for *all* units. The score is its size, added up over batches (the sum of $|\partial L/\partial g|$, so that batches cannot cancel each other).
#
# **By trying.** Mask one unit, measure the loss, unmask it. It is the truth for one unit at a time, and takes as many passes as there are units.
#
# We train a small Transformer on the digits (a token is a row of eight pixels) and compare, for its heads.

# %%
fit(network, digits.train, epochs=pick(14, 3), lr=2e-3, seed=0).eval()
groups = encoder_groups(network)
prose(
    f"Accuracy on validation {accuracy(network, digits.validation):.1%}, loss {mean_loss(network, digits.validation):.3f}; {parameter_count(encoder_layers(network)):,} "
    "parameters in its 3 layers."
)

# %%
predict(
    "best_score_for_heads",
    "Which of the two ranks the 24 heads more like the truth?",
    choices=["weights alone", "gradient at the gate"],
)

# %%
from scipy.stats import spearmanr

from course_lib.pruning.unit_masks import unmask
from course_lib.pruning.unit_scores import group_taylor_scores, group_weight_scores
from course_lib.show.weights import estimate_against_truth

scores = {
    "weights alone": group_weight_scores(network, groups),
    "gradient at the gate": group_taylor_scores(network, losses(network, digits.train), groups).absolute,
}
now, truth = mean_loss(network, digits.validation), []
for group in (g for g in groups if g.name.endswith(".heads")):
    for head in range(group.units):
        mask_units(network, {group.name: torch.arange(group.units) != head})
        truth.append(mean_loss(network, digits.validation) - now)
    unmask(network)
truth = torch.tensor(truth).abs()  # sizes, as the scores are
estimates = {name: torch.cat([s for g, s in found.items() if g.endswith(".heads")]) for name, found in scores.items()}
agreement = {name: float(spearmanr(s, truth).statistic) for name, s in estimates.items()}
estimate_against_truth(truth, estimates, agreement)

# %%
reveal("best_score_for_heads", measured=max(agreement, key=agreement.get))

# %% [markdown]
# One head at a time is one thing, half of all heads and neurons at once another: units that do the same work can each go, but not together. So the comparison that counts is this one.

# %%
draw = torch.Generator().manual_seed(0)
scores["at random"] = {g.name: torch.rand(g.units, generator=draw) for g in groups}
hits = {(name, share): 0.0 for name in scores for share in (0.25, 0.5, 0.75)}
for name, share in hits:
    trial = copy.deepcopy(network)
    mask_by_plan(trial, {"*.heads": share, "*.neurons": share}, scores[name])
    hits[name, share] = accuracy(trial, digits.validation)
lines = [f"| {name} | " + " | ".join(f"{hits[name, share]:.1%}" for share in (0.25, 0.5, 0.75)) + " |" for name in scores]
head = ["Accuracy on validation, nothing trained again:\n", "| | 25 % of the units gone | 50 % | 75 % |", "|---|---|---|---|"]
prose("\n".join([*head, *lines]))

# %%
best = {share: max(scores, key=lambda name: hits[name, share]) for share in (0.25, 0.5, 0.75)}
prose(
    f"One head at a time, **{max(agreement, key=agreement.get)}** was nearer to the truth. With a quarter of all units gone, **{best[0.25]}** does best; with a half, **{best[0.5]}**; "
    f"with three quarters, **{best[0.75]}**."
)

# %% [markdown]
# These are two questions, and on another network they may have two answers. A gradient is a statement about the network *as it is*, with everything else in place; the more is taken at once, the less it is worth. What to do about it: remove a little, measure again, remove a little more.

# %% [markdown]
# ## A tree of modules
#
# So far every layer lost the same share. But what is one allowed to remove? A head; a few neurons; the whole attention block of a layer (then only its output bias is added); a whole layer (then what goes in comes out).
# These are nested: **model → layer → block → units**. A search through this tree is short to describe:
#
# > In each round take the subtree that costs the least *for each parameter it frees*. Then measure again.
#
# With $c_n$ for the change of the loss when node $n$ goes, and $p_n$ for the parameters that would really be freed, the choice is $\arg\min_n c_n / p_n$. Two things are easy to get wrong. A node frees only **what is still there**:
# when its heads are gone, a layer has less to give. And the costs are **those of now**: what one block did, another may have to do when the first is gone.

# %% [markdown]
# ## Exercise: one greedy decision
#
# {{exercise next_to_go}}
#
# Nodes have names with dots, `layer.1` and in it `layer.1.heads`. Parameters are given for the leaves, so that nothing is counted twice. Costs may be negative: some removals help.


# %% exercise="next_to_go"
def next_to_go(costs: dict[str, float], parameters: dict[str, int], gone: list[str]) -> str:
    """One greedy decision in a tree of modules: the node that costs the least for each parameter it still frees.

    Args:
        costs: node → what its removal would do to the loss now, such as ``"layer.1"``, ``"layer.1.heads"``.
        parameters: leaf of the tree → its parameters. A leaf is inside of a node when it is the node, or its name goes on from
            the node's name with a dot. (Not every leaf is a node of ``costs``: biases and norms go with their layer only.)
        gone: leaves that were removed before.
    Returns:
        The node. What has nothing left to free is no candidate; among equals the first one.

    >>> next_to_go({"a": 3.0, "a.heads": 2.0, "a.neurons": 2.0}, {"a.heads": 10, "a.neurons": 20}, gone=[])
    'a'
    """
    ### BEGIN SOLUTION
    left = {leaf: count for leaf, count in parameters.items() if leaf not in gone}
    freed = {node: sum(n for leaf, n in left.items() if f"{leaf}.".startswith(f"{node}.")) for node in costs}
    return min((node for node in costs if freed[node] > 0), key=lambda node: costs[node] / freed[node])
    ### END SOLUTION


# %% check="next_to_go"
check("next_to_go", next_to_go)

# %% [markdown]
# Stuck? `hint("next_to_go")` gives one step at a time.

# %%
next_to_go = use("next_to_go", next_to_go)

# %% [markdown]
# Now the search. A node is a layer, a block, a head or 32 neurons of like score; its cost is **measured** each time, by masking it and computing the loss on half of the validation images. We go on until a share of the layers' parameters is gone.

# %%
predict(
    "first_to_go",
    "Three layers, each with 8 heads and 8 leaves of neurons: what goes first?",
    choices=["a layer", "a whole block", "a head", "a leaf of neurons"],
)

# %%
from course_lib.pruning.tree import candidates, module_tree, prune_tree, remove_node
from course_lib.pruning.tree_costs import measured_costs
from course_lib.pruning.unit_masks import visible_parameters
from course_lib.pruning.written_out import leaf_parameters

part = tuple(t[: pick(200, 50)] for t in digits.validation)
measure = measured_costs(lambda model: mean_loss(model, part))
tree = module_tree(network, neurons=pick(32, 128), scores=scores["gradient at the gate"])
whole, inside = parameter_count(network), parameter_count(encoder_layers(network))


# %%
def search(model: torch.nn.Module, parameters: int) -> list[tuple[str, float, float]]:
    """Remove subtrees until so many parameters are left: name, share of the layers' parameters gone, accuracy; round by round."""
    leaves, gone, path = leaf_parameters(model, tree), [], []
    while visible_parameters(model) > parameters:
        nodes = [node for node, _ in candidates(model, tree)]
        costs = dict(zip([node.name for node in nodes], measure(model, nodes), strict=True))
        chosen = next_to_go(costs, leaves, gone)
        remove_node(model, next(node for node in nodes if node.name == chosen))
        gone += [leaf for leaf in leaves if f"{leaf}.".startswith(f"{chosen}.")]
        path.append((chosen, (whole - visible_parameters(model)) / inside, accuracy(model, digits.validation)))
    return path


# %%
searched = copy.deepcopy(network)
path = search(searched, whole - round(pick(0.6, 0.2) * inside))


def kind_of(name: str) -> str:
    """What sort of subtree a name is."""
    place = name.partition("layer.")[2].split(".")[1:]
    return ["a layer", "a whole block", "a head" if place[:1] == ["heads"] else "a leaf of neurons"][len(place)]


reveal("first_to_go", measured=kind_of(path[0][0]))

# %%
rows = [
    f"{number}. `{name.partition('encoder.')[2]}` ({kind_of(name)}): {share:.0%} gone"
    for number, (name, share, _) in enumerate(path[:12], 1)
]
prose(f"{len(path)} rounds, the first {len(rows)}:\n\n" + "\n".join(rows))

# %% [markdown]
# Does the library's search decide alike? It is given the same tree and the same way of measuring, for the first rounds.

# %%
short = copy.deepcopy(network)
rounds = prune_tree(short, tree, measure, whole - round(path[:3][-1][1] * inside))

# %% compare=true
print("the library chooses the same:", [r.chosen for r in rounds] == [name for name, _, _ in path[: len(rounds)]])

# %% [markdown]
# And was the effort worth it? Here it is beside the plain way: the same share of heads and neurons from every layer, by the gradient's scores. Nothing is trained again.

# %%
even = [(0.0, accuracy(network, digits.validation))]
for share in pick((0.15, 0.3, 0.45, 0.6), (0.2,)):
    trial = copy.deepcopy(network)
    mask_by_plan(trial, {"*.heads": share, "*.neurons": share}, scores["gradient at the gate"])
    even.append(((whole - visible_parameters(trial)) / inside, accuracy(trial, digits.validation)))
lines = {"greedy tree": [even[0], *((share, hits) for _, share, hits in path)], "the same share everywhere": even}
against_removed(lines, "the layers", "accuracy on validation, %", level=even[0][1])

# %% [markdown]
# Now the search's choice is made final: compact, train for a few epochs more, and look at the test images, once.

# %%
compact(searched)
before = accuracy(searched, digits.test)
fit(searched, digits.train, epochs=pick(6, 1), lr=1e-3, seed=1).eval()
prose(
    f"Heads and neurons of the layers that are left: {[layer.attention.self.num_attention_heads for layer in encoder_layers(searched)]} and "
    f"{[layer.intermediate.dense.out_features for layer in encoder_layers(searched)]}. Accuracy on test: {accuracy(network, digits.test):.1%} before the search, {before:.1%} after it, "
    f"{accuracy(searched, digits.test):.1%} after a short training, with {parameter_count(searched):,} of {whole:,} parameters."
)

# %% [markdown]
# A search that measures is dear: every candidate is a pass over data, in every round, and for a real encoder that is hours. Estimates by the gates' gradients cost one pass for all candidates,
# but they add up units as if each stood alone, so a layer never looks cheaper than its heads; the library has both. Lesson 16 lets them compete on named entities.

# %% [markdown]
# ## Speed against parameters
#
# Back to the real encoder and the clock. There are three ways to lose parameters of its layers: neurons (they hold two thirds), heads (one third), or whole layers. If time went with parameters, all three would lie on
# one straight line.

# %%
predict(
    "time_with_half_the_layers",
    "Three of the six layers are dropped: how much less time does a batch take?",
    unit="%",
)

# %%
from course_lib.pruning.structure import drop_layers


def without_units(plan: dict[str, float]) -> torch.nn.Module:
    """A copy of the encoder with so many units really removed; the word embeddings are not copied."""
    model = copy.deepcopy(encoder, {id(encoder.embeddings): encoder.embeddings})
    if plan:
        mask_by_plan(model, plan)
        compact(model)
    return model


ways: dict[str, list[torch.nn.Module]] = {"layers": [], "neurons": [], "heads": [], "zeros only": [zeroed]}
for keep in ([0, 1, 2, 3, 4], [0, 2, 3, 5], [0, 2, 5], [0, 5]):
    ways["layers"].append(without_units({}))
    drop_layers(ways["layers"][-1], keep)
for share in (0.25, 0.5, 0.75):
    ways["neurons"].append(without_units({"*.neurons": share}))
    ways["heads"].append(without_units({"*.heads": share}))
field = {"whole": encoder, **{f"{way} {i}": model for way, models in ways.items() for i, model in enumerate(models)}}
raced = in_turns(field, pick(26, 3))

# %%
size = parameter_count(encoder_layers(encoder))
lines = {way: [(0.0, 1.0)] for way in ways}
for way, models in ways.items():
    for i, model in enumerate(models):
        removed = 0.5 if way == "zeros only" else 1 - parameter_count(encoder_layers(model)) / size
        lines[way].append((removed, 1 / speedup(raced["whole"], raced[f"{way} {i}"], 1)))
against_removed(lines, "the layers", "time of a batch, % of the whole encoder's", ideal=True)

# %%
reveal("time_with_half_the_layers", measured=100 * (1 - lines["layers"][3][1]), unit="%")

# %%
half = {"neurons": lines["neurons"][2], "heads": lines["heads"][2], "layers": lines["layers"][3]}
prose(
    "Per cent of time saved for each per cent of the layers' parameters: "
    + ", ".join(f"{way} {(1 - time) / removed:.2f}" for way, (removed, time) in half.items())
    + f" (half of each; threads: {torch.get_num_threads()}; a batch of {tuple(ids.shape)} pieces)."
)

# %% [markdown]
# Where do the differences come from? A **layer** takes *everything* of its own along, the LayerNorms, the residual sums, the start of a dozen operations: it should lie near the dotted line. **Neurons** leave all of this
# behind, and so lie above it. **Heads** leave it behind too, but they carry work that has no parameters, the products $QK^\top$ and $PV$ (with $P$ for the softmax's output) and the softmax between them. Whether the one makes up
# for the other is what the numbers above say for this batch; the longer the text, the more it does. And **zeros** carry nothing.
#
# Two warnings. These are the times of *this* machine, batch and length; with one short sentence, what does not shrink weighs more. And quality is not in this picture at all: the way that saves the most
# time for each parameter may cost the most of it. Speed is one axis, quality the other, and no single number has both.

# %% [markdown]
# ## A smaller model has to be loaded again
#
# A last practical matter. A Transformer's configuration file has *one* number of heads and *one* `intermediate_size` for all layers, and loading builds matrices of those sizes. A model whose layers differ does
# not fit, and it is a classic to save it without noticing. This course writes what each layer has into the configuration, under `course_shapes`:

# %%
uneven = copy.deepcopy(encoder)
remove_heads(uneven, [torch.arange(12 - 2 * i) for i in range(6)])
with tempfile.TemporaryDirectory() as folder:
    save_model(uneven, tokenizer, Path(folder))
    again = load_encoder(folder).eval()
with torch.no_grad():
    same = torch.equal(uneven(input_ids=ids).last_hidden_state, again(input_ids=ids).last_hidden_state)

# %% compare=true
print("heads by layer:", again.config.course_shapes["heads"])
print("loaded and saved put out the same:", same)

# %% [markdown]
# ## Questions for reflection

# %%
quiz("what_a_neuron_takes_along")

# %%
quiz("a_head_with_zero_queries")

# %%
quiz("why_not_twice_as_fast")

# %% [markdown] open="is_it_really_pruned" points=2
# **In your own words** (an instructor reads this one): a colleague reports "60 % of BERT pruned, same F1, twice as fast". Which three numbers or tests would you ask for before believing each part of the sentence, and what would you expect to see if the
# pruning had only zeroed weights?
#
# <!-- BEGIN SOLUTION -->
# Parameters stored (shapes of the matrices, bytes of the file), not the count of zeros, and of what they are a share: layers or the whole model, embeddings included. The F1 of the compacted model that is shipped, not of the
# masked one, and the test that masked = compacted (biases of hidden units!). Times of both models taken in turns, medians of ratios, with batch, length, threads and machine named. Zeroed weights alone: file and time as before, up to noise.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. A dense product does not ask for zeros: only fewer rows and columns save time and bytes.
# 2. A unit is made by rows (with their biases) and read by columns of the next weight; all of them go, and nothing else.
# 3. Hide a unit where it is read, behind bias and activation; then masked = compacted, and a test can say so.
# 4. Score units by what flows through them, or by the gradient at a gate; in a tree, by cost for each parameter that is still there, measured anew each round.
# 5. Parameters and time do not fall together: layers take everything along, neurons leave the overhead, heads carry work without parameters. Measure in turns, and look at speed and quality together.
#
# **Sources.** Li et al., *Pruning Filters for Efficient ConvNets*, 2016, arXiv 1608.08710. Molchanov et al., *Pruning Convolutional Neural Networks for Resource Efficient Inference*, 2016, arXiv 1611.06440 (gradient at a gate). Michel et al., *Are
# Sixteen Heads Really Better than One?*, 2019, arXiv 1905.10650. Fan et al., *Reducing Transformer Depth on Demand with Structured Dropout*, 2019, arXiv 1909.11556 (dropping layers).
