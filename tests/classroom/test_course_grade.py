"""An instructor's afternoon by the command line alone: release, collect, grade, enter points, export, hand back."""

import csv
import importlib.util
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from course_lib.classroom.confine import ServerGone
from course_lib.classroom.graders import JUDGING, functions_grader, judging_code
from course_lib.classroom.release import release
from course_lib.classroom.results import OpenAnswer, Result, from_json
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.exercises.registry import exercises

ROOT = Path(__file__).parents[2]
PART, LESSON = "0_start", "00_start_here"
COUNT, SEED = 18, 1


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made_up = load(ROOT / "data_scripts" / "made_up_class.py")


def course(*arguments) -> int:
    """Run the command in the course's folder; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def afternoon(tmp_path_factory):
    """A made-up class, handed in as a zip, graded once; the folder."""
    folder = tmp_path_factory.mktemp("afternoon")
    made_up.make_class(PART, folder, COUNT, seed=0, grading_seed=SEED, root=ROOT)
    shutil.make_archive(str(folder / "all"), "zip", folder / "submitted")
    url = f"sqlite:///{folder / 'gradebook.db'}"
    code = course(
        "grade", PART, folder / "all.zip", "--out", folder / "graded", "--seed", SEED, "--workers", 2, "--gradebook", url
    )
    assert code == 0
    return folder


def results(folder: Path) -> dict:
    found = map(from_json, (folder / "graded" / "results.jsonl").read_text("utf-8").splitlines())
    return {r.student: r for r in found}


def pages(folder: Path) -> dict[str, str]:
    return {p.stem: p.read_text("utf-8") for p in (folder / "graded" / "feedback").iterdir()}


def test_everybody_gets_the_points_that_are_expected(afternoon):
    expected = json.loads((afternoon / "expected.json").read_text())
    assert {s: {e.id: e.points for e in r.exercises} for s, r in results(afternoon).items()} == {
        student: lessons[LESSON] for student, lessons in expected.items()
    }
    kinds = {student[4:] for student in expected}
    assert {"solved", "wrong", "untouched", "always_equal", "kills_the_parent", "cut_off"} <= kinds and len(expected) == COUNT


def test_a_second_run_grades_nobody_and_changes_nothing(afternoon, capsys):
    before = {p: p.read_bytes() for p in (afternoon / "graded").rglob("*") if p.is_file()}
    assert course("grade", PART, afternoon / "all.zip", "--out", afternoon / "graded") == 0
    assert f"{COUNT} students, {COUNT} notebooks, 0 of them graded now" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in (afternoon / "graded").rglob("*") if p.is_file()} == before


def test_the_kernel_engine_gives_the_same_points_and_says_what_raised(tmp_path, afternoon):
    submitted = tmp_path / "in" / "002_right.ipynb"
    submitted.parent.mkdir()
    nb = json.loads((afternoon / "submitted" / "002_right" / PART / f"{LESSON}.ipynb").read_text("utf-8"))
    nb["cells"] = [c for c in nb["cells"] if "exercise" in c["metadata"].get("course", {})]
    submitted.write_text(json.dumps(nb), "utf-8")
    assert course("grade", PART, submitted.parent, "--out", tmp_path, "--seed", SEED, "--workers", 1, "--engine", "kernel") == 0
    (found,) = map(from_json, (tmp_path / "results.jsonl").read_text("utf-8").splitlines())
    assert found.engine == "kernel" and found.points == found.max_points == 4
    assert "".join(found.flags).count("cell") == 0, "the answers alone run through"
    assert (tmp_path / "executed" / "002_right" / f"{LESSON}.ipynb").exists()


def test_the_gradebook_has_a_row_for_each_student(afternoon):
    rows = {r["student"]: r for r in csv.DictReader((afternoon / "graded" / "gradebook.csv").open(encoding="utf-8"))}
    assert len(rows) == COUNT and (rows["001_solved"]["points"], rows["001_solved"]["max_points"]) == ("4", "6")
    assert rows["007_cut_off"]["points"] == "0" and "could not be read" in rows["007_cut_off"]["flags"]


def test_nbgraders_own_tools_show_the_scores(afternoon):
    """Read back by its API, as formgrader does, and exported by its own command."""
    from nbgrader.api import Gradebook
    from nbgrader.apps.api import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory

    with Gradebook(f"sqlite:///{afternoon / 'gradebook.db'}") as book:
        found = {s.student.id: s.score for s in book.assignment_submissions(PART)}
        assert found == {s: r.points for s, r in results(afternoon).items()}
        assert book.find_assignment(PART).max_score == 6, "with the open question"
    export = [sys.executable, "-m", "nbgrader", "export", f"--db=sqlite:///{afternoon / 'gradebook.db'}", "--to=grades.csv"]
    subprocess.run(export, cwd=afternoon, check=True, capture_output=True)
    assert len((afternoon / "grades.csv").read_text().splitlines()) == 1 + COUNT
    listed = NbGraderAPI(CourseDirectory(root=str(afternoon))).get_submissions(PART)
    assert {s["student"] for s in listed if s["autograded"]} == found.keys() and not [
        s for s in listed if s["score"] != found[s["student"]]
    ]
    opened = [json.loads(p.read_text("utf-8")) for p in (afternoon / "autograded").rglob("*.ipynb")]
    assert len(opened) == COUNT and all(not c.get("outputs") for nb in opened for c in nb["cells"])


def test_points_that_a_person_gave_reach_nbgrader_and_those_given_in_formgrader_stay(tmp_path):
    from nbgrader.api import Gradebook

    from course_lib.classroom.manual import Given
    from course_lib.classroom.nbgrader_gradebook import require_gradebook, write_gradebook
    from course_lib.classroom.parts import open_questions

    (question,) = open_questions(ROOT, PART)
    url = f"sqlite:///{tmp_path / 'gradebook.db'}"
    answers = (OpenAnswer(question.id, "text", question.points),)
    graded = [Result(s, LESSON, "", "1", 0, "landlock", "functions", (), answers) for s in ("anna", "ben")]
    none = [Result("cleo", "", "", "1", 0, "landlock", "functions", (), error="no lesson")]
    anna = ("anna", LESSON, question.id)
    require_gradebook(url)
    write_gradebook(url, ROOT, PART, [*graded, *none], {anna: Given(1.5, "good")})
    with Gradebook(url) as book:
        grade = book.find_grade(question.id, LESSON, PART, "anna")
        assert (grade.manual_score, grade.needs_manual_grade) == (1.5, False)
        assert book.find_comment(question.id, LESSON, PART, "anna").manual_comment == "good"
        waits = book.find_grade(question.id, LESSON, PART, "ben")
        assert waits.needs_manual_grade and waits.score == 0
        waits.manual_score = 1.0  # in formgrader
        book.db.commit()
        assert book.find_submission(PART, "cleo").score == 0 and not book.find_submission(PART, "cleo").needs_manual_grade
    write_gradebook(url, ROOT, PART, graded, {anna: Given(1.5)})
    with Gradebook(url) as book:
        assert book.find_grade(question.id, LESSON, PART, "ben").score == 1.0
    with pytest.raises(CourseError, match="cannot be written"):
        write_gradebook(f"sqlite:///{tmp_path / 'no' / 'folder.db'}", ROOT, PART, graded, {})


def test_feedback_says_what_happened_to_each_exercise(afternoon):
    found = pages(afternoon)
    assert len(found) == COUNT
    assert "4 of 6 points" in found["001_solved"] and "Solved." in found["001_solved"]
    assert "Not attempted." in found["005_untouched"]
    assert "could not be read" in found["007_cut_off"]
    assert "It ended the whole process" in next(text for student, text in found.items() if student.endswith("_exits"))


def test_feedback_has_no_solution_in_it(afternoon):
    solution = json.loads((ROOT / "solutions" / PART / f"{LESSON}.ipynb").read_text("utf-8"))
    blank = (ROOT / "notebooks" / PART / f"{LESSON}.ipynb").read_text("utf-8")
    lines = {
        line.strip()
        for cell in solution["cells"]
        if "exercise" in cell["metadata"].get("course", {})
        for line in "".join(cell["source"]).splitlines()
        if len(line.strip()) > 12 and json.dumps(line.strip(), ensure_ascii=False)[1:-1] not in blank and "SOLUTION" not in line
    }
    assert lines, "there is something to look for"
    for text in pages(afternoon).values():
        assert not [line for line in lines if line in text]
        assert not re.search(r"<script|<link|<iframe|(src|href)=.?http|@import|url\(", text), "nothing is fetched, nothing runs"


def test_feedback_has_no_input_in_it_that_was_drawn_for_grading(afternoon):
    """Of inputs that differ from those of the notebook's own check, no number occurs in a page."""
    drawn = {n for e in exercises(LESSON) for c in e.draw(SEED) for n in _numbers(c.args)}
    known = {n for e in exercises(LESSON) for c in e.draw(0) for n in _numbers(c.args)}
    secret = {n for n in drawn - known if len(n) > 3}
    assert secret
    for student, text in pages(afternoon).items():
        assert not secret & set(re.findall(r"-?\d[\d.,]*\d", text)), student


