"""Notebooks are what their sources give: built, rebuilt, checked; and what a broken lesson says."""

import json
import re
import shutil
import sys

import nbformat
import pytest

from course_lib.classroom import execute as execute_module
from course_lib.classroom.build import build, check, left_over
from course_lib.classroom.layout import Lesson, sources
from course_lib.classroom.learners import learners_text, nbgrader_config
from course_lib.errors import CourseError
from course_lib.exercises.registry import find

TITLE = "# %% [markdown]\n# # A title\n\n"


def files(root):
    """Every file that is not the sources' own, with its bytes."""
    kept = (p for p in root.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts)
    return {str(p.relative_to(root)): p.read_bytes() for p in kept}


# --- building


def test_the_solution_is_executed_from_top_to_bottom_with_its_outputs(built, cell):
    nb = nbformat.read(built.solution, as_version=4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert [o.text for c in code if "tags" in c.metadata for o in c.outputs] == ["0.50 of the weights are zero\n"]
    card, value = cell(nb, "check-sparsity").outputs
    assert "course-card" in card.data["text/html"], "a reader of the file sees the card"
    assert float(value.data["text/plain"]) == find("sparsity").points


def test_nothing_volatile_is_kept(built):
    text = built.solution.read_text("utf-8")
    nb = json.loads(text)
    assert set(nb["metadata"]) == {"course", "kernelspec", "language_info"}
    assert "version" not in nb["metadata"]["language_info"]
    assert {key for c in nb["cells"] for key in c["metadata"]} == {"course", "nbgrader", "tags"}
    assert str(built.root) not in text


def test_a_rebuild_gives_the_same_bytes(built, course):
    again = course()
    list(build([again], find))
    assert files(again.root) == files(built.root)


def test_learners_get_stubs_and_data_but_no_outputs_sources_or_measurements(built, cell):
    nb = json.loads(built.notebook.read_text("utf-8"))
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in nb["cells"] if c["cell_type"] == "code")
    assert "".join(cell(nb, "exercise-sparsity")["source"]).endswith(
        '"""\n    # YOUR CODE HERE\n    raise NotImplementedError()'
    )
    assert cell(nb, "open-why_zeros")["source"][-1] == "YOUR ANSWER HERE"
    assert not any("solution_only" in c["metadata"].get("course", {}) for c in nb["cells"])
    assert sorted(p.name for p in built.notebook.parent.iterdir()) == ["01_sample.ipynb", "sweep.json"]


def test_the_state_of_widgets_stays_with_the_solution(built):
    nb = nbformat.read(built.solution, as_version=4)
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"secret": {}}}}
    made = learners_text(built, nbformat.writes(nb), nbgrader_config(built.root))
    assert made == built.notebook.read_text("utf-8")


def test_measuring_keeps_what_the_run_took_and_renders_it(course):
    lesson = course()
    lesson.measured.unlink()
    [(_, nb, run)] = build([lesson], find, measure=True)
    kept = json.loads(lesson.measured.read_text("utf-8"))
    assert set(kept) == {"date", "cpu", "seconds", "peak_mib"} and re.fullmatch(r"\d{4}-\d\d-\d\d", kept["date"])
    assert (kept["seconds"], kept["peak_mib"]) == (run.seconds, run.peak_mib) and run.seconds > 0 and run.peak_mib > 1
    assert "{{" not in nb.cells[0].source.replace("x^{{2}}", "") and " GB · runs in " in nb.cells[0].source
    assert check([lesson], find) == []
    assert next(c.outputs for c in nb.cells if "tags" in c.metadata), "and keeps the outputs of that very run"


def test_a_lesson_that_shows_what_it_takes_must_have_been_measured(course):
    lesson = course()
    lesson.measured.unlink()
    with pytest.raises(CourseError, match=r"never measured. Run: course build --measure 01_sample"):
        list(build([lesson], find))
    assert not lesson.solution.exists()


@pytest.mark.parametrize("seconds", ["null", "0", '"41"', "true"])
def test_a_damaged_measurement_is_named(seconds, course):
    lesson = course()
    lesson.measured.write_text(f'{{"seconds": {seconds}, "peak_mib": 1.0}}')
    with pytest.raises(CourseError, match=r"01_sample.measured.json: seconds = .*Measure again: course build --measure"):
        check([lesson], find)


