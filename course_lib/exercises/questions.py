"""``quiz``: questions for reflection whose every answer is explained."""

from course_lib.errors import CourseError
from course_lib.exercises.card import Card
from course_lib.exercises.exercise import Question
from course_lib.exercises.mode import headless
from course_lib.exercises.predictions import acceptable, with_unit
from course_lib.exercises.progress import record_answer
from course_lib.exercises.registry import find_question

LETTERS = "abcdefgh"


def quiz(question: str, answer: str | float | None = None) -> None:
    """Show a question; with an answer, say whether it is right and why.

    Args:
        question: its id.
        answer: a letter (``"a"``) or, where a number is asked, the number. Without it there are buttons.
    """
    try:
        found = find_question(question)
    except CourseError as error:
        Card("wrong", str(error)).show()
        return
    if answer is not None:
        respond(found, answer).show()
        return
    options = [f"({letter}) {c.text}" for letter, c in zip(LETTERS, found.choices, strict=False)]
    if headless():
        how = f'`quiz("{found.id}", "a")`' if found.choices else f'`quiz("{found.id}", 1.5)`'
        Card("note", found.text, [*options, f"Answer with {how}."]).show()
        return
    Card("note", found.text, options).show()
    _form(found)


def respond(question: Question, answer: str | float) -> Card:
    """The card that an answer gets; the answer is noted in the progress."""
    if question.choices:
        letter = str(answer).strip().strip("()").lower()
        index = LETTERS.find(letter) if len(letter) == 1 else -1
        if not 0 <= index < len(question.choices):
            return Card("wrong", f"answer = {answer!r}: expected one of {', '.join(LETTERS[: len(question.choices)])}.")
        choice = question.choices[index]
        right, lines = choice.right, [choice.explanation]
        title = f"({letter}) {choice.text}"
    else:
        value = acceptable(answer, None)
        if value is None:
            return Card("wrong", f"answer = {answer!r}: expected a number.")
        right = abs(value - question.number) <= question.tolerance
        lines = [question.explanation if right else _slip(question, value)]
        title = with_unit(value, "", digits=6)
    try:
        record_answer(question.id, right)
    except CourseError as error:
        lines.append(f"Your answer could not be kept: {error}")
    return Card("passed" if right else "wrong", f"{title}: {'right' if right else 'not right'}", lines)


def _slip(question: Question, value: float) -> str:
    """What to tell whoever answers this wrong number."""
    known = (says for slip, says in question.slips if abs(value - slip) <= 0.005 * max(1.0, abs(slip)))
    return next(known, "Work it out once more before you look it up.")


def _form(question: Question) -> None:
    """Buttons for the choices, or a field; the card appears below."""
    import ipywidgets as widgets
    from IPython.display import display

    out = widgets.Output()

    def answer(value) -> None:
        out.clear_output()
        with out:
            respond(question, value).show()

    if question.choices:
        buttons = [
            widgets.Button(description=f"({letter})", layout={"width": "4em"}) for letter in LETTERS[: len(question.choices)]
        ]
        for button in buttons:
            button.on_click(lambda b: answer(b.description))
        display(widgets.VBox([widgets.HBox(buttons), out]))
        return
    field, button = widgets.Text(placeholder="a number", layout={"width": "8em"}), widgets.Button(description="Answer")
    button.on_click(lambda _: answer(field.value))
    display(widgets.VBox([widgets.HBox([field, button]), out]))
