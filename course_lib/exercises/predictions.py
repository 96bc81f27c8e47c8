"""``predict`` and ``reveal``: commit to a number or a ranking, then see it beside the measurement."""

import math
import numbers
import re
from collections.abc import Sequence

from course_lib.errors import CourseError
from course_lib.exercises.card import Card
from course_lib.exercises.mode import headless
from course_lib.exercises.progress import read_progress, record_measurement, record_prediction

ASKED: dict[str, str] = {}  # name → unit of the predictions that were asked for in this session, made or not
THOUSANDS = re.compile(r"-?[1-9]\d{0,2}([ _,]\d{3})+(\.\d*)?")


def predict(
    name: str, question: str, unit: str = "", choices: Sequence[str] | None = None, answer: float | str | None = None
) -> None:
    """Ask for a prediction and keep the first one.

    Args:
        name: its id, which :func:`reveal` uses.
        question: what is asked.
        unit: of the number, such as ``"%"``.
        choices: for a choice instead of a number.
        answer: the prediction itself, for those who rather type than press: ``predict(…, answer=75)``.
    """
    ASKED[name] = unit
    kept = read_progress()["predictions"].get(name)
    if kept is not None:
        said = f"Your prediction: {with_unit(kept['value'], kept['unit'])}. It is kept"
        other = answer is not None and answer != kept["value"]
        Card("note", question, [said + ("; the first one counts." if other else ".")]).show()
        return
    if answer is not None:
        value = acceptable(answer, choices)
        if value is None:
            Card("wrong", f"answer = {answer!r}: expected {_expected(choices)}.").show()
            return
        Card("note", question, [f"Your prediction: {with_unit(value, unit)}. {_keep(name, value, unit)}"]).show()
        return
    options = [f"Choices: {' | '.join(choices)}"] if choices else []
    if headless():
        how = f"`predict(…, answer={choices[0]!r})`" if choices else "`predict(…, answer=50)`"
        Card("note", question, [*options, f"Predict before you run on: add your answer, as in {how}."]).show()
        return
    Card("note", question, options).show()
    _form(name, unit, choices)


def reveal(name: str, measured: float | str, unit: str = "", digits: int = 3) -> None:
    """Show the prediction beside what was measured.

    Args:
        name: of the prediction.
        measured: the number, or the choice, that came out; a tensor or NumPy number is as good.
        unit: of the number, where no prediction has one; else the one that was asked for.
        digits: significant digits shown.
    """
    if not isinstance(measured, str):
        measured = float(measured)
    try:
        entry = record_measurement(name, measured)
    except CourseError:
        entry = read_progress()["predictions"].get(name)
    unit = (entry or {}).get("unit") or unit or ASKED.get(name, "")
    title = f"Measured: {with_unit(measured, unit, digits)}"
    if entry is None:
        Card("note", title, ["You made no prediction for this one. The next one is worth the ten seconds."]).show()
        return
    value = entry["value"]
    line = f"You predicted {with_unit(value, unit, digits)}."
    if isinstance(value, str) or isinstance(measured, str):
        line += " That is what came out." if value == measured else ""
    else:
        gap = abs(value - measured)
        line += " Exactly." if gap <= 1e-6 * abs(measured) else f" Off by {with_unit(gap, unit, digits)}."
    Card("note", title, [line]).show()


def acceptable(answer: object, choices: Sequence[str] | None) -> float | str | None:
    """The prediction as it is kept: one of the choices, or a finite number (also as text); None when it is neither."""
    if choices:
        return answer if isinstance(answer, str) and answer in choices else None
    if isinstance(answer, str):
        return number(answer)
    known = isinstance(answer, numbers.Real) and not isinstance(answer, bool) and math.isfinite(answer)
    return (answer if isinstance(answer, int) else float(answer)) if known else None


def _expected(choices: Sequence[str] | None) -> str:
    return "one of " + ", ".join(map(repr, choices)) if choices else "a number"


def _keep(name: str, value: float | str, unit: str) -> str:
    """Keep it, and say whether that worked."""
    try:
        record_prediction(name, value, unit)
    except CourseError as error:
        return f"It could not be kept: {error}"
    return "It is kept."


def with_unit(value: float | str, unit: str, digits: int = 3) -> str:
    """A value for a reader.

    >>> with_unit(12345.6, "ms"), with_unit(0.12345, ""), with_unit("the first", "%")
    ('12,346 ms', '0.123', 'the first')
    """
    if isinstance(value, str):
        return value
    text = f"{value:,.0f}" if 10**digits <= abs(value) < 1e15 else f"{value:.{digits}g}"
    return f"{text} {unit}".strip()


def _form(name: str, unit: str, choices: Sequence[str] | None) -> None:
    """A field and a button."""
    import ipywidgets as widgets
    from IPython.display import display

    field = (
        widgets.Dropdown(options=["", *choices]) if choices else widgets.Text(placeholder="a number", layout={"width": "8em"})
    )
    button, said = widgets.Button(description="That is my guess"), widgets.Label(unit)

    def commit(_) -> None:
        value = acceptable(field.value, choices)
        if value is None:
            said.value = "Choose one first." if choices else "A number, please, such as 12.5."
            return
        said.value = f"{with_unit(value, unit, digits=6)}. {_keep(name, value, unit)} Run on."
        field.disabled = button.disabled = True

    button.on_click(commit)
    display(widgets.HBox([field, said, button]))


def number(text: str) -> float | None:
    """The finite number somebody typed, with a point or a comma; None when it is none.

    >>> number("12,5"), number("75 %"), number("1,500"), number("many")
    (12.5, 75.0, 1500.0, None)
    """
    text = text.strip().rstrip("%× ")
    text = re.sub("[ _,]", "", text) if THOUSANDS.fullmatch(text) else text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
