"""The race: who runs when, what is counted, and that one contender's crash is not the others'."""

import signal

import numpy as np
import psutil
import pytest

from course_lib.deploy import benchmark
from course_lib.deploy.benchmark import BATCH_SIZES, Contender, race
from course_lib.deploy.export import export_onnx
from course_lib.deploy.worker import load, padded, peak_mib
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

ROWS = [[2, *range(20, 20 + n), 3] for n in (3, 9, 1, 14)] * 10  # 40 sentences: one full batch of 32, eight left over


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    save_model(load_token_classifier(find_encoder("tiny"), ["O", "B-X"], 0), load_tokenizer(find_encoder("tiny")), folder)
    return folder


@pytest.fixture(scope="module")
def good(trained):
    export_onnx(trained, trained / "model.onnx")
    return trained / "model.onnx"


def children():
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


NOTHING = {"1": {"median": None, "p95": None}, "32": {"median": None, "p95": None}}


def assert_measured(figures):
    assert set(figures) == {"ms_per_sentence", "peak_mib", "load_s", "error"}
    assert figures["error"] is None and figures["load_s"] > 0 and figures["peak_mib"] > 0
    assert set(figures["ms_per_sentence"]) == {"1", "32"}
    for row in figures["ms_per_sentence"].values():
        assert 0 < row["median"] <= row["p95"]


def assert_crashed(figures, *said):
    assert figures["ms_per_sentence"] == NOTHING and figures["peak_mib"] is None and figures["load_s"] is None
    for text in said:
        assert text in figures["error"]


def test_contenders_take_turns_and_a_crashed_one_stops_nobody(good, tmp_path):
    before, calls = children(), []
    (tmp_path / "damaged.onnx").write_bytes(b"junk")
    contenders = [
        Contender("A", "onnxruntime", good),
        Contender("damaged", "onnxruntime", tmp_path / "damaged.onnx"),
        Contender("B", "onnxruntime", good),
    ]
    a, damaged, b = race(contenders, ROWS, threads=1, rounds=2, progress=calls.append)
    turn = ["A", "damaged", "B"]
    assert calls == turn * (2 + 1) * len(BATCH_SIZES), "A B C, A B C, …: one warm-up and two counted rounds for each size"
    assert_measured(a)
    assert_measured(b)
    assert_crashed(damaged, "exit status 1", "CourseError", "damaged.onnx")
    assert children() <= before, "no process outlives the race"


def test_a_contender_killed_in_the_middle_has_an_error_and_the_others_go_on(good):
    known, calls = children(), []

    def kill_the_first(name):
        calls.append(name)
        if len(calls) == 3:  # after the warm-up of both and one counted pass of the first
            psutil.Process(min(children() - known)).send_signal(signal.SIGKILL)

    first, second = race([Contender(n, "onnxruntime", good) for n in "AB"], ROWS, 1, rounds=1, progress=kill_the_first)
    assert calls == ["A", "B"] * 2 * len(BATCH_SIZES)
    assert_crashed(first, "exit status -9", "nothing on stderr")
    assert_measured(second)


def test_the_warm_up_is_not_counted(good, monkeypatch):
    """One pass in batches of 1 gives a time for each sentence, one in batches of 32 a time for each full batch."""
    racers = []

    class Kept(benchmark._Racer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            racers.append(self)

    monkeypatch.setattr(benchmark, "_Racer", Kept)
    for rounds in (1, 3):
        race([Contender("A", "onnxruntime", good)], ROWS, 1, rounds)
        assert {size: len(times) for size, times in racers[-1].times.items()} == {1: 40 * rounds, 32: rounds}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_race_that_is_stopped_leaves_no_process(stop, good):
    before = children()

    def stopped(name):
        assert len(children() - before) == 2
        raise stop

    with pytest.raises(stop):
        race([Contender(n, "onnxruntime", good) for n in "AB"], ROWS, 1, progress=stopped)
    assert children() <= before


def test_peak_memory_is_the_contenders_own(good):
    """This process holds 300 MiB more than the contender can use; started from it, the contender must not inherit that."""
    ballast = np.ones(300 * 2**20, dtype=np.uint8)
    own = psutil.Process().memory_info().rss / 2**20
    (figures,) = race([Contender("A", "onnxruntime", good)], ROWS, 1, rounds=1)
    assert 10 < figures["peak_mib"] < own - ballast.nbytes / 2**20
    assert peak_mib() >= own - 1, "a peak, but for pages the kernel has not yet counted"


def test_silly_arguments_are_refused_before_anything_starts(good):
    before = children()
    with pytest.raises(ValueError, match="rounds = 0: expected at least 1 counted round"):
        race([Contender("A", "onnxruntime", good)], ROWS, 1, rounds=0)
    with pytest.raises(ValueError, match="rows = 31: expected at least 32 sentences"):
        race([Contender("A", "onnxruntime", good)], ROWS[:31], 1)
    assert children() == before


def test_the_worker_loads_either_engine_and_both_agree(trained, good):
    """The same logits from both, but for the order of float32 sums (logits of order 0.1, two layers)."""
    ids, mask = padded(ROWS, 32)[0]
    a, b = load("pytorch", str(trained), 1)(ids, mask), load("onnxruntime", str(good), 1)(ids, mask)
    np.testing.assert_allclose(a[mask == 1], b[mask == 1], rtol=0, atol=1e-5)


def test_batches_are_full_padded_and_sorted_by_length():
    singles = padded(ROWS, 1)
    assert [ids.tolist() for ids, _ in singles] == [[row] for row in ROWS], "one by one in their own order"
    assert all((mask == 1).all() for _, mask in singles)
    ((ids, mask),) = padded(ROWS, 32)
    assert ids.shape == mask.shape == (32, 16) and ids.dtype == mask.dtype == np.int64
    assert [row[m == 1].tolist() for row, m in zip(ids, mask, strict=True)] == sorted(ROWS, key=len)[:32]
    assert (ids[mask == 0] == 0).all()
