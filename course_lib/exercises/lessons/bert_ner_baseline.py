"""Lesson 15: attention, labels on word pieces, entity counts, windows over long text, a bootstrap interval."""

import torch

from course_lib.data.align import IGNORED
from course_lib.data.labelling import all_pieces, by_position, first_pieces, rest_outside, specials_outside
from course_lib.data.long_text import blocks, owned_windows
from course_lib.data.tags import Span, spans
from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference, kind
from course_lib.models.written_out import attention, split_heads
from course_lib.ner.written_out import bootstrap_interval, entity_counts

# Attention


def _attention_cases(generator: torch.Generator) -> list[Case]:
    def qkv(*shape: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(shape, generator=generator) * 1.5 for _ in range(3))

    def real(*lengths: int) -> torch.Tensor:
        return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]

    gaps = torch.tensor([[True, False, True, True], [False, True, True, False]])
    return [
        Case("one head", (*qkv(1, 3, 4), 1, real(3))),
        Case("one head, two sentences", (*qkv(2, 3, 4), 1, real(3, 3))),
        Case("two heads", (*qkv(1, 3, 4), 2, real(3)), part="heads"),
        Case("three heads, two sentences", (*qkv(2, 5, 12), 3, real(5, 5)), part="heads"),
        Case("a sentence with padding", (*qkv(2, 4, 4), 1, real(4, 2)), part="padding"),
        Case("two heads and padding", (*qkv(2, 6, 8), 2, real(3, 6)), part="padding"),
        Case("pieces masked at other places than the end", (*qkv(2, 4, 6), 2, gaps), part="padding"),
    ]


def _mixed(q, k, v, heads, mask, scale=None, fill=-torch.inf, weigh=lambda scores, mask: scores.softmax(-1), times=1):
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / (scale or q.shape[-1] ** 0.5)
    weights = weigh(scores.masked_fill(~mask[:, None, None, :], fill), mask[:, None, None, :])
    for _ in range(times):
        v = weights @ v
    return v.transpose(1, 2).flatten(2)


