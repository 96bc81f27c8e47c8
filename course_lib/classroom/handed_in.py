"""Files that were handed in, in a folder or a zip, read without trusting any of them.

Nothing is followed, unpacked by name or read without a limit: links, devices, paths that lead elsewhere, bombs and files that
are too large are refused one by one, each with a sentence for whoever handed it in.
"""

import contextlib
import io
import os
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from course_lib.errors import CourseError

FILE_LIMIT = 20 * 2**20  # bytes of one file; a lesson with its outputs has under a megabyte
ZIP_LIMIT = 100 * 2**20  # bytes that a student's own zip may unpack to
ZIP_ENTRIES = 200  # files in a student's own zip
UNLISTED = "…"  # stands for what is in a folder that cannot be looked into
UTF8 = 0x800  # the flag of a zip's entry whose name is in UTF-8


class Refused(Exception):
    """A file that is not looked into; the message says why, as a clause after its name."""


@dataclass(frozen=True)
class Entry:
    """One file that was handed in.

    Attributes:
        name: its path below the folder or zip, with ``/``; what leads elsewhere is taken out of it.
        read: its bytes, or :class:`Refused`.
        path: where it lies on disk; None in a zip.
        zipped: of a file out of a student's own zip, the path of that zip: folders after it are the student's choice.
    """

    name: str
    read: Callable[[], bytes]
    path: Path | None = None
    zipped: str | None = None

    @property
    def given(self) -> str:
        """The path as it came from whoever collected submissions."""
        return self.zipped or self.name


def entries(source: Path) -> Iterator[Entry]:
    """Every file of a folder or a zip; a zip inside is looked into once, as if it were a folder.

    Raises:
        CourseError: ``source`` is neither, or cannot be read.
    """
    if source.is_dir():
        found = _folder(source)
    elif zipfile.is_zipfile(source):
        try:
            found = _zip(zipfile.ZipFile(source))
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise CourseError(
                f"{source} is a damaged zip ({error}). Download it again, or unpack it and name the folder."
            ) from error
    else:
        raise CourseError(f"{source}: expected a folder or a .zip with submissions. `course grade --help` shows which layouts.")
    for entry in found:
        if not entry.name or _of_the_system(entry.name):
            continue
        if entry.name.lower().endswith(".zip"):
            yield from _zip_inside(entry)
        else:
            yield entry


def _folder(root: Path) -> Iterator[Entry]:
    """Files below a folder, by name; links to folders, and folders that cannot be listed, are refused when read."""
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unreadable.append):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(set(folders) - set(links))
        for name in sorted(files + links):
            path = Path(folder, name)
            yield Entry(plain(path.relative_to(root).as_posix()), lambda path=path: read_file(path), path)
    for error in unreadable:
        if Path(error.filename) == root:
            raise CourseError(f"{root} cannot be listed ({error.strerror}).")
        why = f"lies in a folder that cannot be listed ({error.strerror})"
        yield Entry(plain(Path(error.filename).relative_to(root).as_posix()) + f"/{UNLISTED}", lambda why=why: _refuse(why))


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most :data:`FILE_LIMIT` bytes.

    Raises:
        Refused: it is a link, a device, too large, or cannot be read.
    """
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise Refused("is a link, which is not followed")
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:  # what is opened is looked at: it may have been exchanged
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused("is no regular file")
            return _limited(file, FILE_LIMIT)
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})") from error


def _limited(file, limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise Refused(f"has more than {limit // 2**20} MiB, and a notebook of this course has under one")
    return data


def _zip(archive: zipfile.ZipFile, budget: list[int] | None = None) -> Iterator[Entry]:
    """Files of a zip; ``budget`` holds the bytes that may still be unpacked, when they are counted."""
    for info in archive.infolist():
        name = info.filename
        if not info.flag_bits & UTF8:  # Python took it for the code page of old PCs; many programs mean UTF-8 all the same
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")
        if not name.endswith(("/", "\\")):
            yield Entry(plain(name), lambda info=info, name=name: _unpacked(archive, info, name, budget))


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, budget: list[int] | None) -> bytes:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise Refused("has a path that leads out of the zip")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise Refused("is a link, which is not followed")
    if info.flag_bits & 1:
        raise Refused("is encrypted")
    try:
        with archive.open(info) as file:
            data = _limited(file, FILE_LIMIT if budget is None else min(FILE_LIMIT, budget[0]))
    except Refused:
        raise
    except Exception as error:  # zipfile, zlib, lzma and bz2 each have their own
        raise Refused(f"is damaged ({type(error).__name__})") from error
    if budget is not None:
        budget[0] -= len(data)
    return data


def _zip_inside(outer: Entry) -> Iterator[Entry]:
    """The files of a zip that a student handed in, or the one entry that says why not.

    It is read again for each of its files: to keep the zips of a class in memory would cost more.
    """
    budget = [ZIP_LIMIT]

    def opened() -> list[Entry]:
        data = outer.read()
        if data.count(b"PK\1\2") > ZIP_ENTRIES:  # the mark of an entry; before zipfile makes an object of each
            raise Refused(f"holds more than {ZIP_ENTRIES} files")
        try:
            return list(_zip(zipfile.ZipFile(io.BytesIO(data)), budget))
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise Refused(f"is a damaged zip ({error})") from error

    try:
        names = [entry.name for entry in opened()]
    except Refused as error:
        why = str(error)
        yield Entry(outer.name, lambda: _refuse(why))
        return
    folder = outer.name[: -len(".zip")]
    for number, name in enumerate(names):
        if not _of_the_system(name):
            yield Entry(f"{folder}/{name}", lambda number=number: opened()[number].read(), zipped=outer.name)


def _refuse(why: str) -> bytes:
    raise Refused(why)


def plain(name: str) -> str:
    """A path that leads nowhere else and can be shown: no ``..``, no root, composed letters, strange bytes and controls as ``\\x0a``.

    >>> plain("../../etc/passwd"), plain("C:\\\\Jose\\u0301\\n.ipynb")
    ('etc/passwd', 'C:/José\\\\x0a.ipynb')
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    shown = "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in unicodedata.normalize("NFC", shown))


def _of_the_system(name: str) -> bool:
    """True for what computers add by themselves: checkpoints, folders of macOS, hidden files."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
