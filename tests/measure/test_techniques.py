"""The technique table: every row runs, its bytes are those of the formula, and a run that was stopped goes on."""

import dataclasses
import json
import math
import random

import pytest
import torch

from course_lib.artifacts import Cache
from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.errors import CourseError
from course_lib.measure.pruning_techniques import ENCODER
from course_lib.measure.quantization_techniques import group_size
from course_lib.measure.technique_bench import Bench, Sizes
from course_lib.measure.technique_bytes import NODE_BYTES, Made, masked_bytes, payload_bytes
from course_lib.measure.technique_row import Technique
from course_lib.measure.techniques import DENSE, all_techniques, choose, markdown, run
from course_lib.plan import match
from course_lib.pruning.masks import sparsity
from course_lib.pruning.storage import encode_two_four
from course_lib.quantization.storage import to_stored
from course_lib.recipes.recipe import Distil, Quantize, Recipe, Training
from course_lib.recipes.teacher import Context, make_teacher

RECIPE = Recipe("mine", Training(3, 8, 5e-3), (Distil(1, 8, 5e-3), Quantize()), "# the text of the recipe\n")
SIZES = Sizes(calibration=16, recovery=24, search=8, passes=1)
ALL = {t.name: t for t in all_techniques()}


def sentences(count, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        name, place = rng.choice("Ana Bob Cid Dee Eve".split()), rng.choice("Rome Oslo Lima Bern".split())
        words, tags = ("Mr", name, "was", "in", place), ("O", "B-PER", "O", "O", "B-LOC")
        cut = rng.choice((2, 3, 5))
        rows.append(Sentence(words[:cut], tags[:cut]))
    return [Sentence(("Mr", "Ana", "in", "Oslo"), ("O", "B-PER", "O", "B-LOC")), *rows[1:]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    before = torch.get_num_threads()
    corpus = Corpus("small", sentences(40, 0), sentences(12, 100), sentences(12, 200), "given")
    context = Context.create(corpus, Cache(tmp_path_factory.mktemp("cache")), 0, threads=1, bf16=False)
    teacher = make_teacher(context, "tiny", RECIPE)
    yield Bench(context, teacher, context.settings(RECIPE.teacher), SIZES)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table(bench):
    """All rows."""
    return run(bench, choose())


@pytest.fixture(scope="module")
def rows(table):
    return {row["name"]: row for row in table["rows"]}


def made(bench, name):
    torch.manual_seed(0)
    return ALL[name].make(bench.fresh(), bench)


def encoder_weights(model):
    return [m.weight for m, _ in match(model, {ENCODER: None}).found.values()]


# --- the rows


def test_names_are_unique_and_a_plain_row_comes_before_the_rows_it_stands_beside():
    names = [t.name for t in all_techniques()]
    assert len(names) == len(set(names)) and names[0] == DENSE
    for t in all_techniques():
        if t.plain:
            assert names.index(t.plain) < names.index(t.name) and ALL[t.plain].kind == "plain" and t.kind == "ours"
            assert ALL[t.plain].strength == t.strength


@pytest.mark.parametrize("name", ALL)
def test_every_row_runs(name, rows):
    row = rows[name]
    assert row["error"] is None
    for part in ("validation", "test"):
        value, low, high = row["f1"][part]
        assert 0 <= low <= value <= high <= 1
        assert row["difference"][part][0] == pytest.approx(value - rows[DENSE]["f1"][part][0], abs=1e-4)  # rounded to 4 digits
    assert row["ms_per_sentence"] > 0 and row["speed"] > 0 and row["bytes"] > row["payload"] > 0


def test_the_teacher_is_good_and_differs_from_itself_by_nothing(rows):
    assert rows[DENSE]["f1"]["test"][0] > 0.9, "or no technique can lose anything"
    assert rows[DENSE]["difference"] == {"validation": [0, 0, 0], "test": [0, 0, 0]}


def test_eight_bits_cost_next_to_nothing_and_more_strength_fewer_bytes(rows):
    """int8 moves no weight by more than 1/254 of its row's largest."""
    assert rows["rtn-channel-8"]["difference"]["test"][0] > -0.1
    for slug in ("magnitude-layer", "rows-l2", "neurons", "heads"):
        sizes = [rows[f"{slug}-{n}"]["payload"] for n in (50, 70, 90)]
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert rows["layers-90"]["note"].startswith(rows["layers-50"]["note"]), "two layers: one stays, whatever is asked for"


# --- bytes


STORABLE = (
    "dense magnitude-layer-70 magnitude-global-90 taylor-50 wanda-70 sparsegpt-50 movement-70 l1-training-50 neurons-50 heads-70 "
    "layers-50 wanda-70+recovery rtn-tensor-2 asymmetric-group-4 gptq-4 awq-4 int8-dynamic-8 smoothquant-4 static-8 "
    "static-excluded-8 rtn-words-4 qat-learned-2 qat-static-8 gptq-4+recovery "
    "kmeans-tensor-4 kmeans-channel-2 rtn-as-kmeans-channel-4 weighted-kmeans-4 equalised-4 vectors-2 nf4-4 mixed-4"
).split()


@pytest.mark.parametrize("name", STORABLE)
def test_bytes_by_the_formula_are_those_that_are_written(name, bench, rows):
    result = made(bench, name)
    assert payload_bytes(result) == to_stored(result.model, result.masks).payload == rows[name]["payload"]


def test_all_bytes_are_the_payload_tokenizer_and_config(bench, rows):
    rest = (bench.teacher / "tokenizer.json").stat().st_size + len(bench.fresh().config.to_json_string())
    assert rows[DENSE]["bytes"] == rows[DENSE]["payload"] + rest
    assert rows[DENSE]["payload"] == sum(p.numel() * 4 for p in bench.fresh().parameters())


def test_two_of_four_and_whole_rows_are_stored_in_formats_of_their_own(bench, rows):
    weights = encoder_weights(bench.fresh())
    fixed = rows[DENSE]["payload"] - sum(w.nbytes for w in weights)
    for name in ("magnitude-2:4", "wanda-2:4", "sparsegpt-2:4", "sparsegpt-2:4+recovery"):
        result = made(bench, name)
        stored = sum(encode_two_four(w.detach()).stored_bytes for w in encoder_weights(result.model))
        assert rows[name]["payload"] == fixed + stored
    result = made(bench, "rows-l2-50")
    kept = sum(w.nbytes for w in encoder_weights(result.model)) // 2  # every second row of each matrix
    assert rows["rows-l2-50"]["payload"] == fixed + kept + sum(len(w) // 8 for w in weights)


def test_a_pruned_row_and_its_plain_row_are_equal_in_bytes(bench, rows):
    """Counts are rounded once per matrix, or once per row of one: by at most half a weight, 2 bytes, each; the sum of both rows'."""
    slack = 2 * 2 * sum(len(w) for w in encoder_weights(bench.fresh()))
    pairs = [row for row in rows.values() if row["family"] == "pruning" and row["plain"]]
    assert len(pairs) > 40
    for row in pairs:
        assert abs(row["payload"] - rows[row["plain"]]["payload"]) <= slack, row["name"]


def test_a_quantized_row_costs_its_plain_row_and_what_it_adds(bench, rows):
    weights = encoder_weights(bench.fresh())
    group, entries, columns = group_size(bench.fresh()), sum(w.numel() for w in weights), sum(w.shape[1] for w in weights)
    assert group == 32, "the rows of the tiny encoder"
    added = {"asymmetric-tensor": len(weights), "asymmetric-channel": sum(len(w) for w in weights)}
    added |= {"asymmetric-group": entries // group, "gptq": 0, "awq": 4 * columns, "smoothquant": 4 * columns}
    for bits in (8, 4, 2):
        for slug, more in added.items():
            row = rows[f"{slug}-{bits}"]
            assert row["payload"] == rows[row["plain"]]["payload"] + more, row["name"]
        assert rows[f"equalised-{bits}"]["payload"] == rows[f"rtn-tensor-{bits}"]["payload"]
        row, levels = rows[f"kmeans-tensor-{bits}"], 2**bits
        assert row["payload"] == rows[row["plain"]]["payload"] + 4 * (levels - 1) * len(weights), "levels for one scale"
    for name in ("qat-moving-4", "qat-learned-2", "gptq-4+recovery", "kmeans-channel-4", "kmeans-channel-2", "nf4-4"):
        assert rows[name]["payload"] == rows[rows[name]["plain"]]["payload"]
    assert rows["static-8"]["payload"] == rows["rtn-channel-8"]["payload"] + 5 * len(weights) == rows["qat-static-8"]["payload"]
    assert rows["mixed-4"]["payload"] <= rows["rtn-group-4"]["payload"], "a budget"
    assert rows["vectors-2"]["payload"] == rows["rtn-tensor-2"]["payload"] + (4 * 256 * 4 - 4) * len(weights), "codewords"
    nodes = int(rows["nodes-8"]["note"].split()[0])
    assert rows["nodes-8"]["payload"] == rows["rtn-tensor-8"]["payload"] + NODE_BYTES * nodes


def test_codes_take_their_bits(bench, rows):
    """Per tensor: n·b/8 bytes for n codes, and a scale of 4 bytes for each matrix instead of 4n."""
    weights = encoder_weights(bench.fresh())
    entries = sum(w.numel() for w in weights)
    for bits in (8, 4, 2):
        saved = rows[DENSE]["payload"] - rows[f"rtn-tensor-{bits}"]["payload"]
        assert saved == 4 * entries - entries * bits // 8 - 4 * len(weights)


def test_bad_masks_are_refused(bench):
    half = torch.tensor([[True, True, True, False]])
    with pytest.raises(ValueError, match="layout = 'csr': expected 'bitmask', 'rows' or '2:4'"):
        masked_bytes(half, "csr")
    with pytest.raises(ValueError, match="mask = 'rows with both'"):
        masked_bytes(half, "rows")
    with pytest.raises(ValueError, match="3 of 4 neighbours"):
        masked_bytes(half, "2:4")
    with pytest.raises(ValueError, match=r"masks = 'nobody\.weight': expected names of the model's own weights"):
        payload_bytes(Made(bench.fresh(), {"nobody.weight": half}))


# --- what the techniques do


@pytest.mark.parametrize("name, least", [("wanda-70+recovery", 0.7), ("movement-90", 0.9), ("l1-training-50", 0.5)])
def test_zeros_outlive_the_training(name, least, bench):
    """Wanda prunes round(0.7·K) of each row: with K = 32 that is 22/32, 0.0125 less than asked for."""
    result = made(bench, name)
    assert sparsity(torch.cat([w.flatten() for w in encoder_weights(result.model)])) >= least - 0.0125
    for key, mask in result.masks.items():
        assert not result.model.state_dict()[key][~mask].any()


def test_a_recovery_moves_what_is_left_and_leaves_codes(bench):
    before, after = made(bench, "gptq-4"), made(bench, "gptq-4+recovery")
    old, new = before.model.state_dict(), after.model.state_dict()
    packed = [key for key in old if key.endswith("packed")]
    assert packed and all(torch.equal(old[key], new[key]) for key in packed)
    assert not torch.equal(old["classifier.weight"], new["classifier.weight"])


def test_frozen_words_stay_and_the_same_training_gives_the_same_weights(bench):
    frozen = Bench(bench.context, bench.teacher, dataclasses.replace(bench.settings, freeze_embeddings=True), SIZES)
    start, models = frozen.fresh(), [frozen.fresh(), frozen.fresh()]
    for model in models:
        frozen.train(model)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[key], other[key]) for key in one)
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(one[words], start.state_dict()[words])
    assert not torch.equal(one["classifier.weight"], start.state_dict()["classifier.weight"])


def test_calibration_and_recovery_are_drawn_apart_and_repeatably(bench):
    calibration, recovery = bench.drawn(16, "calibration"), bench.drawn(16, "recovery")
    assert calibration == bench.drawn(16, "calibration") != recovery
    assert sum(len(batch["input_ids"]) for batch in bench.batches()) == 16
    assert len(list(bench.losses(bench.fresh(), size=1))) == 16 == 4 * len(list(bench.losses(bench.fresh(), size=4)))
    assert len(bench.drawn(10_000, "recovery")[0]) == 40


# --- choosing, stopping, going on


def test_patterns_choose_and_bring_their_plain_rows_along():
    assert [t.name for t in choose(["wanda-70"])] == [DENSE, "magnitude-layer-70", "wanda-70"]
    assert [t.name for t in choose(["gptq-?", "awq-4"], recover=False)] == [
        DENSE, "rtn-group-8", "gptq-8", "rtn-group-4", "gptq-4", "awq-4", "rtn-group-2", "gptq-2",
    ]  # fmt: skip
    assert len(choose()) == len(ALL) and not any(t.trained for t in choose(recover=False))


@pytest.mark.parametrize("only, close", [("wnada-70", "wanda-70"), ("spars*gtp", "sparsegpt")])
def test_an_unknown_pattern_names_close_ones(only, close):
    with pytest.raises(CourseError, match=f"--only {only.replace('*', '.')}: matches no technique; expected .*{close}"):
        choose([only])
    with pytest.raises(CourseError, match="matches no technique"):
        choose(["movement-*"], recover=False)


def counted(calls, name, fail=None):
    def make(model, bench):
        calls.append(name)
        if fail:
            raise fail
        return Made(model)

    return Technique(name, "a test", "none", "–", make)


def restarted(bench):
    """The same bench in a new process: its cache knows only what lies on the disk."""
    context = dataclasses.replace(bench.context, cache=Cache(bench.context.cache.root))
    return Bench(context, bench.teacher, bench.settings, bench.sizes)


def test_a_run_that_is_stopped_loses_only_the_row_it_was_at(bench):
    calls = []
    dense, first, third = (counted(calls, name) for name in (DENSE, "stop-1", "stop-3"))
    with pytest.raises(KeyboardInterrupt):
        run(bench, [dense, first, counted(calls, "stop-2", KeyboardInterrupt()), third])
    calls.clear()
    seen = []
    table = run(restarted(bench), [dense, first, counted(calls, "stop-2"), third], seen.append)
    assert calls == ["stop-2", "stop-3"]
    assert [row["name"] for row in table["rows"]] == seen[:-1] == [DENSE, "stop-1", "stop-2", "stop-3"] and seen[-1] == ""
    again = run(restarted(bench), [dense, first, counted(calls, "stop-2"), third])
    assert calls == ["stop-2", "stop-3"] and again["rows"] == table["rows"]


def test_a_technique_that_fails_is_named_and_tried_again(bench):
    calls = []
    dense = counted(calls, DENSE)
    for _ in range(2):
        table = run(restarted(bench), [dense, counted(calls, "bad", CourseError("no such layer")), counted(calls, "good")])
        bad = table["rows"][1]
        assert bad["error"] == "CourseError: no such layer" and bad["f1"] is None
        assert "- bad: CourseError: no such layer" in markdown(table)
    assert calls.count("bad") == 2 and calls.count("good") == 1


def test_other_settings_are_other_rows(bench):
    calls = []
    run(bench, [counted(calls, DENSE), counted(calls, "setting")])
    other = Bench(bench.context, bench.teacher, bench.settings, Sizes(calibration=15, recovery=24, search=8, passes=1))
    run(other, [counted(calls, DENSE), counted(calls, "setting")])
    assert calls.count("setting") == 2


# --- the table


def test_markdown_has_a_line_for_each_row_and_its_plain_row_beside_it(table, rows):
    text = markdown(table)
    assert text.count("(`") == len(ALL) and text.index("Without training") < text.index("With a short training")
    line = next(line for line in text.splitlines() if "`wanda-70`" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["Wanda (`wanda-70`)", "70%"]
    assert cells[2].startswith(f"{rows['wanda-70']['f1']['test'][0]:.3f} [")
    assert cells[8].startswith(f"{rows['magnitude-layer-70']['f1']['test'][0]:.3f} [")
    assert cells[9] == f"{rows['magnitude-layer-70']['bytes'] / 1e6:.2f}"
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert all(math.isfinite(row["seconds"]) for row in table["rows"])
    assert any("16 training sentences calibrate" in note for note in table["notes"])
