"""A small device: limits that hold, figures of a real run, and the parts of the script that need no network."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.deploy import small_device
from course_lib.deploy.export import export_onnx
from course_lib.deploy.small_device import limit, measure
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

TEXTS = ["Ana Ruiz left Chelsea.", "Bob stayed.", "Wu's bank is in Oslo, isn't it?"] * 10
linux = pytest.mark.skipif(sys.platform != "linux", reason="processors and address space are bound on Linux")


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parent.parent.parent / "data_scripts" / "runtime_footprint.py"
    spec = importlib.util.spec_from_file_location("runtime_footprint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    model, tokenizer = load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"], 4), load_tokenizer(find_encoder("tiny"))
    model.classifier.weight.data *= 50
    save_model(model, tokenizer, folder)
    export_onnx(folder, folder / "model.onnx")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    return tmp_path / "texts.json"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "course_lib.deploy.small_device", *map(str, arguments)], capture_output=True, text=True
    )


@linux
def test_on_one_core_with_512_mib_the_same_entities_are_found(shipped, texts):
    done = run(shipped, texts, "--cores", 1, "--memory", 512)
    assert done.returncode == 0, done.stderr
    limited, free = json.loads(done.stdout), measure(shipped, TEXTS)
    assert limited["threads"] == 1 and 0 < limited["peak_mib"] < 512, "resident memory is part of the address space"
    assert limited["entities"] == free["entities"] and any(free["entities"])
    assert all(f["load_s"] > 0 and f["ms"]["p95"] >= f["ms"]["median"] > 0 for f in (limited, free))


@linux
def test_too_little_memory_is_said_so(shipped, texts):
    done = run(shipped, texts, "--cores", 1, "--memory", 110)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.startswith("Error: ") and "--memory 110" in done.stderr


@linux
def test_limits_hold_in_the_process_that_set_them():
    code = (
        "import os, resource; from course_lib.deploy.small_device import limit; limit(1, 512); "
        "print(len(os.sched_getaffinity(0)), *resource.getrlimit(resource.RLIMIT_AS)); bytearray(600 * 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1", str(512 * 2**20), str(512 * 2**20)]
    assert done.returncode == 1 and "MemoryError" in done.stderr


def test_limits_that_cannot_be_are_refused(monkeypatch):
    for name, value in (("cores", 0), ("memory_mib", -1)):
        with pytest.raises(ValueError, match=rf"{name} = {value}: expected at least 1"):
            limit(**{name: value})
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
        with pytest.raises(CourseError, match=f"--cores 4096: this process has {count} processors"):
            limit(cores=4096)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(CourseError, match="cannot pin a process"):
        limit(cores=1)
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(CourseError, match="cannot bound a process's memory"):
        limit(memory_mib=512)


def test_bad_input_of_the_command_is_said_in_a_line(shipped, texts, tmp_path, capsys):
    (tmp_path / "no.json").write_text('{"a": 1}')
    for arguments, said in (
        ((tmp_path, texts), "no model.onnx there"),
        ((shipped, tmp_path / "no.json"), "expected a JSON list of texts"),
        ((shipped, tmp_path / "absent.json"), "absent.json"),
        ((shipped, texts, "--cores", "0"), "cores = 0: expected at least 1"),
    ):
        assert small_device.main(list(map(str, arguments))) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least one text"):
        measure(shipped, [])
    assert small_device.main([str(shipped), str(texts)]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"threads", "import_s", "load_s", "ms", "peak_mib", "entities"}


def test_pins_come_from_the_constraints(script):
    text = (script.ROOT / "constraints.txt").read_text()
    assert [p.partition("==")[0] for p in script.pins(text, script.PACKAGES)] == list(script.PACKAGES)
    with pytest.raises(CourseError, match="numpy is not pinned; expected a line numpy==VERSION"):
        script.pins("# numpy==1\nnumpypy==2\n", ["numpy"])


def test_the_package_is_built_from_a_copy(script, tmp_path):
    source = script.copy_sources(tmp_path / "source")
    assert {p.name for p in source.iterdir()} == {"pyproject.toml", "README.md", "LICENSE", "course_lib"}
    assert (source / "course_lib" / "deploy" / "runtime.py").is_file() and not list(source.rglob("__pycache__"))


def test_sizes_are_those_of_installed_files(script):
    """Of the environment at hand, whose packages have a list of their files."""
    found = script.sizes(Path(sys.executable))
    assert found["numpy"] > 1 and found["all"] > sum(v for k, v in found.items() if k in script.PACKAGES)


def test_a_command_that_fails_is_told_with_its_last_words(script):
    assert script.run([sys.executable, "-c", "print(3)"]) == "3\n"
    with pytest.raises(CourseError, match=r"ended with exit status 3: so long"):
        script.run([sys.executable, "-c", "import sys; print('so long', file=sys.stderr); sys.exit(3)"])


def test_measured_runs_the_limits_and_the_report_has_both_rows(script, shipped, texts):
    free, limited = (script.measured(Path(sys.executable), shipped, texts, *o) for o in ((), ("--cores", 1, "--memory", 512)))
    assert script.differing(free.pop("entities"), limited.pop("entities")) == 0
    figures = {
        "free": free, "limited": limited, "venv_mb": {"numpy": 30.0, "all": 99.5}, "model_bytes": 5_000_000, "sentences": 30,
        "differing": 0,
    }  # fmt: skip
    text = script.report(figures)
    assert "| free | " in text and "| limited | 1 | 512 MiB | " in text
    assert "Environment: 99.5 MB (numpy 30); model: 5.0 MB. 30 sentences" in text
    assert script.differing([[1], [2]], [[1], [3]]) == 1