def _numbers(value) -> set[str]:
    if hasattr(value, "flatten"):
        value = value.flatten().tolist()
    if isinstance(value, (list, tuple)):
        return set().union(*map(_numbers, value))
    return {f"{value:.{digits}g}" for digits in (4, 5)} | {f"{value:,}", str(value)}


def test_the_summary_counts_verdicts_and_names_what_was_misunderstood(afternoon):
    text = (afternoon / "graded" / "summary.html").read_text("utf-8")
    assert text.count('src="data:image/png;base64,') == 2 and "http" not in text
    named = {e.misconception for r in results(afternoon).values() for e in r.exercises if e.misconception}
    assert named and all(name.replace("_", " ") in text for name in named)
    assert text.count('href="feedback/') == COUNT


def test_release_hands_out_the_notebooks_and_no_solutions(tmp_path, capsys):
    assert course("release", "start", "--out", tmp_path / "out") == 0
    assert course("release", "0", "--out", tmp_path / "out") == 0, "an earlier release is replaced"
    listed = sorted(p.name for p in (tmp_path / "out").iterdir())
    (wheel,) = [name for name in listed if name.endswith(".whl")]
    assert listed == sorted([f"{LESSON}.ipynb", "README.md", "constraints.txt", "requirements.txt", wheel])
    assert (tmp_path / "out" / f"{LESSON}.ipynb").read_bytes() == (ROOT / "notebooks" / PART / f"{LESSON}.ipynb").read_bytes()
    assert (tmp_path / "out" / "requirements.txt").read_text() == f"-c constraints.txt\n./{wheel}\n"
    with zipfile.ZipFile(tmp_path / "out" / wheel) as z:
        names = z.namelist()
    assert "course_lib/classroom/summary.html.j2" in names and "course_lib/recipes/quick.toml" in names
    assert not [n for n in names if n.startswith(("solutions", "tests", "notebooks"))]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert course("release", PART, "--out", tmp_path / "mine") == 2
    assert "holds something else" in capsys.readouterr().err and (tmp_path / "mine" / "thesis.tex").exists()