def _viewed(q, k, v, heads, mask):
    """Heads split by a reshape alone: parts of neighbouring pieces get into one head."""
    shape = (q.shape[0], heads, q.shape[1], q.shape[2] // heads)
    q, k, v = (x.reshape(shape) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / shape[-1] ** 0.5).masked_fill(~mask[:, None, None, :], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _viewed_both_ways(q, k, v, heads, mask):
    """Heads split and put back by a reshape alone: all columns of some pieces make up a head."""
    shape = (q.shape[0], heads, q.shape[1], q.shape[2] // heads)
    a, b, c = (x.reshape(shape) for x in (q, k, v))
    scores = (a @ b.transpose(-1, -2) / shape[-1] ** 0.5).masked_fill(~mask[:, None, None, :], -torch.inf)
    return (scores.softmax(-1) @ c).reshape(q.shape)


def _rows_masked(q, k, v, heads, mask):
    """The mask at the pieces that look instead of those looked at."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask[:, None, :, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _merged_by_view(q, k, v, heads, mask):
    mixed = split_heads(_mixed(q, k, v, heads, mask), heads)
    return mixed.reshape(q.shape)


def _verify_attention(case: Case, output) -> str | None:
    """Compared at real pieces only: nobody reads what comes out at padding."""
    expected, mask = attention(*case.args), case.args[4]
    if isinstance(output, torch.Tensor) and output.shape == expected.shape:
        output = torch.where(mask[..., None], output, expected.to(output.dtype))
    return difference(output, expected, rtol=1e-4, atol=1e-5)


def _outside(case: Case) -> str:
    return f"With {case.args[3]} head(s) and {int(case.args[4].sum())} real pieces of {case.args[4].numel()}"


ATTENTION = Exercise(
    id="attention",
    title="multi-head attention with a padding mask",
    points=4,
    difficulty=4,
    minutes=15,
    hints=(
        "Heads: `x.unflatten(-1, (heads, -1))` makes (B, L, H, d) of (B, L, D); `.transpose(1, 2)` brings the heads to the front.",
        "Scores are `q @ k.transpose(-1, -2) / d ** 0.5`, shape (B, H, L, L): the last axis runs over the pieces looked at. "
        "Set those of masked pieces to −∞ *before* the softmax: `mask[:, None, None, :]` has a 1 for heads and one for the pieces that look.",
        "One softmax over the last axis, times v, and back: `.transpose(1, 2).flatten(2)`.",
    ),
    reference=attention,
    cases=_attention_cases,
    verify=_verify_attention,
    misconceptions=(
        Misconception(
            "softmax_of_softmax",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, weigh=lambda s, m: s.softmax(-1).softmax(-1)),
            lambda case, output: (
                f"{_outside(case)}, your weights look like a softmax taken of a softmax. The inner one gives numbers from 0 to 1, and the "
                "exponentials of these lie between 1 and 2.72: all weights become nearly equal, and masked pieces come back in."
            ),
        ),
        Misconception(
            "not_scaled",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, scale=1.0),
            lambda case, output: (
                f"Your scores are not divided: a sum of {case.args[0].shape[-1] // case.args[3]} products has a larger spread than one "
                "product, and the softmax becomes too sharp."
            ),
        ),
        Misconception(
            "scaled_by_all_columns",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, scale=q.shape[-1] ** 0.5),
            lambda case, output: (
                f"Your scores are divided by √{case.args[0].shape[-1]}, the whole width. How many products are summed in one of "
                f"{case.args[3]} heads?"
            ),
        ),
        Misconception(
            "scaled_without_root",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, scale=q.shape[-1] / heads),
            lambda case, output: (
                f"Your scores are divided by {case.args[0].shape[-1] // case.args[3]}, the number of products. Their sum has a spread "
                "that grows like the root of that number."
            ),
        ),
        Misconception(
            "no_mask",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, torch.ones_like(mask)),
            lambda case, output: (
                f"{_outside(case)}: what comes out changes with what stands at the padding. The mask is not used."
            ),
        ),
        Misconception(
            "rows_masked",
            _rows_masked,
            lambda case, output: (
                f"{_outside(case)}: the rows of padding are masked, the pieces that *look*. A real piece still looks at padding: "
                "which axis of (B, H, L, L) holds the pieces looked at?"
            ),
        ),
        Misconception(
            "masked_after_the_softmax",
            lambda q, k, v, heads, mask: _masked_late(q, k, v, heads, mask),
            lambda case, output: (
                f"{_outside(case)}: the weights are masked after the softmax, so the rest of a row no longer sums to 1."
            ),
        ),
        Misconception(
            "masked_with_zero",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, fill=0.0),
            lambda case, output: (
                f"{_outside(case)}: masked scores are set to 0. The exponential of 0 is 1, a weight like many others."
            ),
        ),
        Misconception(
            "mask_upside_down",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, ~mask),
            lambda case, output: (
                "The mask is True at real pieces, the ones that may be looked at. Yours are the ones that are shut out "
                "(and a row in which all scores are −∞ gives NaN)."
            ),
        ),
        Misconception(
            "over_those_that_look",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, weigh=lambda s, m: s.softmax(-2)),
            lambda case, output: (
                "Your softmax runs over the pieces that look, the second-last axis. Each piece shares out a weight of 1 among those it looks *at*."
            ),
        ),
        Misconception(
            "heads_by_reshape",
            _viewed,
            lambda case, output: (
                f"Splitting (B, L, D) into (B, {case.args[3]}, L, d) by a reshape alone puts columns of different pieces into one row. "
                "First split the last axis, then move the new one."
            ),
        ),
        Misconception(
            "heads_by_reshape_both_ways",
            _viewed_both_ways,
            lambda case, output: (
                f"A reshape alone makes {case.args[3]} heads of (B, L, D), and another one puts them back. The shapes fit, but each of your heads "
                "has all columns of some pieces, where it should have some columns of all pieces."
            ),
        ),
        Misconception(
            "merged_by_reshape",
            _merged_by_view,
            lambda case, output: (
                f"The {case.args[3]} heads are right, but (B, H, L, d) is made (B, L, D) by a reshape alone: a piece's row gets parts of other pieces."
            ),
        ),
        Misconception(
            "values_mixed_twice",
            lambda q, k, v, heads, mask: _mixed(q, k, v, heads, mask, times=2),
            lambda case, output: "The values are multiplied with the weights twice: once is what mixes them.",
        ),
    ),
)


def _masked_late(q, k, v, heads, mask):
    return _mixed(q, k, v, heads, torch.ones_like(mask), weigh=lambda s, _: s.softmax(-1) * mask[:, None, None, :])


# Labels


INDEX = {"O": 0, "B-LOC": 1, "I-LOC": 2, "B-PER": 3, "I-PER": 4}


def _label_cases(generator: torch.Generator) -> list[Case]:
    tags = ["B-PER", "I-PER", "O", "B-LOC", "O", "B-PER", "B-LOC", "I-LOC"]
    lengths = torch.randint(1, 4, (len(tags),), generator=generator).tolist()
    lengths[1], lengths[3], lengths[6] = 3, 2, 2
    long = [None, *(word for word, n in enumerate(lengths) for _ in range(n)), None]
    return [
        Case("a piece for each word", ([None, 0, 1, 2, None], ["B-LOC", "O", "O"], INDEX)),
        Case("a name of two pieces", ([None, 0, 0, 1, None], ["B-PER", "O"], INDEX)),
        Case("a longer sentence", (long, tags, INDEX)),
        Case("padding at the end", ([None, 0, 0, 1, None, None, None, None], ["O", "B-LOC"], INDEX), part="edges"),
        Case("a word without a piece", ([None, 0, 2, 2, None], ["O", "O", "B-PER"], INDEX), part="edges"),
        Case("no special pieces", ([0, 1, 1, 1], ["B-PER", "I-PER"], INDEX), part="edges"),
    ]


def _last_pieces(word_ids, tags, index):
    return first_pieces(word_ids[::-1], tags, index)[::-1]


def _counting(word_ids, tags, index):
    """The number of the next tag at each new word, whichever word it is."""
    following = iter(tags)
    before, labels = None, []
    for word in word_ids:
        labels.append(IGNORED if word is None or word == before else index[next(following)])
        before = word
    return labels


def _told(case: Case, output) -> str:
    return f"Words of the pieces {case.args[0]}, tags {case.args[1]}: you get {list(output)}."


LABELS = Exercise(
    id="first_pieces",
    title="a label for each piece",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "Go through the pieces with the word of the piece before at hand. When is a piece the first of its word?",
        "There are three sorts of pieces: special ones (None), first ones, later ones. Only one of them gets a number of a tag.",
        "Look the tag up by the *word's* number, `tags[word]`; do not count along: some words have no piece at all.",
    ),
    reference=first_pieces,
    cases=_label_cases,
    verify=lambda case, output: difference(
        output.tolist() if isinstance(output, torch.Tensor) else output, first_pieces(*case.args)
    ),
    misconceptions=(
        Misconception(
            "by_position",
            by_position,
            lambda case, output: f"{_told(case, output)} The tags are dealt out piece by piece, as if every word were one.",
        ),
        Misconception(
            "all_pieces",
            all_pieces,
            lambda case, output: (
                f"{_told(case, output)} Later pieces of a word repeat its tag: a name in three pieces would begin three times."
            ),
        ),
        Misconception(
            "rest_outside",
            rest_outside,
            lambda case, output: (
                f"{_told(case, output)} Later pieces are labelled O: the model is taught that the end of a name is no name."
            ),
        ),
        Misconception(
            "specials_outside",
            specials_outside,
            lambda case, output: (
                f"{_told(case, output)} Special pieces are labelled O. They are easy, they are many, and they would be counted."
            ),
        ),
        Misconception(
            "only_specials_ignored",
            lambda word_ids, tags, index: [
                index["O"] if w is None else label
                for w, label in zip(word_ids, first_pieces(word_ids, tags, index), strict=True)
            ],
            lambda case, output: f"{_told(case, output)} Special pieces belong to no word: nothing is to be learnt from them.",
        ),
        Misconception(
            "last_pieces",
            _last_pieces,
            lambda case, output: (
                f"{_told(case, output)} The *last* piece of each word has the label. Consistent, but here the first one speaks."
            ),
        ),
        Misconception(
            "counted_along",
            _counting,
            lambda case, output: (
                f"{_told(case, output)} A word without a piece shifts all tags behind it: they are counted along instead of looked up."
            ),
        ),
        Misconception(
            "word_0_taken_for_none",
            lambda word_ids, tags, index: [
                IGNORED if not w else label for w, label in zip(word_ids, first_pieces(word_ids, tags, index), strict=True)
            ],
            lambda case, output: (
                f"{_told(case, output)} Word 0 gets no label. To Python 0 is as false as None is; they are not the same."
            ),
        ),
        Misconception(
            "tags_not_numbers",
            lambda word_ids, tags, index: [
                IGNORED if label == IGNORED else tags[w]
                for w, label in zip(word_ids, first_pieces(word_ids, tags, index), strict=True)
            ],
            lambda case, output: f"{_told(case, output)} The loss wants numbers: `index` has one for each tag.",
        ),
        Misconception(
            "outside_ignored",
            lambda word_ids, tags, index: [
                IGNORED if label == index["O"] else label for label in first_pieces(word_ids, tags, index)
            ],
            lambda case, output: (
                f"{_told(case, output)} Words tagged O are ignored too: the model would never learn that a word is *no* name."
            ),
        ),
    ),
)


# Entity counts


def _sentence(*entities: tuple[int, int, str], length: int) -> list[str]:
    from course_lib.data.tags import from_spans

    return from_spans([Span(*e) for e in entities], length)


def _count_cases(generator: torch.Generator) -> list[Case]:
    k = int(torch.randint(3, 6, (1,), generator=generator))
    gold = _sentence((0, 2, "PER"), (k, k + 3, "ORG"), (k + 4, k + 5, "LOC"), length=k + 7)
    guess = _sentence((0, 2, "PER"), (k, k + 2, "ORG"), (k + 4, k + 5, "MISC"), (k + 6, k + 7, "LOC"), length=k + 7)
    return [
        Case("one right, one cut short", (["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"])),
        Case("a wrong type", (["O", "B-ORG", "I-ORG", "O"], ["O", "B-LOC", "I-LOC", "O"])),
        Case("a word too many in front", (["O", "B-PER", "O", "O", "O"], ["B-PER", "I-PER", "O", "B-LOC", "O"])),
        Case("a longer sentence", (gold, guess)),
        Case("two neighbours of one type", (["B-LOC", "B-LOC", "O"], ["B-LOC", "I-LOC", "O"]), part="edges"),
        Case("neighbours of two types", (["B-LOC", "B-PER", "I-PER"], ["B-LOC", "B-PER", "I-PER"]), part="edges"),
        Case("an entity at the very end", (["O", "B-PER", "I-PER"], ["O", "B-PER", "I-PER"]), part="edges"),
        Case("nothing predicted", (["B-PER", "O"], ["O", "O"]), part="edges"),
        Case("no entity at all", (["O", "O"], ["O", "O"]), part="edges"),
    ]


def _count(gold, predicted, read=spans, key=lambda s: s):
    true, found = {key(s) for s in read(gold)}, {key(s) for s in read(predicted)}
    return len(true & found), len(found), len(true)


def _merging(tags):
    """Spans where only O or another type ends an entity."""
    out: list[Span] = []
    for i, tag in enumerate(tags):
        if tag == "O":
            continue
        if out and out[-1].end == i and out[-1].type == tag[2:]:
            out[-1] = out[-1]._replace(end=i + 1)
        else:
            out.append(Span(i, i + 1, tag[2:]))
    return out


def _overlapping(gold, predicted):
    true, found = spans(gold), spans(predicted)
    right = sum(any(p.type == g.type and p.start < g.end and g.start < p.end for p in found) for g in true)
    return right, len(found), len(true)


def _by_words(gold, predicted):
    right = sum(g == p != "O" for g, p in zip(gold, predicted, strict=True))
    return right, sum(p != "O" for p in predicted), sum(g != "O" for g in gold)


def _both(case: Case) -> str:
    return f"gold {' '.join(case.args[0])}, predicted {' '.join(case.args[1])}"


COUNTS = Exercise(
    id="entity_counts",
    title="what counts as a found entity",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "First turn each list of tags into a set of entities `(start, end, type)`. How does one see that an entity begins, and that it goes on?",
        "A B- opens an entity; an I- right behind lengthens it; O or another B- ends it, and so does the end of the sentence.",
        "With two sets the rest is short: an entity is right when the very same triple is in both.",
    ),
    reference=entity_counts,
    cases=_count_cases,
    verify=lambda case, output: difference(output, entity_counts(*case.args)),
    misconceptions=(
        Misconception(
            "words_instead_of_entities",
            _by_words,
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: words are counted. An entity of three words is one entity, found or not."
            ),
        ),
        Misconception(
            "type_ignored",
            lambda gold, predicted: _count(gold, predicted, key=lambda s: (s.start, s.end)),
            lambda case, output: f"For {_both(case)} you get {tuple(output)}: the words agree, but the type does not.",
        ),
        Misconception(
            "overlap_is_enough",
            _overlapping,
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: an entity with a word too few or too many counts as right. Both boundaries must agree."
            ),
        ),
        Misconception(
            "beginning_is_enough",
            lambda gold, predicted: _count(gold, predicted, key=lambda s: (s.start, s.type)),
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: it is enough that an entity begins at the right word. Where it ends counts too."
            ),
        ),
        Misconception(
            "end_is_enough",
            lambda gold, predicted: _count(gold, predicted, key=lambda s: (s.end, s.type)),
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: entities that only end at the same word count as the same."
            ),
        ),
        Misconception(
            "neighbours_merged",
            lambda gold, predicted: _count(gold, predicted, read=_merging),
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: two entities side by side became one. A B- begins a new one, whatever is before it."
            ),
        ),
        Misconception(
            "last_one_forgotten",
            lambda gold, predicted: _count(gold, predicted, read=lambda tags: [s for s in spans(tags) if s.end < len(tags)]),
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: an entity is only noted when something follows it. What if the sentence ends there?"
            ),
        ),
        Misconception(
            "gold_and_predicted_swapped",
            lambda gold, predicted: entity_counts(predicted, gold),
            lambda case, output: (
                f"For {_both(case)} you get {tuple(output)}: predicted and gold have changed places. F1 would not notice, precision would."
            ),
        ),
    ),
)


# Windows


def _window_cases(generator: torch.Generator) -> list[Case]:
    size = int(torch.randint(14, 20, (1,), generator=generator))
    return [
        Case("a text that fits", (7, 10, 2), part="short texts"),
        Case("a text that just fits", (10, 10, 3), part="short texts"),
        Case("two windows", (13, 10, 2)),
        Case("a long text", (5 * size + 3, size, 3)),
        Case("a long text with little context", (4 * size + 1, size, 1)),
        Case("one piece too many", (11, 10, 2), part="edges"),
        Case("no context wanted", (25, 10, 0), part="edges"),
        Case("most of a window is context", (30, 9, 4), part="edges"),
    ]


def _own_all(length, size, context):
    """Overlapping windows that each own all they read."""
    return [(start, end, start, end) for start, end, _, _ in owned_windows(length, size, context)]


def _past_the_end(length, size, context):
    """Windows that all have the full size, the last one beyond the text."""
    bounds, owned = [], 0
    while owned < length:
        start = max(0, owned - context)
        own_end = start + size - context if start + size < length else length
        bounds.append((start, start + size, owned, own_end))
        owned = own_end
    return bounds


def _no_tail(length, size, context):
    """Whole windows only: what is left over at the end is read by none."""
    bounds = [b for b in owned_windows(length, size, context) if b[1] < length]
    return bounds or [(0, min(length, size), 0, min(length, size))]


def _verify_windows(case: Case, output) -> str | None:
    """Any windows with the properties are right; the first property that does not hold is named."""
    length, size, context = case.args
    if not isinstance(output, (list, tuple)) or not all(
        isinstance(b, (list, tuple)) and len(b) == 4 and all(kind(i) == "int" for i in b) for b in output
    ):
        return "it is no list of tuples of four whole numbers (start, end, own_start, own_end)"
    owned = 0
    for number, (start, end, own_start, own_end) in enumerate(output, start=1):
        name = f"window {number} of {len(output)}, {(start, end, own_start, own_end)},"
        if not 0 <= start < end <= length:
            return f"{name} is not within the text's pieces 0 … {length}"
        if end - start > size:
            return f"{name} reads {end - start} pieces; {size} fit"
        if not start <= own_start <= own_end <= end:
            return f"{name} owns pieces that it does not read"
        if own_start != owned:
            both = "two windows own some pieces" if own_start < owned else "some pieces have no owner"
            return f"{name} owns from {own_start} on, the ones before up to {owned}: {both}"
        if own_start - start < min(context, own_start):
            return f"{name} sees {own_start - start} pieces to the left of its own; {min(context, own_start)} were asked for"
        if end - own_end < min(context, length - own_end):
            return (
                f"{name} sees {end - own_end} pieces to the right of its own; {min(context, length - own_end)} were asked for"
            )
        owned = own_end
    if owned != length:
        return f"the pieces from {owned} to {length - 1} have no owner"
    least = len(owned_windows(*case.args))
    return f"{len(output)} windows read the text; {least} would do" if len(output) > least else None


def _cut(case: Case, output) -> str:
    return f"{case.args[0]} pieces, windows of {case.args[1]}, context {case.args[2]}: you get {describe(output)}."


WINDOWS = Exercise(
    id="owned_windows",
    title="windows that each own a part",
    points=3,
    difficulty=4,
    minutes=15,
    hints=(
        "Keep one number: how many pieces have an owner so far. Each turn of a loop adds a window, until that number is the length.",
        "The next window starts `context` before the first piece without an owner (not before 0), and ends `size` later (not after the end). "
        "To use it fully, it may start earlier: never later than `length − size`.",
        "What does it own? Up to `context` before its end; or up to the end, if the text ends there.",
    ),
    reference=owned_windows,
    cases=_window_cases,
    verify=_verify_windows,
    misconceptions=(
        Misconception(
            "side_by_side",
            lambda length, size, context: blocks(length, size),
            lambda case, output: (
                f"{_cut(case, output)} The blocks stand side by side: the pieces at a seam are read without what is behind it."
            ),
        ),
        Misconception(
            "owns_all_it_reads",
            _own_all,
            lambda case, output: (
                f"{_cut(case, output)} Each window owns all it reads, so pieces where two overlap have two owners. Which one would you believe?"
            ),
        ),
        Misconception(
            "past_the_end",
            _past_the_end,
            lambda case, output: f"{_cut(case, output)} The last window reads beyond the {case.args[0]} pieces there are.",
        ),
        Misconception(
            "tail_lost",
            _no_tail,
            lambda case, output: f"{_cut(case, output)} The end of the text is read by no window.",
        ),
        Misconception(
            "truncated",
            lambda length, size, context: [(0, min(length, size), 0, min(length, size))],
            lambda case, output: f"{_cut(case, output)} That is truncation: what does not fit the first window is gone.",
        ),
    ),
)


# A bootstrap interval


def _bootstrap_cases(generator: torch.Generator) -> list[Case]:
    def table(sentences: int) -> torch.Tensor:
        gold = torch.randint(0, 5, (sentences,), generator=generator)
        found = torch.randint(0, 5, (sentences,), generator=generator)
        right = (torch.rand(sentences, generator=generator) * 1.3 * torch.minimum(gold, found)).long()
        return torch.stack([torch.minimum(right, torch.minimum(gold, found)), found, gold], 1)

    def drawn(sentences: int, samples: int) -> torch.Tensor:
        return torch.randint(0, sentences, (samples, sentences), generator=generator)

    small = torch.tensor([[1, 1, 2], [0, 2, 1], [3, 4, 3]])
    empty = torch.tensor([[0, 0, 0], [0, 0, 0], [2, 3, 2]])
    return [
        Case("three sentences, drawn twice", (small, torch.tensor([[0, 0, 2], [1, 2, 1]]))),
        Case("30 sentences", (table(30), drawn(30, 200))),
        Case("100 sentences", (table(100), drawn(100, 400))),
        Case("a draw without any entity", (empty, torch.tensor([[0, 1, 1], [2, 2, 0], [2, 1, 0]])), part="edges"),
        Case("the same draw each time", (small, torch.tensor([[0, 1, 2]] * 5)), part="edges"),
    ]


def _f1_rows(counts, draws):
    right, predicted, gold = counts[draws].sum(1).double().unbind(1)
    return 2 * right / (predicted + gold).clamp(min=1)


def _quantiles(f1, low=0.025, high=0.975):
    return tuple(torch.quantile(f1.double(), torch.tensor([low, high], dtype=torch.float64)).tolist())


def _sentence_f1(counts, draws):
    right, predicted, gold = counts.double().unbind(1)
    return _quantiles((2 * right / (predicted + gold).clamp(min=1))[draws].mean(1))


def _normal(counts, draws, shrink=1.0):
    f1 = _f1_rows(counts, draws)
    return float(f1.mean() - 1.96 * shrink * f1.std()), float(f1.mean() + 1.96 * shrink * f1.std())


BOOTSTRAP = Exercise(
    id="bootstrap_interval",
    title="how far to trust an F1",
    points=2,
    difficulty=3,
    minutes=10,
    hints=(
        "`counts[draws]` has the shape (S, M, 3): for each draw, the counts of its sentences. Over which axis do they have to be summed?",
        "Then one F1 for each draw, 2·right / (predicted + gold); where nothing is predicted and nothing is in gold it is 0: `.clamp(min=1)` below the line.",
        "`torch.quantile` of the S numbers at 0.025 and at 0.975.",
    ),
    reference=bootstrap_interval,
    cases=_bootstrap_cases,
    verify=lambda case, output: difference(output, bootstrap_interval(*case.args), rtol=1e-4),
    misconceptions=(
        Misconception(
            "mean_of_sentences",
            _sentence_f1,
            lambda case, output: (
                f"You get {describe(output)}: an F1 for each sentence, and the mean of these. A sentence without entities would count as 0. "
                "Add up the counts of a draw first."
            ),
        ),
        Misconception(
            "ninety_per_cent",
            lambda counts, draws: _quantiles(_f1_rows(counts, draws), 0.05, 0.95),
            lambda case, output: f"You get {describe(output)}: 5 % are left out at *either* end. That is an interval of 90 %.",
        ),
        Misconception(
            "accuracy_instead_of_f1",
            lambda counts, draws: _quantiles(_ratio(counts, draws, 1)),
            lambda case, output: f"You get {describe(output)}: right / predicted is the precision.",
        ),
        Misconception(
            "recall_instead_of_f1",
            lambda counts, draws: _quantiles(_ratio(counts, draws, 2)),
            lambda case, output: f"You get {describe(output)}: right / gold is the recall.",
        ),
        Misconception(
            "factor_forgotten",
            lambda counts, draws: _quantiles(_f1_rows(counts, draws) / 2),
            lambda case, output: f"You get {describe(output)}: half of an F1. If all is right, right = predicted = gold.",
        ),
        Misconception(
            "two_deviations",
            _normal,
            lambda case, output: (
                f"You get {describe(output)}: mean ± 1.96 deviations. Close for large sets, but it can leave 0 … 1; here the quantiles of the draws are asked for."
            ),
        ),
        Misconception(
            "shrunk_by_the_draws",
            lambda counts, draws: _normal(counts, draws, shrink=len(draws) ** -0.5),
            lambda case, output: (
                f"You get {describe(output)}: the deviation is divided by the root of the number of draws. More draws do not make the test set larger."
            ),
        ),
        Misconception(
            "not_redrawn",
            lambda counts, draws: (float(_f1_rows(counts, torch.arange(len(counts))[None])[0]),) * 2,
            lambda case, output: f"You get {describe(output)}: both ends are the F1 of all sentences. Where are the draws?",
        ),
    ),
)


def _ratio(counts, draws, below):
    sums = counts[draws].sum(1).double()
    return sums[:, 0] / sums[:, below].clamp(min=1)


EXERCISES = (ATTENTION, LABELS, COUNTS, WINDOWS, BOOTSTRAP)

QUESTIONS = (
    Question(
        "accuracy_of_nothing",
        "A colleague's tagger for names has a token accuracy of 86 % on a text in which 14 % of the words belong to a name. What do you know?",
        (
            Choice(
                "It gets most names right",
                "It need not get any: a tagger that answers O for every word reaches exactly 86 % here.",
            ),
            Choice(
                "Nothing yet: answering O to every word scores the same",
                "86 % of the words *are* O. Only entity F1, or at least precision and recall of names, tells the two apart.",
                right=True,
            ),
            Choice(
                "It is 86 % as good as a perfect one",
                "The scale does not begin at 0: the floor of this metric is the share of O in the text.",
            ),
        ),
    ),
    Question(
        "overlapping_intervals",
        "Model A has F1 .80 [.77, .83], model B .78 [.75, .81], on the same sentences. Is A better?",
        (
            Choice(
                "No: the intervals overlap",
                "Both models find the same sentences hard, so their F1s go up and down together. Two intervals cannot show that.",
            ),
            Choice("Yes: .80 is more than .78", "On other sentences of the same kind it might be the other way round."),
            Choice(
                "Draw sentences and look at the *difference* on each draw",
                "The paired bootstrap. What both share cancels, and the interval of the difference is often much narrower.",
                right=True,
            ),
        ),
    ),
    Question(
        "windows_of_a_text",
        "A text of 1 000 pieces, windows of 100, and each owned piece is to see 10 pieces to either side. How many windows?",
        number=13,
        tolerance=0,
        slips=(
            (10, "That is how many blocks side by side there are. With context, a window owns less than it reads."),
            (12, "A last window that is not full is a window too."),
            (12.5, "There are no halves of windows: what is left over needs one of its own."),
        ),
        explanation="The first and the last window own 90 pieces each (the text's own ends need no context), those between 80: "
        "1 000 − 180 = 820, and 820 / 80 is 10.25, so 11 between: 13.",
    ),
)
