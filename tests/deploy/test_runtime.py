"""The runtime: a shipped folder predicts without PyTorch, transformers or the command line's packages."""

import json
import subprocess
import sys

import pytest

from course_lib.cli import main as course
from course_lib.deploy.export import export_onnx
from course_lib.deploy.runtime import Runtime, main
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

TEXTS = ["Ana Ruiz left Chelsea. Bob stayed.", "", "Wu's bank is in Oslo, isn't it?"]
ALLOWED = {"course_lib", "numpy", "tokenizers", "onnxruntime"}
ONLY = """
import importlib.abc, runpy, sys
ALLOWED = {allowed}

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root not in ALLOWED and not root.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{root!r}}", name=root)

sys.meta_path.insert(0, Nothing())
sys.argv = ["runtime", *sys.argv[1:]]
runpy.run_module("course_lib.deploy.runtime", run_name="__main__")
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    model, tokenizer = load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"], 4), load_tokenizer(find_encoder("tiny"))
    model.classifier.weight.data *= 50  # so that each tag wins somewhere
    save_model(model, tokenizer, folder)
    export_onnx(folder, folder / "model.onnx")
    (folder / "model.safetensors").unlink()
    return folder


def run(*arguments, given=None):
    code = ONLY.format(allowed=ALLOWED)
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], input=given, capture_output=True, text=True)


def test_it_needs_four_packages_and_says_what_course_predict_says(shipped, capsys):
    done = run(shipped, *TEXTS)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["text"] for r in records] == ["Ana Ruiz left Chelsea.", "Bob stayed.", "Wu's bank is in Oslo, isn't it?"]
    assert any(r["entities"] for r in records)
    with pytest.raises(SystemExit) as stop:
        course(["predict", "--model", str(shipped), *TEXTS])
    assert stop.value.code == 0 and capsys.readouterr().out == done.stdout


def test_the_test_would_notice_pytorch():
    code = ONLY.format(allowed=ALLOWED).replace("course_lib.deploy.runtime", "course_lib.ner.train")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "No module named 'torch'" in done.stderr


def test_lines_of_standard_input_are_texts(shipped):
    lines = run(shipped, given="\n".join(TEXTS))
    assert lines.returncode == 0 and lines.stdout == run(shipped, *TEXTS).stdout


def test_texts_batched_together_give_the_same_entities(shipped):
    """fp32: padding changes the last bits of a logit at most, and no tag here."""
    runtime = Runtime(shipped, threads=1)
    one_by_one = list(runtime.entities(TEXTS * 5))
    assert len(one_by_one) == 15
    assert list(runtime.entities(iter(TEXTS * 5), at_once=4)) == one_by_one
    with pytest.raises(ValueError, match="at_once = 0: expected at least 1 text"):
        list(runtime.entities(TEXTS, at_once=0))


def test_bad_input_is_said_in_a_line(shipped, tmp_path, capsys):
    assert main([str(tmp_path), "Ana"]) == 2
    assert "no model.onnx there" in capsys.readouterr().err
    for file in shipped.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1000] if file.name == "model.onnx" else file.read_bytes())
    assert main([str(tmp_path), "Ana"]) == 2
    assert "The file is damaged" in capsys.readouterr().err
    with pytest.raises(CourseError, match=r"no model.onnx there"):
        Runtime(tmp_path / "nothing")
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.deploy.runtime", str(shipped)], input=b"\xff\xfe\n", capture_output=True
    )
    assert done.returncode == 2 and b"not UTF-8" in done.stderr


def test_threads_are_given_to_the_engine(shipped):
    assert Runtime(shipped, threads=1).engine.session.get_session_options().intra_op_num_threads == 1
