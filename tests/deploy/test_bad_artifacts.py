"""Shipped folders that are not what they should be, opened as a user would: by a command or the runtime, never a traceback."""

import json
import shutil
import subprocess
import sys

import onnx
import onnxruntime
import pytest

from course_lib.cli import main as course
from course_lib.data.conll import Sentence, write_conll
from course_lib.deploy import runtime
from course_lib.deploy.engines import FORMAT, OpenVinoEngine, open_model
from course_lib.deploy.export import export_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, tokenizer = (
        load_token_classifier(find_encoder("tiny"), ["O", "B-PER", "I-PER"], 4),
        load_tokenizer(find_encoder("tiny")),
    )
    save_model(model, tokenizer, folder)
    export_onnx(folder, folder / "model.onnx")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def refused(folder, capsys):
    """What `course predict` says of the folder, after it and the runtime both refused it in the same words."""

    def said():
        with pytest.raises(SystemExit) as stop:
            course(["predict", "--model", str(folder), "--threads", "1", "Ana left."])
        first = capsys.readouterr()
        assert stop.value.code == 2 and first.out == ""
        assert runtime.main([str(folder), "--threads", "1", "Ana left."]) == 2
        second = capsys.readouterr()
        assert second.out == "" and second.err == first.err
        return " ".join(first.err.split())

    return said


def edit(folder, change):
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named_with_what_a_folder_holds(name, folder, refused):
    (folder / name).unlink()
    assert f"Cannot read {folder / name}: it is missing. A shipped folder holds model.onnx, config.json and" in refused()


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_named(name, kept, folder, refused):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content))])
    assert str(folder / name) in refused()


def newer_ir(model):
    model.ir_version = 99


def newer_opset(model):
    model.opset_import[0].version = 99


def newer_operator(model):
    next(node for node in model.graph.node if node.op_type == "Attention").op_type = "AttentionOfTomorrow"


@pytest.mark.parametrize(
    "change, said", [(newer_ir, "IR version: 99"), (newer_opset, "Opset 99"), (newer_operator, "AttentionOfTomorrow")]
)
def test_a_file_for_a_later_onnx_runtime_is_not_called_damaged(change, said, folder, refused):
    edit(folder, change)
    message = refused()
    assert said in message and "damaged" not in message
    assert f"It needs a newer ONNX Runtime than {onnxruntime.__version__}: pip install -U onnxruntime." in message


def test_a_folder_of_a_later_format_is_refused_with_both_versions(folder, refused):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"course_format": FORMAT}))
    open_model(folder, 1)
    (folder / "config.json").write_text(json.dumps(config | {"course_format": FORMAT + 1}))
    assert f"course_format = {FORMAT + 1}; this course_lib reads format {FORMAT}." in refused()


def test_a_model_with_other_inputs_is_no_token_classifier(folder, refused):
    def rename(model):
        model.graph.input[0].name = "tokens"
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == "input_ids":
                    node.input[place] = "tokens"

    edit(folder, rename)
    assert (
        "inputs ['attention_mask', 'tokens'], outputs ['logits']; expected input_ids and attention_mask, and logits"
        in refused()
    )


def test_an_engine_that_is_not_installed_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "ONNX Runtime is not installed: pip install onnxruntime." in refused()
    with pytest.raises(CourseError, match=r"OpenVINO is not installed: pip install 'course_lib\[bench\]'"):
        OpenVinoEngine("model.onnx", 1)


def test_score_refuses_data_of_other_types_and_names_those_it_never_learnt(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, kinds in (("other", ["GENE", "CELL"]), ("mixed", ["GENE", "PER"])):
        rows = [Sentence(("Ana", "saw", "Bob"), (f"B-{kinds[0]}", "O", f"B-{kinds[1]}"))] * 12
        (tmp_path / name).mkdir()
        for split in ("train", "dev", "test"):
            write_conll(tmp_path / name / f"{split}.txt", rows)
    outcomes = {}
    for name in ("other", "mixed"):
        with pytest.raises(SystemExit) as stop:
            course(["score", "--model", str(folder), "--data", name, "--threads", "1"])
        outcomes[name] = stop.value.code, " ".join(capsys.readouterr().err.split())
    assert outcomes["other"][0] == 2
    assert "knows ['PER'], the data ['CELL', 'GENE']: expected a type in common." in outcomes["other"][1]
    assert outcomes["mixed"][0] == 0 and "never learnt GENE: they are counted as missed." in outcomes["mixed"][1]


def test_without_pytorch_a_training_folder_is_refused_with_what_to_install(whole, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CourseError, match=r"holds no model\.onnx, and PyTorch, .* is not installed"):
        open_model(tmp_path, 1)


def test_texts_may_follow_options(folder):
    command = [sys.executable, "-m", "course_lib.deploy.runtime", str(folder), "--threads", "1", "Ana left.", "Bob stayed."]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["Ana left.", "Bob stayed."]
