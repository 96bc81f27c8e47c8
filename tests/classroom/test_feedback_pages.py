"""Feedback and summary: what students are told gives nothing away, everything a learner wrote is escaped."""

from dataclasses import replace

import pytest
from stand_ins import HALF, LESSON, SOLVED, WRONG, result_of

from course_lib.classroom.feedback import feedback_page, message_for, page_name, without_inputs
from course_lib.classroom.gradebook import rows
from course_lib.classroom.manual import Given
from course_lib.classroom.pages import code, markdown
from course_lib.classroom.parts import OpenQuestion
from course_lib.classroom.results import VERDICTS, ExerciseResult
from course_lib.classroom.summary import by_exercise, misconceptions, summary_page, totals_plot, verdicts_plot
from course_lib.exercises.judge import judge
from course_lib.exercises.registry import all_exercises, find
from course_lib.exercises.run import run_cases

QUESTION = OpenQuestion(LESSON, "why_zeros", 3.0, "Why?\n\nYOUR ANSWER HERE", "Because of SECRET.")
HOSTILE = "<script>alert(1)</script>"
ABOUT = {"version": "1.0", "engine": "functions", "tier": "landlock", "seed": 3}


def page(data: bytes, given=None, **changes) -> str:
    result = replace(result_of("anna", LESSON, data), **changes)
    (row,) = rows([result], given or {})
    return feedback_page(row, [result], [QUESTION], given or {}, "0_start", 7.0)


def test_a_page_has_points_the_message_of_each_case_and_the_open_answer():
    text = page(HALF + b" answer:They are stored.", {("anna", LESSON, "why_zeros"): Given(2.0, "nice")})
    assert "3 of 7 points" in text and "Partly right." in text and "They are stored." in text and "nice" in text
    assert "✓ a short vector" in text and "2 of 3" in text and "YOUR ANSWER HERE" not in text
    waiting = page(WRONG + b" answer:They are stored.")
    assert "not graded yet, 3 points" in waiting and "1 open answer is not graded yet" in waiting
    assert "✗ a short vector: <code>sparsity(…)</code>: its value is too large." in waiting
    assert "Not answered." in page(WRONG)


def test_neither_model_answers_nor_inputs_nor_flags_are_in_a_page():
    for data in (SOLVED, HALF, WRONG, WRONG + b" library"):
        text = page(data, flags=("FLAG",))
        assert "SECRET" not in text and "7.25" not in text and "FLAG" not in text and "reference" not in text


def test_whatever_a_learner_wrote_is_escaped():
    bad = ExerciseResult("sparsity", 0.0, 2.0, "wrong", f"it raised {HOSTILE}", None)
    text = page(WRONG + b" answer:" + HOSTILE.encode(), exercises=(bad,))
    assert "<script" not in text and text.count("&lt;script&gt;") == 2
    unreadable = page(WRONG, exercises=(bad,), error=HOSTILE)
    assert "<script" not in unreadable and unreadable.count("&lt;script&gt;") == 1, "and nothing of what could not be tried"
    result = result_of(HOSTILE, LESSON, WRONG)
    made = rows([replace(result, flags=(HOSTILE,))], {})
    assert "<script" not in summary_page(made, [result], "0_start", 7.0, ABOUT)


def test_every_verdict_is_said_in_words():
    for verdict in VERDICTS:
        assert "<p>" in page(WRONG, exercises=(ExerciseResult("sparsity", 0.0, 2.0, verdict),))


@pytest.mark.parametrize("exercise", all_exercises().values(), ids=lambda e: e.id)
def test_every_known_mistake_is_explained_on_an_input_that_the_notebook_shows_too(exercise):
    known = {m.name: judge(exercise, c := exercise.draw(0), run_cases(m.mistake, c, 5.0)) for m in exercise.misconceptions}
    assert all(verdict.misconception == name for name, verdict in known.items())
    for m in exercise.misconceptions:
        said = message_for(ExerciseResult(exercise.id, 0.0, exercise.points, "wrong", "on a hidden input", m.name), 1)
        assert said and said == known[m.name].message


