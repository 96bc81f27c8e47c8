"""Entity F1 against seqeval and against counting by hand; bootstrap intervals by what must hold for them."""

import random

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from course_lib.data.tags import Span, from_spans, spans
from course_lib.ner.evaluate import counts, entity_f1, f1_difference, f1_interval, f1_of_counts, per_type

TYPES = ["PER", "LOC", "creative-work", "Tavg", "B_x"]  # a hyphen, "avg" and an underscore are part of a name


def draw(rng: random.Random, length: int, density: float) -> list[str]:
    """A legal IOB2 sequence."""
    found, i = [], 0
    while i < length:
        if rng.random() < density:
            size = min(rng.randint(1, 3), length - i)
            found.append(Span(i, i + size, rng.choice(TYPES)))
            i += size
        else:
            i += 1
    return from_spans(found, length)


def disturb(rng: random.Random, tags: list[str], rate: float) -> list[str]:
    """Lose, widen, shift or rename some entities: predictions that are nearly right."""
    found, end = [], 0
    for start, stop, kind in spans(tags):
        if rng.random() < rate:
            change = rng.randrange(4)
            if change == 0:
                continue
            start += change == 1
            stop += change == 2
            kind = rng.choice(TYPES) if change == 3 else kind
        start, stop = max(start, end), min(stop, len(tags))
        if start < stop:
            found.append(Span(start, stop, kind))
            end = stop
    return from_spans(found, len(tags))


def corpus(seed: int, sentences: int, rate: float = 0.3) -> tuple[list[list[str]], list[list[str]]]:
    rng = random.Random(seed)
    gold = [draw(rng, rng.randint(0, 12), rng.choice((0.0, 0.2, 0.6))) for _ in range(sentences)]
    return gold, [disturb(rng, tags, rate) if rng.random() < 0.8 else draw(rng, len(tags), 0.3) for tags in gold]


def with_entities(gold, predicted) -> bool:
    return any(tag != "O" for tags in (*gold, *predicted) for tag in tags)


# The score


def test_both_ways_to_the_score_equal_seqevals_strict_mode():
    """400 random corpora, 4 000 sentences; equal but for the rounding of a few divisions."""
    scores = set()
    for seed in range(400):
        gold, predicted = corpus(seed, 10)
        expected = (
            f1_score(gold, predicted, mode="strict", scheme=IOB2, zero_division=0) if with_entities(gold, predicted) else 0
        )
        assert entity_f1(gold, predicted) == pytest.approx(expected, abs=1e-12)
        assert float(f1_of_counts(counts(gold, predicted).sum(0))) == pytest.approx(expected, abs=1e-12)
        scores.add(round(expected, 3))
    assert len(scores) > 100, "the corpora are too much alike to tell anything"


def test_counts_are_those_of_exact_matches_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], [], ["B-PER", "B-PER"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "O"], [], ["B-PER", "I-PER"]]
    table = counts(gold, predicted)
    assert table.dtype == np.int64
    assert table.tolist() == [[1, 2, 2], [0, 1, 0], [0, 0, 0], [0, 1, 2]]
    # right 1, predicted 4, gold 4: P = R = 1/4
    assert entity_f1(gold, predicted) == pytest.approx(0.25, abs=1e-15)
    assert f1_of_counts(table).tolist() == [0.5, 0.0, 0.0, 0.0]
    assert counts([], []).shape == (0, 3)


def test_an_entity_is_only_right_with_type_and_both_ends():
    gold = [["O", "B-PER", "I-PER", "O"]]
    for wrong in (
        ["O", "B-LOC", "I-LOC", "O"],
        ["O", "B-PER", "O", "O"],
        ["O", "B-PER", "I-PER", "I-PER"],
        ["B-PER", "I-PER", "I-PER", "O"],
        ["O", "B-PER", "B-PER", "O"],
    ):
        assert entity_f1(gold, [wrong]) == 0.0
    assert entity_f1(gold, gold) == 1.0


def test_a_tag_that_continues_nothing_is_no_entity():
    """Strict mode; the library itself never predicts such a tag."""
    assert entity_f1([["B-PER", "O"]], [["I-PER", "O"]]) == 0.0
    assert entity_f1([["B-PER", "B-LOC"]], [["B-PER", "I-LOC"]]) == pytest.approx(2 / 3)


def test_tuples_and_lists_of_tags_score_alike():
    gold, predicted = corpus(1, 30)
    assert entity_f1([tuple(t) for t in gold], tuple(tuple(t) for t in predicted)) == entity_f1(gold, predicted)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [([], []), ([[]], [[]]), ([["O", "O"]], [["O", "O"]]), ([["O"]], [["B-PER"]]), ([["B-PER"]], [["O"]])],
)
def test_where_nothing_is_found_or_nothing_is_there_the_score_is_zero(gold, predicted):
    assert entity_f1(gold, predicted) == 0.0
    assert float(f1_of_counts(counts(gold, predicted).sum(0))) == 0.0
    assert all(row["f1"] == 0 for row in per_type(gold, predicted).values())


def test_per_type_is_the_score_of_that_type_alone():
    """Against seqeval on tags in which all other types are O; a type may be called anything, even 'Tavg'."""
    gold, predicted = corpus(3, 300)
    report = per_type(gold, predicted)
    assert set(report) == set(TYPES)
    for kind, row in report.items():
        g, p = ([[t if t[2:] == kind else "O" for t in tags] for tags in side] for side in (gold, predicted))
        options = {"mode": "strict", "scheme": IOB2}
        expected = [round(float(score(g, p, **options)), 4) for score in (precision_score, recall_score, f1_score)]
        assert [row["precision"], row["recall"], row["f1"]] == expected
        assert row["support"] == sum(t == f"B-{kind}" for tags in gold for t in tags) > 0
    assert per_type([["O"]], [["O"]]) == {}


