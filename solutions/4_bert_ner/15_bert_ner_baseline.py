# %% [markdown]
# # What must be right before I compress anything?
#
# **The question.** From here on you will take a named-entity model apart, and each time ask: how much F1 did that cost? The answer is worth no more than the
# model you start from and the number you measure it with. What can be wrong with either, without anybody noticing?
#
# **You will build** the attention of an encoder layer and check it against the encoder's own, labels for word pieces, the counts behind entity F1, windows for text
# that does not fit the model, and an interval that says how far an F1 can be trusted. On the way you meet a published attention formula that is
# not one, four published ways of getting the labels wrong, and a metric that praises a model which finds nothing.
#
# **Needs** lesson 00, PyTorch's matrix products, a softmax. The model is the *teacher* of this course: `course compress` made it.
#
# {{lesson}}

# %% [markdown]
# ## Three taggers
#
# The task: find the names in a sentence and say of which type they are. Each word gets a **tag**: `B-PER` where the name of a person begins, `I-PER` where it goes on, `O` outside of all names.
# (The scheme is called IOB2.) Here are three taggers for it. The first answers `O`, whatever the word. The second looks names up in a dictionary of all names in the training text. The third is an
# encoder, all-MiniLM-L6-v2, fine-tuned on the training text.

# %%
import torch

from course_lib.data.tags import spans
from course_lib.deploy.engines import TorchEngine
from course_lib.exercises import check, hint, pick, predict, quiz, reveal, trained, use
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.dictionary import build_dictionary, dictionary_tags
from course_lib.ner.predict import predict_tags
from course_lib.ner.written_out import token_accuracy
from course_lib.show.text import prose

corpus, folder = trained.corpus(), trained.teacher()
model, tokenizer = load_token_classifier(folder).eval(), load_tokenizer(folder)
tags = model_tags(model)
sentences = corpus.validation[: pick(400, 100)]
words, gold = [s.words for s in sentences], [s.tags for s in sentences]
shown = next(s for s in sentences if len(spans(s.tags)) >= 2 and len(s.words) < 14)
prose("| " + " | ".join(shown.words) + " |\n|" + "---|" * len(shown.words) + "\n| " + " | ".join(shown.tags) + " |")

# %%
dictionary = build_dictionary(corpus.train)
answers = {
    "always O": [["O"] * len(w) for w in words],
    "dictionary": [dictionary_tags(w, dictionary) for w in words],
    "teacher": predict_tags(words, TorchEngine(model), tokenizer, tags),
}
accuracy = {name: token_accuracy(gold, predicted) for name, predicted in answers.items()}
prose(f"The share of words with the right tag, for the tagger that always says `O`: **{accuracy['always O']:.1%}**.")

# %% [markdown]
# Not bad for a line of code. Nothing was learnt, and no name is ever found. This number is called **token accuracy**, and papers, tutorials and products report it.

# %%
predict(
    "teacher_errors",
    "Token accuracy of the fine-tuned encoder, where more than half of the names never occur in training?",
    unit="%",
)

# %%
reveal("teacher_errors", measured=100 * accuracy["teacher"])
prose(f"And the dictionary: {accuracy['dictionary']:.1%}.")

# %% [markdown]
# So all three taggers lie in the upper part of the scale, and one of them is useless. Below you will write the number that tells them apart, **entity F1**, by hand. But a number is measured *on something*, so let
# us first make sure that the model computes what we believe it does, and was trained on what we believe it was.

# %% [markdown]
# ## From words to pieces to numbers
#
# The model does not read words. Its tokenizer cuts them into **word pieces** from a fixed list; `##` marks a piece that continues a word. `[CLS]` and `[SEP]` are put around them.

# %%
from course_lib.data.labelling import pieces_of

pieces, ids, word_ids = pieces_of(shown.words, tokenizer)
prose(
    "| piece | "
    + " | ".join(pieces)
    + " |\n|"
    + "---|" * (len(pieces) + 1)
    + "\n| its word | "
    + " | ".join(map(str, word_ids))
    + " |"
)

