"""What was handed in reaches nbgrader's folders whatever it is, and one student's files never cost another's."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from hand_in import MEGABYTES, SPARSITY, notebook

from course_lib.classroom import nbgrader_gradebook
from course_lib.classroom.nbgrader_gradebook import write_gradebook
from course_lib.classroom.results import Result
from course_lib.classroom.submissions import Submission

pytest.importorskip("nbgrader")
ROOT, PART, LESSON = Path(__file__).parents[2], "0_start", "00_start_here"
GOOD = notebook(SPARSITY, MEGABYTES)


def pipe_and_wait(pipe, url, part):
    """In the place of what prepares notebooks: the ones that are called slow or dying are."""
    pipe.send(None)
    while True:
        _, data = pipe.recv()
        if b"slow" in data:
            time.sleep(1000)
        if b"dies" in data:
            os._exit(3)
        pipe.send(("", data.decode()))


@pytest.fixture
def written(tmp_path):
    """Write a gradebook of these submissions, student → bytes; returns the text of each notebook in ``autograded/``."""

    def run(handed_in: dict[str, bytes]) -> dict[str, str]:
        submissions, results = [], []
        for number, (student, data) in enumerate(handed_in.items()):
            path = tmp_path / f"{number}.ipynb"
            path.write_bytes(data)
            submissions.append(Submission(student, LESSON, path.name, hashlib.sha256(data).hexdigest(), path))
            results.append(Result(student, LESSON, "", "1", 0, "landlock", "functions", ()))
        write_gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}", ROOT, PART, results, {}, submissions)
        return {p.parts[-3]: p.read_text("utf-8") for p in (tmp_path / "autograded").rglob("*.ipynb")}

    return run


def test_a_name_that_is_too_long_for_a_folder_costs_nobody_else_theirs(written):
    long = "ü" * 200
    with pytest.warns(UserWarning, match="no folder for formgrader"):
        found = written({"anna": GOOD, long: GOOD, "zoe": GOOD})
    assert set(found) == {"anna", "zoe"} and all("def sparsity" in text for text in found.values())


def test_a_notebook_that_is_none_is_told_and_the_next_one_is_prepared(written):
    hostile = json.dumps({"cells": "[" * 1000, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()
    found = written({"anna": b"[" * 100_000, "ben": hostile, "cleo": GOOD, "dora": b" " * 5_000_001})
    assert "def sparsity" in found["cleo"]
    assert all("could not be opened" in found[student] for student in ("anna", "ben", "dora"))


def test_one_that_takes_too_long_or_ends_the_process_is_told_and_the_next_one_is_prepared(written, monkeypatch):
    monkeypatch.setattr(nbgrader_gradebook, "_mend", pipe_and_wait)
    monkeypatch.setattr(nbgrader_gradebook, "SECONDS", 0.2)
    found = written({"anna": b"slow", "ben": GOOD, "cleo": b"dies", "dora": GOOD})
    assert "not done within 0.2 seconds" in found["anna"] and "its process ended" in found["cleo"]
    assert found["ben"] == found["dora"] == GOOD.decode()
