"""Tag schemes: every scheme comes out as the same IOB2, and what is illegal is named or mended and counted."""

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from course_lib.data.tags import (
    IllegalTag,
    Span,
    detect_scheme,
    from_spans,
    keep_types,
    spans,
    split_tag,
    tag_list,
    to_iob2,
)

TYPES = ("PER", "LOC", "creative-work")


def random_layout(rng):
    """Entities of a random sentence, and its length."""
    entities, position = [], 0
    while rng.random() < 0.8:
        position += rng.choice((0, 0, 1, 3))
        end = position + rng.choice((1, 1, 2, 4))
        entities.append(Span(position, end, rng.choice(TYPES)))
        position = end
    return entities, position + rng.choice((0, 2))


def written(entities, length, scheme):
    """The tags of a layout, written by the definition of each scheme."""
    tags = ["O"] * length
    for i, (start, end, kind) in enumerate(entities):
        touches = i > 0 and entities[i - 1].end == start and entities[i - 1].type == kind
        for k in range(start, end):
            first, last = k == start, k == end - 1
            if scheme == "IOB1":
                prefix = "B" if first and touches else "I"
            elif scheme == "IOB2":
                prefix = "B" if first else "I"
            else:
                single, final = {"BIOES": "SE", "BILOU": "UL"}[scheme]
                prefix = single if first and last else "B" if first else final if last else "I"
            tags[k] = f"{prefix}-{kind}"
    return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
def test_every_scheme_gives_the_iob2_of_the_same_entities(scheme):
    rng = random.Random(scheme)
    for _ in range(500):
        entities, length = random_layout(rng)
        read_as = "BIOES" if scheme == "BILOU" else scheme
        tags, repaired = to_iob2(written(entities, length, scheme), read_as)
        assert tags == written(entities, length, "IOB2") == from_spans(entities, length)
        assert repaired == 0
        assert spans(tags) == entities


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
def test_the_scheme_of_a_corpus_is_recognised(scheme):
    rng = random.Random(scheme)
    corpus = [written(*random_layout(rng), scheme) for _ in range(100)]
    assert detect_scheme(corpus) == ("BIOES" if scheme == "BILOU" else scheme)


@pytest.mark.parametrize(
    "tags, scheme",
    [
        ([], "IOB2"),
        ([["O"], []], "IOB2"),
        ([["B-PER", "B-PER"]], "IOB2"),  # an IOB1 corpus would have begun with I-PER
        ([["I-PER", "B-PER"]], "IOB1"),
        ([["I-PER", "I-LOC"]], "IOB1"),  # another type is another entity
        ([["I-PER"], ["B-PER"]], "IOB2"),  # in IOB1, B- never starts a sentence
        ([["B-PER", "L-PER"]], "BIOES"),
    ],
)
def test_scheme_of_borderline_corpora(tags, scheme):
    assert detect_scheme(tags) == scheme


def test_spans_agree_with_seqeval_on_any_tags_legal_or_not():
    rng = random.Random(3)
    alphabet = ["O"] + [f"{p}-{t}" for p in "BI" for t in TYPES]
    for _ in range(2000):
        tags = [rng.choice(alphabet) for _ in range(rng.randrange(9))]
        assert [(s.type, s.start, s.end - 1) for s in spans(tags)] == get_entities(tags)


def test_repaired_iob2_keeps_the_entities_conlleval_reads_and_counts_each_stray_tag():
    rng = random.Random(4)
    alphabet = ["O"] + [f"{p}-{t}" for p in "BI" for t in TYPES]
    for _ in range(2000):
        tags = [rng.choice(alphabet) for _ in range(rng.randrange(9))]
        stray = sum(
            tag[0] == "I" and (i == 0 or tags[i - 1] == "O" or tags[i - 1][2:] != tag[2:]) for i, tag in enumerate(tags)
        )
        mended, repaired = to_iob2(tags, "IOB2", repair=True)
        assert repaired == stray
        assert get_entities(mended) == get_entities(tags)
        assert to_iob2(mended, "IOB2") == (mended, 0)


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES"])
def test_repair_makes_legal_iob2_of_any_tags_and_counts_none_exactly_where_nothing_is_illegal(scheme):
    rng = random.Random(5)
    alphabet = ["O"] + [f"{p}-{t}" for p in "BIESLU" for t in TYPES[:2]]
    illegal = 0
    for _ in range(3000):
        tags = [rng.choice(alphabet) for _ in range(rng.randrange(6))]
        mended, repaired = to_iob2(tags, scheme, repair=True)
        assert to_iob2(mended, "IOB2") == (mended, 0)
        assert [t == "O" for t in mended] == [t == "O" for t in tags]
        if repaired:
            illegal += 1
            with pytest.raises(IllegalTag):
                to_iob2(tags, scheme)
        else:
            assert to_iob2(tags, scheme) == (mended, 0)
    assert 500 < illegal < 3000  # both sides were met


@pytest.mark.parametrize(
    "tags, scheme, position, message",
    [
        (["O", "I-PER"], "IOB2", 1, "I-PER after O: in IOB2, I-PER must follow B-PER or I-PER"),
        (["B-LOC", "I-PER"], "IOB2", 1, "I-PER after B-LOC"),
        (["B-PER", "E-PER"], "IOB2", 1, "IOB2, which has no E- tags (two schemes mixed?)"),
        (["S-PER"], "IOB1", 0, "IOB1, which has no S- tags (two schemes mixed?)"),
        (["B-PER", "O"], "BIOES", 1, "O after B-PER: in BIOES the open entity must first be closed with an E- tag"),
        (["B-PER", "I-PER", "S-PER"], "BIOES", 2, "must first be closed"),
        (["S-PER", "E-PER"], "BIOES", 1, "E-PER must follow B-PER or I-PER"),
        (["O", "B-PER"], "BIOES", 1, "the sentence ends inside an entity (B-PER): BIOES closes it with E- or S-"),
    ],
)
def test_illegal_transition_names_its_place_and_the_rule(tags, scheme, position, message):
    with pytest.raises(IllegalTag) as error:
        to_iob2(tags, scheme)
    assert error.value.position == position
    assert message in str(error.value)


@pytest.mark.parametrize("tag", ["", "B", "B-", "-PER", "X-PER", "PER", "b-PER", "o", "BPER", "O-PER"])
def test_what_is_no_tag_is_refused_by_name(tag):
    with pytest.raises(ValueError, match="expected O or one of B- I- E- S-") as error:
        split_tag(tag)
    assert repr(tag) in str(error.value)


def test_bilou_prefixes_are_names_of_bioes_prefixes():
    assert [split_tag(t) for t in ("L-a-b", "U-x", "E-x", "S-x", "O")] == [
        ("E", "a-b"),
        ("S", "x"),
        ("E", "x"),
        ("S", "x"),
        ("O", ""),
    ]


def test_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match=r"scheme = 'iob2': expected IOB1, IOB2 or BIOES"):
        to_iob2(["B-PER"], "iob2")


def test_labels_are_o_first_then_both_prefixes_of_each_type_whatever_order_they_were_met_in():
    seen = [["I-PER", "O"], ["B-LOC"], [], ["B-art"]]
    assert tag_list(seen) == tag_list(reversed(seen)) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-art", "I-art"]
    assert tag_list([["O"]]) == ["O"]


def test_other_types_are_turned_into_o():
    tags = ["B-PER", "I-PER", "O", "B-LOC", "B-PERSON"]
    assert keep_types(tags, {"PER"}) == ["B-PER", "I-PER", "O", "O", "O"]
    assert keep_types(tags, set()) == ["O"] * 5