# %% [markdown]
# Several sentences make a batch. Shorter ones are filled up with padding, so ids have the shape $(B, L)$: $B$ sentences, $L$ pieces in the longest. Each id is looked up in a table and becomes a row of $D = 384$
# numbers, to which a row for its position is added: $X$, shape $(B, L, D)$. Then come six **layers**, all built alike. Each lets the pieces look at each other (attention), and then changes each piece on
# its own (feed-forward). Shapes stay $(B, L, D)$ all the way; at the end a matrix of $D \times T$ turns each row into $T$ scores, one for each tag.
#
# ## Attention
#
# Take one sentence first: $X$ of shape $(L, D)$. Three matrices, each $D \times D$, make of every row a **query** (what am I looking for?), a **key** (what do I offer?) and a **value** (what do I hand over?):
#
# $$Q = X W_Q + b_Q, \qquad K = X W_K + b_K, \qquad V = X W_V + b_V \qquad (L, D) \text{ each.}$$
#
# How well piece $j$ answers the question of piece $i$ is the product of row $i$ of $Q$ with row $j$ of $K$; all of them at once are $Q K^\top$, shape $(L, L)$. Each is a sum of $d$ products, where $d$ is the
# number of columns, so far $D$. If the entries of both have a spread of 1, such a sum has a spread of $\sqrt d$, so we divide by that: $s_{ij} = (QK^\top)_{ij} / \sqrt d$. A **softmax** over each row turns scores into weights that are positive and sum to 1, and with these the values are mixed:
#
# $$A = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt d}\right), \quad A_{ij} = \frac{e^{s_{ij}}}{\sum_{k} e^{s_{ik}}}, \qquad \text{out} = A\,V .$$
#
# Two things are missing. **Heads**: a piece may want several things at once. So the $D = 384$ columns of $Q$, $K$ and $V$ are cut into $H = 12$ stretches of $d = 32$ columns, each stretch does all of the above on its own, and the twelve
# results, $(L, 32)$ each, are put side by side again (and the division is by $\sqrt{32}$). **Padding**: nobody may look at it. Its scores are set to $-\infty$ before the softmax, so that its weight is $e^{-\infty} = 0$ and the others still sum to 1.
#
# In code the only difficulty is the order of the axes. A product of four-dimensional tensors multiplies the matrices in the last two axes, for every index of the first two. So we want $(B, H, L, d)$:
#
# | step | shape |
# |---|---|
# | $Q$ as it comes | $(B, L, D)$ |
# | last axis split in two: head, column in the head | $(B, L, H, d)$ |
# | heads moved forward, so that a head's pieces stand together | $(B, H, L, d)$ |
# | scores and weights | $(B, H, L, L)$ |
# | mixed values | $(B, H, L, d)$ |
# | moved back and put side by side | $(B, L, D)$ |

# %% [markdown]
# ## Exercise: attention
#
# {{exercise attention}}


# %% exercise="attention"
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    """Multi-head attention, from projected queries, keys and values to the mixed values.

    Args:
        q, k, v: float (B, L, D).
        heads: H; head h has the columns h·d to (h + 1)·d, d = D / H.
        mask: bool (B, L), True at real pieces, which alone may be looked at; at least one in each row.
    Returns:
        float (B, L, D), the heads side by side. What comes out at padding does not matter.

    >>> q = k = torch.zeros(1, 2, 1)  # all scores are 0, so two real pieces share the weight
    >>> attention(q, k, torch.tensor([[[2.0], [4.0]]]), heads=1, mask=torch.tensor([[True, True]]))
    tensor([[[3.],
             [3.]]])
    """
    ### BEGIN SOLUTION
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, L, d)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, H, L, L)
    scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)  # nobody looks at padding
    weights = scores.softmax(-1)  # over the pieces that are looked at
    return (weights @ v).transpose(1, 2).flatten(2)  # (B, L, H, d), then (B, L, D)
    ### END SOLUTION


# %% check="attention"
check("attention", attention)

# %% [markdown]
# Stuck? `hint("attention")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** The mask has a 1 for the heads (all heads see the same padding) and a 1 for the pieces that look (all look at the same ones); only its last axis runs. $-\infty$ before the softmax removes a piece *and* shares its weight out among the
# others; a 0 after the softmax would only remove it.

# %%
attention = use("attention", attention)

# %% [markdown]
# ## The rest of a layer, and the check
#
# What comes out is multiplied by one more matrix, **added to the layer's input** (a residual: a layer changes $X$, it does not replace it), and normalised. A LayerNorm brings each row to mean 0 and spread 1 and gives it a learnt gain and shift. Then
# the feed-forward part: from $D = 384$ numbers to $F = 1536$, a GELU, back to 384, again added to what went in, again normalised. That is all:

# %%
import inspect

from course_lib.models.written_out import WrittenOut, encoder_layer

prose("```python\n" + inspect.getsource(encoder_layer).split('"""')[2].strip("\n") + "\n```")

# %% [markdown]
# Is it what the encoder does? We do not have to believe it. `WrittenOut(model, attention)` computes the whole encoder with this layer, its weights and your attention. An implementation of one's own is checked layer by layer against the original: if they part, one sees *where*. Our batch has padding in it.

# %%
from course_lib.data.align import collate, make_windows, pad_id

batch_ids, batch_mask = map(torch.from_numpy, collate(make_windows(words[:16], tokenizer), pad_id(tokenizer)))
real = batch_mask.bool()
with torch.no_grad():
    own = model(input_ids=batch_ids, attention_mask=batch_mask, output_hidden_states=True)
    ours = WrittenOut(model, attention).hidden(batch_ids, real)
