"""The real nbgrader on this course: the same bytes as ours, and grades for whatever learners hand in."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.classroom.layout import Lesson
from course_lib.exercises.registry import find

SPARSITY, MEGABYTES = find("sparsity").points, find("megabytes").points


def nbgrader(root: Path, *arguments: str) -> str:
    """Run the command in the course's folder, as an instructor does; returns what it says."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # it calls alembic
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def classroom(built, tmp_path_factory):
    """A course of our own that nbgrader has made the assignment of, over our notebooks."""
    root = tmp_path_factory.mktemp("classroom") / "course"
    shutil.copytree(built.root, root)
    nbgrader(root, "generate_assignment", built.part, "--force")
    return Lesson(root, built.part, built.stem)


def test_our_notebooks_are_byte_for_byte_what_nbgrader_generates(built, classroom):
    folders = [lesson.root / "notebooks" for lesson in (built, classroom)]
    ours, theirs = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
    assert ours == theirs and len(ours) == 2
    stamp = classroom.notebook.stat().st_mtime_ns
    assert stamp > built.notebook.stat().st_mtime_ns, "nbgrader has written it anew"


def cell(nb, name):
    """The cell of an id."""
    return next(c for c in nb["cells"] if c["id"] == name)


def replace(name, old, new):
    """Change the text of a cell."""

    def change(nb):
        source = "".join(cell(nb, name)["source"])
        assert old in source
        cell(nb, name)["source"] = source.replace(old, new)

    return change


def add_copy(name, at, source=None):
    """Copy a cell, as Jupyter does with its metadata, to a place; -1 is the end."""

    def change(nb):
        double = copy.deepcopy(cell(nb, name)) | {"id": f"again-{name}"} | ({"source": source} if source else {})
        nb["cells"].insert(at if at >= 0 else len(nb["cells"]), double)

    return change


def delete(*names):
    """Delete cells."""

    def change(nb):
        nb["cells"] = [c for c in nb["cells"] if c["id"] not in names]

    return change


def every_metadata(value):
    """Change nbgrader's metadata of each cell that has some."""

    def change(nb):
        for c in nb["cells"]:
            if "nbgrader" in c["metadata"]:
                c["metadata"]["nbgrader"] = value(c["metadata"]["nbgrader"])

    return change


def handed_in(lesson, *changes):
    """A learner's notebook: solved, then changed; not solved when the first change is None."""
    nb, solution = (json.loads(p.read_text("utf-8")) for p in (lesson.notebook, lesson.solution))
    if changes[:1] != (None,):
        for name in ("exercise-sparsity", "exercise-megabytes", "open-why_zeros"):
            cell(nb, name)["source"] = cell(solution, name)["source"]
    for change in filter(None, changes):
        change(nb)
    return nb


WRONG = replace("exercise-sparsity", "w == 0", "w != 0")
STUDENTS = {
    "solved": (),
    "untouched": (None,),
    "wrong": (WRONG,),
    "partial": (replace("exercise-megabytes", "bits / 8", "(bits // 8)"),),
    "copied_test": (WRONG, add_copy("check-sparsity", -1)),
    "deleted_test": (delete("check-sparsity"),),
    "deleted_both": (delete("check-sparsity", "exercise-sparsity"),),
    "junk_metadata": (every_metadata(lambda old: {}),),
}


@pytest.fixture(scope="module")
def graded(classroom):
    """What `nbgrader autograde` says of all submissions, one batch: (student → cell → score, log)."""
    from nbgrader.api import Gradebook

    for student, changes in STUDENTS.items():
        file = classroom.root / "submitted" / student / classroom.part / f"{classroom.stem}.ipynb"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(handed_in(classroom, *changes)), "utf-8")
    log = nbgrader(classroom.root, "autograde", classroom.part)
    with Gradebook(f"sqlite:///{classroom.root / 'gradebook.db'}") as gradebook:
        found = gradebook.assignment_submissions(classroom.part)
        scores = {s.student.id: {g.name: g.auto_score for n in s.notebooks for g in n.grades} for s in found}
    return scores, log


@pytest.mark.parametrize(
    "student, sparsity, megabytes, question",
    [
        ("solved", SPARSITY, MEGABYTES, None),
        ("untouched", 0, 0, 0),
        ("wrong", 0, MEGABYTES, None),
        ("copied_test", 0, MEGABYTES, None),
        ("deleted_test", SPARSITY, MEGABYTES, None),
        ("deleted_both", 0, MEGABYTES, None),
        ("junk_metadata", 0, 0, 0),
    ],
)
def test_every_submission_is_graded_in_one_batch(student, sparsity, megabytes, question, graded):
    """None: a person must grade it. `copied_test` runs its copy on the library's function, which must earn nothing."""
    assert graded[0][student] == {"check_sparsity": sparsity, "check_megabytes": megabytes, "why_zeros": question}


def test_a_partly_right_answer_earns_a_part(graded):
    assert 0 < graded[0]["partial"]["check_megabytes"] < MEGABYTES