def test_a_release_needs_the_tested_versions_and_the_source(tmp_path, monkeypatch):
    lesson = tmp_path / "course" / "notebooks" / PART / f"{LESSON}.ipynb"
    lesson.parent.mkdir(parents=True)
    lesson.write_text("{}")
    with pytest.raises(CourseError, match="which versions the course was tested with"):
        release(tmp_path / "course", PART, tmp_path / "out")
    (tmp_path / "course" / "constraints.txt").write_text("torch==2\n")
    monkeypatch.setattr("course_lib.classroom.release.BUILD", "raise SystemExit('no setuptools')")
    with pytest.raises(CourseError, match="wheel cannot be built: no setuptools"):
        release(tmp_path / "course", PART, tmp_path / "out")
    monkeypatch.setattr("course_lib.__file__", str(tmp_path / "site" / "course_lib" / "__init__.py"))
    with pytest.raises(CourseError, match="release from a clone"):
        release(tmp_path / "course", PART, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_server_that_ends_is_started_again_once(monkeypatch):
    started, graded = [], iter([ServerGone(), "result", ServerGone(), ServerGone()])

    class Server:
        def close(self):
            started.append("closed")

    def grade(*given):
        found = next(graded)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("course_lib.classroom.graders.start_server", lambda *given: started.append("started") or Server())
    monkeypatch.setattr("course_lib.classroom.graders.grade", grade)
    with functions_grader({}, SEED) as do:
        assert do(("anna", LESSON, b"")) == "result"
        with pytest.raises(CourseError, match="ended twice"):
            do(("ben", LESSON, b""))
    assert started == ["started", *["closed", "started"] * 3, "closed"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("grade",), "Name the part and what was handed in"),
        (("grade", "1_pruni", "x"), "Did you mean '1_pruning'"),
        (("grade", PART, "nowhere"), "expected a folder or a .zip"),
        (("grade", PART, "x", "--backend", "dask"), "belong together"),
    ],
)
def test_what_is_missing_is_said_before_any_work(arguments, said, tmp_path, capsys):
    assert course(*arguments, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err


def test_an_empty_folder_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert course("grade", PART, tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "no notebook was found" in capsys.readouterr().err


def test_doctor_names_each_way_to_confine(capsys, monkeypatch):
    from course_lib.classroom import confine

    monkeypatch.setattr(confine, "doctor", lambda: iter([("namespaces", "not here"), ("landlock", None)]))
    assert course("grade", "--doctor") == 0
    assert capsys.readouterr().out.splitlines() == [
        "namespaces   not here",
        "landlock     available",
        "course grade takes landlock.",
    ]
    monkeypatch.setattr(confine, "doctor", lambda: iter([("landlock", "not here")]))
    assert course("grade", "--doctor") == 1
    assert "refuses, unless --unconfined" in capsys.readouterr().out


def test_what_judges_is_part_of_the_key_of_a_verdict():
    from course_lib.artifacts import code_digest

    assert len(code_digest(*JUDGING)) == 16
    with pytest.raises(ValueError, match="a file or folder of code"):
        code_digest("classroom/judging.py")


def test_so_is_what_exercises_take_from_the_library(monkeypatch):
    """Mended in the library, a reference judges anew; another part's verdicts stay."""
    from course_lib.classroom import library

    lessons = (LESSON,), ("01_l1_pruning_math",)
    before = [judging_code(lesson) for lesson in lessons]
    assert before == [judging_code(lesson) for lesson in lessons] and before[0] != before[1]
    real, mended = Path.read_text, library.ROOT / "pruning" / "l1.py"
    monkeypatch.setattr(Path, "read_text", lambda path, *given: real(path, *given) + ("\nX = 1\n" if path == mended else ""))
    after = [judging_code(lesson) for lesson in lessons]
    assert after[0] == before[0] and after[1] != before[1]


def test_where_nothing_confines_the_command_refuses(tmp_path, capsys, monkeypatch):
    from course_lib.classroom import confine

    monkeypatch.setattr(confine, "START", "import sys; sys.exit('no such luck')")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "anna.ipynb").write_bytes((ROOT / "notebooks" / PART / f"{LESSON}.ipynb").read_bytes())
    assert course("grade", PART, tmp_path / "in", "--out", tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot be confined here, so nothing is graded" in said and "no such luck" in said and "--unconfined" in said
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_killed_at_random_moments_the_command_leaves_the_files_of_an_undisturbed_run_and_no_process(tmp_path, afternoon):
    program = "from course_lib.cli import main; main()"
    arguments = ["grade", PART, afternoon / "all.zip", "--out", tmp_path / "out", "--seed", SEED, "--workers", 2]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    log, rng, graded, seen = tmp_path / "out" / "log.jsonl", random.Random(0), [0], []
    for _ in range(3):
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 100
        while not log.exists() or log.read_bytes().count(b"\n") <= graded[-1] < COUNT:  # a verdict more than before
            assert running.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        seen += psutil.Process(running.pid).children(recursive=True)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        graded.append(log.read_bytes().count(b"\n"))
    assert 0 < graded[1] < COUNT, "it was killed while it worked"
    assert psutil.wait_procs(seen, 60)[1] == []
    for name in (".feedback.abcd1234", ".feedback.old.abcd1234"):
        (tmp_path / "out" / name).mkdir()
        (tmp_path / "out" / name / "001.html").touch()
    for name in (".results.jsonl.abcd1234", f"collected/.{'0' * 64}.ipynb.abcd1234"):
        (tmp_path / "out" / name).touch()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def files(out: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(out)): p.read_bytes()
            for p in out.rglob("*")
            if p.is_file() and p.name not in ("log.jsonl", ".lock")
        }

    assert files(tmp_path / "out") == files(afternoon / "graded")
    assert sorted(log.read_bytes().splitlines()) == sorted((afternoon / "graded" / "log.jsonl").read_bytes().splitlines())
