"""Predictions are kept once and shown beside the measurement, with buttons and without."""

import math

import ipywidgets
import numpy as np
import pytest
import torch

from course_lib.exercises import predict, reveal
from course_lib.exercises.predictions import acceptable, number, with_unit
from course_lib.exercises.progress import read_progress


def predictions():
    return read_progress()["predictions"]


@pytest.fixture
def form(monkeypatch):
    """A function that calls ``predict`` as in a notebook somebody looks at; returns (field, label, button)."""
    monkeypatch.setenv("COURSE_HEADLESS", "0")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)

    def form(*args, **kwargs):
        shown.clear()
        predict(*args, **kwargs)
        boxes = [w for w in shown if isinstance(w, ipywidgets.Widget)]
        return boxes[0].children if boxes else None

    return form


def test_without_buttons_one_is_told_how_to_answer(said):
    predict("size", "How large?", unit="%")
    assert said() == "• How large?\n  Predict before you run on: add your answer, as in `predict(…, answer=50)`.\n"
    predict("which", "Which one?", choices=("rows", "columns"))
    assert said() == (
        "• Which one?\n  Choices: rows | columns\n"
        "  Predict before you run on: add your answer, as in `predict(…, answer='rows')`.\n"
    )
    assert predictions() == {}


def test_a_prediction_is_kept_and_the_first_one_counts(said):
    predict("size", "How large?", unit="%", answer=75)
    assert said() == "• How large?\n  Your prediction: 75 %. It is kept.\n"
    predict("size", "How large?", unit="%", answer=75)
    assert said() == "• How large?\n  Your prediction: 75 %. It is kept.\n"
    predict("size", "How large?", unit="%", answer=20)
    assert said() == "• How large?\n  Your prediction: 75 %. It is kept; the first one counts.\n"
    predict("size", "How large?", unit="%")
    assert said() == "• How large?\n  Your prediction: 75 %. It is kept.\n"
    assert predictions() == {"size": {"value": 75, "unit": "%"}}


@pytest.mark.parametrize("answer", [math.nan, math.inf, True, "many", [1], torch.ones(1)])
def test_what_is_no_number_is_refused(answer, said):
    predict("size", "How large?", answer=answer)
    assert said() == f"✘ answer = {answer!r}: expected a number.\n" and predictions() == {}


@pytest.mark.parametrize("answer", ["diagonals", 1, True])
def test_what_is_no_choice_is_refused(answer, said):
    predict("which", "Which?", choices=("rows", "columns"), answer=answer)
    assert said() == f"✘ answer = {answer!r}: expected one of 'rows', 'columns'.\n" and predictions() == {}


def test_the_measurement_comes_beside_the_prediction(said):
    predict("size", "How large?", unit="%", answer=75)
    said()
    reveal("size", 80.25)
    assert said() == "• Measured: 80.2 %\n  You predicted 75 %. Off by 5.25 %.\n"
    assert predictions()["size"] == {"value": 75, "unit": "%", "measured": 80.25}
    reveal("size", 75)
    assert said() == "• Measured: 75 %\n  You predicted 75 %. Exactly.\n"


@pytest.mark.parametrize("measured", [torch.tensor(0.5), np.float32(0.5), 0.5])
def test_a_measurement_may_be_any_number(measured, said):
    predict("share", "?", answer=1)
    reveal("share", measured)
    assert said().endswith("• Measured: 0.5\n  You predicted 1. Off by 0.5.\n")


def test_a_measurement_that_is_no_finite_number_is_shown_and_not_kept(said):
    predict("loss", "?", answer=1)
    reveal("loss", math.nan)
    assert said().endswith("• Measured: nan\n  You predicted 1. Off by nan.\n") and "measured" not in predictions()["loss"]


def test_a_choice_is_compared_as_text(said):
    predict("which", "Which?", choices=("rows", "columns"), answer="rows")
    reveal("which", "rows")
    assert said().endswith("• Measured: rows\n  You predicted rows. That is what came out.\n")
    reveal("which", "columns")
    assert said() == "• Measured: columns\n  You predicted rows.\n"
    reveal("which", 3)  # a number where a choice was predicted
    assert said() == "• Measured: 3\n  You predicted rows.\n"


def test_without_a_prediction_there_is_only_the_measurement(said):
    reveal("size", 12345.6, unit="kB")
    assert said() == ("• Measured: 12,346 kB\n  You made no prediction for this one. The next one is worth the ten seconds.\n")
    assert predictions() == {}


def test_a_measurement_has_the_unit_that_was_asked_for_though_nobody_answered(said):
    predict("share", "How much?", unit="%")
    reveal("share", 29.9)
    assert said().endswith(
        "• Measured: 29.9 %\n  You made no prediction for this one. The next one is worth the ten seconds.\n"
    )


def test_where_progress_cannot_be_kept_nothing_raises(said, progress, monkeypatch):
    predict("size", "?", answer=1)
    said()
    monkeypatch.setattr(
        "course_lib.exercises.progress.write_json", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    predict("other", "?", answer=2)
    assert "Your prediction: 2. It could not be kept: " in said()
    reveal("size", 3)
    assert said() == "• Measured: 3\n  You predicted 1. Off by 2.\n"


# With buttons. -------------------------------------------------------------------------------------------------------


def test_a_number_is_typed_and_committed_with_the_button(form):
    field, label, button = form("size", "How large?", unit="%")
    assert label.value == "%"
    field.value = "a lot"
    button.click()
    assert label.value == "A number, please, such as 12.5." and predictions() == {} and not button.disabled
    field.value = " 12,5 %"
    button.click()
    assert label.value == "12.5 %. It is kept. Run on." and button.disabled and field.disabled
    assert predictions() == {"size": {"value": 12.5, "unit": "%"}}
    assert form("size", "How large?") is None  # no second form


def test_a_choice_is_picked_and_committed_with_the_button(form):
    field, label, button = form("which", "Which?", choices=("rows", "columns"))
    assert field.options == ("", "rows", "columns")
    button.click()
    assert label.value == "Choose one first." and predictions() == {}
    field.value = "columns"
    button.click()
    assert label.value == "columns. It is kept. Run on." and predictions()["which"]["value"] == "columns"


def test_a_form_says_when_the_prediction_could_not_be_kept(form, progress):
    field, label, button = form("size", "How large?")
    progress.parent.write_text("a file where a folder is needed")
    field.value = "3"
    button.click()
    assert label.value.startswith("3. It could not be kept: ")


# Numbers. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [("12.5", 12.5), ("12,5", 12.5), (" 75 %", 75), ("3×", 3), ("-4", -4), ("1e3", 1000), ("1,000", 1000), ("1 500 000", 1.5e6)]
    + [("1_000", 1000), ("1,234.5", 1234.5), ("0,125", 0.125), ("", None), ("ten", None), ("nan", None), ("inf", None)]
    + [("1,2,3", None)],
)  # fmt: skip
def test_numbers_are_read_as_people_type_them(text, value):
    assert number(text) == value
    assert acceptable(text, None) == value


def test_numbers_of_all_kinds_become_plain_ones():
    assert [type(acceptable(v, None)) for v in (3, 3.5, np.float32(3.5), np.int64(3))] == [int, float, float, float]


def test_numbers_are_written_with_their_unit():
    written = [with_unit(v, "ms") for v in (0.00012345, 12.345, 999, 1234.5, 1e20, math.inf, -2000)]
    assert written == ["0.000123 ms", "12.3 ms", "999 ms", "1,234 ms", "1e+20 ms", "inf ms", "-2,000 ms"]
