"""Open answers are collected for reading, and the points that a person enters come back, whatever program wrote the file."""

import csv
from dataclasses import replace

import pytest
from stand_ins import LESSON, SOLVED, WRONG, result_of

from course_lib.classroom.gradebook import columns, csv_of, flags_of, rows
from course_lib.classroom.manual import COLUMNS, Given, answer_mark, merge, reading_page
from course_lib.classroom.parts import OpenQuestion, find_part, lessons_of, open_questions
from course_lib.classroom.results import OpenAnswer
from course_lib.errors import CourseError

QUESTION = OpenQuestion(LESSON, "why_zeros", 3.0, "**Why** do zeros cost?", "A zero is a *number*.")
KEY = ("anna", LESSON, "why_zeros")


def answered(student: str, text: str):
    return result_of(student, LESSON, SOLVED + b" answer:" + text.encode())


def read(path):
    return list(csv.DictReader(path.open(encoding="utf-8-sig")))


@pytest.fixture
def points(tmp_path):
    """Fill in ``points`` of rows: ``points({"anna": "2"})``; ``points.path`` is the file."""

    class Points:
        path = tmp_path / "open_points.csv"

        def __call__(self, given: dict[str, str], delimiter=",", encoding="utf-8", **comments: str):
            found = read(self.path)
            for row in found:
                row["points"] = given.get(row["student"], row["points"])
                row["comment"] = comments.get(row["student"], row["comment"])
            with self.path.open("w", encoding=encoding, newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
                writer.writeheader()
                writer.writerows(found)

    return Points()


CLASS = [answered("anna", "They are stored."), answered("ben", ""), answered("cleo", "=1+1 </pre><script>")]


def test_answers_wait_until_points_are_entered_and_an_empty_one_earns_nothing(points):
    assert merge(points.path, CLASS, [QUESTION]) == {("ben", LESSON, "why_zeros"): Given(0.0)}
    assert [(r["student"], r["state"]) for r in read(points.path)] == [("anna", "waits"), ("cleo", "waits")]
    points({"anna": "2"}, anna="good, but why?")
    assert merge(points.path, CLASS, [QUESTION])[KEY] == Given(2.0, "good, but why?")
    assert [(r["points"], r["state"]) for r in read(points.path)] == [("2", "graded"), ("", "waits")]


@pytest.mark.parametrize(
    "delimiter, encoding, typed", [(",", "utf-8", "1.5"), (";", "utf-8-sig", "1,5"), ("\t", "utf-8", " 1.5 ")]
)
def test_files_of_all_spreadsheets_are_read(delimiter, encoding, typed, points):
    merge(points.path, CLASS, [QUESTION])
    points({"anna": typed}, delimiter=delimiter, encoding=encoding)
    assert merge(points.path, CLASS, [QUESTION])[KEY].points == 1.5


def test_points_of_an_answer_that_changed_are_kept_and_do_not_count(points):
    merge(points.path, CLASS, [QUESTION])
    points({"anna": "2"})
    changed = [answered("anna", "They are stored, I think."), *CLASS[1:]]
    assert KEY not in merge(points.path, changed, [QUESTION])
    last = read(points.path)[-1]
    assert (last["student"], last["points"], last["state"]) == ("anna", "2", "for an earlier answer")
    assert merge(points.path, CLASS, [QUESTION])[KEY].points == 2, "handed in as it was before"


@pytest.mark.parametrize("typed", ["4", "-1", "two", "nan"])
def test_points_that_are_none_or_too_many_are_an_error_and_change_nothing(typed, points):
    merge(points.path, CLASS, [QUESTION])
    points({"anna": typed})
    before = points.path.read_bytes()
    with pytest.raises(CourseError, match=r"line 2: points = .* for anna, why_zeros; expected a number from 0 to 3"):
        merge(points.path, CLASS, [QUESTION])
    assert points.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"student,points\nanna,2\n", b"\xff\xfe\x00", b""])
def test_a_file_that_is_something_else_is_an_error_and_stays(content, points):
    points.path.write_bytes(content)
    with pytest.raises(CourseError, match="othing was changed"):
        merge(points.path, CLASS, [QUESTION])
    assert points.path.read_bytes() == content


def test_the_reading_page_has_the_model_answer_beside_every_answer_and_escapes_what_learners_wrote():
    page = reading_page(CLASS, [QUESTION], {KEY: Given(2.0, "<i>fine</i>")}, "Open answers")
    assert "<strong>Why</strong>" in page and "<em>number</em>" in page and "2 of 3 answered" in page
    assert "They are stored." in page and answer_mark("They are stored.") in page and "waits" in page
    assert "<script>" not in page and "&lt;/pre&gt;&lt;script&gt;" in page and "&lt;i&gt;fine" in page


def test_answers_to_questions_that_the_part_does_not_have_are_left_out(points):
    other = replace(CLASS[0], answers=(OpenAnswer("another", "text", 1.0),))
    assert merge(points.path, [other], [QUESTION]) == {} and read(points.path) == []


def test_the_gradebook_adds_points_of_open_answers_and_says_what_waits():
    lessons = {LESSON: ["sparsity", "megabytes"]}
    made = rows(CLASS, {KEY: Given(2.0), ("ben", LESSON, "why_zeros"): Given(0.0)})
    assert [(r.student, r.total, r.waiting) for r in made] == [("anna", 4.0, 0), ("ben", 2.0, 0), ("cleo", 2.0, 1)]
    worth = columns(lessons, [QUESTION])
    assert worth == {"00 sparsity": 2, "00 megabytes": 2, "00 why_zeros": 3.0}
    head, anna, _, cleo = csv.reader(csv_of(made, worth).splitlines())
    assert head == ["student", *worth, "points", "max_points", "waiting", "flags"]
    assert anna == ["anna", "2", "0", "2", "4", "7", "0", ""] and cleo[3] == ""


def test_flags_of_a_notebook_are_all_in_one_list():
    result = replace(result_of("anna", LESSON, WRONG + b" library"), flags=("made for lesson 01",), error="It is cut off.")
    assert flags_of(result) == ["It is cut off. (made for lesson 01)", "sparsity: calls the reference"]
    crashed = replace(result.exercises[1], verdict="crashed", message="It ended the whole process (exit code 0).")
    assert flags_of(replace(result, exercises=(crashed,), error=None, flags=())) == [f"megabytes: {crashed.message}"]
    assert flags_of(replace(result, flags=())) == ["It is cut off.", "sparsity: calls the reference"]


def test_a_student_whose_name_is_a_formula_is_none_in_a_spreadsheet(points):
    merge(points.path, [answered("=cmd()", "text")], [QUESTION])
    assert read(points.path)[0]["student"] == "'=cmd()"
    points({"'=cmd()": "3"})
    assert merge(points.path, [answered("=cmd()", "text")], [QUESTION])[("=cmd()", LESSON, "why_zeros")].points == 3
    assert csv_of(rows([answered("@x", "")], {}), {}).splitlines()[1].startswith("'@x")


def test_every_part_has_lessons_and_its_open_questions_have_model_answers(request):
    root = request.config.rootpath
    for part in ("0_start", "1_pruning"):
        questions = open_questions(root, part)
        assert questions and all(q.model and q.text and "SOLUTION" not in q.text + q.model for q in questions)
        assert {q.lesson for q in questions} <= lessons_of(part).keys()
    assert find_part("1") == find_part("pruning") == find_part("solutions/1_pruning/") == "1_pruning"
    with pytest.raises(CourseError, match="Did you mean '1_pruning'"):
        find_part("1_prunin")
