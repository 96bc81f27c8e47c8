"""Files that are whole or absent: interrupted, killed and full-disk writes, content hashes, and the cache of stages."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from course_lib import artifacts
from course_lib.artifacts import (
    Cache,
    code_digest,
    digest,
    file_sha256,
    folder_bytes,
    new_folder,
    read_json,
    require_replaceable,
    require_writable,
    write_bytes,
    write_json,
    write_text,
)
from course_lib.errors import CourseError

OLD, NEW = b"old " * 50_000, b"new " * 50_000


def child(code, *arguments):
    """Run code in a process of its own with the module's names; returns the finished process."""
    head = "import os, resource, signal, sys\nfrom pathlib import Path\nfrom course_lib.artifacts import *\n"
    head += "from course_lib.artifacts import CourseError\n"
    return subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def names(folder):
    return sorted(f.name for f in folder.iterdir())


def tree(folder):
    """Every file below a folder with its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# --- single files


def test_what_is_written_is_read_back_and_the_folder_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, OLD)
    assert path.read_bytes() == OLD
    write_text(path, "Straße\nzwei\n")
    assert path.read_bytes() == "Straße\nzwei\n".encode(), "UTF-8 and LF on every system"
    assert names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644, "readable by others, unlike the temporary file it was"


def test_a_relative_name_is_written_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes("file", NEW)
    assert tree(tmp_path) == {"file": NEW}


def test_an_error_in_the_middle_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, OLD)
    with pytest.raises(TypeError):
        write_bytes(path, "text where bytes belong")  # fails after the temporary file was opened
    assert tree(tmp_path) == {"file": OLD}


POINTS = {"os.fsync": OLD, "os.chmod": OLD, "os.replace": OLD, "artifacts.sync_folder": NEW}


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_any_point_leaves_a_whole_file(point, tmp_path):
    path = tmp_path / "file"
    write_bytes(path, OLD)
    killed = child(
        "import course_lib.artifacts as artifacts\n"
        "name, _, attribute = sys.argv[2].rpartition('.')\n"
        "setattr({'os': os, 'artifacts': artifacts}[name], attribute, lambda *a: os.kill(os.getpid(), signal.SIGKILL))\n"
        "write_bytes(sys.argv[1], b'new ' * 50_000)",
        path,
        point,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path.read_bytes() == POINTS[point]


def test_a_process_killed_at_random_moments_leaves_a_whole_file(tmp_path):
    path, rng = tmp_path / "file", random.Random(0)
    write_bytes(path, OLD)
    code = "print(flush=True)\nwhile True:\n  for word in (b'old ', b'new '): write_bytes(sys.argv[1], word * 50_000)"
    for _ in range(4):
        command = [sys.executable, "-c", f"import sys\nfrom course_lib.artifacts import write_bytes\n{code}", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            threading.Event().wait(rng.uniform(0.0, 0.05))
            writer.kill()
        assert path.read_bytes() in (OLD, NEW)


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path, done, seen = tmp_path / "file", threading.Event(), set()
    write_bytes(path, OLD)

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in (NEW, OLD) * 20:
            write_bytes(path, content)
    finally:
        done.set()
        reader.join()
    assert seen <= {OLD, NEW}


# --- what the system refuses

FULL = (
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"  # no file may grow beyond this: a disk that fills up
    "try:\n  {}\nexcept CourseError as error:\n  print(error)\nelse:\n  print('written')"
)


def assert_advice(text, path):
    """The message names the file, the system's reason and what to do."""
    assert str(path) in text and "File too large" in text
    assert "Free some space or choose another folder" in text and "nothing half-written" in text


def test_a_full_disk_is_advice_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, OLD)
    result = child(FULL.format("write_bytes(sys.argv[1], b'new ' * 50_000)"), path)
    assert_advice(result.stdout, path)
    assert tree(tmp_path) == {"file": OLD}
    assert child(FULL.format("write_bytes(sys.argv[1], b'new ')"), path).stdout == "written\n", "smaller files still fit"


@pytest.mark.parametrize(
    "write",
    [
        "(folder / 'weights').write_bytes(bytes(200_000))",
        "import numpy, safetensors.numpy; safetensors.numpy.save_file({'w': numpy.zeros(50_000)}, folder / 'weights')",
        "import tokenizers; tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(20_000)}))"
        ".save(str(folder / 'weights'))",
    ],
    ids=["python", "safetensors", "tokenizers"],
)
def test_a_full_disk_in_a_folder_is_advice_whichever_library_writes(write, tmp_path):
    path = tmp_path / "model"
    with new_folder(path) as folder:
        (folder / "weights").write_bytes(OLD)
    result = child(FULL.format(f"with new_folder(sys.argv[1]) as folder: {write}"), path)
    assert_advice(result.stdout, path)
    assert tree(tmp_path) == {"model/weights": OLD}