apart = [float((a - b)[real].abs().max()) for a, b in zip(ours, own.hidden_states, strict=True)]
prose(
    f"Batch {tuple(batch_ids.shape)}, {int((~real).sum())} pieces of padding. Largest difference to the encoder's own numbers, after the embeddings and after each layer: "
    + ", ".join(f"{d:.0e}" for d in apart)
    + "."
)

# %% compare=true
print("every layer within rounding (1e-4):", max(apart) < 1e-4)

# %%
by_hand = predict_tags(words, WrittenOut(model, attention), tokenizer, tags)
other = [s for s, a, b in zip(words, by_hand, answers["teacher"], strict=True) if a != b]
gaps = []
for window in make_windows(other, tokenizer):
    best = torch.from_numpy(TorchEngine(model)(*collate([window], pad_id(tokenizer)))).topk(2).values
    gaps.append(float((best[..., 0] - best[..., 1]).min()))
prose(
    f"{len(other)} of {len(words)} sentences get another tag somewhere."
    + (f" The two best tags of one piece lie at most {max(gaps):.0e} apart there, and rounding decides." if other else "")
)

# %% [markdown]
# ## What goes wrong in practice: a softmax of a softmax
#
# A survey on compressing Transformers, read by many, prints attention with this formula for the weights, after having called $s_{ij}$ the *softmaxed* scores already:
#
# $$A_{ij} = \frac{\exp(\operatorname{softmax}(s)_{ij})}{\sum_k \exp(\operatorname{softmax}(s)_{ik})} .$$
#
# It looks like attention. Its rows sum to 1, its shapes fit, nothing raises, and a network *trained* with it learns something. Put into a trained encoder it becomes visible.


# %%
def published(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    """What is wrong here?"""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask[:, None, None, :], -torch.inf)
    weights = scores.softmax(-1)
    weights = weights.exp() / weights.exp().sum(-1, keepdim=True)
    return (weights @ v).transpose(1, 2).flatten(2)


# %%
predict(
    "names_left",
    "The teacher finds some names in the validation sentences. With this formula in all layers, how many of those does it still find?",
    unit="%",
)

# %%
answers["softmax of softmax"] = predict_tags(words, WrittenOut(model, published), tokenizer, tags)


def rightly_found(predicted: list) -> int:
    """Entities with the right words and type."""
    return sum(len(set(spans(g)) & set(spans(p))) for g, p in zip(gold, predicted, strict=True))


reveal("names_left", measured=100 * rightly_found(answers["softmax of softmax"]) / rightly_found(answers["teacher"]))

# %%
from course_lib.models.written_out import attention_weights
from course_lib.show.ner import attention_maps

with torch.no_grad():
    row = torch.tensor([ids])
    everywhere = torch.ones_like(row, dtype=torch.bool)
    layer = model.base_model.encoder.layer[0]
    state = WrittenOut(model).hidden(row, everywhere)[0]
    weights = attention_weights(
        layer.attention.self.query(state), layer.attention.self.key(state), layer.attention.self.num_attention_heads, everywhere
    )[0]
    sharpest = int(weights.amax(-1).mean(-1).argmax())
    once = weights[sharpest]
    maps = {f"layer 1, head {sharpest + 1}": once, "softmax of its softmax": once.softmax(-1)}
attention_maps(pieces, maps)

# %%
twice, most = once.softmax(-1), float(once.max())
away = (once.argmax(-1) - torch.arange(len(pieces))).tolist()
usual = max(set(away), key=away.count)
there = {-1: "the piece before them", 0: "themselves", 1: "the piece after them"}.get(
    usual, f"the piece {usual:+d} places away"
)
prose(
    f"At the left {away.count(usual)} of {len(pieces)} pieces look hardest at {there}; at the right hardly anything is left of that. "
    f"The largest weight of this head is {most:.2f}; after the second softmax it is {float(twice.max()):.3f}, where {1 / len(pieces):.3f} would be an even share. "
    f"The number of words that get the right tag is still {token_accuracy(gold, answers['softmax of softmax']):.0%} of all."
)

# %% [markdown]
# Weights lie between 0 and 1, and their exponentials between 1 and 2.72. So after the second softmax no piece can get more than 2.72 times the weight of another, whatever the scores say: attention becomes an average over the sentence. And a masked piece,
# with weight 0, gets $e^0 = 1$, a share like all others: **padding comes back in**. The output of a sentence then depends on what else is in its batch.
#
# Two more misprints from the same kind of source: the product with $V$ done twice, and the residual added to the *query* instead of the layer's input. All three have the right shapes. What would have caught them is the check above, a comparison with a known implementation
# on a batch **with padding**, and it takes three lines.

# %% [markdown]
# ## Labels for pieces
#
# Training needs a label for each piece, and there are more pieces than words. The rule of the BERT paper: **the first piece of a word speaks for it.** It gets the number of the word's tag. All other pieces, later ones, special ones, padding, get **−100**,
# the number at which PyTorch's cross-entropy looks away (`ignore_index`). A prediction is read at the same places.

