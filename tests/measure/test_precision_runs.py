"""Training compared in its ways: rows that tables can be made of, equal where the ways are equal."""

import json

import pytest
import torch

from course_lib.data.generated import generate
from course_lib.measure.precision_runs import WAYS, compare, digits_task, encoder_task

COLUMNS = {"task", "way", "metric", "score", "losses", "seconds", "peak_bytes", "account", "skipped", "scale"}


@pytest.fixture(scope="module")
def digits() -> dict[str, dict]:
    return {row["way"]: row for row in compare(digits_task(epochs=4), ["fp32", "bf16", "alternating bf16", "fp32, 4 parts"])}


@pytest.fixture(scope="module")
def encoder() -> dict[str, dict]:
    corpus = generate(0, {"train": 40, "validation": 20, "test": 1})
    state = torch.get_rng_state()
    rows = compare(encoder_task(corpus, "tiny", epochs=2, batch_size=8))
    assert torch.equal(torch.get_rng_state(), state)
    return {row["way"]: row for row in rows}


def test_every_way_has_a_row_of_plain_values(digits, encoder):
    assert set(encoder) == set(WAYS) and len(digits) == 4
    for row in (*digits.values(), *encoder.values()):
        assert set(row) == COLUMNS and json.loads(json.dumps(row)) == row
        assert row["seconds"] > 0 and row["peak_bytes"] > 0 and 0 <= row["score"] <= 1
        assert {part["part"] for part in row["account"]} == {"weights", "gradients", "optimizer", "activations"}
    assert {len(row["losses"]) for row in digits.values()} == {4 * 16}
    assert {len(row["losses"]) for row in encoder.values()} == {2 * 5}


def test_the_digits_are_learnt_in_every_way(digits):
    assert all(row["score"] > 0.85 and row["losses"][-1] < row["losses"][0] for row in digits.values())


def test_the_ways_begin_with_the_same_weights_and_batch(digits, encoder):
    """The first loss is of the same weights; bf16 moves each of some thousand logits by a part in 2⁸ of numbers below 1."""
    for rows in (digits, encoder):
        for way, row in rows.items():
            if "parts" not in way or rows is digits:  # dropout draws other numbers for parts
                assert row["losses"][0] == pytest.approx(rows["fp32"]["losses"][0], abs=2**-7)


def test_what_computes_the_same_trains_the_same(encoder):
    assert encoder["fp32, checkpointed"]["losses"] == encoder["fp32"]["losses"]
    assert encoder["fp32, checkpointed"]["score"] == encoder["fp32"]["score"]
    assert encoder["bf16"]["losses"] != encoder["fp32"]["losses"]


def test_memory_falls_with_parts_and_checkpoints(encoder):
    whole = encoder["fp32"]["peak_bytes"]
    assert encoder["fp32, 4 parts"]["peak_bytes"] < whole and encoder["fp32, checkpointed"]["peak_bytes"] < whole
    assert encoder["alternating bf16"]["peak_bytes"] == whole, "its full steps need what fp32 needs"


def test_what_is_attached_trains_alone_and_needs_less_memory(encoder):
    for way in ("fp32, LoRA of rank 8", "fp32, adapters of width 32"):
        parts = {
            p["part"]: sum(q["bytes"] for q in encoder[way]["account"] if q["part"] == p["part"])
            for p in encoder[way]["account"]
        }
        assert (
            encoder[way]["losses"] != encoder["fp32"]["losses"] and encoder[way]["peak_bytes"] < encoder["fp32"]["peak_bytes"]
        )
        assert parts["optimizer"] < parts["weights"], "AdamW keeps two numbers for each that is trained"


def test_a_run_is_repeatable(digits):
    torch.manual_seed(3)
    again = compare(digits_task(epochs=4), ["bf16"], progress=(begun := []).append)
    assert begun == ["bf16"] and again[0]["losses"] == digits["bf16"]["losses"]


def test_ways_that_are_not_known_or_do_not_fit_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"ways = 'int8': expected some of"):
        compare(digits_task(epochs=1), ["fp32", "int8"])
    with pytest.raises(ValueError, match=r"ways = 'fp32, checkpointed': expected a task with layers"):
        compare(digits_task(epochs=1), ["fp32, checkpointed"])
