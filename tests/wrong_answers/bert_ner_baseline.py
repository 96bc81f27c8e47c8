"""Lesson 15: attention, labels on word pieces, entity counts, windows, a bootstrap interval."""

import math

import torch

from wrong_answers import right, wrong

# attention


def scores_of(q, k, heads):
    b, length, width = q.shape
    d = width // heads
    q, k = (x.view(b, length, heads, d).permute(0, 2, 1, 3) for x in (q, k))
    return torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(d)


def mix(weights, v):
    b, heads, length, _ = weights.shape
    v = v.view(b, length, heads, -1)
    return torch.einsum("bhij,bjhd->bihd", weights, v).reshape(b, length, -1)


@wrong("attention", says="a softmax taken of a softmax")
def as_published(q, k, v, heads, mask):
    scores = scores_of(q, k, heads).masked_fill(~mask[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    weights = torch.exp(weights) / torch.exp(weights).sum(-1, keepdim=True)
    return mix(weights, v)


@wrong("attention", says="Your scores are not divided")
def forgets_the_root(q, k, v, heads, mask):
    d = q.shape[-1] // heads
    scores = scores_of(q, k, heads) * d**0.5
    return mix(scores.masked_fill(~mask[:, None, None], -1e9).softmax(-1), v)


@wrong("attention", says="the whole width")
def divides_by_the_width(q, k, v, heads, mask):
    scores = scores_of(q, k, heads) / heads**0.5
    return mix(scores.masked_fill(~mask[:, None, None], -1e9).softmax(-1), v)


@wrong("attention", says="grows like the root of that number")
def divides_by_d(q, k, v, heads, mask):
    scores = scores_of(q, k, heads) / (q.shape[-1] // heads) ** 0.5
    return mix(scores.masked_fill(~mask[:, None, None], -1e9).softmax(-1), v)


@wrong("attention", says="The mask is not used")
def looks_at_padding(q, k, v, heads, mask):
    return mix(torch.softmax(scores_of(q, k, heads), -1), v)


@wrong("attention", says="no longer sums to 1")
def masks_the_weights(q, k, v, heads, mask):
    weights = torch.softmax(scores_of(q, k, heads), -1)
    return mix(weights * mask[:, None, None].float(), v)


@wrong("attention", says="The exponential of 0 is 1")
def masks_with_zero(q, k, v, heads, mask):
    return mix(torch.softmax(scores_of(q, k, heads) * mask[:, None, None], -1), v)


@wrong("attention", says="the ones that may be looked at")
def shuts_out_the_real(q, k, v, heads, mask):
    return mix(scores_of(q, k, heads).masked_fill(mask[:, None, None], float("-inf")).softmax(-1), v)


@wrong("attention", says="the second-last axis")
def normalises_columns(q, k, v, heads, mask):
    scores = scores_of(q, k, heads).masked_fill(~mask[:, None, None], float("-inf"))
    return mix(torch.softmax(scores, dim=2), v)


@wrong("attention", says="by a reshape alone puts columns of different pieces into one row")
def views_the_heads(q, k, v, heads, mask):
    b, length, width = q.shape
    q, k, v = (x.contiguous().view(b, heads, length, width // heads) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(width // heads)
    out = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1) @ v
    return out.permute(0, 2, 1, 3).reshape(b, length, width)


@wrong("attention", says="some columns of all pieces")
def reshapes_there_and_back(q, k, v, heads, mask):
    b, length, width = q.shape
    q, k, v = (x.contiguous().view(b, heads, length, -1) for x in (q, k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(width // heads)
    weights = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
    return (weights @ v).view(b, length, width)


@wrong("attention", says="the pieces that *look*")
def masks_the_rows(q, k, v, heads, mask):
    scores = scores_of(q, k, heads)
    scores[~mask[:, None, :, None].expand_as(scores)] = float("-inf")
    return mix(scores.softmax(-1), v)


@wrong("attention", says="a piece's row gets parts of other pieces")
def forgets_to_turn_back(q, k, v, heads, mask):
    b, length, width = q.shape
    weights = scores_of(q, k, heads).masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
    out = weights @ v.view(b, length, heads, -1).transpose(1, 2)
    return out.reshape(b, length, width)


@wrong("attention", says="multiplied with the weights twice")
def mixes_twice(q, k, v, heads, mask):
    weights = scores_of(q, k, heads).masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
    return mix(weights, mix(weights, v))


@wrong("attention", says="its shape is")
def leaves_the_heads_apart(q, k, v, heads, mask):
    b, length, _ = q.shape
    weights = scores_of(q, k, heads).masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
    return weights @ v.view(b, length, heads, -1).transpose(1, 2)


@right("attention")
def by_pytorch(q, k, v, heads, mask):
    q, k, v = (torch.stack(x.split(x.shape[-1] // heads, -1), 1) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    return torch.cat(list(out.unbind(1)), -1)


@right("attention")
def head_by_head_in_double(q, k, v, heads, mask):
    d, out = q.shape[-1] // heads, []
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        scores = q[..., own].double() @ k[..., own].double().mT / d**0.5
        weights = scores.exp() * mask[:, None, :]
        out.append(weights / weights.sum(-1, keepdim=True) @ v[..., own].double())
    return torch.cat(out, dim=-1)


@right("attention")
def a_large_negative_number_and_zeroed_padding(q, k, v, heads, mask):
    scores = scores_of(q, k, heads) + (1 - mask.float())[:, None, None] * -1e9
    return mix(scores.softmax(-1), v) * mask[..., None]


# first_pieces


@wrong("first_pieces", says="The tags are dealt out piece by piece")
def deals_the_tags_out(word_ids, tags, index):
    labels, i = [], 0
    for word in word_ids:
        if word is None:
            labels.append(-100)
        else:
            labels.append(index[tags[i]] if i < len(tags) else index["O"])
            i += 1
    return labels


@wrong("first_pieces", says="a name in three pieces would begin three times")
def repeats_the_tag(word_ids, tags, index):
    return [-100 if w is None else index[tags[w]] for w in word_ids]


@wrong("first_pieces", says="the end of a name is no name")
def later_pieces_are_o(word_ids, tags, index):
    labels, before = [], None
    for w in word_ids:
        labels.append(-100 if w is None else index["O"] if w == before else index[tags[w]])
        before = w
    return labels


@wrong("first_pieces", says="they are many, and they would be counted")
def all_the_rest_is_o(word_ids, tags, index):
    labels = [0] * len(word_ids)
    for i, w in enumerate(word_ids):
        if w is not None and (i == 0 or word_ids[i - 1] != w):
            labels[i] = index[tags[w]]
    return labels


@wrong("first_pieces", says="nothing is to be learnt from them")
def special_pieces_are_o(word_ids, tags, index):
    labels, before = [], -1
    for w in word_ids:
        labels.append(index["O"] if w is None else -100 if w == before else index[tags[w]])
        before = w
    return labels


@wrong("first_pieces", says="The *last* piece of each word")
def the_last_piece_speaks(word_ids, tags, index):
    following = [*word_ids[1:], None]
    return [-100 if w is None or w == n else index[tags[w]] for w, n in zip(word_ids, following, strict=True)]


@wrong("first_pieces", says="A word without a piece shifts all tags behind it")
def counts_the_words(word_ids, tags, index):
    labels, before, n = [], None, -1
    for w in word_ids:
        if w is None or w == before:
            labels.append(-100)
        else:
            n += 1
            labels.append(index[tags[n]])
        before = w
    return labels


@wrong("first_pieces", says="Word 0 gets no label")
def asks_whether_there_is_a_word(word_ids, tags, index):
    labels, before = [], None
    for word in word_ids:
        labels.append(index[tags[word]] if word and word != before else -100)
        before = word
    return labels


@wrong("first_pieces", says="The loss wants numbers")
def keeps_the_tags(word_ids, tags, index):
    labels, before = [], None
    for w in word_ids:
        labels.append(-100 if w is None or w == before else tags[w])
        before = w
    return labels


@wrong("first_pieces", says="the model would never learn that a word is *no* name")
def only_names_count(word_ids, tags, index):
    labels, before = [], None
    for w in word_ids:
        labels.append(-100 if w is None or w == before or tags[w] == "O" else index[tags[w]])
        before = w
    return labels


@right("first_pieces")
def with_a_set(word_ids, tags, index):
    seen, labels = {None}, []
    for w in word_ids:
        labels.append(-100 if w in seen else index[tags[w]])
        seen.add(w)
    return labels


@right("first_pieces")
def as_a_tensor(word_ids, tags, index):
    labels = torch.full((len(word_ids),), -100)
    for w in range(len(tags)):
        if w in word_ids:
            labels[word_ids.index(w)] = index[tags[w]]
    return labels


@right("first_pieces")
def as_a_tuple(word_ids, tags, index):
    return tuple(index[tags[w]] if w is not None and (i == 0 or word_ids[i - 1] != w) else -100 for i, w in enumerate(word_ids))


# entity_counts


def read(tags):
    """Entities of legal IOB2 tags."""
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and not tag.startswith("I-"):
            found.add((start, i, tags[start][2:]))
            start = None
        if tag.startswith("B-"):
            start = i
    return found


@wrong("entity_counts", says="words are counted")
def counts_words(gold, predicted):
    right_ones = sum(1 for g, p in zip(gold, predicted, strict=True) if g == p and g != "O")
    return right_ones, len([p for p in predicted if p != "O"]), len([g for g in gold if g != "O"])


@wrong("entity_counts", says="the words agree, but the type does not")
def forgets_the_type(gold, predicted):
    true, found = ({(a, b) for a, b, _ in read(tags)} for tags in (gold, predicted))
    return len(true & found), len(found), len(true)


@wrong("entity_counts", says="Both boundaries must agree")
def content_with_an_overlap(gold, predicted):
    true, found = read(gold), read(predicted)
    hits = [t for t in true if any(t[2] == f[2] and max(t[0], f[0]) < min(t[1], f[1]) for f in found)]
    return len(hits), len(found), len(true)


@wrong("entity_counts", says="Where it ends counts too")
def compares_the_beginnings(gold, predicted):
    true, found = ({(i, t) for i, t in enumerate(tags) if t[0] == "B"} for tags in (gold, predicted))
    return len(true & found), len(found), len(true)


@wrong("entity_counts", says="only end at the same word")
def compares_the_ends(gold, predicted):
    true, found = ({(b, t) for _, b, t in read(tags)} for tags in (gold, predicted))
    return len(true & found), len(found), len(true)


@wrong("entity_counts", says="two entities side by side became one")
def merges_neighbours(gold, predicted):
    def loosely(tags):
        entities, before = [], "O"
        for i, tag in enumerate(tags):
            if tag != "O" and before[2:] == tag[2:] and before != "O":
                entities[-1][1] = i + 1
            elif tag != "O":
                entities.append([i, i + 1, tag[2:]])
            before = tag
        return {tuple(e) for e in entities}

    true, found = loosely(gold), loosely(predicted)
    return len(true & found), len(found), len(true)


@wrong("entity_counts", says="only noted when something follows it")
def forgets_the_last(gold, predicted):
    true, found = ({e for e in read(tags) if e[1] != len(tags)} for tags in (gold, predicted))
    return len(true & found), len(found), len(true)


@wrong("entity_counts", says="predicted and gold have changed places")
def swaps_the_two(gold, predicted):
    true, found = read(gold), read(predicted)
    return len(true & found), len(true), len(found)


@wrong("entity_counts", says="it returned a float")
def gives_f1(gold, predicted):
    true, found = read(gold), read(predicted)
    return 2 * len(true & found) / max(1, len(true) + len(found))


@right("entity_counts")
def with_sets(gold, predicted):
    true, found = read(gold), read(predicted)
    return [len(true & found), len(found), len(true)]


@right("entity_counts")
def by_walking_back(gold, predicted):
    def ends(tags):
        out = []
        for i, tag in enumerate(tags):
            if tag != "O" and (i + 1 == len(tags) or not tags[i + 1].startswith("I-")):
                start = i
                while not tags[start].startswith("B-"):
                    start -= 1
                out.append((start, i, tag[2:]))
        return out

    true, found = ends(gold), ends(predicted)
    return sum(e in found for e in true), len(found), len(true)


# owned_windows


@wrong("owned_windows", says="The blocks stand side by side")
def in_blocks(length, size, context):
    out = []
    for a in range(0, length, size):
        b = min(length, a + size)
        out.append((a, b, a, b))
    return out


@wrong("owned_windows", says="Which one would you believe?")
def each_owns_all(length, size, context):
    out, owned = [], 0
    while owned < length:
        start = max(0, min(owned - context, length - size))
        end = min(length, start + size)
        out.append((start, end, start, end))
        owned = end if end == length else end - context
    return out


@wrong("owned_windows", says="The last window reads beyond")
def beyond_the_text(length, size, context):
    out, owned = [], 0
    while owned < length:
        start = max(0, owned - context)
        own_end = length if start + size >= length else start + size - context
        out.append((start, start + size, owned, own_end))
        owned = own_end
    return out


@wrong("owned_windows", says="is read by no window")
def without_the_rest(length, size, context):
    out, owned, start = [], 0, 0
    while start + size < length:
        out.append((start, start + size, owned, start + size - context))
        owned = start + size - context
        start = owned - context
        if start + size >= length:
            break
    return out or [(0, min(size, length), 0, min(size, length))]


@wrong("owned_windows", says="That is truncation")
def truncates(length, size, context):
    end = min(length, size)
    return [(0, end, 0, end)]


@wrong("owned_windows", says="would do")
def one_piece_at_a_time(length, size, context):
    if length <= size:
        return [(0, length, 0, length)]
    return [(max(0, i - context), min(length, i + context + 1), i, i + 1) for i in range(length)]


@wrong("owned_windows", says="to the left of its own")
def context_on_one_side(length, size, context):
    out, owned = [], 0
    while owned < length:
        end = min(length, owned + size)
        own_end = end if end == length else end - context
        out.append((owned, end, owned, own_end))
        owned = own_end
    return out


@wrong("owned_windows", says="it is no list of tuples of four whole numbers")
def starts_and_ends_alone(length, size, context):
    return [(a, min(length, a + size)) for a in range(0, length, size - 2 * context)]


@right("owned_windows")
def a_shorter_last_window(length, size, context):
    out, owned = [], 0
    while owned < length:
        start = max(owned - context, 0)
        end = min(start + size, length)
        stop = end - context if end < length else length
        out.append((start, end, owned, stop))
        owned = stop
    return out


@right("owned_windows")
def from_a_list_of_starts(length, size, context):
    if length <= size:
        return [[0, length, 0, length]]
    starts = [*range(0, length - size, size - 2 * context), length - size]
    seams = [0, *(s + size - context for s in starts[:-1]), length]
    return [[s, s + size, a, b] for s, a, b in zip(starts, seams[:-1], seams[1:], strict=True)]


# bootstrap_interval


@wrong("bootstrap_interval", says="A sentence without entities would count as 0")
def averages_sentences(counts, draws):
    f1 = 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2]).clamp(min=1)
    means = f1[draws].mean(dim=1).double()
    return float(means.quantile(0.025)), float(means.quantile(0.975))


@wrong("bootstrap_interval", says="That is an interval of 90 %")
def five_per_cent_each(counts, draws):
    total = counts[draws].sum(1)
    f1 = 2 * total[:, 0].double() / (total[:, 1] + total[:, 2]).clamp(min=1)
    return float(f1.quantile(0.05)), float(f1.quantile(0.95))


@wrong("bootstrap_interval", says="right / predicted is the precision")
def of_precision(counts, draws):
    total = counts[draws].sum(1)
    p = total[:, 0].double() / total[:, 1].clamp(min=1)
    return float(p.quantile(0.025)), float(p.quantile(0.975))


@wrong("bootstrap_interval", says="right / gold is the recall")
def of_recall(counts, draws):
    total = counts[draws].sum(1)
    r = total[:, 0].double() / total[:, 2].clamp(min=1)
    return float(r.quantile(0.025)), float(r.quantile(0.975))


@wrong("bootstrap_interval", says="half of an F1")
def forgets_the_two(counts, draws):
    total = counts[draws].sum(1)
    f1 = total[:, 0].double() / (total[:, 1] + total[:, 2]).clamp(min=1)
    return float(f1.quantile(0.025)), float(f1.quantile(0.975))


@wrong("bootstrap_interval", says="it can leave 0 … 1")
def mean_and_deviation(counts, draws):
    total = counts[draws].sum(1).double()
    f1 = 2 * total[:, 0] / (total[:, 1] + total[:, 2]).clamp(min=1)
    return float(f1.mean() - 1.96 * f1.std()), float(f1.mean() + 1.96 * f1.std())


@wrong("bootstrap_interval", says="More draws do not make the test set larger")
def standard_error_of_the_draws(counts, draws):
    total = counts[draws].sum(1).double()
    f1 = 2 * total[:, 0] / (total[:, 1] + total[:, 2]).clamp(min=1)
    error = f1.std() / math.sqrt(len(draws))
    return float(f1.mean() - 1.96 * error), float(f1.mean() + 1.96 * error)


@wrong("bootstrap_interval", says="Where are the draws?")
def one_number_twice(counts, draws):
    right_ones, found, gold = counts.sum(0).tolist()
    f1 = 2 * right_ones / max(1, found + gold)
    return f1, f1


@right("bootstrap_interval")
def draw_by_draw(counts, draws):
    import numpy as np

    f1 = []
    for row in draws.tolist():
        r, p, g = counts[row].sum(0).tolist()
        f1.append(2 * r / (p + g) if p + g else 0.0)
    return tuple(np.percentile(f1, [2.5, 97.5]))


@right("bootstrap_interval")
def by_weights(counts, draws):
    times = torch.nn.functional.one_hot(draws, len(counts)).sum(1).double()  # how often each sentence was drawn
    r, p, g = (times @ counts.double()).unbind(1)
    f1 = torch.where(p + g > 0, 2 * r / (p + g), 0.0)
    return [f1.quantile(0.025), f1.quantile(0.975)]