# %% [markdown]
# ## Exercise: labels for pieces
#
# {{exercise first_pieces}}


# %% exercise="first_pieces"
def first_pieces(word_ids: list, tags: list[str], index: dict[str, int]) -> list[int]:
    """A label for each piece of a sentence.

    Args:
        word_ids: for each piece the number of its word; None for special pieces and padding. Some words have no piece.
        tags: of each word.
        index: tag → number.
    Returns:
        For each piece, the number of its word's tag if it is the word's first piece, else −100.

    >>> first_pieces([None, 0, 0, 1, None], ["B-PER", "O"], {"O": 0, "B-PER": 1})
    [-100, 1, -100, 0, -100]
    """
    ### BEGIN SOLUTION
    labels, before = [], None
    for word in word_ids:
        labels.append(-100 if word is None or word == before else index[tags[word]])
        before = word
    return labels
    ### END SOLUTION


# %% check="first_pieces"
check("first_pieces", first_pieces)

# %% [markdown]
# Stuck? `hint("first_pieces")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why look the tag up by the word's number.** Emoji modifiers, control characters and the like can vanish in the tokenizer: the word has no piece, and a counter that goes up at each new word is off by one from there on. Nothing raises.

# %%
first_pieces = use("first_pieces", first_pieces)

# %% [markdown]
# ## The same sentence, labelled wrongly four times
#
# Each of these ways is in print, in an article or in a widely copied notebook.

# %%
from course_lib.measure.label_sweep import WAYS, fine_tune

index = {tag: i for i, tag in enumerate(tags)}
known = dict(zip([-100, *index.values()], ["·", *index], strict=True))
names = {
    "first_pieces": "the first piece speaks",
    "by_position": "i-th piece, i-th tag",
    "all_pieces": "all pieces repeat the tag",
    "rest_outside": "later pieces are O",
    "specials_outside": "all the rest is O, padding too",
}
rows = [[known[label] for label in way(word_ids, shown.tags, index)] for way in WAYS.values()]
lines = [f"| {names[name]} | " + " | ".join(row) + " |" for name, row in zip(WAYS, rows, strict=True)]
prose("\n".join(["| | " + " | ".join(pieces) + " |", "|" + "---|" * (len(pieces) + 1), *lines]) + "\n\n(· is −100, ignored.)")

# %% [markdown]
# Which of them hurt? Each way was used to fine-tune the encoder briefly, with three seeds, on 600 sentences; then it was scored twice. First as the recipe itself would: on pieces, by its own labels. Then on *words*, each read at its first piece: entity
# F1, which you will define below: 1 when every name is found and nothing else, 0 when none is.

# %%
predict("worst_labels", "Which of the four costs most?", choices=[names[n] for n in list(WAYS)[1:]])

# %%
from course_lib.measure.sweeps import live_point, load_sweep, provenance

points = load_sweep("word_piece_labels")
by_way = {name: [p for p in points if p["way"] == name] for name in WAYS}
mean = {n: {k: sum(p[k] for p in ps) / len(ps) for k in ("own_accuracy", "own_f1", "labels")} for n, ps in by_way.items()}
f1_of = {name: sorted(p["f1"][0] for p in ps) for name, ps in by_way.items()}
reveal("worst_labels", measured=names[min(f1_of, key=lambda n: sum(f1_of[n]))])

# %%
lines = [
    f"| {names[n]} | {mean[n]['labels']:,.0f} | {mean[n]['own_accuracy']:.1%} | {mean[n]['own_f1']:.2f} | {sum(f1_of[n]) / len(f1_of[n]):.2f} ({f1_of[n][0]:.2f} … {f1_of[n][-1]:.2f}) |"
    for n in WAYS
]
head = [
    "| labels | labels counted | accuracy it reports | F1 it reports | F1 on words (three seeds) |",
    "|---|---|---|---|---|",
]
prose("\n".join([*head, *lines, "", provenance("word_piece_labels")]))

# %%
right_way = f1_of["first_pieces"]
verdicts = [
    f"*{names[n]}*: {100 * (sum(right_way) - sum(v)) / len(v):.1f} points of F1 lower, {'more than' if v[-1] < right_way[0] else 'not more than'} the seeds differ"
    for n, v in f1_of.items()
    if n != "first_pieces"
]
prose("Against the first row, on words, by the means of three seeds: " + "; ".join(verdicts) + ".")

# %% [markdown]
# Read the table column by column. **Accuracy** ranks the way with padding first: every `[PAD]` that it rightly calls `O` is counted as a success, and the table says how many more labels are counted than words. That also shows in the last column. The loss is a *mean* over all labels that count; if most of them
# are trivial, little of the gradient is left for the names. **Labels by position** are a different matter: from the first word in two pieces on, every tag is at the wrong place, so what is learnt is mostly noise. The other two are milder than their reputation, *as long as the model is read at first pieces*.
# What is lost for certain is the comparison: the reported numbers have different denominators, and only those of the first row are about words.
#
# One point of that table is run here and now, with *your* labels, and must come out where the stored one did.

