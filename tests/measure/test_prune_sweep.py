"""The sweep of lesson 16: every kind of point is made as it says, from the teacher's own weights."""

import random

import pytest
import torch

from course_lib.artifacts import Cache
from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.exercises import trained
from course_lib.measure import prune_sweep
from course_lib.measure.prune_sweep import POINTS, SCORES, SWEEP, figures_of, make_of, run, scored
from course_lib.measure.pruning_techniques import ENCODER
from course_lib.measure.technique_bench import Bench, Sizes
from course_lib.measure.technique_bytes import Made
from course_lib.models.surgery import encoder_layers
from course_lib.plan import match
from course_lib.recipes.recipe import Distil, Quantize, Recipe, Training
from course_lib.recipes.teacher import Context, make_teacher

own_bench = prune_sweep.bench
RECIPE = Recipe("mine", Training(3, 8, 5e-3), (Distil(1, 8, 5e-3), Quantize()), "# the text of the recipe\n")
SIZES = Sizes(calibration=16, recovery=24, search=8, passes=1)


def sentences(count, seed):
    rng = random.Random(seed)
    names = [(rng.choice("Ana Bob Cid Dee".split()), rng.choice("Rome Oslo Lima".split())) for _ in range(count)]
    return [Sentence(("Mr", name, "was", "in", place), ("O", "B-PER", "O", "O", "B-LOC")) for name, place in names]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A workbench with a tiny teacher in the place of the sweep's own."""
    before = torch.get_num_threads()
    corpus = Corpus("small", sentences(40, 0), sentences(12, 100), sentences(12, 200), "given")
    context = Context.create(corpus, Cache(tmp_path_factory.mktemp("cache")), 0, threads=1, bf16=False)
    small = Bench(context, make_teacher(context, "tiny", RECIPE), context.settings(RECIPE.teacher), SIZES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune_sweep, "bench", lambda: small)
        prune_sweep.dense_tags.cache_clear()
        yield small
        prune_sweep.dense_tags.cache_clear()
    torch.set_num_threads(before)


def made(bench, method, sparsity, recovery):
    torch.manual_seed(0)
    return make_of(method, sparsity, recovery)(bench.fresh(), bench)


def zeros(model):
    weights = [m.weight for m, _ in match(model, {ENCODER: None}).found.values()]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)


@pytest.mark.parametrize("recovery", [0, 1])
@pytest.mark.parametrize("score", SCORES)
def test_a_score_prunes_its_share_of_all_matrices_together_and_training_keeps_the_zeros(bench, score, recovery):
    gone, entries = zeros(made(bench, score, 0.5, recovery).model)
    assert gone == round(0.5 * entries)


@pytest.mark.parametrize("method, recovery", [("l1", 1), ("movement", 1), ("gradual", 3)])
def test_methods_that_train_end_at_their_sparsity(bench, method, recovery):
    gone, entries = zeros(made(bench, method, 0.8, recovery).model)
    # rounding: one threshold for all is off by half an entry, one for each matrix (movement) by half an entry of each
    assert abs(gone - 0.8 * entries) <= 0.5 * (len(match(bench.fresh(), {ENCODER: None}).found) if method == "movement" else 1)


def test_gradual_prunes_as_its_masks_say_and_longer_than_one_pass(bench, monkeypatch):
    calls = []
    train = bench.train
    monkeypatch.setattr(bench, "train", lambda *a, **k: (calls.append(1), train(*a, **k)))
    result = made(bench, "gradual", 0.5, 2)
    assert len(calls) == 2 and sum(int((~m).sum()) for m in result.masks.values()) == zeros(result.model)[0]


def test_structure_is_really_removed(bench):
    whole = sum(p.numel() for p in bench.fresh().parameters())
    for method in ("heads", "neurons", "layers"):
        model = made(bench, method, 0.5, 0).model
        assert sum(p.numel() for p in model.parameters()) < whole
    assert len(encoder_layers(made(bench, "layers", 0.5, 0).model)) == 1


def test_the_dense_point_is_the_teacher_with_no_difference(bench):
    figures = run({"method": "dense", "sparsity": 0.0, "recovery": 0})
    assert figures["difference"] == [0, 0, 0] and len(scored()) == SIZES.search
    assert figures == figures_of(Made(bench.fresh()))
    assert figures["stored"] == sum(p.numel() for p in bench.fresh().parameters()) >= figures["nonzero"]


def test_zeros_change_the_nonzero_parameters_and_bytes_and_not_the_stored_ones(bench):
    dense, half = (run({"method": "magnitude", "sparsity": s, "recovery": 0}) for s in (0.0, 0.5))
    assert half["stored"] == dense["stored"] and half["nonzero"] < dense["nonzero"] and half["megabytes"] < dense["megabytes"]


def test_every_point_is_asked_for_once_and_has_a_maker():
    assert len({tuple(p.items()) for p in POINTS}) == len(POINTS) == len(SWEEP.points)
    for point in POINTS:
        assert callable(make_of(**point))


def test_in_fast_mode_the_bench_is_a_small_one(tmp_path, monkeypatch, bench):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_FAST", "1")
    monkeypatch.setattr(trained, "teacher", lambda: bench.teacher)
    monkeypatch.setattr(trained, "corpus", lambda: bench.context.corpus)
    small = own_bench.__wrapped__()
    assert small.sizes == Sizes(calibration=32, recovery=160, search=100) and not small.settings.bf16
