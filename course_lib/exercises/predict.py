"""``predict`` and ``reveal``: commit to a number or a ranking, then see it beside the measurement."""

import math
from collections.abc import Sequence

from course_lib.errors import CourseError
from course_lib.exercises.card import Card
from course_lib.exercises.mode import headless
from course_lib.exercises.progress import read_progress, record_measurement, record_prediction


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
    kept = read_progress()["predictions"].get(name)
    if kept is None and answer is not None:
        if not _acceptable(answer, choices):
            expected = "one of " + ", ".join(map(repr, choices)) if choices else "a number"
            Card("wrong", f"answer = {answer!r}: expected {expected}.").show()
            return
        _keep(name, answer, unit)
        kept = {"value": answer, "unit": unit}
    if kept is not None:
        Card("note", question, [f"Your prediction: {_with_unit(kept['value'], kept['unit'])}. It is kept."]).show()
        return
    how = f"`predict(…, answer={choices[0]!r})`" if choices else "`predict(…, answer=50)`"
    options = [f"Choices: {', '.join(choices)}."] if choices else []
    if headless():
        Card("note", question, [*options, f"Predict before you run on: add your answer, as in {how}."]).show()
        return
    Card("note", question, options).show()
    _form(name, unit, choices)


def reveal(name: str, measured: float | str, unit: str = "", digits: int = 3) -> None:
    """Show the prediction beside what was measured.

    Args:
        name: of the prediction.
        measured: the number, or the choice, that came out.
        unit: of the number, where no prediction has one.
        digits: significant digits shown.
    """
    try:
        entry = record_measurement(name, measured)
    except CourseError:
        entry = read_progress()["predictions"].get(name)
    unit = (entry or {}).get("unit") or unit
    result = _with_unit(measured, unit, digits)
    if entry is None:
        Card(
            "note", f"Measured: {result}", ["You made no prediction for this one. The next one is worth the ten seconds."]
        ).show()
        return
    value = entry["value"]
    lines = [f"You predicted {_with_unit(value, unit, digits)}."]
    if isinstance(value, (int, float)) and isinstance(measured, (int, float)):
        gap = abs(value - measured)
        lines[0] += f" Off by {_with_unit(gap, unit, digits)}." if gap else " Exactly."
    else:
        lines[0] += " That is what came out." if value == measured else ""
    Card("note", f"Measured: {result}", lines).show()


def _acceptable(answer: object, choices: Sequence[str] | None) -> bool:
    return answer in choices if choices else isinstance(answer, (int, float)) and not isinstance(answer, bool)


def _keep(name: str, value: float | str, unit: str) -> None:
    try:
        record_prediction(name, value, unit)
    except CourseError as error:
        Card("wrong", f"Your prediction could not be kept: {error}").show()


def _with_unit(value: float | str, unit: str, digits: int = 3) -> str:
    if isinstance(value, str):
        return value
    number = f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return f"{number} {unit}".strip()


def _form(name: str, unit: str, choices: Sequence[str] | None) -> None:
    """A field and a button."""
    import ipywidgets as widgets
    from IPython.display import display

    field = (
        widgets.Dropdown(options=["", *choices]) if choices else widgets.Text(placeholder="a number", layout={"width": "8em"})
    )
    button, said = widgets.Button(description="That is my guess"), widgets.Label(unit)

    def commit(_) -> None:
        value = field.value if choices else number(field.value)
        if value in (None, ""):
            said.value = "Choose one first." if choices else "A number, please, such as 12.5."
            return
        _keep(name, value, unit)
        field.disabled = button.disabled = True
        said.value = f"{unit} Kept. Run on.".strip()

    button.on_click(commit)
    display(widgets.HBox([field, said, button]))


def number(text: str) -> float | None:
    """The finite number somebody typed, with a point or a comma; None when it is none.

    >>> number("12,5"), number("75 %"), number("many")
    (12.5, 75.0, None)
    """
    try:
        value = float(text.strip().rstrip("%× ").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
