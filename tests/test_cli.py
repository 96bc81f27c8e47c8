"""The command line: help, good input, and for bad input a message that says which, what and what instead."""

import io
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

import course_lib
from course_lib.cli import app, main
from course_lib.deploy.export import export_onnx
from course_lib.machine import fast_bf16
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

COMMANDS = sorted(c.callback.__name__ for c in app.registered_commands)
TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
GOOD = "Ana\tB-PER\nleft\tO\nOslo\tB-LOC\n\nBob\tB-PER\nstayed\tO\n\n" * 10
TINY = ("--encoder", "tiny", "--threads", "1", "--epochs", "1")
RECIPE = """[teacher]
epochs = 1
[[step]]
do = "drop_layers"
keep = [1]
[[step]]
do = "distil"
epochs = 1
[[step]]
do = "quantize"
"""


@pytest.fixture
def course(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder as the process would; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # or messages in frames are broken into lines
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    before = torch.get_num_threads()

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return stop.value.code, *capsys.readouterr()

    yield run
    torch.set_num_threads(before)


@pytest.fixture
def well(course):
    """Run a command that must end well; returns (stdout, stderr)."""

    def run(*arguments, stdin=b""):
        code, out, err = course(*arguments, stdin=stdin)
        assert code == 0, err
        return out, err

    return run


def write(folder, **files):
    """A corpus folder with these splits, as text or bytes."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        Path(folder, f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tree():
    """Every file below the current folder with its bytes."""
    return {str(f): f.read_bytes() for f in Path().rglob("*") if f.is_file()}


@pytest.fixture
def refused(course):
    """Run a command that must be refused: status 2, no traceback, all that is ``said``, and not one file changed."""

    def run(*arguments, said, stdin=b""):
        before = tree()
        code, out, err = course(*arguments, stdin=stdin)
        assert code == 2, (code, out, err)
        assert out == "" and "Traceback" not in err
        text = " ".join(re.sub("[│╭╰─╮╯]", " ", err).split())
        for part in said:
            assert part in text, f"{part!r} is not in {text!r}"
        assert tree() == before, "nothing half-written"
        return text

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A random classifier as a PyTorch folder and as a folder to ship."""
    root = tmp_path_factory.mktemp("models")
    for name in ("trained", "shipped"):
        (root / name).mkdir()
    model = load_token_classifier(find_encoder("tiny"), TAGS, seed=1)
    model.classifier.weight.data *= 50  # so that it finds names here and there
    save_model(model, load_tokenizer(find_encoder("tiny")), root / "trained")
    export_onnx(root / "trained", root / "shipped" / "model.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(root / "trained" / name, root / "shipped" / name)
    return root


# --- without arguments, help, version


def test_importing_the_library_loads_nothing_heavy():
    """Neither does the help: both must be instant."""
    code = (
        "import sys, course_lib, course_lib.cli\n"
        "try: course_lib.cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'numpy', 'matplotlib'} & sys.modules.keys()), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (0, "[]\n")
    for command in COMMANDS:
        assert f" {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example_that_would_parse(command, well):
    out, err = well(command, "--help")
    text = " ".join(re.sub("[│]", " ", out).split())
    assert err == "" and "Usage:" in out
    example = re.search(r"Example: (course \S.*?)(?: ╭| ─|$)", text)
    assert example and example[1].startswith(f"course {command}")
    options = {o for parameter in app_parameters(command) for o in parameter.opts}
    assert set(re.findall(r"(?<= )--[a-z-]+", example[1])) <= options
    for option in options - {"text"}:
        assert option in out, f"{option} is not explained"


def app_parameters(command):
    import typer

    return typer.main.get_command(app).commands[command].params


def test_no_arguments_give_the_help_and_version_the_version(course, well):
    code, out, err = course()
    assert code == 2 and "doctor" in out + err and "compress" in out + err
    assert well("--version") == (f"course_lib {course_lib.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments, said", [(("fly",), "No such command 'fly'"), (("train", "--fly"), "No such option: --fly")]
)
def test_unknown_commands_and_options_are_named(arguments, said, refused):
    refused(*arguments, said=[said])


# --- bad options


@pytest.mark.parametrize(
    "command, option, value, expected",
    [
        ("train", "--epochs", "-3", "greater than or equal to 1"),
        ("train", "--epochs", "many", "valid integer"),
        ("train", "--epochs", "2.5", "valid integer"),
        ("train", "--batch-size", "0", "greater than or equal to 1"),
        ("train", "--learning-rate", "5", "less than or equal to 0.1"),
        ("train", "--learning-rate", "0", "greater than or equal to 0.000000001"),
        ("train", "--learning-rate", "nan", ""),
        ("train", "--patience", "0", "greater than or equal to 1"),
        *(("train compress prepare score".split()[i % 4], "--seed", v, e) for i, (v, e) in enumerate((
            ("-1", "greater than or equal to 0"), ("1.5", "valid integer"), (str(2**31), "less than or equal to 2147483647"),
            ("-1", "greater than or equal to 0"),
        ))),
        ("compress", "--threads", "0", "greater than or equal to 1"),
        ("prepare", "--threads", "-1", "greater than or equal to 1"),
        ("score", "--threads", "100000", "less than or equal to 256"),
        ("predict", "--threads", "0", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_silly_options_are_refused_with_their_range(command, option, value, expected, refused):
    refused(command, option, value, said=[f"Invalid value for '{option}'", expected])


# --- bad data

STRAY = GOOD + "Rio\tI-LOC\n"
MIXED = "Ana\tS-PER\n.\tO\n\nAna\tB-PER\n.\tO\n"
BAD_DATA = {
    "empty": ({"train": ""}, ["train.txt: no sentence found", "word and tag"]),
    "blank lines": ({"train": "\n \n\t\n"}, ["train.txt: no sentence found", "word and tag"]),
    "one column": ({"train": "Ana\nleft\n"}, ["train.txt, line 1", "one column ('Ana')", "at least two"]),
    "one column late": ({"train": GOOD + "Ana\n"}, ["train.txt, line 71", "one column ('Ana')", "tag last"]),
    "binary": ({"train": b"\x7fELF\0\0\1"}, ["train.txt: a binary file", "UTF-8 text in CoNLL columns"]),
    "latin-1": ({"train": "Ana\tB-PER\nJos\xe9\tI-PER\n".encode("latin-1")}, ["train.txt, line 2: not UTF-8", "Convert"]),
    "no tag": ({"train": "Ana\tperson\n"}, ["train.txt, line 1", "tag 'person'", "expected O or one of B-"]),
    "mixed schemes": ({"train": MIXED}, ["train.txt, line 5", "O after B-PER", "closed with an E- tag", "--repair"]),
    "stray tag": ({"train": STRAY}, ["train.txt, line 71", "I-LOC after O", "must follow B-LOC or I-LOC", "--repair"]),
    "bad dev": ({"train": GOOD, "dev": "Ana\n"}, ["dev.txt, line 1", "one column"]),
    "bad test": ({"train": GOOD, "dev": GOOD, "test": ""}, ["test.txt: no sentence found"]),
    "no train": ({"dev": GOOD, "test": GOOD}, ["--data bad: no train.txt there", "Expected a folder with train.txt"]),
    "no folder": ({}, ["--data bad: no train.txt there", "hub:ID"]),
    "no entity": ({"train": "a\tO\n\n" * 20}, ["bad: no entity in its 16 training sentences", "nothing to learn"]),
    "too few": ({"train": "Ana\tB-PER\n"}, ["1 training sentences: too few"]),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_are_refused_by_file_and_line(kind, refused):
    files, said = BAD_DATA[kind]
    if files:
        write("bad", **files)
    refused("train", "--data", "bad", *TINY, said=said)


@pytest.mark.parametrize("command", ["prepare", "compress", "score"])
def test_every_command_that_reads_data_refuses_bad_ones(command, refused, models):
    write("bad", train=GOOD, dev="Ana\n")
    options = ["--model", models / "shipped"] if command == "score" else []
    refused(command, "--data", "bad", *options, said=["dev.txt, line 1", "one column ('Ana')"])


@pytest.fixture
def no_network(monkeypatch):
    """A hub that refuses connections at once: a port of loopback that is bound and not listened on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("no_proxy", "*")
        for module in (datasets.config, huggingface_hub.constants):  # both read the environment when they are imported
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        yield closed


def test_a_hub_encoder_without_a_network_says_what_to_use_instead(refused, no_network):
    write("data", train=GOOD)
    said = ["--encoder owner/absent: cannot fetch it from the hub", "needs a network", "--encoder minilm or a local folder"]
    refused("train", "--data", "data", "--encoder", "owner/absent", said=said)


def test_a_hub_corpus_without_a_network_is_given_up_at_the_first_attempt(refused, no_network, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    said = ["Cannot load the hub corpus 'owner/absent'", "needs a network", "give a folder of CoNLL files"]
    refused("train", "--data", "hub:owner/absent", said=said)
    assert waits == [], "each further attempt would wait longer"


# --- data that are unusual but good


def test_without_a_dev_file_a_tenth_of_train_is_drawn_and_said(well):
    for files, sizes, said in (
        ({"train": GOOD, "test": GOOD}, "18 / 2 / 20", "no dev.txt: validation is a tenth of train, drawn with seed 4"),
        ({"train": GOOD, "dev": GOOD}, "18 / 2 / 20", "no test.txt: dev.txt is the test"),
        ({"train": GOOD}, "16 / 2 / 2", "train.txt alone: validation and test are a tenth each, drawn with seed 4"),
    ):
        shutil.rmtree("data", ignore_errors=True)
        write("data", **files)
        _, err = well("train", "--data", "data", *TINY, "--seed", "4", "--json", "history.json")
        assert err.startswith(f"corpus data: {sizes} sentences; {said}")
        assert said in json.loads(Path("history.json").read_text())["data"]["splits"]


def test_other_schemes_are_converted_and_mended_tags_counted(well):
    write("data", train=GOOD.replace("B-", "I-"), dev=GOOD.replace("B-", "S-"), test=STRAY)
    _, err = well("train", "--data", "data", *TINY, "--repair")
    for note in ("train.txt: converted from IOB1", "dev.txt: converted from BIOES", "test.txt: 1 tags repaired"):
        assert f"  {note}\n" in err


def test_a_sentence_of_ten_thousand_words_is_trained_scored_and_predicted(well, models):
    words = [("Mr", "B-PER"), ("from", "O"), ("city", "B-LOC")] * 3334  # a piece each: 10 002 in windows of 512
    long = "".join(f"{word}\t{tag}\n" for word, tag in words)
    write("data", train=GOOD + long, dev=GOOD, test=long)
    out, err = well("train", "--data", "data", *TINY, "--out", "model")
    assert re.search(r"teacher: \d+ sentences", err) and "model: best validation F1" in out
    out, _ = well("score", "--model", "model", "--data", "data", "--threads", "1", "--json", "score.json")
    types = json.loads(Path("score.json").read_text())["types"]
    assert {kind: row["support"] for kind, row in types.items()} == {"LOC": 3334, "PER": 3334}, "each word has its tag"
    text = " ".join(word for word, _ in words)
    for folder in ("trained", "shipped"):
        (record,) = (
            json.loads(line) for line in well("predict", "--threads", "1", "--model", models / folder, text)[0].splitlines()
        )
        assert record["text"] == text and record["entities"]
        assert all(e["text"] == text[e["start"] : e["end"]] for e in record["entities"])


def test_a_model_with_few_positions_reads_long_sentences_too(well, tmp_path):
    """32 positions: sentences are read in windows of that length by train, score and predict alike."""
    from transformers import BertConfig, BertModel

    encoder = tmp_path / "short"
    encoder.mkdir()
    config = BertConfig(
        vocab_size=137, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    save_model(BertModel(config), load_tokenizer(find_encoder("tiny")), encoder)
    write("data", train=GOOD, dev=GOOD, test="Oslo\tB-LOC\n" * 200)
    well("train", "--data", "data", "--encoder", encoder, "--threads", "1", "--epochs", "1", "--out", "model")
    well("score", "--model", "model", "--data", "data", "--json", "score.json")
    assert json.loads(Path("score.json").read_text())["types"]["LOC"]["support"] == 200
    out, _ = well("predict", "--model", "model", "Oslo " * 200)
    assert json.loads(out)["text"] == ("Oslo " * 200).strip()


def test_empty_sentences_are_no_sentences(well, models):
    write("data", train="\n\n\n" + GOOD.replace("\n\n", "\n\n\n \n\t\n\n"), dev=GOOD, test=GOOD)
    _, err = well("train", "--data", "data", *TINY)
    assert err.startswith("corpus data: 20 / 20 / 20 sentences")
    for folder in ("trained", "shipped"):
        assert well("predict", "--model", models / folder, "", "  \n ") == ("", "")
        out, _ = well("predict", "--model", models / folder, "-", stdin=b"\n\nAna left.\n\n  \nBob stayed.\n")
        assert [json.loads(line)["text"] for line in out.splitlines()] == ["Ana left.", "Bob stayed."]


# --- train


def test_train_leaves_a_model_and_its_history(well):
    write("data", train=GOOD)
    arguments = ("train", "--data", "data", *TINY, "--batch-size", "4", "--learning-rate", "1e-3", "--out", "my/model")
    out, err = well(*arguments, "--json", "my/history.json")
    made = json.loads(Path("my/history.json").read_text())
    assert made["model"] == "my/model" and made["data"]["name"] == "data" and made["threads"] == 1
    settings = {k: made["settings"][k] for k in ("epochs", "batch_size", "learning_rate", "patience", "bf16", "seed")}
    assert settings == {
        "epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "patience": None, "bf16": fast_bf16(), "seed": 0,
    }  # fmt: skip
    (epoch,) = made["epochs"]
    assert out == f"my/model: best validation F1 {epoch['validation_f1']:.4f} after 1 epochs\n"
    (cached,) = Path("artifacts/cache").iterdir()
    assert {f.name: f.read_bytes() for f in cached.iterdir()} == {f.name: f.read_bytes() for f in Path("my/model").iterdir()}
    assert well("score", "--model", "my/model", "--data", "data", "--split", "validation")[0].startswith(
        "my/model on data validation: F1 "
    )
    Path("my/model/config.json").unlink()
    again, err = well(*arguments)
    assert again == out and "epoch" not in err, "taken from the cache"
    assert Path("my/model/config.json").is_file(), "an earlier model is replaced"


def test_training_from_scratch_is_another_model(well):
    write("data", train=GOOD)
    _, err = well("train", "--data", "data", *TINY, "--from-scratch", "--out", "scratch")
    assert "random weights" in err
    well("train", "--data", "data", *TINY, "--out", "warm")
    a, b = (load_file(f"{name}/model.safetensors")["bert.embeddings.word_embeddings.weight"] for name in ("scratch", "warm"))
    assert a.shape == b.shape and not torch.equal(a, b)


def test_patience_stops_training(well):
    """At this rate no word changes its tag, so the second epoch is no better than the first."""
    write("data", train=GOOD)
    out, _ = well("train", "--data", "data", *TINY, "--epochs", "9", "--patience", "1", "--learning-rate", "1e-9")
    assert "after 2 epochs" in out


def test_a_disk_that_fills_up_is_advice_and_a_rerun_goes_on(course, well, tmp_path):
    """No file may grow beyond 20 000 bytes for a while: the model is bigger, everything else is smaller."""
    write("data", train=GOOD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        code, out, err = course("train", "--data", "data", *TINY, "--out", "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert "Cannot write artifacts/cache/" in err and "File too large" in err and "Free some space" in err
    assert [f for f in tmp_path.rglob("*") if f.is_file() and f.parent.name != "data"] == [], "nothing half-written"
    out, _ = well("train", "--data", "data", *TINY, "--out", "model")
    assert out.startswith("model: best") and Path("model/model.safetensors").is_file()


# --- prepare


def test_prepare_leaves_teacher_and_student(well):
    write("data", train=GOOD)
    Path("mine.toml").write_text(RECIPE)
    arguments = ("prepare", "--data", "data", "--encoder", "tiny", "--threads", "1", "--recipe", "mine.toml")
    out, err = well(*arguments, "--json", "prepared.json")
    made = json.loads(Path("prepared.json").read_text())
    assert set(made) == {"data", "teacher", "student"}
    assert out == f"teacher {made['teacher']}\nstudent {made['student']}\n"
    layers = [json.loads(Path(made[k], "config.json").read_text())["num_hidden_layers"] for k in ("teacher", "student")]
    assert layers == [2, 1]
    assert err.count("epoch 1:") == 2
    assert well(*arguments) == (out, err.splitlines()[0] + "\n"), "then from the cache"
    assert well(*arguments, "--force")[1].count("epoch 1:") == 2
    assert well(*arguments, "--preset", "mine.toml")[0] == out, "--preset is another name of --recipe"


@pytest.mark.parametrize("command", ["prepare", "compress"])
@pytest.mark.parametrize(
    "recipe, said",
    [
        (None, ["--recipe mine.toml: not found", "a preset ("]),
        ("[teacher", ["mine.toml: not TOML"]),
        (RECIPE + '[[step]]\ndo = "fly"\n', ["mine.toml, step 4: do = 'fly'", "'drop_layers'"]),
        (RECIPE.replace("keep", "kept"), ["mine.toml, step 1 (drop_layers): unknown field 'kept'", "'keep'"]),
        (RECIPE.replace("[1]", '"one"'), ["mine.toml, step 1 (drop_layers): keep = 'one'", "list[int]"]),
        (RECIPE.replace("epochs = 1", "epochs = -1", 1), ["mine.toml, [teacher]: epochs = -1", "at least 1"]),
        (RECIPE + '[[step]]\ndo = "drop_layers"\nkeep = [0]\n', ["mine.toml: expected the steps in the order"]),
        (RECIPE.replace("[1]", "[2]"), ["recipe 'mine': drop_layers keeps [2]", "only layers 0 to 1", "--recipe FILE.toml"]),
    ],
    ids=["missing", "no TOML", "unknown step", "unknown field", "wrong type", "negative", "wrong order", "another encoder's"],
)
def test_bad_recipes_are_refused_before_anything_is_trained(command, recipe, said, refused):
    write("data", train=GOOD)
    if recipe is not None:
        Path("mine.toml").write_text(recipe)
    err = refused(command, "--data", "data", "--encoder", "tiny", "--recipe", "mine.toml", said=said)
    assert "epoch" not in err.replace("epochs", "")


def test_the_quick_preset_is_not_for_the_tiny_encoder_and_says_so(refused):
    write("data", train=GOOD)
    refused("compress", "--data", "data", "--encoder", "tiny", said=["recipe 'quick': drop_layers keeps", "only layers 0 to 1"])


# --- where results go


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--data", "data", *TINY),
        ("prepare", "--data", "data", "--encoder", "tiny", "--recipe", "mine.toml"),
        ("compress", "--data", "data", "--encoder", "tiny", "--recipe", "mine.toml"),
    ],
    ids=["train", "prepare", "compress"],
)
@pytest.mark.parametrize("place", ["precious", "precious/deep/folder"])
def test_artifacts_that_cannot_be_written_are_found_out_before_the_work(command, place, refused):
    write("data", train=GOOD)
    Path("mine.toml").write_text(RECIPE)
    Path("precious").write_text("years of work")
    err = refused(*command, "--artifacts", place, said=["Cannot write precious", "--artifacts DIR"])
    assert "epoch 1" not in err


def test_the_generated_corpus_needs_an_artifacts_folder_too(refused):
    Path("precious").write_text("years of work")
    refused("train", *TINY, "--artifacts", "precious", said=["Cannot write precious/corpus/generated-", "--artifacts DIR"])


@pytest.mark.parametrize("command", ["train", "compress"])
@pytest.mark.parametrize("option", ["--out", "--json"])
def test_results_that_cannot_be_written_are_found_out_before_the_work(command, option, refused):
    write("data", train=GOOD)
    Path("mine.toml").write_text(RECIPE)
    Path("precious").write_text("years of work")
    arguments = [command, "--data", "data", "--encoder", "tiny"] + (["--recipe", "mine.toml"] if command == "compress" else [])
    err = refused(*arguments, option, "precious/x", said=["Cannot write precious", "choose another folder"])
    assert "epoch 1" not in err


def test_a_result_never_replaces_what_the_course_did_not_make(refused):
    write("data", train=GOOD)
    Path("mine.toml").write_text(RECIPE)
    Path("precious").write_text("years of work")
    write("home/model", thesis="more years of work")
    train = ("train", "--data", "data", *TINY, "--out")
    refused(*train, "precious", said=["precious is a file", "nothing was changed"])
    refused(*train, "home/model", said=["home/model holds thesis.txt", "nothing was changed"])
    compress = ("compress", "--data", "data", "--encoder", "tiny", "--recipe", "mine.toml", "--out")
    refused(*compress, "home", said=["home/model holds thesis.txt", "nothing was changed"])
    refused(*train, "new", "--json", "home", said=["--json home: this is a folder", "name of a file"])


# --- predict and score


def test_predict_gives_a_json_line_for_each_sentence_with_offsets_into_the_text(well, models):
    texts = ["Ana Ruiz left Chelsea. Then “Bob” – 🎈 Zoë – flew to Oslo.", "Rio\tde Janeiro"]
    for folder in ("trained", "shipped"):
        out, err = well("predict", "--model", models / folder, *texts)
        records = [json.loads(line) for line in out.splitlines()]
        assert err == "" and len(records) == 3
        for text, record in zip((texts[0], texts[0], texts[1]), records, strict=True):
            assert set(record) == {"text", "start", "end", "entities"}
            assert record["text"] == text[record["start"] : record["end"]]
            for entity in record["entities"]:
                assert set(entity) == {"type", "text", "start", "end"} and entity["type"] in {"LOC", "PER"}
                assert entity["text"] == text[entity["start"] : entity["end"]] == entity["text"].strip() != ""
                assert record["start"] <= entity["start"] < entity["end"] <= record["end"]
        assert any(record["entities"] for record in records)
        assert "🎈" in out, "readable, not escaped"


def test_standard_input_is_read_line_by_line_with_offsets_into_each_line(well, models):
    lines = ["Ana left Oslo. Bob stayed.", "Zoë flew to Rio."]
    arguments = ("predict", "--model", models / "shipped")
    for end in ("\n", "\r\n"):
        out, _ = well(*arguments, "-", stdin=end.join(lines).encode())
        assert out == well(*arguments, *lines)[0]
    starts = [(json.loads(line)["start"], json.loads(line)["text"]) for line in out.splitlines()]
    assert starts == [(0, "Ana left Oslo."), (15, "Bob stayed."), (0, "Zoë flew to Rio.")]
    assert well(*arguments, "-", stdin=b"") == ("", "")


def test_text_that_is_not_utf8_is_refused_by_line(course, models):
    code, out, err = course("predict", "--model", models / "shipped", "-", stdin=b"Ana left.\nJos\xe9 left.\n")
    assert code == 2 and "TEXT, line 2: not UTF-8" in err and "Convert" in err and "Traceback" not in err
    assert len(out.splitlines()) == 1, "what came before is answered"
    code, out, err = course("predict", "--model", models / "shipped", "Jos\udce9 left.")  # as Python passes bad bytes on
    assert (code, out) == (2, "") and "TEXT, line 1: not UTF-8" in err


def test_predict_without_a_text_says_how(refused, models):
    refused("predict", "--model", models / "shipped", said=["TEXT is missing", "- to read standard input"])


def damage(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content((folder / name).read_bytes()))


DAMAGE = {
    "cut safetensors": ("trained", "model.safetensors", lambda old: old[: len(old) // 2], "Cannot load model"),
    "junk safetensors": ("trained", "model.safetensors", lambda old: b"junk" * 99, "Cannot load model"),
    "empty safetensors": ("trained", "model.safetensors", lambda old: b"", "Cannot load model"),
    "no safetensors": ("trained", "model.safetensors", None, "--model model: no model.onnx or model.safetensors there"),
    "cut onnx": ("shipped", "model.onnx", lambda old: old[: len(old) // 2], "Cannot load model/model.onnx"),
    "junk onnx": ("shipped", "model.onnx", lambda old: b"junk" * 99, "Cannot load model/model.onnx"),
    "empty onnx": ("shipped", "model.onnx", lambda old: b"", "Cannot load model/model.onnx"),
    "no onnx": ("shipped", "model.onnx", None, "--model model: no model.onnx or model.safetensors there"),
    "junk config": ("trained", "config.json", lambda old: b"{", "Cannot load model"),
    "no config": ("trained", "config.json", None, "model: config.json missing"),
    "junk onnx config": ("shipped", "config.json", lambda old: b"{", "Cannot read model/config.json"),
    "no onnx config": ("shipped", "config.json", None, "Cannot read model/config.json"),
    "fewer tags": ("shipped", "config.json", lambda old: old.replace(b'"4":', b'"5":'), "expected the 5 tags of model.onnx"),
    "other shape": ("trained", "config.json", lambda old: old.replace(b'size": 64', b'size": 48'), "does not fit config.json"),
    "junk tokenizer": ("shipped", "tokenizer.json", lambda old: b"{}", "Cannot read model/tokenizer.json"),
    "no tokenizer": ("shipped", "tokenizer.json", None, "Cannot read model/tokenizer.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model_folder_is_refused_by_file(kind, refused, models):
    which, name, content, said = DAMAGE[kind]
    shutil.copytree(models / which, "model")
    damage(Path("model"), name, content)
    refused("predict", "--model", "model", "Ana left.", said=[said])
    refused("score", "--model", "model", "--split", "natural", said=[said])


def test_a_missing_model_says_where_one_comes_from(refused):
    refused("predict", "Ana left.", said=["--model artifacts/course/model: no model.onnx", "`make course` makes"])
    refused("score", "--model", "absent", "--split", "natural", said=["--model absent: no model.onnx", "`make course` makes"])


def test_a_damaged_encoder_is_refused_before_training(refused):
    write("data", train=GOOD)
    shutil.copytree(find_encoder("tiny"), "encoder")
    weights = Path("encoder/model.safetensors").read_bytes()
    Path("encoder/model.safetensors").write_bytes(weights[:1000])
    refused("train", "--data", "data", "--encoder", "encoder", said=["Cannot load encoder", "damaged"])
    Path("encoder/model.safetensors").rename("encoder/pytorch_model.bin")
    refused("train", "--data", "data", "--encoder", "encoder", said=["model.safetensors missing", "never loaded"])
    refused("train", "--data", "data", "--encoder", "./absent", said=["--encoder ./absent: no such folder", "Expected minilm"])


def test_score_prints_what_it_writes(well, models):
    write("data", train=GOOD)
    file = Path("deep/score.json")
    out, _ = well("score", "--model", models / "shipped", "--data", "data", "--seed", "1", "--json", file)
    figures = json.loads(file.read_text())
    assert set(figures) == {"f1", "types", "bytes", "data", "split", "unknown_types"} and figures["split"] == "test"
    value, low, high = figures["f1"]
    head, *rows = out.splitlines()
    assert head == (f"{models / 'shipped'} on data test: F1 {value:.4f} [{low:.4f}, {high:.4f}], {figures['bytes']:,} bytes")
    assert [row.split()[0] for row in rows] == list(figures["types"])
    assert all(f"F1 {figures['types'][row.split()[0]]['f1']:.4f}" in row for row in rows)


def test_the_natural_set_needs_no_corpus(well, models):
    out, err = well("score", "--model", models / "shipped", "--split", "natural")
    assert " on natural natural: F1 " in out and "never learnt MISC, ORG: they are left out" in err
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["LOC", "PER"], "types it never learnt are left out"


def test_an_unknown_split_is_refused(refused, models):
    said = ["--split train: expected validation, test or natural"]
    refused("score", "--model", models / "shipped", "--split", "train", said=said)


# --- engines


def test_bench_times_a_shipped_folder_and_predict_takes_the_fastest(well, models, monkeypatch, tmp_path):
    from course_lib.deploy import fastest

    monkeypatch.setattr(fastest, "memory", lambda: tmp_path / "remembered")
    monkeypatch.setattr(fastest, "settings", lambda threads: [("onnxruntime", 1), ("no such engine", 1)])
    out, err = well("bench", "--model", models / "shipped", "--threads", "1", "--rounds", "1", "--json", "bench.json")
    assert "fastest at batch 1: onnxruntime, 1 thread" in out and "no such engine" in out and "timing" in err
    figures = json.loads(Path("bench.json").read_text())
    assert figures["bytes"] > 0 and [row["engine"] for row in figures["rows"]] == ["onnxruntime", "no such engine"]
    asked = "predict", "--model", models / "shipped", "--threads", "1"
    assert well(*asked, "--engine", "auto", "Ana left.")[0] == well(*asked, "Ana left.")[0]


def test_an_unknown_engine_is_refused(refused, models):
    refused("predict", "--model", models / "shipped", "--engine", "fast", "Ana.", said=["--engine fast: expected one of auto"])


# --- interrupted


def test_ctrl_c_exits_130_with_advice(course, monkeypatch):
    from course_lib.recipes import teacher

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher, "train", interrupt)
    write("data", train=GOOD)
    code, out, err = course("train", "--data", "data", *TINY)
    assert (code, out) == (130, "") and "Traceback" not in err
    assert err.splitlines()[-1] == "Interrupted. Run the same command again: it goes on from the last checkpoint."


def test_a_fault_of_the_library_is_not_hidden(monkeypatch, course):
    """Only what the user can put right is told without a traceback."""
    from course_lib.recipes import teacher

    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(teacher, "train", broken)
    write("data", train=GOOD)
    with pytest.raises(ZeroDivisionError):
        main(["train", "--data", "data", *TINY])