# %%
trial = fine_tune(
    first_pieces,
    seed=0,
    encoder=pick("minilm", str(folder)),
    training=corpus.train[: pick(600, 64)],
    validation=corpus.validation[: pick(400, 50)],
    epochs=pick(4, 1),
)
live_point("word_piece_labels", {"way": "first_pieces", "seed": 0}, {"f1": trial.interval[0]})

# %% [markdown]
# ## What counts as found
#
# A user of such a model wants *names*: "Ana Ruiz, a person". Half a name is of no use, nor is a place called a person. So an entity is **right** if its first word, its last word and its type are those of the gold standard, and everything is counted in entities. With
#
# - $r$ entities found rightly, $p$ entities predicted, $g$ entities in gold,
#
# $$\text{precision} = \frac{r}{p}, \qquad \text{recall} = \frac{r}{g}, \qquad
# F_1 = \frac{2}{1/\text{precision} + 1/\text{recall}} = \frac{2r}{p + g} .$$
#
# $O$ does not occur: a word rightly left alone earns nothing. The three counts are added up over all sentences *before* the division ("micro F1").

# %% [markdown]
# ## Exercise: count entities
#
# {{exercise entity_counts}}


# %% exercise="entity_counts"
def entity_counts(gold: list[str], predicted: list[str]) -> tuple[int, int, int]:
    """Entities found rightly, predicted, and in gold, in one sentence.

    Args:
        gold, predicted: IOB2 tags of the same words, both legal: an entity begins with B- and goes on with I- of its type.
    Returns:
        r, p and g as whole numbers.

    >>> entity_counts(["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"])
    (1, 2, 2)
    """
    ### BEGIN SOLUTION
    found = []
    for tags in (gold, predicted):
        entities, start = set(), None
        for i, tag in enumerate([*tags, "O"]):  # the O at the end closes an entity that is still open
            if start is not None and not tag.startswith("I-"):
                entities.add((start, i, tags[start][2:]))
                start = None
            if tag.startswith("B-"):
                start = i
        found.append(entities)
    return len(found[0] & found[1]), len(found[1]), len(found[0])
    ### END SOLUTION


# %% check="entity_counts"
check("entity_counts", entity_counts)

# %% [markdown]
# Stuck? `hint("entity_counts")` gives one step at a time.

# %%
entity_counts = use("entity_counts", entity_counts)


# %% [markdown]
# Now all the taggers of this lesson, with both numbers.


# %%
def counts_of(predicted: list, truth: list | None = None) -> torch.Tensor:
    """Counts of each sentence, int64 (sentences, 3)."""
    truth = gold if truth is None else truth
    return torch.tensor([entity_counts(list(g), list(p)) for g, p in zip(truth, predicted, strict=True)])


def f1(counts: torch.Tensor) -> float:
    """2r / (p + g) of the summed counts."""
    right, predicted, true = counts.sum(0).tolist()
    return 2 * right / max(1, predicted + true)


from course_lib.show.ner import accuracy_and_f1

accuracy_and_f1({name: (token_accuracy(gold, predicted), f1(counts_of(predicted))) for name, predicted in answers.items()})

# %% [markdown]
# The blue dots crowd together at the right; the orange squares spread over the whole scale. That is the difference between a metric that is mostly about `O` and one that is about names. When a compressed model "loses half a per cent of accuracy", you now know what that may mean.
#
# Do others count the same? seqeval is what most papers use; scikit-learn knows nothing about entities and scores *tags*.

# %%
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score as tag_f1

flat = [[t for s in side for t in s] for side in (gold, answers["teacher"])]
scores = {
    "yours": f1(counts_of(answers["teacher"])),
    "seqeval, strict": f1_score([list(g) for g in gold], answers["teacher"], mode="strict", scheme=IOB2),
    "scikit-learn on tags, weighted, O included": tag_f1(*flat, average="weighted"),
    "scikit-learn on tags, macro": tag_f1(*flat, average="macro"),
}
prose("\n".join(["| | F1 of the teacher |", "|---|---|", *(f"| {name} | {value:.4f} |" for name, value in scores.items())]))

# %% compare=true
print("yours is seqeval's:", abs(scores["yours"] - scores["seqeval, strict"]) < 1e-12)

# %% [markdown]
# All four are called "F1". If a table in a paper does not say which, it says nothing.
#
# ## Text that does not fit
#
# A model has a fixed number of positions: this one 512, and the tokenizer that comes with it **silently cuts at 128** pieces, as its own settings say. Sentences of the corpus are short. Contracts, medical letters and chat logs are not. To see what happens we put twenty validation
# sentences together to one text, and let windows be as small as memory, or a deadline, may demand.
#
# A word at the edge of a window is read without what comes after it. So windows should **overlap**, and each piece be read in one of them only, the one that sees enough to both sides of it. We say that this window **owns** the piece. With windows of `size` pieces and `context` pieces wanted on either side:

