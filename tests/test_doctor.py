"""``course doctor``: what is checked, and what each finding says."""

import json
import shutil
import sys
from collections import namedtuple

import pytest

from course_lib import doctor
from course_lib.cli import main

WHAT = ["Python", "packages", "processor", "int8", "bf16", "encoder", "artifacts"]


@pytest.fixture
def course(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return stop.value.code, *capsys.readouterr()

    return run


def examined(artifacts, encoder="tiny"):
    checks = doctor.examine(artifacts, encoder)
    assert [c["what"] for c in checks] == WHAT
    assert all(set(c) == {"what", "state", "found"} and c["state"] in ("ok", "note", "bad") for c in checks)
    return {c["what"]: (c["state"], c["found"]) for c in checks}


def test_a_machine_that_runs_this_test_is_ready(course, tmp_path):
    code, out, err = course("doctor", "--json", "doctor.json")
    assert (code, err) == (0, "")
    checks = json.loads((tmp_path / "doctor.json").read_text("utf-8"))["checks"]
    assert [c["what"] for c in checks] == WHAT
    assert out.splitlines() == [f"{c['state']:4} {c['what']}: {c['found']}" for c in checks], "one line for each check"
    assert "minilm at" in out and "weights verified" in out
    assert not (tmp_path / "artifacts").exists(), "it looks, it makes nothing"


def test_an_encoder_that_is_missing_is_bad_with_advice(course):
    code, out, _ = course("doctor", "--encoder", "./models[v2]", "--json", "doctor.json")
    assert code == 1
    line = next(line for line in out.splitlines() if "encoder" in line)
    assert line.startswith("bad  encoder: --encoder ./models[v2]: no such folder. Expected minilm")
    with open("doctor.json", encoding="utf-8") as file:
        assert {c["what"] for c in json.load(file)["checks"] if c["state"] == "bad"} == {"encoder"}


def test_an_artifacts_folder_that_cannot_be_written_is_bad(course, tmp_path):
    (tmp_path / "file").write_text("precious")
    for folder in ("file", "file/x", "file/x/y"):
        code, out, _ = course("doctor", "--artifacts", folder)
        assert code == 1 and f"bad  artifacts: {folder} (NOT writable" in out
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("free, state", [(0.5e9, "bad"), (2e9, "note"), (50e9, "ok")])
def test_little_space_is_said(free, state, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")(100e9, 100e9 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert examined(tmp_path / "new" / "artifacts")["artifacts"] == (
        state,
        f"{tmp_path / 'new' / 'artifacts'} (writable, {free / 1e9:.1f} GB free; the main job needs 2 GB)",
    )


def test_an_old_python_is_bad(monkeypatch, tmp_path):
    version = namedtuple("version", "major minor micro releaselevel serial")
    monkeypatch.setattr(sys, "version_info", version(3, 10, 9, "final", 0))
    assert examined(tmp_path)["Python"] == ("bad", "3.10.9 (3.11 or newer is needed)")


def test_a_missing_package_is_bad_and_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(
        doctor, "versions", lambda: {"python": "3.11.7", "torch": "not installed", "course_lib": "not installed"}
    )
    state, found = examined(tmp_path)["packages"]
    assert state == "bad" and "torch not installed" in found and "pip install -e . -c constraints.txt" in found
    monkeypatch.setattr(doctor, "versions", lambda: {"python": "3.11.7", "course_lib": "not installed"})
    assert examined(tmp_path)["packages"][0] == "ok", "run from its folder the course itself need not be installed"


@pytest.mark.parametrize("slow", [True, False])
def test_a_processor_without_fast_int8_or_bf16_is_a_note_not_a_fault(slow, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "int8_saturates", lambda: slow)
    monkeypatch.setattr(doctor, "fast_bf16", lambda: not slow)
    found = examined(tmp_path)
    assert [found["int8"][0], found["bf16"][0]] == (["note", "note"] if slow else ["ok", "ok"])
    assert ("saturate" in found["int8"][1]) is slow and ("fp32" in found["bf16"][1]) is slow
