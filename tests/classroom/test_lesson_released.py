"""What learners get, of the sample and of every lesson of the course: no solution, and stubs that keep their promises."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from course_lib.classroom.layout import released
from course_lib.classroom.marks import without_solution
from course_lib.classroom.source import read_source
from course_lib.exercises.registry import find

REPOSITORY = Path(__file__).parents[2]
LESSONS = {lesson.stem: lesson for lesson in released(REPOSITORY)}


@pytest.fixture(params=["sample", *LESSONS])
def lesson(request, built):
    """The sample, then each lesson of the course."""
    return LESSONS.get(request.param, built)


def lines(text):
    return {line.strip() for line in text.splitlines() if line.strip()}


def split(text):
    """The lines of a source that learners may see, and those that only the solution has; by the text alone."""
    public, secret = set(), set()
    for block in re.split(r"^(?=# %%)", text, flags=re.MULTILINE):
        plain = re.sub(r"^# ?", "", block, flags=re.MULTILINE) if "[markdown]" in block.split("\n")[0] else block
        shown = "" if "solution_only=true" in block.split("\n")[0] else without_solution(plain)
        public |= lines(shown)
        secret |= lines(plain) - lines(shown)
    return public, {line for line in secret - public if not line.startswith("%%")}


def test_no_line_of_a_solution_is_in_the_learners_notebook(lesson):
    _, secret = split(lesson.source.read_text("utf-8"))
    assert secret
    nb = nbformat.read(lesson.notebook, as_version=4)
    assert lines("\n".join(c.source for c in nb.cells)) & secret == set()
    raw = lesson.notebook.read_text("utf-8")
    assert [line for line in secret if len(line) > 12 and line.replace('"', '\\"') in raw] == [], "nor in metadata"
    assert "BEGIN SOLUTION" not in raw and "END SOLUTION" not in raw


def hollow(solution, stub):
    """The solution's tree, with the body of each function that the stub leaves open replaced as the stub does."""
    opened = ast.dump(ast.parse("raise NotImplementedError()").body[0])
    names = {n.name for n in ast.walk(stub) if isinstance(n, ast.FunctionDef) and ast.dump(n.body[-1]) == opened}
    for node in ast.walk(solution):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            node.body = node.body[: ast.get_docstring(node) is not None] + ast.parse("raise NotImplementedError()").body
    return solution, names


def test_every_stub_is_the_solution_with_its_body_removed(lesson):
    """Same signature, types, decorators and docstring, by the syntax tree; nothing of the body is left."""
    solutions = {c.id: c.source for c in read_source(lesson, find).cells if "exercise" in c.metadata.get("course", {})}
    stubs = {c.id: c.source for c in nbformat.read(lesson.notebook, as_version=4).cells if c.id in solutions}
    assert solutions and solutions.keys() == stubs.keys()
    for name, text in solutions.items():
        expected, opened = hollow(ast.parse(text), ast.parse(stubs[name]))
        assert opened and ast.dump(expected) == ast.dump(ast.parse(stubs[name])), name


def test_every_exercise_tells_how_to_call_it(lesson):
    """A stub has a docstring and annotated arguments."""
    for cell in nbformat.read(lesson.notebook, as_version=4).cells:
        if exercise := cell.metadata.get("course", {}).get("exercise"):
            node = next(n for n in ast.parse(cell.source).body if getattr(n, "name", None) == exercise)
            assert ast.get_docstring(node), exercise
            if isinstance(node, ast.FunctionDef):
                assert all(a.annotation for a in node.args.args) and node.returns, exercise


def test_the_schedule_for_instructors_has_every_lesson_and_its_minutes_and_points():
    """Of `solutions/README.md`, from the metadata of the learners' notebooks."""
    about = {}
    for stem, lesson in LESSONS.items():
        course = nbformat.read(lesson.notebook, 4).metadata["course"]
        about[stem[:2]] = (course["minutes"], course["points"])
    rows = re.findall(
        r"^\| \d \| ([\d, ]+) \| (\d+) \| (\d+) \|", (REPOSITORY / "solutions/README.md").read_text("utf-8"), re.MULTILINE
    )
    taught = [lessons.split(", ") for lessons, _, _ in rows]
    assert [number for lessons in taught for number in lessons] == list(about) and len(rows) == 6
    for lessons, (_, minutes, points) in zip(taught, rows, strict=True):
        assert (int(minutes), int(points)) == tuple(sum(about[n][i] for n in lessons) for i in (0, 1)), lessons