def test_the_instructor_is_told_what_was_mended(graded):
    assert "Cell check_sparsity was deleted; put back" in graded[1]
    assert "a copy, or unknown to the gradebook (check_sparsity); not graded" in graded[1]


def test_grading_leaves_the_instructors_progress_and_the_sources_alone(graded, classroom):
    """No progress file appears, and no source with solutions is copied to where submissions are."""
    assert list(classroom.root.rglob("progress*.json")) == []
    assert {p.name for p in (classroom.root / "autograded").rglob("*") if p.is_file()} == {"01_sample.ipynb", "sweep.json"}


def test_feedback_can_be_written_for_all(graded, classroom):
    nbgrader(classroom.root, "generate_feedback", classroom.part)
    assert len(list((classroom.root / "feedback").rglob("01_sample.html"))) == len(graded[0])
    assert "course-card" in (classroom.root / "feedback" / "wrong" / classroom.part / "01_sample.html").read_text("utf-8")


# --- what the first step does to a submission, without running it


@pytest.fixture
def mended(classroom):
    """Hand in, let the step mend it and nbgrader's own check look at it; returns grade id → (place, cell)."""
    import nbformat
    from nbgrader.preprocessors import CheckCellMetadata

    from course_lib.classroom.nbgrader_steps import MendCells

    db_url = f"sqlite:///{classroom.root / 'gradebook.db'}"
    resources = {"nbgrader": {"notebook": classroom.stem, "assignment": classroom.part, "db_url": db_url}}

    def run(*changes):
        nb = nbformat.from_dict(handed_in(classroom, *changes))
        for c in nb.cells:
            c.source = "".join(c.source)
        nb, _ = CheckCellMetadata()(*MendCells()(nb, resources))
        nbformat.validate(nb)
        graded = [(i, c) for i, c in enumerate(nb.cells) if c.metadata.get("nbgrader")]
        return {c.metadata["nbgrader"]["grade_id"]: (i, c) for i, c in graded}

    return run


def test_a_good_submission_stays_as_it_is(mended, classroom):
    expected = [c for c in handed_in(classroom)["cells"] if "nbgrader" in c["metadata"]]
    found = [c for _, c in mended().values()]
    assert [c.metadata for c in found] == [c["metadata"] for c in expected]
    assert [c.source for c in found] == ["".join(c["source"]) for c in expected]


def test_of_copied_tests_the_first_counts_and_of_answers_the_last_changed(mended):
    assert mended(add_copy("check-sparsity", -1))["check_sparsity"][1].id == "check-sparsity"
    assert mended(add_copy("exercise-sparsity", 6))["sparsity"][1].id == "again-exercise-sparsity"
    answered = mended(None, add_copy("open-why_zeros", -1, "Zeros are numbers too."))
    assert answered["why_zeros"][1].source == "Zeros are numbers too."
    below = mended(None, add_copy("open-why_zeros", -1), replace("open-why_zeros", "YOUR ANSWER HERE", "Zeros are numbers."))
    assert below["why_zeros"][1].id == "open-why_zeros", "an untouched copy below an answer"


def test_deleted_cells_are_put_back_where_they_fail_or_belong(mended):
    found = mended(delete("check-sparsity", "check-megabytes", "exercise-megabytes", "open-why_zeros"))
    assert found["check_sparsity"][0] == found["sparsity"][0] + 1
    assert found["check_megabytes"][0] == 0, "above everything that could define the function"
    assert found["why_zeros"][0] == max(place for place, _ in found.values())
    assert "YOUR ANSWER HERE" in found["why_zeros"][1].source and "megabytes" not in found


@pytest.mark.parametrize(
    "change",
    [
        replace("check-sparsity", 'check("sparsity", sparsity)', "1000.0"),
        every_metadata(lambda old: old | {"points": 1000}),
        every_metadata(lambda old: old | {"schema_version": 1}),
        every_metadata(lambda old: old | {"grade": False, "locked": False, "checksum": "0" * 32}),
        lambda nb: cell(nb, "check-sparsity").update(cell_type="markdown"),
    ],
    ids=["text", "points", "schema", "flags", "kind"],
)
def test_what_is_graded_and_for_how_much_comes_from_the_gradebook(change, mended):
    """A test cell that was edited is the original again: same text, same points, same kind."""
    for name, (_, found) in mended(change).items():
        original = mended()[name][1]
        assert (found.cell_type, found.source, found.metadata["nbgrader"]) == (
            original.cell_type, original.source, original.metadata["nbgrader"],
        )  # fmt: skip


@pytest.mark.parametrize("junk", [{}, "junk", None, {"grade_id": "mine", "grade": True, "points": 9, "schema_version": 3}])
def test_metadata_that_the_gradebook_does_not_know_is_dropped(junk, mended):
    def add(nb):
        nb["cells"][0]["metadata"]["nbgrader"] = junk

    assert mended(add).keys() == mended().keys()
