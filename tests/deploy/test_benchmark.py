"""The race: who runs when, what is counted, and that one contender's crash is not the others'."""

import signal

import numpy as np
import psutil
import pytest

from course_lib.deploy import benchmark
from course_lib.deploy.benchmark import BATCH_SIZES, Contender, Prose, race
from course_lib.deploy.engines import OnnxEngine
from course_lib.deploy.export import export_onnx, export_plain
from course_lib.deploy.kinds import KINDS, load
from course_lib.deploy.worker import one_pass, padded, peak_mib
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
    export_plain(trained, trained / "plain.onnx")
    return trained / "model.onnx"


def children():
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


NOTHING = {"1": {"median": None, "p95": None}, "32": {"median": None, "p95": None}}


def assert_measured(figures):
    assert set(figures) == {"ms_per_sentence", "end_to_end_ms_per_sentence", "peak_mib", "load_s", "error", "tags"}
    assert figures["error"] is None and figures["load_s"] > 0 and figures["peak_mib"] > 0
    assert set(figures["ms_per_sentence"]) == {"1", "32"}
    for row in figures["ms_per_sentence"].values():
        assert 0 < row["median"] <= row["p95"]


def assert_crashed(figures, *said):
    assert figures["ms_per_sentence"] == NOTHING
    assert figures["peak_mib"] is None and figures["load_s"] is None and figures["tags"] is None
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


def test_the_tags_are_those_of_the_timed_outputs_row_by_row(trained, good):
    (figures,) = race([Contender("A", "onnxruntime", good)], ROWS, 1, rounds=1, singles=5)
    engine = OnnxEngine(good, 1)
    alone = [engine(np.array([row]), np.ones((1, len(row)), np.int64)).argmax(-1)[0].tolist() for row in ROWS]
    assert figures["tags"] == alone, "padding changes no tag of this model"


def test_a_last_batch_that_is_not_full_gives_tags_and_no_time():
    def engine(ids, mask):
        return np.eye(7)[ids % 7]  # the tag of a piece is its number modulo 7

    for size, timed in ((1, 40), (32, 1), (7, 5)):
        times, tags = one_pass(engine, ROWS, size)
        assert len(times) == timed
        assert tags == [[i % 7 for i in row] for row in ROWS]


SLOW = """
import time
from course_lib.deploy.engines import OnnxEngine

def slow(path, threads):
    engine = OnnxEngine(path, threads)
    def run(ids, mask):
        time.sleep(0.02)
        return engine(ids, mask)
    return run

def stuck(path, threads):
    time.sleep(60)

def chatty(path, threads):
    print("loading ...")
    return OnnxEngine(path, threads)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own with three engines."""
    (tmp_path / "mine.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def test_a_contender_that_was_slowed_down_shows_up_as_slower_and_says_the_same(good, mine):
    plain, slowed = race([Contender("plain", "onnxruntime", good), Contender("slowed", "mine:slow", good)], ROWS, 1, rounds=1)
    assert_measured(slowed)
    for size, sleeps in (("1", 20), ("32", 20 / 32)):  # it sleeps 20 ms for each batch
        assert slowed["ms_per_sentence"][size]["median"] >= sleeps > 0
        assert slowed["ms_per_sentence"][size]["median"] > plain["ms_per_sentence"][size]["median"]
    assert slowed["tags"] == plain["tags"]


def test_a_contender_that_does_not_answer_is_given_up(good, mine):
    stuck, plain = race([Contender("s", "mine:stuck", good), Contender("p", "onnxruntime", good)], ROWS, 1, 1, patience=8)
    assert_crashed(stuck, "no answer within 8 seconds")
    assert_measured(plain)


def test_what_an_engine_prints_is_not_taken_for_an_answer(good, mine):
    assert_measured(race([Contender("c", "mine:chatty", good)], ROWS, 1, 1)[0])


def test_an_unknown_kind_names_those_there_are(good):
    (figures,) = race([Contender("A", "onnx", good)], ROWS, 1, rounds=1)
    assert_crashed(figures, "engine 'onnx': expected one of pytorch, pytorch-bf16")


@pytest.mark.parametrize("kind", ["pytorch-bf16", "quantize_dynamic"])
def test_pytorchs_other_precisions_are_near_its_fp32(trained, kind):
    """Relative rounding of bf16 is 2^-8 and of int8 about 2^-7, a handful of times in two layers: an eighth of the largest logit."""
    ids, mask = padded(ROWS, 32)[0]
    exact, near = load("pytorch", str(trained), 1)(ids, mask), load(kind, str(trained), 1)(ids, mask)
    assert 0 < np.abs(near - exact)[mask == 1].max() < np.abs(exact).max() / 8


def test_openvino_computes_in_fp32_when_told_and_in_bf16_when_told(good):
    ids, mask = padded(ROWS, 32)[0]
    reference = OnnxEngine(good.with_name("plain.onnx"), 1)(ids, mask)
    np.testing.assert_allclose(load("openvino", str(good.with_name("plain.onnx")), 1)(ids, mask), reference, rtol=0, atol=1e-5)
    rounded = load("openvino-bf16", str(good.with_name("plain.onnx")), 1)(ids, mask)
    assert np.abs(rounded - reference)[mask == 1].max() < np.abs(reference).max() / 8
    assert set(KINDS) >= {"openvino", "openvino-bf16"}


def test_prose_is_timed_from_the_text_to_its_entities(trained, good, mine):
    """A delay in the engine is part of it: 20 ms for each batch, so at least 20 ms and 20/32 ms for a sentence."""
    prose = Prose(["Ana left Oslo .", "Bob stayed ."] * 20, trained, ["O", "B-X"], 512)
    calls = []
    contenders = [Contender("plain", "onnxruntime", good), Contender("slowed", "mine:slow", good)]
    plain, slowed = race(contenders, ROWS, 1, 1, calls.append, singles=8, prose=prose)
    assert calls == ["plain", "slowed"] * 2 * 2 * len(BATCH_SIZES)
    assert_measured(plain)
    for size, least in (("1", 20), ("32", 20 / 32)):
        whole = slowed["end_to_end_ms_per_sentence"][size]["median"]
        assert whole >= least > 0 and whole > plain["end_to_end_ms_per_sentence"][size]["median"] > 0
    assert race(contenders[:1], ROWS, 1, 1)[0]["end_to_end_ms_per_sentence"] is None
