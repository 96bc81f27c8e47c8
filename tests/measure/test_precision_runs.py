"""Training compared in its ways: rows that tables can be made of, equal where the ways are equal."""

import json

import pytest
import torch

from course_lib.data.generated import generate
from course_lib.measure import precision_runs
from course_lib.measure.precision_runs import (
    CURVES,
    POINTS,
    WAYS,
    compare,
    curves,
    digits_task,
    encoder_curves,
    encoder_task,
    underflow,
)
from course_lib.tracking import Tracker

COLUMNS = {"task", "way", "metric", "score", "losses", "seconds", "peak_bytes", "account", "skipped", "scale", "rate"}


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


def test_a_row_says_at_how_many_times_the_rate_it_learnt(digits, encoder):
    faster = {way for way, row in encoder.items() if row["rate"] != 1}
    assert faster == {"fp32, LoRA of rank 8", "fp32, adapters of width 32"} and {encoder[way]["rate"] for way in faster} == {10}
    assert all(row["rate"] == 1 for row in digits.values())


# Loss curves

POINTS_OF = {"task", "way", "metric", "score", "loss", "losses", "steps_per_point", "steps", "skipped", "scale", "underflow"}


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict]:
    """Sixty epochs: long enough for gradients that fp16 cannot hold."""
    state = torch.get_rng_state()
    rows = curves(digits_task(epochs=60))
    assert torch.equal(torch.get_rng_state(), state)
    return {row["way"]: row for row in rows}


def test_every_curve_is_of_the_same_steps_and_of_few_points(drawn):
    assert list(drawn) == list(CURVES) == ["fp32", "bf16", "fp16", "alternating bf16", "fp16, not scaled"]
    for row in drawn.values():
        assert set(row) == POINTS_OF and json.loads(json.dumps(row)) == row
        assert row["steps"] == 60 * 16 and row["steps_per_point"] == 5 and len(row["losses"]) == 192 <= POINTS
        assert row["score"] > 0.9 and row["loss"] < 0.05 < row["losses"][0] and row["skipped"] == 0
        assert row["losses"][0] == pytest.approx(drawn["fp32"]["losses"][0], rel=2**-7), "from the same weights"
    assert drawn["bf16"]["losses"] != drawn["fp32"]["losses"] != drawn["alternating bf16"]["losses"]


def test_fp16_underflows_without_a_scale_and_not_with_one(drawn):
    """The bounds are those of the test of mixed precision itself: above 1 % without, below a thousandth with a scale or in bf16."""
    assert drawn["fp16, not scaled"]["scale"] == 1 and drawn["fp16"]["scale"] >= 2**10
    assert drawn["fp32"]["underflow"] == 0 and drawn["fp16, not scaled"]["underflow"] > 0.01
    assert all(drawn[way]["underflow"] < 0.001 for way in ("bf16", "fp16", "alternating bf16"))


def test_points_are_means_of_steps_and_the_last_loss_is_that_of_an_epoch(digits, monkeypatch):
    """The same training step for step as in :func:`compare`: 64 steps in points of 7, the last of one step; rounded to five figures."""
    monkeypatch.setattr(precision_runs, "POINTS", 10)
    (row,), losses = curves(digits_task(epochs=4), ["bf16"], progress=(begun := []).append), digits["bf16"]["losses"]
    due = [sum(losses[i : i + 7]) / len(losses[i : i + 7]) for i in range(0, 64, 7)]
    assert row["steps_per_point"] == 7 and row["losses"] == pytest.approx(due, rel=1e-4) and len(due) == 10
    assert row["loss"] == pytest.approx(sum(losses[-16:]) / 16) and row["score"] == digits["bf16"]["score"]
    assert begun == ["digits, bf16"]


def test_an_encoder_is_drawn_in_fp16_only_where_the_processor_has_it(monkeypatch):
    for flags, due in (({"avx512f"}, ["fp32", "bf16"]), ({"avx512f", "avx512_fp16"}, ["fp32", "bf16", "fp16"])):
        monkeypatch.setattr(precision_runs, "cpu_info", lambda flags=flags: ("a processor", flags))
        assert encoder_curves() == due
    task = encoder_task(generate(0, {"train": 24, "validation": 8, "test": 1}), "tiny", epochs=2, batch_size=8)
    rows = curves(task, encoder_curves())
    assert [len(row["losses"]) for row in rows] == [6, 6, 6] and all(0 <= row["underflow"] < 0.5 for row in rows)


def test_underflow_counts_what_fp32_has_and_leaves_the_model_as_it_was():
    """A loss of 2⁻⁴⁰ of itself: each gradient is far below 2⁻²⁵, where fp16 rounds to zero, and a scale of 2⁴⁰ puts it back."""
    from dataclasses import replace

    task = digits_task(epochs=1)
    tiny = replace(task, loss_sum=lambda model, part: task.loss_sum(model, part) * 2.0**-40)
    model, batches = task.make().train(), task.batches(0)[:2]
    before = [p.detach().clone() for p in model.parameters()]
    assert underflow(tiny, model, batches, torch.float16) == 1.0
    assert underflow(tiny, model, batches, torch.float16, 2.0**40) < 0.01
    assert underflow(tiny, model, batches, torch.float32) == 0 and underflow(tiny, model, batches, torch.bfloat16) < 0.001
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training and all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="batches = 0: expected at least one batch"):
        underflow(task, model, [], torch.float16)


def test_each_way_is_a_run_of_the_tracker(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path)
    curves(digits_task(epochs=1), ["fp16", "fp16, not scaled"], tracker=tracker)
    rows = compare(digits_task(epochs=1), ["bf16"], tracker=tracker)
    tracker.close()
    assert {p.name for p in tmp_path.iterdir()} == {"digits-fp16", "digits-fp16-not-scaled", "digits-bf16"}
    events = EventAccumulator(str(tmp_path / "digits-bf16"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [
        (step, pytest.approx(rows[0]["losses"][step - 1])) for step in (1, 10)
    ]
    for name, scale in (("digits-fp16", 2.0**16), ("digits-fp16-not-scaled", 1.0)):
        events = EventAccumulator(str(tmp_path / name))
        events.Reload()
        assert [e.value for e in events.Scalars("step/loss_scale")] == [scale, scale]


def test_a_run_is_repeatable(digits):
    torch.manual_seed(3)
    again = compare(digits_task(epochs=4), ["bf16"], progress=(begun := []).append)
    assert begun == ["bf16"] and again[0]["losses"] == digits["bf16"]["losses"]


def test_ways_that_are_not_known_or_do_not_fit_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"ways = 'int8': expected some of"):
        compare(digits_task(epochs=1), ["fp32", "int8"])
    with pytest.raises(ValueError, match=r"ways = 'fp32, checkpointed': expected a task with layers"):
        compare(digits_task(epochs=1), ["fp32, checkpointed"])
    with pytest.raises(ValueError, match=r"ways = 'fp32, 4 parts': expected some of \['fp32', 'bf16'"):
        curves(digits_task(epochs=1), ["fp32", "fp32, 4 parts"])
