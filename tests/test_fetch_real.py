"""Fetching real corpora: each raw format's conversion, verification, and that failures leave nothing behind.

No network and no real corpus: a server on loopback gives small files in the raw formats, and the table of hashes
in the script is replaced by the hashes of what those files must become.
"""

import dataclasses
import hashlib
import http.server
import importlib.util
import socket
import sys
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from course_lib.data.conll import read_conll

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "fetch_real.py"

# Per corpus: the raw file of each split, and what it must become.
WIKIGOLD = "a I-PER\nb I-PER\n\n" + "".join(f"-DOCSTART- O\n\nd{k} I-LOC\n. O\n\n" for k in range(1, 7))
RAW = {
    "wikigold": dict.fromkeys(("train", "dev", "test"), WIKIGOLD),
    "wnut17": {
        # a tab alone ends a sentence in the older half of train; NBSP and U+2028 are words, not line ends
        "train": "@x\tO\nNew\tB-location\nYork\tI-location\n\t\n\u00a0\tO\n\u2028\tO\n\n",
        "dev": "\ufeffLil\tB-person\nSly-\tI-person\nTurn\tI-creative-work\nUp\tI-creative-work\n\n\ufe0f\tO\n",
        "test": "one\tO\r\ntwo\tB-group\r\n\r\n",
    },
    "uner_ewt": {
        "train": "# newdoc id = w-1\n# text = Iraqi B-O in IBM\n1\tIraqi\tB-OTH\t-\tann\n2\tunits\tI-OTH\t-\tann\n3\tB-O\tO\n"
        "4\tin\tB-O\t-\tann\n5\tIBM\tB-ORG\t-\tann\n6\t#\tI-ORG\t-\tann\n\n# text = ok\n1\tok\tO\n\n",
        "dev": "# text = where\n1\twhere\tO\t-\t-\n2\tTampa\tB-LOC\t-\tann\n3\tBay\tI-LOC\t-\tann\n\n",
        "test": "# text = Ann\n1\tAnn\tB-PER\t-\tann\n\n",
    },
    "ncbi_disease": {
        "train": "colon\tB-Disease\ncarcinoma\tI-Disease\ncells\tO\n\n",
        "dev": "APC\tO\n\n",
        "test": "HD\tB-Disease\n\n",
    },
    "fin": {
        "train": "-DOCSTART- -X- O O\n\nSILICON NNP - I-ORG\nBANK NNP - I-ORG\nBorrower NNP - I-PER\n, , - O\n\n- : - O\n\n",
        "test": "-DOCSTART- -X- O O\n\nLender NNP - I-PER\n. . - O\n\n",
    },
}
CONVERTED = {
    "wikigold": {
        "train": "a\tB-PER\nb\tI-PER\n\n" + "".join(f"d{k}\tB-LOC\n.\tO\n\n" for k in (1, 2, 5, 6)),
        "dev": "d3\tB-LOC\n.\tO\n\n",
        "test": "d4\tB-LOC\n.\tO\n\n",
    },
    "wnut17": {
        "train": "@x\tO\nNew\tB-location\nYork\tI-location\n\n\u00a0\tO\n\u2028\tO\n\n",
        "dev": "Lil\tB-person\nSly-\tI-person\nTurn\tB-creative-work\nUp\tI-creative-work\n\n\ufe0f\tO\n\n",
        "test": "one\tO\ntwo\tB-group\n\n",
    },
    "uner_ewt": {
        "train": "Iraqi\tO\nunits\tO\nB-O\tO\nin\tO\nIBM\tB-ORG\n#\tI-ORG\n\nok\tO\n\n",
        "dev": "where\tO\nTampa\tB-LOC\nBay\tI-LOC\n\n",
        "test": "Ann\tB-PER\n\n",
    },
    "ncbi_disease": RAW["ncbi_disease"],
    "fin": {
        "train": "SILICON\tB-ORG\nBANK\tI-ORG\nBorrower\tB-PER\n,\tO\n\n-\tO\n\n",
        "test": "Lender\tB-PER\n.\tO\n\n",
    },
}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def script(monkeypatch):
    """The script as a module, with the hashes of the small files in place of the published ones."""
    spec = importlib.util.spec_from_file_location("fetch_real", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_real", module)
    spec.loader.exec_module(module)
    module.PUBLISHED = dict(module.CORPORA)
    for name, corpus in module.PUBLISHED.items():
        files = {split: (path, sha256(CONVERTED[name][split])) for split, (path, _) in corpus.files.items()}
        monkeypatch.setitem(module.CORPORA, name, dataclasses.replace(corpus, files=files))
    return module


@pytest.fixture
def server(script, monkeypatch):
    """A server of the raw files on loopback: ``url``, ``files`` (path → bytes) and ``asked`` (paths in order)."""
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            server.agents.add(self.headers["User-Agent"])
            data = server.files.get(self.path)
            if data is None:
                return self.send_error(404)
            self.send_response(200)
            if server.announced is not None:
                self.send_header("Content-Length", str(server.announced or len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.agents, server.announced = [], set(), 0
    server.files = {
        f"/{corpus.repository}/{path}": RAW[name][split].encode()
        for name, corpus in script.CORPORA.items()
        for split, (path, _) in corpus.files.items()
    }
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    """Run the command line in an empty folder; the result has exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(script.main)

    def invoke(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def contents(folder):
    return {f.name: f.read_bytes().decode() for f in folder.iterdir()}


def assert_failed(result, folder, *said):
    """Exit status 2, a message that says what is wrong, no traceback, and nothing left in ``folder``'s parent."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for text in said:
        assert text in result.stderr, f"{text!r} is not in {result.stderr!r}"
    assert not folder.exists()
    assert not folder.parent.exists() or not [f.name for f in folder.parent.iterdir() if f.name.startswith(".")]


@pytest.mark.parametrize("name", RAW)
def test_each_raw_format_is_converted_and_verified(name, run, server, script, tmp_path):
    result = run(name, "--base-url", server.url, "--with-test")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "artifacts" / "data" / name
    files = contents(folder)
    note = files.pop(script.NOTE)
    assert files == {f"{split}.txt": text for split, text in CONVERTED[name].items()}
    assert all(read_conll(folder / f).repaired == 0 for f in files)
    corpus = script.CORPORA[name]
    for path, sha in corpus.files.values():
        assert f"{script.HOME}/{corpus.repository}/{path}" in note and path.split("/")[0] in note and sha in note
    for text in (corpus.licence, corpus.citation, script.CHANGES, corpus.changes):
        assert text in note and text in result.stdout
    assert len(server.asked) == len(set(server.asked)), "a raw file of several splits is downloaded once"
    assert not any("Python-urllib" in agent for agent in server.agents)


@pytest.mark.parametrize("name", RAW)
def test_the_test_split_comes_only_when_asked_for(name, run, server, script):
    assert run(name, "--base-url", server.url, "--out", "x").exit_code == 0
    splits = set(CONVERTED[name]) - {"test"}
    assert set(contents(Path("x"))) == {f"{s}.txt" for s in splits} | {script.NOTE}
    assert not any(path.endswith(("test.iob2", "test.tsv", "annotated", "FIN3.txt")) for path in server.asked)


def test_counts_are_printed(run, server):
    row = next(line for line in run("wikigold", "--base-url", server.url).stdout.splitlines() if "train" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["train", "5", "10", "5", "LOC 4, PER 1"]


def test_a_server_that_announces_no_length(run, server):
    server.announced = None
    assert run("fin", "--base-url", server.url).exit_code == 0


def test_wrong_content_is_refused(run, server, script, tmp_path):
    path, sha = script.CORPORA["ncbi_disease"].files["dev"]
    bad = "other\tO\n\n"
    server.files[f"/spyysalo/ncbi-disease/{path}"] = bad.encode()
    result = run("ncbi_disease", "--base-url", server.url, "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", "dev.txt", sha, sha256(bad), path.split("/")[0], "Nothing was written")


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"", b"\xff\xfe\n", b"word\tX-PER\n", b"word\n"])
@pytest.mark.parametrize("name", ["fin", "uner_ewt", "wikigold"])
def test_something_else_than_a_corpus_is_refused(body, name, run, server, tmp_path):
    server.files = dict.fromkeys(server.files, body)
    result = run(name, "--base-url", server.url, "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", server.url, "not the raw train file")


def test_a_missing_file_is_reported(run, server, tmp_path):
    gone = next(path for path in server.files if path.endswith("devel.tsv"))
    del server.files[gone]
    result = run("ncbi_disease", "--base-url", server.url, "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", server.url + gone, "404", "--from")


def test_a_download_cut_short_is_reported(run, server, tmp_path):
    server.announced = 10_000
    result = run("fin", "--base-url", server.url, "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", "FIN5.txt", "more expected")


def test_no_network(run, monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        result = run("fin", "--base-url", f"http://127.0.0.1:{closed.getsockname()[1]}", "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", "Cannot download http://127.0.0.1", "Check the network", "--from")


def test_a_server_that_does_not_answer(run, script, monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(script, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = run("fin", "--base-url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", "Cannot download", "timed out")


def local_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


@pytest.mark.parametrize("train", ["train.txt", "train_prerelease.txt"])
def test_from_converted_copies(train, run, script, tmp_path):
    good = CONVERTED["uner_ewt"]
    source = local_files(tmp_path / "copies", {train: good["train"], "dev.txt": good["dev"], "all.txt": "not looked at"})
    result = run("uner_ewt", "--from", source, "--out", "x", "--base-url", "http://127.0.0.1:9")
    assert result.exit_code == 0, result.output
    files = contents(Path("x"))
    assert {f: files[f] for f in ("train.txt", "dev.txt")} == {f"{s}.txt": good[s] for s in ("train", "dev")}
    assert set(files) == {"train.txt", "dev.txt", script.NOTE}
    assert contents(source).keys() == {train, "dev.txt", "all.txt"}


def test_from_a_folder_of_folders_named_like_the_corpora(run, script, tmp_path):
    good = CONVERTED["uner_ewt"]
    local_files(tmp_path / "all" / "uner_ewt", {"train.txt": good["train"], "dev.txt": good["dev"]})
    result = run("uner_ewt", "--from", tmp_path / "all", "--out", "x", "--base-url", "http://127.0.0.1:9")
    assert result.exit_code == 0, result.output
    assert set(contents(Path("x"))) == {"train.txt", "dev.txt", script.NOTE}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("as_clone", [True, False])
def test_from_raw_copies(name, as_clone, run, script, tmp_path):
    paths = {split: Path(path.split("/", 1)[1]) for split, (path, _) in script.CORPORA[name].files.items()}
    source = local_files(tmp_path / "raw", {(p if as_clone else p.name): RAW[name][s] for s, p in paths.items()})
    result = run(name, "--from", source, "--out", "x", "--with-test")
    assert result.exit_code == 0, result.output
    assert {s: (Path("x") / f"{s}.txt").read_bytes().decode() for s in paths} == CONVERTED[name]


def test_from_a_bad_copy(run, tmp_path):
    source = local_files(tmp_path / "copies", {"train.txt": CONVERTED["fin"]["train"].replace("\n", "\r\n")})
    result = run("fin", "--from", source, "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", str(source / "train.txt"), sha256(CONVERTED["fin"]["train"]))


@pytest.mark.parametrize("missing", ["dev", "test"])
def test_from_a_folder_without_a_split(missing, run, tmp_path):
    files = {f"{s}.txt": text for s, text in CONVERTED["wnut17"].items() if s != missing}
    source = local_files(tmp_path / "copies", files)
    result = run("wnut17", "--from", source, "--with-test", "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", f"No {missing} file in {source}", f"{missing}.txt", "emerging.")


def test_from_a_folder_that_is_not_there(run, tmp_path):
    result = run("fin", "--from", tmp_path / "nowhere", "--out", tmp_path / "in" / "x")
    assert_failed(result, tmp_path / "in" / "x", f"No train file in {tmp_path / 'nowhere'}")


def test_a_second_run_verifies_and_downloads_nothing(run, server):
    assert "written" in run("wnut17", "--base-url", server.url, "--out", "x").stdout
    before = list(server.asked)
    again = run("wnut17", "--base-url", server.url, "--out", "x")
    assert again.exit_code == 0 and "already there" in again.stdout and server.asked == before


@pytest.mark.parametrize("fault", ["changed", "test split missing", "test split changed"])
def test_an_older_folder_is_replaced_only_by_force(fault, run, server):
    arguments = ["wnut17", "--base-url", server.url, "--out", "x"]
    assert run(*arguments).exit_code == 0
    if fault == "test split missing":
        arguments.append("--with-test")
    else:
        Path("x", "train.txt" if fault == "changed" else "test.txt").write_text("changed\tO\n")
    before = contents(Path("x"))
    result = run(*arguments)
    assert result.exit_code == 2 and "--force" in result.stderr
    assert contents(Path("x")) == before
    assert run(*arguments, "--force").exit_code == 0
    assert Path("x", "train.txt").read_bytes().decode() == CONVERTED["wnut17"]["train"]
    assert Path("x", "test.txt").exists() == (fault == "test split missing")


def test_a_failed_replacement_keeps_the_older_folder(run, server):
    assert run("fin", "--base-url", server.url, "--out", "x").exit_code == 0
    before = contents(Path("x"))
    server.files.clear()
    assert run("fin", "--base-url", server.url, "--out", "x", "--force").exit_code == 2
    assert contents(Path("x")) == before
    assert [f.name for f in Path().iterdir()] == ["x"]


def test_force_never_deletes_a_folder_of_other_files(run, server):
    Path("home").mkdir()
    Path("home", "thesis.tex").write_text("years of work")
    result = run("fin", "--base-url", server.url, "--out", "home", "--force")
    assert result.exit_code == 2 and "thesis.tex" in result.stderr and not server.asked
    assert contents(Path("home")) == {"thesis.tex": "years of work"}


def test_a_folder_that_cannot_be_written(run, server):
    Path("file").write_text("")
    for out in ("file", "file/x"):
        result = run("fin", "--base-url", server.url, "--out", out, "--force")
        assert result.exit_code == 2 and "file" in result.stderr and "--out" in result.stderr
    assert not server.asked, "the folder is tried before anything is downloaded"
    assert Path("file").read_text() == ""


def test_an_empty_folder_is_filled(run, server):
    Path("x").mkdir()
    assert run("fin", "--base-url", server.url, "--out", "x").exit_code == 0
    assert Path("x", "train.txt").read_text() == CONVERTED["fin"]["train"]


def test_list_names_every_corpus_with_its_licence(run, script):
    result = run("list")
    assert result.exit_code == 0
    for name, corpus in script.CORPORA.items():
        assert name in result.stdout and corpus.licence in result.stdout and corpus.citation in result.stdout


def test_an_unknown_name_lists_the_known_ones(run, tmp_path):
    result = run("conll2003")
    assert_failed(result, tmp_path / "artifacts", "'conll2003'", "wikigold", "uner_ewt", "list")


def test_help_hides_the_base_url(run):
    assert "base-url" not in run("--help").stdout


def test_the_published_table_is_well_formed(script):
    for name, corpus in script.PUBLISHED.items():
        assert {"train", "test"} <= set(corpus.files) <= {"train", "dev", "test"}, name
        for path, sha in corpus.files.values():
            commit, _, rest = path.partition("/")
            assert len(commit) == 40 and len(sha) == 64 and rest
            int(commit, 16), int(sha, 16)
        assert len({sha for _, sha in corpus.files.values()}) == len(corpus.files)
