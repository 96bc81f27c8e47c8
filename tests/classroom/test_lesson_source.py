"""A source becomes a notebook: marks, metadata, ids, rendered lines; and each way to get a mark wrong has its message."""

import re
from types import SimpleNamespace

import pytest

from course_lib.classroom.source import exercise_line, read_source
from course_lib.errors import CourseError
from course_lib.exercises.registry import find

MEASURED = {"seconds": 40.6, "peak_mib": 381.0}
TITLE = "# %% [markdown]\n# # A title\n\n"
EXERCISE = '# %% exercise="sparsity"\ndef sparsity(w):\n    """Doc."""\n    ### BEGIN SOLUTION\n    return 0.0\n    ### END SOLUTION\n\n'
CHECK = '# %% check="sparsity"\ncheck("sparsity", sparsity)\n\n'


def test_marks_become_metadata_of_nbgrader_and_our_own_beside_it(course, cell):
    nb = read_source(course(), find, MEASURED)
    assert cell(nb, "exercise-sparsity").metadata == {
        "course": {"exercise": "sparsity"},
        "nbgrader": {
            "grade": False, "grade_id": "sparsity", "locked": False, "schema_version": 3, "solution": True, "task": False,
        },
    }  # fmt: skip
    assert cell(nb, "check-sparsity").metadata == {
        "course": {"check": "sparsity"},
        "nbgrader": {
            "grade": True, "grade_id": "check_sparsity", "locked": True, "points": find("sparsity").points,
            "schema_version": 3, "solution": False, "task": False,
        },
    }  # fmt: skip
    assert cell(nb, "open-why_zeros").metadata["nbgrader"] == {
        "grade": True, "grade_id": "why_zeros", "locked": False, "points": 3, "schema_version": 3, "solution": True, "task": False,
    }  # fmt: skip
    assert [c.source for c in nb.cells if "tags" in c.metadata] == ['print(f"{sparsity(w):.2f} of the weights are zero")']
    assert sum(c.metadata.get("course", {}).get("solution_only", False) for c in nb.cells) == 2


def test_the_notebook_knows_its_title_minutes_and_points(course):
    about = read_source(course(), find, MEASURED).metadata["course"]
    points = find("sparsity").points + find("megabytes").points + 3
    assert about == {"lesson": "01_sample", "minutes": 15, "points": points, "title": "How many weights are zero?"}


def test_lines_are_rendered_and_latex_is_left_alone(course):
    text = read_source(course(), find, MEASURED).cells[0].source
    assert "**about 15 minutes** · 0.4 GB · runs in 41 s" in text  # 381 MiB are 0.3995 · 10⁹ bytes
    assert "$x^{{2}}$" in text


@pytest.mark.parametrize(
    "difficulty, minutes, points, line",
    [(2, 8, 2, "★★☆☆☆ · 8 minutes · 2 points"), (5, 1, 1, "★★★★★ · 1 minute · 1 point"), (1, 15, 2.5, "★☆☆☆☆ · 15 minutes · 2.5 points")],
)  # fmt: skip
def test_the_line_of_an_exercise(difficulty, minutes, points, line):
    assert exercise_line(SimpleNamespace(difficulty=difficulty, minutes=minutes, points=points)) == line


def test_comments_that_look_like_commands_stay_comments(course):
    lines = "# copy the weights\n# %matplotlib inline\n# ls\n# !pip install x\nx = 1"
    assert read_source(course(TITLE + "# %%\n" + lines), find).cells[1].source == lines


def test_equal_sources_give_equal_notebooks_with_unique_ids(course):
    lesson = course()
    first, second = read_source(lesson, find, MEASURED), read_source(lesson, find, MEASURED)
    ids = [c.id for c in first.cells]
    assert first == second and len(set(ids)) == len(ids)
    assert [i for i in ids if "again" in i] == [ids[-2] + "-again-1"], "equal texts are numbered"


