"""Questions for reflection: every answer is explained, with buttons and without."""

import ipywidgets
import pytest
import torch
from samples import ROOM

from course_lib.exercises import quiz
from course_lib.exercises.exercise import Question
from course_lib.exercises.progress import read_progress
from course_lib.exercises.questions import respond

pytestmark = pytest.mark.usefixtures("samples")
CHOICES, NUMBER = ROOM


def answers():
    return read_progress()["questions"]


@pytest.fixture
def form(monkeypatch):
    """A function that calls ``quiz`` as in a notebook somebody looks at; returns the widgets of its form and what is shown."""
    monkeypatch.setenv("COURSE_HEADLESS", "0")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)

    def form(question):
        quiz(question)
        box = next(w for w in shown if isinstance(w, ipywidgets.Widget))
        return box.children[0].children, shown

    return form


def test_without_buttons_a_question_says_how_to_answer(said):
    quiz("zeros")
    assert said() == ('• What does a zero take?\n  (a) nothing\n  (b) 4 bytes\n  Answer with `quiz("zeros", "a")`.\n')
    quiz("ratio")
    assert said() == '• How many times smaller?\n  Answer with `quiz("ratio", 1.5)`.\n'
    assert answers() == {}


def test_every_choice_is_explained_and_tries_are_counted_until_it_is_right(said):
    quiz("zeros", "a")
    assert said() == "✘ (a) nothing: not right\n  It is stored like any other.\n"
    quiz("zeros", " (B) ")
    assert said() == "✔ (b) 4 bytes: right\n  As every float32 does.\n"
    quiz("zeros", "a")
    assert answers() == {"zeros": {"tries": 2, "right": True}}


@pytest.mark.parametrize("answer", ["c", "", "ab", "1", 1, 3.5])
def test_a_letter_that_is_none_is_said_so(answer, said):
    quiz("zeros", answer)
    assert said() == f"✘ answer = {answer!r}: expected one of a, b.\n" and answers() == {}


@pytest.mark.parametrize("answer, title", [(6, "6"), (6.05, "6.05"), ("6,0", "6"), (5.91, "5.91")])
def test_a_number_within_the_tolerance_is_right(answer, title, said):
    quiz("ratio", answer)
    assert said() == f"✔ {title}: right\n  90 / 15 = 6.\n" and answers()["ratio"]["right"]


def test_a_number_beyond_it_is_not_and_the_answer_stays_to_be_found(said):
    quiz("ratio", 75.0)
    assert said() == "✘ 75: not right\n  Work it out once more before you look it up.\n"
    assert answers() == {"ratio": {"tries": 1, "right": False}}


@pytest.mark.parametrize("answer, told", [(83.3, True), ("83", True), (0.833, False), (80, False)])
def test_a_wrong_number_that_is_a_known_slip_is_told_which(answer, told):
    question = Question("saving", "How many times?", number=6.0, explanation="90 / 15.", slips=((83.3, "That is the saving."),))
    assert ("That is the saving." in repr(respond(question, answer))) == told


@pytest.mark.parametrize("answer", ["six", True, float("nan"), torch.ones(2)])
def test_what_is_no_number_is_said_so(answer, said):
    quiz("ratio", answer)
    assert said() == f"✘ answer = {answer!r}: expected a number.\n" and answers() == {}


def test_a_question_that_is_not_there_is_said_so(said):
    quiz("zeroes")
    assert said() == "✘ There is no question 'zeroes'; did you mean 'zeros'?\n"


def test_where_progress_cannot_be_kept_the_answer_is_explained_all_the_same(said, progress):
    progress.parent.write_text("a file where a folder is needed")
    quiz("zeros", "b")
    assert said().startswith("✔ (b) 4 bytes: right\n  As every float32 does.\n  Your answer could not be kept: ")


def test_choices_are_buttons_and_the_card_appears_below(form):
    buttons, shown = form("zeros")
    assert [b.description for b in buttons] == ["(a)", "(b)"]
    buttons[0].click()
    buttons[1].click()
    assert answers() == {"zeros": {"tries": 2, "right": True}}
    assert repr(shown[-1]) == "✔ (b) 4 bytes: right\n  As every float32 does."


def test_a_number_is_typed_and_sent_with_the_button(form):
    (field, button), shown = form("ratio")
    field.value = "six"
    button.click()
    assert repr(shown[-1]) == "✘ answer = 'six': expected a number." and answers() == {}
    field.value = "6,0"
    button.click()
    assert repr(shown[-1]) == "✔ 6: right\n  90 / 15 = 6." and answers()["ratio"]["right"]


def test_the_letters_suffice_for_a_question_of_eight_choices():
    assert "expected one of a, b." in repr(respond(CHOICES, "h"))
    assert "not right" in repr(respond(NUMBER, 0))
