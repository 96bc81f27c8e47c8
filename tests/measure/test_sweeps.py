"""Sweeps: what is stored resumes, notices other code and data, and is compared with a point run live."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import nbformat
import pytest
import torch

from course_lib.artifacts import PACKAGE
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.measure import sweeps
from course_lib.measure.sweeps import (
    SWEEPS,
    Sweep,
    code_hash,
    code_of,
    find_sweep,
    live_point,
    load_sweep,
    missing,
    provenance,
    run_sweep,
    stale,
    stored,
)

SOLUTIONS = Path(__file__).parents[2] / "solutions"
POINTS = ({"score": "taylor", "sparsity": 0.5}, {"score": "taylor", "sparsity": 0.7})


def measure(point):
    value = 1 - point["sparsity"]
    return {"f1": [value, value - 0.125, value + 0.125], "zeros": 10}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of two points, whose file is in an empty folder."""
    monkeypatch.setattr(sweeps, "STORED", tmp_path)
    return Sweep("toy", "16_prune_bert", POINTS, measure, ("measure/size.py",), "95 % of nothing", lambda: "these data")


def test_every_stored_sweep_was_made_by_the_code_and_data_of_today():
    assert {name: stale(find_sweep(name)) for name in SWEEPS} == {name: [] for name in SWEEPS}


def test_the_points_that_built_lessons_ran_lie_within_the_intervals_stored_today():
    for name in SWEEPS:
        (notebook,) = SOLUTIONS.glob(f"*/{find_sweep(name).lesson}.ipynb")
        outputs = [
            o for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code" for o in c.outputs if "data" in o
        ]
        (card,) = [t for o in outputs if "One point run here" in (t := o.data.get("text/plain", ""))]
        title, *lines = card.splitlines()
        assert title == "✔ One point run here agrees.", notebook
        shown = [re.findall(r"\d\.\d{3}", line) for line in lines if "; stored " in line]
        intervals = {tuple(f"{v:.3f}" for v in p["figures"]["f1"]) for p in stored(name)}
        assert shown and all(
            tuple(rest) in intervals and float(rest[1]) <= float(here) <= float(rest[2]) for here, *rest in shown
        ), f"{notebook.stem}: built from an older sweep; `course build {notebook.stem}`"


def test_every_sweep_hashes_the_file_it_is_defined_in_and_bears_its_name():
    for name, module in SWEEPS.items():
        found = find_sweep(name)
        assert found.name == name
        assert module.removeprefix("course_lib.").replace(".", "/") + ".py" in found.code


def test_no_file_is_stored_for_a_sweep_that_is_gone():
    assert {f.stem for f in sweeps.STORED.glob("*.json")} <= set(SWEEPS)


def test_a_sweep_is_measured_once_and_loaded_as_settings_with_figures(sweep):
    assert run_sweep(sweep, 1) == 2
    assert load_sweep("toy") == [{**p, **measure(p)} for p in POINTS]
    assert stale(sweep) == [] and run_sweep(sweep, 1) == 0


def test_a_stopped_run_keeps_its_points_and_goes_on(sweep):
    asked = []

    def stop(point):
        asked.append(point)
        if point == POINTS[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, 1, stop)
    assert [p["settings"] for p in stored("toy")] == [POINTS[0]] and missing(sweep) == [POINTS[1]]
    assert run_sweep(sweep, 1) == 1


@pytest.mark.parametrize("change", [{"code": ("measure/report.py",)}, {"data": lambda: "others"}])
def test_other_code_or_data_makes_every_point_stale(sweep, change):
    run_sweep(sweep, 1)
    changed = dataclasses.replace(sweep, **change)
    assert missing(changed) == list(POINTS)
    assert [line.partition(":")[0] for line in stale(changed)] == ["not measured by this code and data"] * 2
    assert run_sweep(changed, 1) == 2 and stale(changed) == []


def test_a_new_point_is_measured_alone_in_its_place_and_one_not_asked_for_goes(sweep):
    run_sweep(sweep, 1)
    new = {"score": "taylor", "sparsity": 0.25}
    changed = dataclasses.replace(sweep, points=(new, POINTS[1]))
    assert stale(changed) == [f"not measured by this code and data: {new}", f"no longer asked for: {POINTS[0]}"]
    assert run_sweep(changed, 1) == 1
    assert [p["settings"] for p in stored("toy")] == [new, POINTS[1]]
    fewer = dataclasses.replace(sweep, points=(new,))
    assert run_sweep(fewer, 1) == 0 and [p["settings"] for p in stored("toy")] == [new]


def test_each_point_has_a_line_of_its_own_with_date_and_machine(sweep):
    run_sweep(sweep, 3)
    lines = (sweeps.STORED / "toy.json").read_text().splitlines()
    points = [json.loads(line.strip().rstrip(",")) for line in lines if '"settings"' in line]
    assert [p["settings"] for p in points] == list(POINTS)
    for point in points:
        assert set(point) == {"settings", "figures", "seconds", "date", "machine", "code", "data"}
        assert point["machine"]["threads"] == 3 and point["machine"]["torch"] == torch.__version__


