"""What a student gets back: one page with points, a message for what went wrong, and comments on open answers.

Neither solutions nor the inputs that were drawn for grading are in it: a known mistake is explained on an input that the
notebook's own check draws, calls are shown without their arguments, and a number that was drawn for grading alone is shown as …
What a learner's own code said of its inputs is not even in the results (see ``said.py``). All that a learner wrote is escaped.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch

from course_lib.classroom.gradebook import Row
from course_lib.classroom.manual import Given, Key
from course_lib.classroom.pages import markdown, render
from course_lib.classroom.parts import OpenQuestion
from course_lib.classroom.results import ExerciseResult, Result
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.judge import judge
from course_lib.exercises.registry import find
from course_lib.exercises.run import run_cases

TEXT_LIMIT = 20_000  # characters of an open answer that are shown
SAID = {
    "solved": "Solved.",
    "partial": "Partly right.",
    "wrong": "Not right yet.",
    "not attempted": "Not attempted.",
    "missing": "There is no such function in the notebook.",
    "crashed": "Its code could not be run to its end.",
    "timed out": "It took too long and was stopped.",
    "refused": "It was not graded.",
}
UNTOUCHED = "YOUR ANSWER HERE"
NUMBER = re.compile(r"[-−]?(?:\d+\.\d+|\d{1,3}(?:[,_]\d{3})+|\d{4,})")  # small whole numbers are sizes and places


def feedback_page(
    row: Row, results: Sequence[Result], questions: Sequence[OpenQuestion], given: Mapping[Key, Given], part: str, most: float
) -> str:
    """The page of one student.

    Args:
        row: their row of the gradebook.
        results: theirs, in the order of lessons.
        questions: the part's open questions.
        given: what a person gave to open answers.
        part: its name.
        most: points that the whole part is worth.
    """
    lessons = [_lesson(r, [q for q in questions if q.lesson == r.lesson], given) for r in results]
    return render(
        "feedback.html.j2", student=row.student, part=part, earned=row.total, of=most, waiting=row.waiting, lessons=lessons
    )


def page_name(student: str) -> str:
    """The file of a student's page; a name that is too long, or that a file system may refuse, is changed and gets a mark.

    >>> page_name("Anna Berg_4061"), len(page_name("x" * 300))
    ('Anna Berg_4061.html', 113)
    """
    if len(student.encode()) <= 100 and not re.search(r'[<>:"|?*\\]', student):
        return f"{student}.html"
    kept = re.sub(r'[<>:"|?*\\]', "_", student.encode()[:100].decode("utf-8", "ignore"))
    return f"{kept}-{hashlib.sha256(student.encode()).hexdigest()[:7]}.html"


def _lesson(result: Result, questions: Sequence[OpenQuestion], given: Mapping[Key, Given]) -> dict:
    texts = {a.id: a.text for a in result.answers}
    answers = [
        {
            "question": markdown(q.text.replace(UNTOUCHED, "")),
            "text": texts[q.id].strip()[:TEXT_LIMIT],
            "of": q.points,
            "given": given.get((result.student, result.lesson, q.id)),
        }
        for q in questions
        if q.id in texts
    ]
    exercises = [] if result.error else [_exercise(e, result.seed) for e in result.exercises]
    earned = result.points + sum(a["given"].points for a in answers if a["given"])
    of = result.max_points + sum(a["of"] for a in answers)
    return {
        "name": result.lesson or "Not graded",
        "note": result.error,
        "earned": earned,
        "of": of,
        "exercises": exercises,
        "answers": answers,
    }


def _exercise(e: ExerciseResult, seed: int) -> dict:
    cases = [{"name": c.name, "passed": c.passed, "message": without_inputs(e.id, c.message, seed)} for c in e.cases]
    about = {"id": e.id, "title": find(e.id).title, "points": e.points, "of": e.max_points, "verdict": SAID[e.verdict]}
    return {**about, "message": message_for(e, seed), "cases": cases}


def message_for(result: ExerciseResult, seed: int) -> str:
    """What a student is told of an exercise, without inputs that were drawn for grading."""
    if result.misconception:
        return _explained(find(result.id), result.misconception)
    return without_inputs(result.id, result.message, seed)


def without_inputs(name: str, message: str, seed: int) -> str:
    """A message without the arguments of calls, what came of these, and the numbers that only cases of this seed have.

    >>> without_inputs("sparsity", "With a matrix, `sparsity(tensor([1., 2.]))` gave 3.5: its value is too large.", 1)
    'With a matrix, `sparsity(…)`: its value is too large.'
    """
    message = re.sub(rf"`{name}\([^`]*`(?: …`)? gave .*?: ", f"`{name}(…)`: ", message, flags=re.DOTALL)
    message = re.sub(rf"`{name}\([^`]*`", f"`{name}(…)`", message)
    return NUMBER.sub(lambda found: "…" if _was_drawn(found[0], name, seed) else found[0], message)


def _was_drawn(text: str, name: str, seed: int) -> bool:
    """Whether a number, as far as its digits go, is one of the inputs of this seed and none of the notebook's own."""
    value = float(text.replace(",", "").replace("_", "").replace("−", "-"))
    digits = len(text.partition(".")[2])
    return abs(value) in _rounded(name, seed, digits) - _rounded(name, 0, digits)


@cache
def _rounded(name: str, seed: int, digits: int) -> frozenset[float]:
    """The sizes of all numbers in the inputs of a seed, rounded to so many digits behind the point."""
    return frozenset(round(abs(x), digits) for case in find(name).draw(seed) for x in _numbers((case.args, case.calls)))


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, torch.Tensor):
        yield from (x for x in value.detach().flatten().tolist() if isinstance(x, (int, float)))
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield value


@cache
def _explained(exercise: Exercise, misconception: str) -> str:
    """The words for a known mistake that the notebook's own check finds for it, on an input that it draws itself."""
    mistake = next(m.mistake for m in exercise.misconceptions if m.name == misconception)
    cases = exercise.draw(0)
    return judge(exercise, cases, run_cases(mistake, cases, exercise.seconds)).message
