"""The real nbgrader takes every part from release to feedback, and gives every known answer the points of the notebook's own check.

So does the engine of ``course grade``, from the same notebooks. All that takes half an hour, so ``make test-nbgrader`` runs it
and ``make test`` does not; ``test_nbgrader.py`` holds the mechanism.
"""

import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hand_in import close, server

from course_lib.classroom.grade_one import grade
from course_lib.classroom.layout import Lesson
from course_lib.classroom.parts import lessons_of
from course_lib.exercises.registry import LESSONS

ROOT, SEED = Path(__file__).parents[2], 3
pytestmark = [pytest.mark.nbgrader, pytest.mark.timeout(3600)]
sys.path.insert(0, str(ROOT / "data_scripts"))


def nbgrader(course: Path, *arguments: str) -> str:
    """Run the command in the course's folder, as an instructor does, in fast mode and with the class's cases; returns what it says."""
    environment = {**os.environ, "COURSE_FAST": "1", "COURSE_CHECK_SEED": str(SEED), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls alembic
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def students(part: str) -> dict[str, dict[str, tuple[dict, dict[str, float]]]]:
    """Student → lesson → (notebook, points expected): one solved, one untouched, and one for the k-th known answer of every exercise."""
    from made_up_class import Maker, cell_of

    found: dict[str, dict[str, tuple[dict, dict[str, float]]]] = {}
    for stem in lessons_of(part):
        maker, rng = Maker(Lesson(ROOT, part, stem), SEED), random.Random(0)
        for kind in ("solved", "untouched"):
            found.setdefault(kind, {})[stem] = maker.notebook([kind] * len(maker.exercises), "Because.", rng)
        for number, answers in enumerate(itertools.zip_longest(*maker.known.values())):
            nb, points = maker.notebook(["untouched"] * len(maker.exercises), "Because.", rng)
            cells = {c["metadata"].get("course", {}).get("exercise"): c for c in nb["cells"]}
            for exercise, answer in zip(maker.exercises, answers, strict=True):
                if answer is not None:
                    cells[exercise.id]["source"] = cell_of(answer).splitlines(keepends=True)
                    points[exercise.id] = maker.earned(exercise, answer.function)
            found.setdefault(f"answer_{number:02}", {})[stem] = nb, points
    return found


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close(["namespaces"])


@pytest.fixture(scope="module", params=list(dict.fromkeys(LESSONS.values())))
def part(request, tmp_path_factory):
    """A part that nbgrader released, graded, exported and wrote feedback for: (course, part, what was expected)."""
    course, name = tmp_path_factory.mktemp("whole") / "course", request.param
    shutil.copytree(ROOT / "solutions" / name, course / "solutions" / name)
    shutil.copyfile(ROOT / "nbgrader_config.py", course / "nbgrader_config.py")
    nbgrader(course, "generate_assignment", name, "--create", "--force")
    expected = students(name)
    for student, lessons in expected.items():
        for stem, (nb, _) in lessons.items():
            file = course / "submitted" / student / name / f"{stem}.ipynb"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(nb, indent=1, ensure_ascii=False), "utf-8")
    nbgrader(course, "autograde", name)
    nbgrader(course, "generate_feedback", name)
    nbgrader(course, "export")
    return course, name, expected


def test_the_release_is_what_this_repository_hands_out(part):
    course, name, _ = part
    for stem in lessons_of(name):
        released = (course / "notebooks" / name / f"{stem}.ipynb").read_bytes()
        assert released == (ROOT / "notebooks" / name / f"{stem}.ipynb").read_bytes(), stem


def test_every_known_answer_earns_what_the_check_gives(part):
    from nbgrader.api import Gradebook

    course, name, expected = part
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        found = {
            (s.student.id, n.name): {g.name: g.auto_score for g in n.grades}
            for s in gradebook.assignment_submissions(name)
            for n in s.notebooks
        }
    assert set(found) == {(student, stem) for student, lessons in expected.items() for stem in lessons}
    for student, lessons in expected.items():
        for stem, (_, points) in lessons.items():
            scores = {exercise: found[student, stem][f"check_{exercise}"] for exercise in points}
            assert scores == pytest.approx(points), (student, stem)


def test_course_grade_gives_the_same_notebooks_the_same_points(part):
    """The engine of ``course grade`` and the notebook's own check, run by nbgrader, agree exercise by exercise."""
    _, _, expected = part
    for student, lessons in expected.items():
        for stem, (nb, points) in lessons.items():
            result = grade(json.dumps(nb).encode(), student, stem, server(), SEED)
            assert result.error is None and result.flags == (), (student, stem)
            assert {e.id: e.points for e in result.exercises} == pytest.approx(points), (student, stem)


def test_every_student_gets_a_page_for_each_lesson_and_a_line_in_the_export(part):
    course, name, expected = part
    with (course / "grades.csv").open(encoding="utf-8", newline="") as file:
        lines = {row["student_id"]: row for row in csv.DictReader(file)}
    for student, lessons in expected.items():
        auto = sum(sum(points.values()) for _, points in lessons.values())
        assert float(lines[student]["raw_score"]) == pytest.approx(auto), student
        for stem in lessons:
            page = (course / "feedback" / student / name / f"{stem}.html").read_text("utf-8")
            assert "course-card" in page and stem.partition("_")[0] in page