def test_a_cells_id_survives_changes_elsewhere_and_other_measurements(course):
    lesson = course()
    before = [c.id for c in read_source(lesson, find, MEASURED).cells]
    text = lesson.source.read_text("utf-8")
    lesson.source.write_text(
        text.replace("# ## The fraction", "# A new text.\n\n# %%\nnew = 1\n\n# %% [markdown]\n# ## The fraction", 1)
    )
    after = [c.id for c in read_source(lesson, find, {"seconds": 9.0, "peak_mib": 99.0}).cells]
    assert [i for i in before if i not in after] == [] and len(after) == len(before) + 2
    lesson.source.write_text(text.replace("return parameters", "return 1.0 * parameters"))
    assert [c.id for c in read_source(lesson, find, MEASURED).cells] == before, "an exercise keeps its id whatever its text"


OPEN = '# %% [markdown] open="{}" points=2\n# Why?\n#\n# ### BEGIN SOLUTION\n# So.\n# ### END SOLUTION\n\n'


@pytest.mark.parametrize("words, minutes", [(2, 5), (150, 5), (151, 10), (900, 10), (1500, 15)])
def test_minutes_are_exercises_plus_reading_rounded_up_to_five(words, minutes, course):
    """⌈(4 + words / 150) / 5⌉ · 5 with one exercise of 4 minutes; # A title is three words."""
    prose = "# %% [markdown]\n# " + "word " * (words - 3) + "\n\n"
    hidden = "# %% [markdown] solution_only=true\n# " + "word " * 5000 + "\n"
    text = TITLE + (prose if words > 3 else "") + EXERCISE + CHECK + hidden
    lesson = course(text if words > 3 else text.replace("# # A title", "# # A"))
    stub = SimpleNamespace(points=1, difficulty=1, minutes=4)
    assert read_source(lesson, lambda _: stub).metadata["course"]["minutes"] == minutes


@pytest.mark.parametrize(
    "more, minutes",
    [("", 5), ("# %%\npredict('a')\nquiz('b')\n\n" * 2, 10), (OPEN.format("a"), 10), (OPEN.format("a") + OPEN.format("b"), 15)],
)
def test_a_minute_for_each_prediction_and_quiz_and_four_for_an_open_question(more, minutes, course):
    """An exercise of 4 minutes, and 4 · 1, 4, or 2 · 4, with a few words to read; rounded up to five."""
    stub = SimpleNamespace(points=1, difficulty=1, minutes=4)
    assert read_source(course(TITLE + more + EXERCISE + CHECK), lambda _: stub).metadata["course"]["minutes"] == minutes


