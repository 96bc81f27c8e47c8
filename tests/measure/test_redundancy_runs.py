"""The rows of redundancy: every one runs, its bytes and multiply-adds are what the method leaves, and a run that was stopped goes on."""

import random

import pytest
import torch

from course_lib.artifacts import Cache
from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.measure import redundancy_runs
from course_lib.measure.pruning_techniques import ENCODER
from course_lib.measure.redundancy_runs import (
    code,
    even_ranks,
    joint_ranks,
    mean_pieces,
    merged,
    quiet_neurons,
    rows,
    run,
    shared,
)
from course_lib.measure.size import macs_per_token
from course_lib.measure.technique_bench import Bench, Sizes
from course_lib.measure.technique_bytes import payload_bytes
from course_lib.measure.techniques import DENSE
from course_lib.models.surgery import encoder_layers, layer_shapes
from course_lib.plan import match
from course_lib.recipes.recipe import Distil, Quantize, Recipe, Training
from course_lib.recipes.teacher import Context, make_teacher
from course_lib.redundancy.dead_neurons import neuron_activity
from course_lib.redundancy.rank_latency import Latency

RECIPE = Recipe("mine", Training(3, 8, 5e-3), (Distil(1, 8, 5e-3), Quantize()), "# the text of the recipe\n")
SIZES = Sizes(calibration=16, recovery=24, search=8, passes=1)
IMPOSSIBLE = {"merged-taught-2": "between 1 and 1 pairs of 2 layers"}  # with the two layers of this model


def sentences(count: int, seed: int) -> list[Sentence]:
    rng = random.Random(seed)
    return [
        Sentence(("Mr", rng.choice("Ana Bob Cid".split()), "in", rng.choice("Rome Oslo".split())), ("O", "B-PER", "O", "B-LOC"))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The products of so small a model take no longer than calling them: their time is made up here."""
    patch, before = pytest.MonkeyPatch(), torch.get_num_threads()
    patch.setattr(redundancy_runs, "measure_latency", lambda shapes, tokens: Latency(1e-3, 1e-7, tokens))
    corpus = Corpus("small", sentences(40, 0), sentences(12, 100), sentences(12, 200), "given")
    context = Context.create(corpus, Cache(tmp_path_factory.mktemp("cache")), 0, threads=1, bf16=False)
    teacher = make_teacher(context, "tiny", RECIPE)
    yield Bench(context, teacher, context.settings(RECIPE.teacher), SIZES)
    torch.set_num_threads(before)
    patch.undo()


@pytest.fixture(scope="module")
def table(bench):
    return {row["name"]: row for row in run(bench, rows())}


def matrix_bytes(bench) -> int:
    return sum(m.weight.nbytes for m, _ in match(bench.fresh(), {ENCODER: None}).found.values())


def test_names_are_unique_and_each_row_comes_after_the_one_it_stands_beside():
    names = [t.name for t in rows()]
    assert len(names) == len(set(names)) and names[0] == DENSE
    assert all(t.plain is None or names.index(t.plain) < names.index(t.name) for t in rows())


@pytest.mark.parametrize("name", [t.name for t in rows()])
def test_every_row_runs_or_says_why_not(name, table):
    row = table[name]
    if name in IMPOSSIBLE:
        assert IMPOSSIBLE[name] in row["error"] and row["f1"] is None and row["macs_per_token"] is None
        return
    if name == "quiet-neurons" and row["error"]:  # a random model has few
        assert "stays within it" in row["error"]
        return
    assert row["error"] is None
    for part in ("validation", "test"):
        value, low, high = row["f1"][part]
        assert 0 <= low <= value <= high <= 1
    assert row["macs_per_token"] > 0 and row["bytes"] > row["payload"] > 0 and row["seconds"] >= 0


def test_low_rank_keeps_its_share_of_bytes_and_multiply_adds_fall_with_it(bench, table):
    dense, whole = table[DENSE], matrix_bytes(bench)
    for share in (90, 75, 50):
        for way in ("svd", "aware-svd", "joint-svd"):
            row = table[f"{way}-{share}"]
            assert dense["payload"] - row["payload"] >= (1 - share / 100) * whole * (1 if way == "joint-svd" else 0.99)
            # One multiply-add for each weight of a matrix that runs for each piece, whole or in factors; four bytes each.
            assert dense["macs_per_token"] - row["macs_per_token"] == (dense["payload"] - row["payload"]) // 4


def test_sharing_saves_bytes_and_no_multiply_add_and_merging_saves_both(bench, table):
    layer = sum(p.nbytes for p in encoder_layers(bench.fresh())[0].parameters())
    dense = table[DENSE]
    for name in ("shared-2", "shared-3", "shared-first-2"):
        assert dense["payload"] - table[name]["payload"] == layer and table[name]["macs_per_token"] == dense["macs_per_token"]
    for name in ("merged-mean-1", "merged-first-1", "merged-taught-1"):
        assert dense["payload"] - table[name]["payload"] == layer
        due = 4 * 32 * 32 + 2 * 32 * 64 + 2 * mean_pieces(bench) * 32  # its matrices, and attention
        assert abs(dense["macs_per_token"] - table[name]["macs_per_token"] - due) <= 1, "both are rounded"
    assert table["merged-paths"]["f1"] == dense["f1"], "merged paths change nothing but roundings"


def test_notes_tell_what_was_chosen_and_what_teaching_did(bench):
    plain, factored = bench.fresh(), even_ranks(0.5, aware=False)(bench.fresh(), bench).model
    assert macs_per_token(factored, mean_pieces(bench)) < macs_per_token(plain, mean_pieces(bench))
    assert "of 12 matrices in factors" in joint_ranks(0.5, "ms")(bench.fresh(), bench).note
    made = merged(1, "first", steps=20)(bench.fresh(), bench)
    before, after = (float(x) for x in made.note.rsplit("error ", 1)[1].split(" → "))
    assert after < before and layer_shapes(made.model)["ffn"] == [64] and "layers [[0, 1]]" in made.note
    assert payload_bytes(shared(2, "first")(bench.fresh(), bench)) == payload_bytes(shared(2)(bench.fresh(), bench))
    spreads = [a.largest() for a in neuron_activity(bench.fresh(), bench.batches())]
    made = quiet_neurons(float(torch.cat(spreads).median()))(bench.fresh(), bench)
    assert sum(layer_shapes(made.model)["ffn"]) < 128 and "parameters" in made.note


def test_a_run_takes_what_is_there_from_the_cache(bench, table):
    asked: list[str] = []
    again = run(bench, rows()[:4], asked.append)
    assert asked == [] and again == [table[t.name] for t in rows()[:4]]
    assert len(code()) == 16