def test_calls_are_shown_without_arguments_and_results():
    message = "With two rows, `sparsity(tensor([[1., 2.]]), 'a').step(3) …` gave a tensor of [1, 2]: its shape is (2,); expected (1, 2)."
    assert without_inputs("sparsity", message, 1) == "With two rows, `sparsity(…)`: its shape is (2,); expected (1, 2)."
    raised = "it raised ValueError: no (`line 3: return g(w)`)."
    assert without_inputs("sparsity", raised, 1) == raised


def test_numbers_that_were_drawn_for_grading_are_not_shown():
    def drawn(seed: int) -> float:
        return find("soft_threshold").draw(seed)[0].args[0].flatten()[0].item()

    for digits in (2, 4):
        hidden, known = f"{drawn(1):.{digits}f}", f"{drawn(0):.{digits}f}"
        told = without_inputs("soft_threshold", f"the weight {hidden} came out as 0.123456; 3 of 10; {known}", 1)
        assert told == f"the weight … came out as 0.123456; 3 of 10; {known}"
    bits = next(n for c in find("megabytes").draw(1) for n in c.args if n > 10**6 and n != 10**6)
    assert without_inputs("megabytes", f"for {bits:,} and 1,000,000 weights", 1) == "for … and 1,000,000 weights"
    assert without_inputs("megabytes", f"for {bits:_} and 1_000_000 weights", 1) == "for … and 1_000_000 weights"


def test_names_of_pages_are_fit_for_any_file_system():
    assert page_name("Jörg") == "Jörg.html"
    assert page_name('a"b:c').startswith("a_b_c-") and page_name("x" * 99) == "x" * 99 + ".html"
    long = [page_name("ü" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2 and all(len(name.encode()) < 120 for name in long)


def test_code_in_messages_and_markdown_of_the_course():
    assert code("a `b<c` d") == "a <code>b&lt;c</code> d"
    assert code("a *hard* threshold, 2 * 3 * 4, `a*b*c`") == "a <em>hard</em> threshold, 2 * 3 * 4, <code>a*b*c</code>"
    assert "<em>x</em>" in markdown("*x*") and "$a_1$" in markdown("where $a_1$ is")


KNOWN = [(e, m) for e in all_exercises().values() for m in e.misconceptions if e.points >= 2][:25]
CLASS = [result_of("anna", LESSON, SOLVED), result_of("ben", LESSON, HALF), result_of("cleo", LESSON, WRONG)]


def test_the_summary_counts_answers_by_exercise_and_known_mistakes_by_name():
    (sparsity, megabytes) = by_exercise(CLASS)
    assert (sparsity["solved"], sparsity["partial"], sparsity["wrong"], sparsity["blank"], sparsity["mean"]) == (
        1,
        1,
        1,
        0,
        1.0,
    )
    assert megabytes["blank"] == megabytes["count"] == 3
    (mistake,) = misconceptions([*CLASS, CLASS[0]])
    assert (mistake["exercise"], mistake["name"], mistake["count"]) == ("sparsity", "density", 1)
    assert "the density" in mistake["message"]


def test_the_summary_page_lists_students_flags_and_what_waits():
    made = rows([replace(CLASS[0], flags=("look here",)), *CLASS[1:]], {})
    text = summary_page(made, CLASS, "0_start", 7.0, ABOUT)
    assert "3 students, 3 notebooks" in text and "look here" in text and "3 open answers wait" in text
    assert 'href="feedback/anna.html"' in text and "confined by landlock, cases of seed 3" in text
    many = [replace(CLASS[2], exercises=(replace(CLASS[2].exercises[0], id=e.id, misconception=m.name),)) for e, m in KNOWN]
    shortened = summary_page(made, many, "0_start", 7.0, ABOUT)
    assert f"{len(KNOWN) - 20} more, of one student each: " in shortened
    assert "of 2 students or fewer" in summary_page(made, many * 2, "0_start", 7.0, ABOUT)
    empty = summary_page([], [], "0_start", 7.0, ABOUT)
    assert "0 students" in empty and "No known mistake" in empty and "Nothing." in empty


def test_plots_show_each_student_and_each_exercise():
    axes = totals_plot(rows(CLASS, {}), 7.0).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 3
    listed = by_exercise(CLASS)
    axes = verdicts_plot(listed).axes[0]
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(100 * len(listed))
    assert [t.get_text() for t in axes.get_yticklabels()] == [find(e["id"]).id for e in listed]