# %%
from course_lib.show.ner import turn_window_and_context

turn_window_and_context()

# %% [markdown]
# Dark is what a window owns, pale what it reads as context. The dark parts cover the text, once. The text's own ends need no context, since there is nothing there. More context means more windows: the title counts what is read in all.

# %% [markdown]
# ## Exercise: windows that own their parts
#
# {{exercise owned_windows}}
#
# Any windows that keep the conditions are right.


# %% exercise="owned_windows"
def owned_windows(length: int, size: int, context: int) -> list[tuple[int, int, int, int]]:
    """Overlapping windows over a text; every piece is owned by one of them.

    Args:
        length: pieces of the text, at least 1.
        size: pieces that fit a window, more than 2·context.
        context: pieces that an owned piece must have to its left and right in its window, where the text has so many.
    Returns:
        (start, end, own_start, own_end) for each window, from left to right, all half open: it reads start … end − 1, at most
        size pieces, and owns own_start … own_end − 1. The owned parts follow each other without gap or overlap,
        from 0 to length. No more windows than needed.

    >>> owned_windows(10, 6, 1)
    [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    ### BEGIN SOLUTION
    windows, owned = [], 0  # owned: how many pieces have an owner already
    while owned < length:
        start = max(0, min(owned - context, length - size))
        end = min(start + size, length)
        own_end = end if end == length else end - context
        windows.append((start, end, owned, own_end))
        owned = own_end
    return windows
    ### END SOLUTION


# %% check="owned_windows"
check("owned_windows", owned_windows)

# %% [markdown]
# Stuck? `hint("owned_windows")` gives one step at a time.

# %%
owned_windows = use("owned_windows", owned_windows)

# %%
from course_lib.data.align import batches
from course_lib.data.long_text import blocks, cut_off, joined
from course_lib.ner.predict import tags_of_words

texts = joined(corpus.validation[: pick(400, 60)], 20)
text_words, text_gold = [t.words for t in texts], [t.tags for t in texts]


def read(cut, size: int, context: int = 0) -> list:
    """Tags of the long texts, cut by a function of (length, size, context)."""
    windows = make_windows(text_words, tokenizer, size + 2, lambda length, room: cut(length, room, context))
    chosen: list = [()] * len(windows)
    for some in batches(windows, 32):
        best = TorchEngine(model)(*collate([windows[i] for i in some], pad_id(tokenizer))).argmax(-1)
        for i, numbers in zip(some, best, strict=True):
            chosen[i] = numbers
    return tags_of_words([len(w) for w in text_words], windows, chosen, tags)


lengths = [len(tokenizer.encode(list(w), is_pretokenized=True, add_special_tokens=False).ids) for w in text_words]
prose(f"{len(texts)} texts of {min(lengths)} to {max(lengths)} pieces.")

# %%
predict(
    "cut_off_128",
    "The default of many tutorials, `truncation=True, max_length=128`: which share of the names is still found, of those found with windows of 128?",
    unit="%",
)

# %%
sizes = pick([16, 32, 64, 126, 254, 510], [16, 64, 126])
cuts = {"windows, a quarter context": owned_windows, "blocks side by side": blocks, "cut off (truncation)": cut_off}
found = {name: [read(cut, size, size // 4) for size in sizes] for name, cut in cuts.items()}
curves = {name: [f1(counts_of(p, text_gold)) for p in predicted] for name, predicted in found.items()}
at_128 = sizes.index(126)
hits = {name: int(counts_of(predicted[at_128], text_gold)[:, 0].sum()) for name, predicted in found.items()}
reveal("cut_off_128", measured=100 * hits["cut off (truncation)"] / hits["windows, a quarter context"])

# %%
from course_lib.show.ner import f1_against_window

f1_against_window(sizes, curves)

# %%
gain = [a - b for a, b in zip(curves["windows, a quarter context"], curves["blocks side by side"], strict=True)]
best = max(range(len(sizes)), key=curves["windows, a quarter context"].__getitem__)
prose(
    f"Windows against blocks: {100 * gain[0]:+.1f} points of F1 at {sizes[0]} pieces, {100 * gain[-1]:+.1f} at {sizes[-1]}. The best of all is windows of {sizes[best]}, with "
    f"{100 * curves['windows, a quarter context'][best]:.1f}; single sentences gave {100 * scores['yours']:.1f}."
)

# %% [markdown]
# **Truncation is not a small loss**: what stands behind the cut is predicted as `O`, all of it, and no message says so. (The tags must have the length of the text, so somebody's code fills them up.) Blocks lose at their seams, and the smaller they are, the more seams there are. Where blocks come out ahead, do not explain it yet: the next section says how far such a difference can be trusted. And longer is not always better: if a curve falls towards the right, this is a model that was fine-tuned on
# single sentences and now reads many at once; windows as long as what it was trained on suit it.
#
# ## How far can this number be trusted?
#
# Four hundred sentences are a sample. Other four hundred would give another F1; how different? We cannot draw new ones from the world, but we can draw from the ones we have: as many sentences, *with replacement*, so that some come twice and some not at all. Do that a thousand times, compute F1 each time, and
# see how it is spread: the **bootstrap**. What is drawn are sentences, not words or entities, since the sentence is what was sampled: the entities of one sentence stand and fall together.

# %% [markdown]
# ## Exercise: a bootstrap interval
#
# {{exercise bootstrap_interval}}


# %% exercise="bootstrap_interval"
def bootstrap_interval(counts: torch.Tensor, draws: torch.Tensor) -> tuple[float, float]:
    """The interval that holds the middle 95 % of the redrawn F1s.

    Args:
        counts: int64 (N, 3), for each sentence the entities right, predicted and in gold.
        draws: int64 (S, M), in each row the numbers of M sentences, drawn with replacement.
    Returns:
        The quantiles 0.025 and 0.975 of the S values of F1. F1 is 0 where nothing is predicted and nothing is in gold.

    >>> bootstrap_interval(torch.tensor([[1, 1, 1], [0, 1, 1]]), torch.tensor([[0, 0], [0, 0]]))
    (1.0, 1.0)
    """
    ### BEGIN SOLUTION
    right, predicted, gold = counts[draws].sum(1).double().unbind(1)  # (S, M, 3), summed over M: (S, 3)
    values = 2 * right / (predicted + gold).clamp(min=1)
    return float(values.quantile(0.025)), float(values.quantile(0.975))
    ### END SOLUTION


# %% check="bootstrap_interval"
check("bootstrap_interval", bootstrap_interval)

# %% [markdown]
# Stuck? `hint("bootstrap_interval")` gives one step at a time.

# %%
bootstrap_interval = use("bootstrap_interval", bootstrap_interval)
predict("interval_width", "F1 on 400 sentences: plus or minus how many points, with 95 %?", unit="points of F1")

# %%
from course_lib.ner.evaluate import f1_difference, f1_interval
from course_lib.show.ner import interval_against_sentences

everything = corpus.validation
whole = predict_tags([s.words for s in everything], TorchEngine(model), tokenizer, tags)
counts = counts_of(whole, [s.tags for s in everything])
generator = torch.Generator().manual_seed(0)
steps = sorted({50, 100, 200, 400, len(counts)})
intervals = [bootstrap_interval(counts, torch.randint(0, len(counts), (1000, n), generator=generator)) for n in steps]
at_400 = steps.index(400)
reveal("interval_width", measured=50 * (intervals[at_400][1] - intervals[at_400][0]))

# %%
interval_against_sentences(steps, intervals, f1(counts))

# %%
library = f1_interval([s.tags for s in everything], whole)
mine = intervals[steps.index(len(counts))]
prose(
    f"The library's interval over all {len(counts)} sentences: {library[1]:.3f} … {library[2]:.3f}; yours: {mine[0]:.3f} … {mine[1]:.3f}."
)

# %% [markdown]
# Four times the sentences halve the interval, as $1/\sqrt N$ says. So with a few hundred sentences, **no change of a point can be told from luck**, if one looks at two F1s side by side. But we can do better when two models are compared *on the same sentences*: draw the sentences once, score both models on each draw, and look at the
# **difference**. Hard sentences are hard for both, and that part of the spread cancels. As an example, a first compressed model: the weights of all linear layers with 5 bits, a scale for each row (lesson 06).

# %%
import copy

from course_lib.quantization.affine import choose_affine, fake_quantize

rough = copy.deepcopy(model)
for module in rough.base_model.encoder.modules():
    if isinstance(module, torch.nn.Linear):
        scale, zero_point = choose_affine(module.weight.data, 5, symmetric=True, granularity="channel")
        module.weight.data = fake_quantize(module.weight.data, scale, zero_point, 5, symmetric=True)
five_bits = predict_tags([s.words for s in everything], TorchEngine(rough), tokenizer, tags)
truth = [s.tags for s in everything]
alone = f1_interval(truth, five_bits)
value, low, high = f1_difference(truth, five_bits, whole)
prose(
    f"5 bits: F1 {alone[0]:.3f} [{alone[1]:.3f}, {alone[2]:.3f}]; the teacher: {library[0]:.3f} [{library[1]:.3f}, {library[2]:.3f}]. The intervals "
    f"{'overlap' if alone[2] > library[1] else 'do not overlap'}. The paired difference: {100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]. "
    f"Side by side, the loss might be anything up to {100 * (library[2] - alone[1]):.1f} points; paired, it is at most {max(0.0, -100 * low):.1f}"
    + (", and it is real." if high < 0 else ", and may be none.")
)

# %%
behind = min(range(len(sizes)), key=gain.__getitem__)
readings = (found[name][behind] for name in ("windows, a quarter context", "blocks side by side"))
value, low, high = f1_difference(text_gold, *readings)
prose(
    f"And windows against blocks, at the {sizes[behind]} pieces where they do worst: {100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], with {len(texts)} texts "
    f"to draw from. {'More than luck.' if low > 0 or high < 0 else 'That may be luck.'}"
)

# %% [markdown]
# Where that is more than luck there is a reason to look for. Windows are all full, the last one too; of the blocks the last is short; and a model that was tuned on single sentences reads a short stretch better than a long one. So
# choose the size of windows first, by a curve like the one above.
#
# All comparisons of the following lessons are paired.
#
# ## Where are the errors?
#
# One number hides who pays. Every gold entity is right, has the wrong type, the wrong boundaries, or is missed; and we can ask for the recall among entities of one type, of one length, or of names that never occurred in training. The bars are Wilson intervals: short where there are many entities.

# %%
from course_lib.ner.slices import OUTCOMES, gold_entities, recall_by
from course_lib.show.ner import recall_slices

entities = gold_entities(everything, whole, corpus.train)
slices = {
    "by type": recall_by(entities, lambda e: e.span.type),
    "by length": recall_by(
        entities, lambda e: ("1 word", "2 words", "3 words", "4 or more words")[min(4, e.span.end - e.span.start) - 1]
    ),
    "in training?": recall_by(entities, lambda e: "seen" if e.seen else "never seen"),
}
recall_slices(slices)

# %%
became = {o: [e for e in entities if e.outcome == o] for o in OUTCOMES}
lines = [f"| {o} | {len(es)} | {', '.join(f'{e.text} ({e.span.type})' for e in es[:3])} |" for o, es in became.items()]
type_slices = slices["by type"]
weakest = min(type_slices, key=lambda k: type_slices[k][0])
prose(
    "\n".join(["| outcome | entities | for example |", "|---|---|---|", *lines])
    + f"\n\nWeakest type: {weakest}, with a recall of {type_slices[weakest][0]:.0%}. Names seen in training are found in {slices['in training?'].get('seen', (float('nan'),))[0]:.0%} of all cases, others in {slices['in training?']['never seen'][0]:.0%}."
)

# %% [markdown]
# Keep this picture. A compressed model with the same F1 may have moved its errors: from common types to rare ones, from names it knew to names it never saw. Lesson 22 comes back to it.

# %% [markdown]
# ## Questions for reflection

# %%
quiz("accuracy_of_nothing")

# %%
quiz("overlapping_intervals")

# %%
quiz("windows_of_a_text")

# %% [markdown] open="what_must_be_right" points=2
# **In your own words** (an instructor reads this one): somebody shows you a compressed NER model with "98.7 % accuracy, only 0.2 below the original". Which five questions do you ask before you believe that it is nearly as good, and what would each answer change?
#
# <!-- BEGIN SOLUTION -->
# (1) Accuracy of what: tokens or entities, are O, special pieces and padding counted? Ask for entity F1, micro, strict, and the floor of a tagger that says O. (2) How were words and pieces aligned, and is the prediction read at the places that were trained?
# (3) What happened to text longer than the model: cut off, or read in windows? (4) How many sentences, and what is the paired interval of the difference? (5) Which entities got lost: types, lengths, names never seen? Beyond these: was it chosen on the same sentences it is reported on, and was an own implementation checked against
# the original, on a batch with padding?
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. Attention is one softmax of scaled, masked scores, times the values, in each head; check your own against a known one, layer by layer, on a batch with padding.
# 2. The first piece of a word speaks for it; everything else is −100, in training and in counting.
# 3. Count entities, not words: words and type must agree. Accuracy starts at the share of O.
# 4. Long text is read in overlapping windows of which each owns a part; truncation loses names without a word.
# 5. An F1 has an interval, and a comparison has a paired one; then look at who pays.
#
# **Sources.** Vaswani et al., *Attention Is All You Need*, 2017, arXiv 1706.03762. Devlin et al., *BERT*, 2018, arXiv 1810.04805 (first pieces: section 5.3). Wang et al., *MiniLM*, 2020, arXiv 2002.10957. Tjong Kim Sang and De Meulder, *Introduction to the CoNLL-2003 Shared Task*, 2003,
# arXiv cs/0306050 (entity F1). Nakayama, *seqeval*, 2018. Efron, *Bootstrap Methods: Another Look at the Jackknife*, 1979. Berg-Kirkpatrick, Burkett and Klein, *An Empirical Investigation of Statistical Significance in NLP*, 2012 (paired). Wilson, *Probable Inference*, 1927.