@pytest.mark.parametrize("write", [write_bytes, lambda path, data: new_folder(path).__enter__()], ids=["file", "folder"])
def test_a_file_in_place_of_the_folder_is_advice(write, tmp_path):
    (tmp_path / "artifacts").write_bytes(OLD)
    for path in (tmp_path / "artifacts" / "x", tmp_path / "artifacts" / "cache" / "x"):
        with pytest.raises(CourseError, match=r"artifacts.*(is a file where a folder is needed|Not a directory).*--artifacts"):
            write(path, NEW)
    assert tree(tmp_path) == {"artifacts": OLD}


def test_errors_that_are_not_about_writing_pass_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "x"):
        1 / 0  # noqa: B018
    advice = CourseError("Cannot read y: No such file (os error 2)")
    with pytest.raises(CourseError) as caught, new_folder(tmp_path / "x"):
        raise advice
    assert caught.value is advice
    assert names(tmp_path) == []


# --- folders


def fill(folder, content, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_folder_replaces_the_older_one_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "model"
    with new_folder(path) as folder:
        fill(folder, OLD, "a", "only-old", "sub/b")
    assert not folder.exists()
    assert tree(tmp_path) == dict.fromkeys(("deep/model/a", "deep/model/only-old", "deep/model/sub/b"), OLD)
    with new_folder(path) as folder:
        assert folder.parent == path.parent, "beside it, so that renaming never copies"
        fill(folder, NEW, "a", "only-new")
        assert (path / "only-old").read_bytes() == OLD, "until the new one is complete the old one is there"
    assert tree(tmp_path) == dict.fromkeys(("deep/model/a", "deep/model/only-new"), NEW)
    assert names(tmp_path / "deep") == ["model"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_folder_that_fails_in_the_middle_leaves_the_old_one_whole(stop, tmp_path):
    path = tmp_path / "model"
    for expected in ({}, {"model/a": OLD}):
        with pytest.raises(stop), new_folder(path) as folder:
            fill(folder, NEW, "a", "b")
            raise stop
        assert tree(tmp_path) == expected and names(tmp_path) == [*{name.split("/")[0] for name in expected}]
        with new_folder(path) as folder:
            fill(folder, OLD, "a")


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("point", ["fsync", "chmod", "replace"])
def test_a_process_killed_at_any_point_leaves_no_half_folder(point, nth, tmp_path):
    path = tmp_path / "model"
    with new_folder(path) as folder:
        fill(folder, OLD, "a", "b")
    killed = child(
        "real, calls = getattr(os, sys.argv[2]), []\n"
        "def stop(*arguments):\n"
        "  calls.append(1)\n"
        "  if len(calls) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "  return real(*arguments)\n"
        "setattr(os, sys.argv[2], stop)\n"
        "with new_folder(sys.argv[1]) as folder:\n"
        "  for name in 'ab': (folder / name).write_bytes(b'new ' * 50_000)",
        path,
        point,
        nth,
    )
    assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
    found = tree(path) if path.exists() else None
    whole = [{"a": OLD, "b": OLD}, {"a": NEW, "b": NEW}]
    if (point, nth) == ("replace", 2):  # between the two renames: set aside, never in parts
        assert found is None
        assert [tree(f / "old") for f in tmp_path.glob(".model.old.*")] == whole[:1]
    else:
        assert found in whole


def test_a_file_of_that_name_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "thesis").write_bytes(OLD)
    with pytest.raises(CourseError, match=r"thesis is a file.*left as it is"), new_folder(tmp_path / "thesis"):
        raise AssertionError("the body must not run")
    assert tree(tmp_path) == {"thesis": OLD}


def test_only_what_the_course_made_may_be_replaced(tmp_path):
    require_replaceable(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "empty")
    model = tmp_path / "model"
    model.mkdir()
    fill(model, OLD, *artifacts.MODEL_FILES)
    require_replaceable(model)
    fill(model, OLD, "notes.txt")
    with pytest.raises(CourseError, match=r"model holds notes\.txt.*nothing was changed"):
        require_replaceable(model)
    with pytest.raises(CourseError, match="is a file"):
        require_replaceable(model / "notes.txt")
    assert len(tree(model)) == len(artifacts.MODEL_FILES) + 1


def test_a_folder_is_tried_before_the_work(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_bytes(OLD)
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(CourseError, match=r"Cannot write .*file"):
            require_writable(path)


# --- JSON


def test_json_comes_back_equal(tmp_path):
    value = {"name": "Zoë", "values": [1, 2.5, None, True], "nested": {"a": {}}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "Zoë" in (tmp_path / "x.json").read_text("utf-8"), "readable, not escaped"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(value, tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": value})
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize("content", [None, b"", b'{"a":', b"[1]", b"\xff{}"])
def test_a_missing_or_damaged_json_file_is_named(content, tmp_path):
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError, match=r"Cannot read .*state\.json: .+ Delete it and run"):
        read_json(path)


# --- sizes and hashes


def test_folder_bytes_is_the_sum_of_all_files(tmp_path):
    rng, total = random.Random(1), 0
    for i in range(30):
        size = rng.randrange(5000)
        fill(tmp_path, bytes(size), f"{'sub/' * rng.randrange(3)}{i}.bin")
        total += size
    assert folder_bytes(tmp_path) == total
    fill(tmp_path, bytes(77), "history.json", "sub/history.json")
    assert folder_bytes(tmp_path) == total + 2 * 77
    assert folder_bytes(tmp_path, without=("history.json",)) == total


def test_file_sha256_is_that_of_the_bytes(tmp_path):
    data = random.Random(2).randbytes(3_000_001)  # more than one piece of any usual size
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_digest_depends_on_values_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, None]}) == digest(json.loads('{"b": [2, null], "a": 1}'))
    parts = [(), (1,), ("1",), (1, 2), ([1, 2],), ({"a": 1},), ({"a": 2},), (None,), ("",)]
    assert len({digest(*p) for p in parts}) == len(parts)
    assert len(digest()) == 16 and int(digest(), 16) >= 0


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of the library."""
    folder = tmp_path / "package"
    fill(folder, b"x = 1\n", "ner/train.py", "ner/deep/more.py", "data/corpus/frames.txt", "recipes/quick.toml", "cli.py")
    monkeypatch.setattr(artifacts, "PACKAGE", folder)
    return folder


def test_code_digest_changes_with_the_code_it_names_and_with_nothing_else(package):
    watched = ("ner", "data", "recipes")
    before = code_digest(*watched)
    assert code_digest(*reversed(watched)) == before
    for name in ("ner/train.py", "ner/deep/more.py", "data/corpus/frames.txt", "recipes/quick.toml"):
        (package / name).write_bytes(b"x = 2\n")
        assert code_digest(*watched) != before, name
        (package / name).write_bytes(b"x = 1\n")
        assert code_digest(*watched) == before
    fill(package, b"x = 2\n", "cli.py", "ner/__pycache__/train.cpython-311.pyc", "ner/notes.md")
    assert code_digest(*watched) == before, "other code, caches and notes are no part of it"
    os.replace(package / "ner" / "train.py", package / "ner" / "loop.py")
    assert code_digest(*watched) != before, "a module of another name is other code"
    os.replace(package / "ner" / "loop.py", package / "ner" / "train.py")
    fill(package, b"", "ner/new.py")
    assert code_digest(*watched) != before


def test_code_digest_of_a_file_is_of_that_file(package):
    before = code_digest("ner/train.py")
    fill(package, b"x = 2\n", "ner/deep/more.py")
    assert code_digest("ner/train.py") == before
    assert code_digest("ner") != before


def test_code_digest_refuses_a_name_that_matches_nothing():
    with pytest.raises(ValueError, match=r"where = 'ner/trian\.py': expected a file or folder of code"):
        code_digest("ner", "ner/trian.py")


# --- the cache


def make(cache, folder):
    """One stage, as the pipeline makes it; returns whether it was made."""
    if cache.ready(folder):
        return False
    with new_folder(folder) as temporary:
        fill(temporary, NEW, "a")
    return True


def test_a_stage_is_made_once_for_what_it_is_made_of(tmp_path):
    cache = Cache(tmp_path / "cache")
    path = cache.path("teacher", {"seed": 0}, "data")
    assert path == Cache(tmp_path / "cache").path("teacher", {"seed": 0}, "data")
    others = [("student", {"seed": 0}, "data"), ("teacher", {"seed": 1}, "data"), ("teacher", {"seed": 0}), ("teacher",)]
    assert len({path, *(cache.path(*other) for other in others)}) == len(others) + 1
    assert path.parent == tmp_path / "cache" and path.name.startswith("teacher-")
    assert make(cache, path) and not make(cache, path)
    assert not make(Cache(tmp_path / "cache"), path), "another run finds it"
    shutil.rmtree(path)
    assert make(Cache(tmp_path / "cache"), path)


def test_force_makes_each_stage_again_once_per_run(tmp_path):
    path = Cache(tmp_path).path("teacher")
    make(Cache(tmp_path), path)
    forced = Cache(tmp_path, force=True)
    assert make(forced, path) and not make(forced, path)
    assert make(Cache(tmp_path, force=True), path)


def test_a_cache_that_cannot_be_written_is_found_out_at_once(tmp_path):
    (tmp_path / "artifacts").write_bytes(b"")
    with pytest.raises(CourseError, match=r"Cannot write .*artifacts.*--artifacts DIR"):
        Cache(tmp_path / "artifacts" / "cache")
