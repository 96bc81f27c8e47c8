"""Files that are whole or absent: atomic writes, content hashes, and stages cached by what made them."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from course_lib.errors import CourseError, expect

PACKAGE = Path(__file__).parent
MODEL_FILES = {
    "config.json",
    "model.safetensors",
    "model.onnx",
    "tokenizer.json",
    "recipe.toml",
    "scorecard.json",
    "history.json",
}


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of files to the disk, or a new file may be lost with the power although its content was kept."""
    if os.name == "nt":  # Windows cannot open a folder to flush it
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a failed write into advice on ``path``."""
    try:
        yield
    except CourseError:
        raise
    except Exception as error:  # safetensors and tokenizers wrap what the system says in classes of their own
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileExistsError):
            reason = f"{error.filename} is a file where a folder is needed"
        raise CourseError(
            f"Cannot write {path}: {reason}. Free some space or choose another folder (--artifacts DIR, --out DIR or "
            "--json FILE); nothing half-written was left behind, and a rerun continues from the last complete stage."
        ) from error


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old content or the new, never a part.

    Temporary name in the same folder, flush to disk, rename. The folder is created when missing.

    Raises:
        CourseError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path | str, text: str) -> None:
    """:func:`write_bytes` of UTF-8 text with LF line ends."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: object) -> None:
    """:func:`write_bytes` of indented JSON; NaN and infinities are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict:
    """Read a JSON object from a file; a missing or damaged one is a :class:`CourseError` that names it."""
    try:
        value = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"found a {type(value).__name__}, expected an object")
    except (OSError, ValueError) as error:
        raise CourseError(f"Cannot read {path}: {error}. Delete it and run the command that made it again.") from error
    return value


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete.

    Yields a temporary folder beside ``path``; on success it is flushed and renamed to ``path``
    (an older folder of that name is moved away first and then deleted), on any error it is removed.

    Raises:
        CourseError: ``path`` is a file, which is left as it is, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise CourseError(f"{path} is a file: expected a folder or a name that is not taken. It was left as it is.")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with explained(path):
            yield temporary
            os.chmod(temporary, 0o755)
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as handle:
                        os.fsync(handle.fileno())
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                os.replace(path, old / "old")
                os.replace(temporary, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def require_writable(folder: Path | str) -> None:
    """Make a folder if it is missing and try to write there, so that a fault shows before the work and not after it."""
    with explained(Path(folder)):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def require_replaceable(folder: Path | str) -> None:
    """Refuse to replace what is no model folder: a command must never delete what the course did not make.

    Raises:
        CourseError: ``folder`` is a file, or holds other files than those of a model.
    """
    folder = Path(folder)
    others = sorted({f.name for f in folder.iterdir()} - MODEL_FILES) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        found = f"holds {', '.join(others[:3])}" if others else "is a file"
        raise CourseError(
            f"{folder} {found}: expected a new or empty folder, or one with an earlier model. Choose another; nothing was changed."
        )


def folder_bytes(folder: Path | str, without: tuple[str, ...] = ()) -> int:
    """Bytes of all files below ``folder``, except those named in ``without``."""
    return sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file() and f.name not in without)


def file_sha256(path: Path | str) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """A 16-digit hexadecimal name for any JSON-like values: equal values, equal name.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(*where: str) -> str:
    """Hash of the library's own files below the given folders or files (``"data"``, ``"ner/train.py"``).

    Part of every cache key: a model made by other code is another model.

    Raises:
        ValueError: a name that matches no file, so that a typing error does not freeze a key.
    """
    files: list[Path] = []
    for name in where:
        path = PACKAGE / name
        found = [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in {".py", ".txt", ".toml"}]
        expect(bool(found), "where", name, f"a file or folder of code below {PACKAGE.name}")
        files += found
    return digest([(str(f.relative_to(PACKAGE)), file_sha256(f)) for f in sorted(files)])


class Cache:
    """Finished stages below one folder, each in ``<stage>-<key>``; the key is a hash of what makes it.

    Args:
        root: folder of the cache, usually ``artifacts/cache``; made when missing.
        force: make every stage again, even when it is there.
    Raises:
        CourseError: the folder cannot be written.
    """

    def __init__(self, root: Path | str, force: bool = False) -> None:
        self.root = Path(root)
        self.force = force
        self.made: set[Path] = set()
        require_writable(self.root)

    def path(self, stage: str, *made_of: object) -> Path:
        """The folder of ``stage`` for these inputs, whether it is there or not."""
        return self.root / f"{stage}-{digest(*made_of)}"

    def ready(self, folder: Path) -> bool:
        """True when the folder is complete and may be used; with ``force``, each is made once by this run."""
        if folder in self.made:
            return True
        self.made.add(folder)
        return folder.is_dir() and not self.force