def test_where_figures_are_from_is_said_in_a_line(sweep):
    run_sweep(sweep, 1)
    text = provenance("toy")
    assert text.startswith("2 points by `course sweeps toy` in 0.0 minutes, 20") and "95 % of nothing" in text


SOURCE = '"""About."""\n# why\nPOINTS = [1]\ndef f(x):\n    """Adds."""\n    return x + 1\n'


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("About", "Otherwise").replace("Adds", "Sums"),
        SOURCE.replace("# why\n", ""),
        SOURCE.replace("x + 1", "(x  +  1)  # one"),
        SOURCE.replace("[1]", "[1, 2]"),
        SOURCE.replace("POINTS = [1]", "SWEEP = f(1)"),
    ],
)
def test_comments_docstrings_layout_and_lists_of_points_are_no_code(other):
    assert code_of(SOURCE) == code_of(other)


@pytest.mark.parametrize(
    "old, new", [("x + 1", "x + 2"), ("x + 1", "x - 1"), ("f(x)", "f(x=None)"), ("f(x)", "g(x)"), ("x + 1", "None")]
)
def test_what_a_module_does_is_code(old, new):
    assert code_of(SOURCE) != code_of(SOURCE.replace(old, new))


def test_an_empty_string_that_one_version_of_python_puts_into_format_specifications_does_not_count(monkeypatch):
    source = "f'{x:{width}.2f}'"
    parsed = ast.parse(source)
    inner = next(n for n in ast.walk(parsed) if isinstance(n, ast.FormattedValue)).format_spec
    inner.values = [v for v in inner.values if not isinstance(v, ast.Constant) or v.value] + [ast.Constant("")]
    expected = code_of(source)
    monkeypatch.setattr(ast, "parse", lambda text: parsed)
    assert code_of(source) == expected


def test_a_hash_covers_every_file_and_its_name_in_any_order():
    one, other = "measure/size.py", "measure/report.py"
    assert code_hash(one, other) == code_hash(other, one)
    assert len({code_hash(one), code_hash(other), code_hash(one, other)}) == 3
    with pytest.raises(ValueError, match=f"files = 'measure/sizes.py': expected a file below {PACKAGE.name}"):
        code_hash("measure/sizes.py")


@pytest.mark.parametrize("figures", [{"f1": [0.5, 0.6, 0.7]}, {"f1": [0.5, 0.4]}, {"sparsity": 1}])
def test_figures_that_are_no_number_or_interval_or_hide_a_setting_are_refused(sweep, figures):
    with pytest.raises(ValueError, match="a number or"):
        run_sweep(dataclasses.replace(sweep, run=lambda point: figures), 1)
    assert stored("toy") == []


def test_settings_that_json_would_change_are_refused(sweep):
    with pytest.raises(ValueError, match="settings that are numbers and strings"):
        dataclasses.replace(sweep, points=({"n": (2, 4)},))


@pytest.fixture
def live(sweep, monkeypatch, capsys):
    """Compare a live point in a mode; returns what was shown."""
    run_sweep(sweep, 1)

    def compare(measured, fast="", headless="", settings=POINTS[0]):
        monkeypatch.setenv("COURSE_FAST", fast)
        monkeypatch.setenv("COURSE_HEADLESS", headless)
        live_point("toy", settings, measured)
        return capsys.readouterr().out

    return compare


def test_a_live_point_within_the_interval_agrees_ends_included(live):
    for value in (0.375, 0.5, 0.625):
        shown = live({"f1": value}, headless="1")
        assert "agrees" in shown and f"f1: {value:.3f} here; stored 0.500, interval 0.375 to 0.625." in shown


def test_a_live_point_outside_stops_a_build_tells_a_reader_and_is_not_compared_in_fast_mode(live):
    with pytest.raises(CourseError, match=r"outside the stored interval\. f1: 0\.630 here"):
        live({"f1": 0.63}, headless="1")
    assert "outside the stored interval in f1" in live({"f1": 0.63})
    assert "not to be compared" in live({"f1": 0.63}, fast="1", headless="1")


@pytest.mark.parametrize(
    "measured, settings", [({"f1": 0.5}, {"score": "taylor"}), ({"f2": 0.5}, POINTS[0]), ({"zeros": 1}, POINTS[0])]
)
def test_a_live_point_that_is_not_stored_with_an_interval_is_an_error(live, measured, settings):
    with pytest.raises(CourseError, match=r"no point .* with an interval"):
        live(measured, settings=settings)


def test_an_unknown_sweep_and_one_never_made_are_named(sweep):
    with pytest.raises(CourseError, match="There is no sweep 'toyy'"):
        find_sweep("toyy")
    with pytest.raises(CourseError, match="make it with `course sweeps toy`"):
        load_sweep("toy")


def test_the_command_measures_what_is_missing_and_says_how_much(sweep, monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "SWEEPS", {"toy": __name__})
    monkeypatch.setattr(sweeps, "find_sweep", lambda name: sweep)
    before = torch.get_num_threads()
    for said in ("2 points measured, 0 were there", "0 points measured, 2 were there"):
        with pytest.raises(SystemExit) as stop:
            main(["sweeps", "--threads", "1"])
        assert stop.value.code == 0 and said in capsys.readouterr().err
    torch.set_num_threads(before)