def test_all_sources_are_checked_before_the_first_one_runs(course):
    lesson = course()
    broken = lesson.source.with_name("02_broken.py")
    broken.write_text(TITLE + '# %% exercise="nobody"\n')
    before = files(lesson.root)
    with pytest.raises(CourseError, match=r"02_broken\.py, cell 2"):
        list(build(sources(lesson.root), find))
    assert files(lesson.root) == before


def test_no_lessons_need_no_nbgrader():
    assert list(build([], find)) == [] and check([], find) == []


STDERR = "import sys\nprint('careful', file=sys.stderr)\n"
FAULTS = {
    "an error": ("# %%\nx = 1\n# %%\n1 / 0\n", "cell 3 (1 / 0): ZeroDivisionError: division by zero"),
    "the kernel ends": ("# %%\nimport os; os._exit(1)\n", "cell 2 (import os; os._exit(1)): Kernel died"),
    "no end": ("# %%\nwhile True: pass\n", "cell 2 (while True: pass): A cell timed out"),
    "a compared warning": (f"# %% compare=true\n{STDERR}", "cell 2 (import sys): writes to standard error: 'careful'"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_lesson_that_does_not_run_names_the_cell_and_leaves_no_notebook(kind, course, monkeypatch):
    monkeypatch.setattr(execute_module, "CELL_SECONDS", 2 if kind == "no end" else 60)
    text, said = FAULTS[kind]
    lesson = course(TITLE + text)
    with pytest.raises(CourseError, match=re.escape(f"solutions/1_sample/01_sample.py, {said}")):
        list(build([lesson], find))
    assert not lesson.solution.exists() and not lesson.notebook.exists()


@pytest.mark.parametrize(
    "answer, call, said",
    [
        ("return 0.5", "check(", r"cell 4 .*the solution earns [\d.]+; expected 2 points"),
        ("return float((w == 0).float().mean())", "import sys; print('careful', file=sys.stderr)\ncheck(", "writes to standard error"),
    ],
    ids=["few points", "standard error"],
)  # fmt: skip
def test_a_check_must_give_the_solution_its_points_silently(answer, call, said, course):
    body = f'# %%\nfrom course_lib.exercises import check\n# %% exercise="sparsity"\ndef sparsity(w):\n    ### BEGIN SOLUTION\n    {answer}\n'
    lesson = course(TITLE + body + f'    ### END SOLUTION\n# %% check="sparsity"\n{call}"sparsity", sparsity)\n')
    with pytest.raises(CourseError, match=said):
        list(build([lesson], find))


def test_the_run_is_in_full_mode_apart_from_everybodys_progress(course, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_FAST", "1")
    monkeypatch.setenv("COURSE_CHECK_SEED", "7")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "mine.json"))
    show = "import os\nprint(os.path.basename(os.getcwd()), *(os.environ.get(f'COURSE_{k}') for k in ('FAST', 'CHECK_SEED', 'HEADLESS')))"
    lesson = course(TITLE + f"# %%\n{show}\nprint(os.environ['COURSE_PROGRESS'] == {str(tmp_path / 'mine.json')!r})\n")
    [(_, nb, _)] = build([lesson], find)
    assert nb.cells[1].outputs[0].text == "1_sample None None 1\nFalse\n"


# --- checking


def test_a_built_course_is_in_order(built):
    assert check([built], find) == [] and left_over(built.root, [built]) == []


def change_source(nb):
    nb["cells"][1]["source"][-1] += " + 1"


def swap(nb):
    nb["cells"][0], nb["cells"][1] = nb["cells"][1], nb["cells"][0]


EDITS = {
    "a text": (lambda nb: nb["cells"][0]["source"].append("More."), "cell 1 is not what the source gives (source differ)"),
    "code": (change_source, "cell 2 is not what the source gives (source differ)"),
    "an id": (lambda nb: nb["cells"][2].update(id="mine"), "cell 3 is not what the source gives (id differ)"),
    "metadata": (lambda nb: nb["cells"][4]["metadata"]["nbgrader"].update(points=9), "cell 5 is not what the source gives (metadata differ)"),
    "a tag": (lambda nb: nb["cells"][8]["metadata"].pop("tags"), "is not what the source gives (metadata differ)"),
    "a cell more": (lambda nb: nb["cells"].append({"cell_type": "markdown", "id": "x", "metadata": {}, "source": []}), "not what its source gives"),
    "a cell less": (lambda nb: nb["cells"].pop(0), "was not executed|cell 1 is not"),
    "another order": (swap, "cell 1 is not what the source gives"),
    "the course": (lambda nb: nb["metadata"]["course"].update(minutes=1), "not what its source gives"),
    "not run": (lambda nb: nb["cells"][1].update(execution_count=None, outputs=[]), "was not executed from top to bottom"),
    "run in parts": (lambda nb: nb["cells"][1].update(execution_count=9), "was not executed from top to bottom"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_solution_is_found(kind, copied, edit):
    change, said = EDITS[kind]
    edit(copied.solution, change)
    wrong = check([copied], find)
    assert len(wrong) == 1 and wrong[0].startswith("solutions/1_sample/01_sample.ipynb: ")
    assert any(part in wrong[0] for part in said.split("|"))


@pytest.mark.parametrize(
    "change",
    [
        lambda nb: nb["cells"][1]["outputs"].append({"output_type": "stream", "name": "stdout", "text": ["other\n"]}),
        lambda nb: nb["cells"][4].update(outputs=[]),
        lambda nb: nb["metadata"].update(widgets={}),
    ],
    ids=["more", "fewer", "widgets"],
)
def test_outputs_of_the_solution_may_differ(change, copied, edit):
    edit(copied.solution, change)
    assert check([copied], find) == []


@pytest.mark.parametrize(
    "change",
    [
        change_source,
        lambda nb: nb["cells"][1].update(execution_count=1),
        lambda nb: nb["cells"][1]["outputs"].append({"output_type": "stream", "name": "stdout", "text": ["other\n"]}),
        lambda nb: nb["cells"][3]["metadata"].pop("deletable"),
        lambda nb: nb["metadata"]["course"].update(title="Mine"),
    ],
    ids=["source", "count", "output", "lock", "title"],
)
def test_a_learners_notebook_may_differ_in_nothing(change, copied, edit):
    edit(copied.notebook, change)
    assert check([copied], find) == ["notebooks/1_sample/01_sample.ipynb: not what its source gives"]


def test_an_edited_source_is_found_in_both(copied):
    copied.source.write_text(copied.source.read_text("utf-8").replace("A short lesson", "A shorter lesson"))
    assert [line.split(":")[0] for line in check([copied], find)] == [
        "solutions/1_sample/01_sample.ipynb", "notebooks/1_sample/01_sample.ipynb",
    ]  # fmt: skip


def test_missing_and_damaged_files_are_found(copied):
    copied.notebook.unlink()
    copied.solution.write_text("{")
    (copied.source.parent / "sweep.json").write_text("[3]")
    wrong = check([copied], find)
    assert wrong[0].startswith("solutions/1_sample/01_sample.ipynb: no notebook: ")
    assert wrong[1:] == [
        "notebooks/1_sample/01_sample.ipynb: missing",
        "notebooks/1_sample/sweep.json: not the same as solutions/1_sample/sweep.json",
    ]
    copied.solution.unlink()
    assert check([copied], find)[0] == "solutions/1_sample/01_sample.ipynb: missing"


def test_files_that_no_source_gives_are_found(copied):
    renamed = copied.source.with_name("01_renamed.py")
    copied.source.rename(renamed)
    (copied.notebook.parent / "answers.py").write_text("x")
    assert left_over(copied.root, [Lesson(copied.root, copied.part, "01_renamed")]) == [
        f"{name}: no source gives it; delete it"
        for name in ("notebooks/1_sample/01_sample.ipynb", "notebooks/1_sample/answers.py",
                     "solutions/1_sample/01_sample.ipynb", "solutions/1_sample/01_sample.measured.json")
    ]  # fmt: skip


# --- what is missing


def test_without_nbgrader_or_its_configuration_the_message_says_so(course, monkeypatch):
    lesson = course()
    (lesson.root / "nbgrader_config.py").unlink()
    with pytest.raises(CourseError, match=r"nbgrader_config\.py is missing"):
        list(build([lesson], find))
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    with pytest.raises(CourseError, match="nbgrader is not installed"):
        list(build([lesson], find))


def test_what_nbgrader_refuses_is_named(built):
    nb = nbformat.read(built.solution, as_version=4)
    nb.cells[1].source = "### BEGIN SOLUTION\nx = 1"
    with pytest.raises(CourseError, match=r"01_sample.py: nbgrader cannot make the learner's notebook: no end solution"):
        learners_text(built, nbformat.writes(nb), nbgrader_config(built.root))


def test_a_course_can_be_moved(copied):
    """Nothing in the notebooks depends on where the course is."""
    elsewhere = copied.root.parent / "else where"
    shutil.move(copied.root, elsewhere)
    assert check(sources(elsewhere), find) == []