@pytest.mark.parametrize("call", [entity_f1, per_type, counts, f1_interval])
def test_unequal_shapes_are_refused_with_the_place_and_both_lengths(call):
    with pytest.raises(ValueError, match=r"predicted = 1: expected tags for 2 sentences, as in gold"):
        call([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match=r"predicted\[1\] = 3: expected 2 tags, as in gold"):
        call([["O"], ["O", "O"]], [["O"], ["O", "O", "O"]])


def test_a_difference_needs_both_predictions_in_golds_shape():
    gold = [["O"], ["B-PER"]]
    for a, b in ((gold, gold[:1]), (gold[:1], gold)):
        with pytest.raises(ValueError, match="expected tags for 2 sentences"):
            f1_difference(gold, a, b)


# Intervals


def test_the_interval_contains_its_point_and_grows_with_its_level():
    for seed in range(20):
        gold, predicted = corpus(seed, 80)
        point, low, high = f1_interval(gold, predicted, samples=300)
        assert point == round(entity_f1(gold, predicted), 4)
        assert 0 <= low < point < high <= 1
        _, inner_low, inner_high = f1_interval(gold, predicted, samples=300, level=0.5)
        assert low < inner_low < inner_high < high


def test_the_interval_is_that_of_a_bootstrap_written_as_loops():
    """Other draws, so equal up to the noise of a 2.5 % quantile of 1 000 (about 0.1 of the spread; allowed: 0.4)."""
    gold, predicted = corpus(5, 60)
    rng, scores = random.Random(0), []
    table = counts(gold, predicted).tolist()
    for _ in range(1000):
        drawn = [table[rng.randrange(60)] for _ in range(60)]
        right, found, there = (sum(column) for column in zip(*drawn, strict=True))
        scores.append(2 * right / (found + there))
    scores.sort()
    _, low, high = f1_interval(gold, predicted)
    spread = float(np.std(scores))
    assert low == pytest.approx(scores[25], abs=0.4 * spread)
    assert high == pytest.approx(scores[975], abs=0.4 * spread)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """150 corpora of 60 sentences from one population: at 95 % the count has mean 142.5 and deviation 2.7.

    The percentile interval is known to cover a little less than its level for small samples; 130 is 87 %. The
    population's own F1 is known from 9 000 sentences, 12 times as sharply as from 60.
    """
    gold, predicted = corpus(11, 9_000)
    truth = entity_f1(gold, predicted)
    covered = 0
    for k in range(150):
        part = slice(60 * k, 60 * k + 60)
        _, low, high = f1_interval(gold[part], predicted[part], samples=200, seed=k)
        covered += low <= truth <= high
    assert 130 <= covered < 150


def test_the_same_seed_gives_the_same_interval_another_seed_another():
    gold, predicted = corpus(6, 50)
    assert f1_interval(gold, predicted, seed=1) == f1_interval(gold, predicted, seed=1)
    assert f1_interval(gold, predicted, seed=1) != f1_interval(gold, predicted, seed=2)


def test_the_paired_interval_of_models_with_the_same_mistakes_is_much_narrower():
    """B makes all of A's mistakes and a few more. Unpaired, the variances of both scores add up."""
    gold, a = corpus(7, 300, rate=0.5)
    rng = random.Random(1)
    b = [disturb(rng, tags, 0.05) for tags in a]
    point, low, high = f1_difference(gold, a, b)
    assert point == pytest.approx(entity_f1(gold, a) - entity_f1(gold, b), abs=5e-5)
    assert 0 < low < point < high  # a small but certain difference
    widths = [interval[2] - interval[1] for interval in (f1_interval(gold, a), f1_interval(gold, b))]
    assert high - low < 0.5 * float(np.hypot(*widths))
    assert low > 0 > point - float(np.hypot(*widths)) / 2, "unpaired, the same difference could not be seen"


def test_the_difference_changes_sign_when_the_models_change_places():
    gold, a = corpus(8, 100)
    b = [disturb(random.Random(i), tags, 0.5) for i, tags in enumerate(a)]
    point, low, high = f1_difference(gold, a, b)
    assert f1_difference(gold, b, a) == pytest.approx([-point, -high, -low], abs=1e-9)


def test_equal_models_do_not_differ():
    gold, predicted = corpus(9, 50)
    assert f1_difference(gold, predicted, [list(t) for t in predicted]) == [0, 0, 0]


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        ([["O"]] * 5, [["O"]] * 5, [0, 0, 0]),
        ([["B-PER"]] * 5, [["O"]] * 5, [0, 0, 0]),
        ([["B-PER"]] * 5, [["B-PER"]] * 5, [1, 1, 1]),
        ([["B-PER", "B-LOC"]], [["B-PER", "O"]], [0.6667, 0.6667, 0.6667]),  # one sentence is always drawn
    ],
)
def test_without_spread_the_interval_is_its_point(gold, predicted, expected):
    assert f1_interval(gold, predicted) == expected


def test_impossible_requests_are_refused_by_name():
    gold, predicted = corpus(10, 20)
    for call in (lambda **o: f1_interval(gold, predicted, **o), lambda **o: f1_difference(gold, predicted, gold, **o)):
        with pytest.raises(ValueError, match="samples = 10: expected at least 100"):
            call(samples=10)
        for level in (0, 1, 95):
            with pytest.raises(ValueError, match=f"level = {level}: expected a fraction"):
                call(level=level)
    for call in (lambda: f1_interval([], []), lambda: f1_difference([], [], [])):
        with pytest.raises(ValueError, match="gold = 0: expected at least one sentence"):
            call()