WRONG = {
    "unknown mark": ('# %% excercise="sparsity"\nx = 1', "unknown mark 'excercise'; expected one of exercise, check"),
    "a title on the line": ("# %% My cell\nx = 1", "unknown mark 'title'"),
    "an id that is no text": ("# %% exercise=3\nx = 1", "exercise = 3; expected an id in quotes"),
    "compare that is not true": ('# %% compare="yes"\nx = 1', "compare = 'yes'; expected true"),
    "compare=false": ("# %% compare=false\nx = 1", "compare = False; expected true"),
    "no points": ('# %% [markdown] open="why"\n# Why?', "expected open and points together"),
    "points without question": ("# %% [markdown] points=2\n# Why?", "expected open and points together"),
    "no points at all": ('# %% [markdown] open="why" points=0\n# Why?', "points = 0; expected a number above 0"),
    "true points": ('# %% [markdown] open="why" points=true\n# Why?', "points = True; expected a number above 0"),
    "a bad id": ('# %% [markdown] open="why not" points=1\n# Why?', "open = 'why not'; expected letters, digits"),
    "an accent": ('# %% [markdown] open="déjà" points=1\n# Why?', "open = 'déjà'; expected letters, digits"),
    "two roles": ('# %% exercise="sparsity" check="sparsity"\nx = 1', "both exercise and check; expected one of them"),
    "hidden exercise": ('# %% exercise="sparsity" solution_only=true\nx = 1', "both exercise and solution_only"),
    "exercise in a text": ('# %% [markdown] exercise="sparsity"\n# x', "exercise on a markdown cell; expected a code cell"),
    "compared text": ("# %% [markdown] compare=true\n# x", "compare on a markdown cell; expected a code cell"),
    "question in code": ('# %% open="why" points=1\nx = 1', "on a code cell; expected a markdown cell"),
    "no solution": ('# %% exercise="sparsity"\ndef sparsity(w):\n    return 0', "of no solution; expected BEGIN SOLUTION"),
    "no end": (EXERCISE.replace("    ### END SOLUTION\n", ""), "expected BEGIN SOLUTION and END SOLUTION"),
    "two begins": (EXERCISE.replace("return 0.0", "### BEGIN SOLUTION"), "expected BEGIN SOLUTION and END SOLUTION"),
    "a stray solution": ("# %%\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "in cells with exercise or open and in no others"),
    "no model answer": ('# %% [markdown] open="why" points=1\n# Why?', "of no solution; expected BEGIN SOLUTION"),
    "another name": (EXERCISE.replace("def sparsity", "def density"), "defines ['density']; expected a function or class named sparsity"),
    "no Python": (EXERCISE.replace("return 0.0", "return ="), "line 4: invalid syntax"),
    "check of another": (EXERCISE + CHECK.replace('check("sparsity"', 'check("density"'), 'expected check("sparsity", …) as the last line'),
    "check is not last": (EXERCISE + CHECK.replace("\n\n", "\nx = 1\n"), 'expected check("sparsity", …) as the last line'),
    "check is assigned": (EXERCISE + CHECK.replace("\ncheck(", "\ny = check("), 'expected check("sparsity", …) as the last line'),
    "an empty check": ('# %% check="sparsity"\n', 'expected check("sparsity", …) as the last line'),
    "check first": (CHECK + EXERCISE, "no cell before it has exercise = 'sparsity'"),
    "no check": (EXERCISE, "no cell after it has check = 'sparsity'"),
    "exercise twice": (EXERCISE + CHECK + EXERCISE, "sparsity is already the id of"),
    "check twice": (EXERCISE + CHECK + CHECK, "check_sparsity is already the id of"),
    "an exercise of nobody": ((EXERCISE + CHECK).replace("sparsity", "sparsty"), "There is no exercise 'sparsty'; did you mean 'sparsity'"),
    "a line of nobody": ("# %% [markdown]\n# {{exercise sparsity}}", "the lesson has no such exercise; it has none"),
    "a misspelt line": ("# %% [markdown]\n# {{lessons}}", "{{lessons}}: expected {{lesson}} or {{exercise ID}}"),
    "a misspelt exercise": ("# %% [markdown]\n# {{exercize sparsity}}", "{{exercize sparsity}}: expected {{lesson}}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mark_is_named_with_its_cell(kind, course):
    text, said = WRONG[kind]
    with pytest.raises(CourseError, match=re.escape(said)) as caught:
        read_source(course(TITLE + text), find, MEASURED)
    assert kind == "an exercise of nobody" or "solutions/1_sample/01_sample.py, cell " in str(caught.value)


@pytest.mark.parametrize("text", ["", "# %%\n# a comment in code\n", "# %% [markdown]\n# ## A small title\n"])
def test_a_lesson_without_a_title_is_refused(text, course):
    lesson = course("x")
    lesson.source.write_text(text)
    with pytest.raises(CourseError, match="expected a markdown cell with the lesson's title"):
        read_source(lesson, find)


def test_a_source_that_cannot_be_read_is_named(course):
    lesson = course()
    lesson.source.write_bytes(b"# %% [markdown]\n# # Caf\xe9\n")
    with pytest.raises(CourseError, match=r"Cannot read solutions/1_sample/01_sample.py: 'utf-8' codec"):
        read_source(lesson, find)
    lesson.source.unlink()
    with pytest.raises(CourseError, match=r"Cannot read solutions/1_sample/01_sample.py: .*No such file"):
        read_source(lesson, find)
