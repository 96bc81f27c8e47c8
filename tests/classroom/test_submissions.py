"""Submissions are found in every layout, and nothing that is handed in stops or fools the one who collects."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from course_lib.classroom import handed_in
from course_lib.classroom.handed_in import Entry, Refused, entries, plain, read_file
from course_lib.classroom.submissions import canvas, collect, lesson_of, moodle, nbgrader, plain_name, read_submission
from course_lib.errors import CourseError

PART = "1_pruning"
LESSONS = {"01_l1_math": ["soft_threshold", "ista_step"], "02_which_weights": ["magnitude"]}
FIRST, SECOND = b'{"cells": ["def soft_threshold(w): ..."]}', b'{"cells": ["def magnitude(w): ..."]}'


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def found(source: Path, tmp_path: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(student, lesson) → (file, problem)."""
    return {(s.student, s.lesson): (s.name, s.problem) for s in collect(source, PART, LESSONS, tmp_path / "kept")}


def both_ways(files: dict[str, bytes], tmp_path: Path) -> dict:
    """What is found in a folder and in a zip of it, which must be the same."""
    folder, archive = write_folder(tmp_path / "folder", files), tmp_path / "all.zip"
    archive.write_bytes(zipped(files))
    in_folder, in_zip = found(folder, tmp_path), found(archive, tmp_path)
    assert in_folder == in_zip
    return in_folder


GOOD = {
    ("anna", "01_l1_math"): ("01_l1_math.ipynb", ""),
    ("anna", "02_which_weights"): ("02_which_weights.ipynb", ""),
    ("ben", "01_l1_math"): ("01_l1_math.ipynb", ""),
}


@pytest.mark.parametrize("above", ["", "submitted/", "class/submitted/"])
def test_nbgraders_layout(above, tmp_path):
    files = {f"{above}{student}/{PART}/{lesson}.ipynb": FIRST for student, lesson in GOOD}
    assert (
        both_ways({**files, f"{above}anna/2_quantization/06_x.ipynb": FIRST, "gradebook.db": b""}, tmp_path).items()
        >= GOOD.items()
    )


@pytest.mark.parametrize("above", ["", "class/"])
def test_a_folder_for_each_student_or_for_all(above, tmp_path):
    folders = {f"{above}{student}/{lesson}.ipynb": FIRST for student, lesson in GOOD}
    flat = {f"{above}{student}_{lesson}.ipynb": FIRST for student, lesson in GOOD}
    assert both_ways(folders, tmp_path / "folders") == GOOD
    assert both_ways(flat, tmp_path / "flat") == GOOD


def test_one_students_folder_alone_is_not_taken_for_a_class(tmp_path):
    files = {"anna/01_l1_math.ipynb": FIRST, "anna/02_which_weights.ipynb": SECOND}
    assert both_ways(files, tmp_path).keys() == {("anna", "01_l1_math"), ("anna", "02_which_weights")}


def test_without_the_lessons_name_what_is_in_the_notebook_tells_it(tmp_path):
    files = {"anna.ipynb": FIRST, "ben.ipynb": SECOND, "cleo.ipynb": b"{}", "dora/a.ipynb": FIRST, "dora/b.ipynb": SECOND}
    listed = both_ways(files, tmp_path)
    assert listed["anna", "01_l1_math"] == ("anna.ipynb", "") and listed["ben", "02_which_weights"] == ("ben.ipynb", "")
    assert "cannot be told to be of a lesson" in listed["cleo", ""][1]
    assert listed["dora", "01_l1_math"] == ("a.ipynb", "") and listed["dora", "02_which_weights"] == ("b.ipynb", "")


@pytest.mark.parametrize("between", ["", "/"])
def test_moodles_zip(between, tmp_path):
    files = {f"{student}_4061_assignsubmission_file_{between}{lesson}.ipynb": FIRST for student, lesson in GOOD}
    files[f"Eva Stern_77_assignsubmission_file_{between}report.pdf"] = b"%PDF"
    listed = both_ways(files, tmp_path)
    assert {(s.removesuffix("_4061"), lesson): v for (s, lesson), v in listed.items()}.items() >= GOOD.items()
    if between:
        assert listed["Eva Stern_77", ""] == ("report.pdf", "There is no notebook, only other files (report.pdf).")


def test_canvass_zip(tmp_path):
    files = {f"{student}{late}_12_3456_{lesson}-1.ipynb": FIRST for student, lesson in GOOD for late in ["_LATE"]}
    listed = both_ways(files, tmp_path)
    assert {(s, lesson) for s, lesson in listed} == {(f"{s}_12", lesson) for s, lesson in GOOD}


def test_recognisers_leave_alone_what_is_not_theirs():
    assert moodle("anna/01_topic.ipynb") is None and nbgrader("anna/01_topic.ipynb", PART) is None
    assert canvas("anna_01_topic.ipynb") is None and nbgrader(f"{PART}/01_topic.ipynb", PART) is None
    assert plain_name("notes", LESSONS) == ("notes", "notes")
    assert lesson_of("x.ipynb", b"", LESSONS) == "" and lesson_of("x.ipynb", FIRST + SECOND, LESSONS) == ""
    assert lesson_of("x.ipynb", b"", {"01_l1_math": []}) == "01_l1_math", "the only one there is"


def test_a_zip_inside_is_looked_into_once(tmp_path):
    inner = zipped({"work/01_l1_math.ipynb": FIRST, "work/.ipynb_checkpoints/02_which_weights.ipynb": SECOND})
    files = {"Anna_1_assignsubmission_file_/hw.zip": inner, "Ben_2_assignsubmission_file_/hw.zip": zipped({"x.zip": inner})}
    listed = both_ways(files, tmp_path)
    assert listed["Anna_1", "01_l1_math"] == ("hw/work/01_l1_math.ipynb", "") and ("Anna_1", "02_which_weights") not in listed
    assert [v for (s, _), v in listed.items() if s == "Ben_2"] == [("hw/x.zip", listed["Ben_2", ""][1])]
    assert "cannot be told" in listed["Ben_2", ""][1]


def test_of_several_files_for_a_lesson_the_last_that_can_be_read_counts_and_the_others_are_named(tmp_path):
    files = {"anna/01_l1_math-9.ipynb": FIRST, "anna/01_l1_math-10.ipynb": FIRST + b" ", "anna/01_l1_math.ipynb": FIRST}
    write_folder(tmp_path / "in", files)
    (tmp_path / "in" / "anna" / "01_l1_math-11.ipynb").symlink_to("/etc/passwd")
    (only,) = collect(tmp_path / "in", PART, LESSONS, tmp_path / "kept")
    assert only.name == "01_l1_math-10.ipynb" and not only.problem
    assert [n.partition(": ")[2] for n in only.notes] == ["01_l1_math-11.ipynb.", "01_l1_math.ipynb.", "01_l1_math-9.ipynb."]


def test_what_computers_add_by_themselves_is_no_submission(tmp_path):
    hidden = ["anna/.ipynb_checkpoints/01_l1_math.ipynb", "__MACOSX/anna/._01_l1_math.ipynb", ".DS_Store"]
    assert list(both_ways({"anna/01_l1_math.ipynb": FIRST, **dict.fromkeys(hidden, SECOND)}, tmp_path)) == [
        ("anna", "01_l1_math")
    ]


def test_files_that_are_no_files_are_refused_for_their_student_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(handed_in, "FILE_LIMIT", 2**20)
    root = write_folder(tmp_path / "in", {"good/01_l1_math.ipynb": FIRST, "large/01_l1_math.ipynb": b"[" * (2**20 + 1)})
    for student in ("link", "loop", "fifo", "secret"):
        (root / student).mkdir()
    (root / "link" / "01_l1_math.ipynb").symlink_to(root / "good" / "01_l1_math.ipynb")
    (root / "loop" / "01_l1_math.ipynb").symlink_to(root / "loop")
    os.mkfifo(root / "fifo" / "01_l1_math.ipynb")
    (root / "secret" / "01_l1_math.ipynb").write_bytes(b"")
    (root / "secret" / "01_l1_math.ipynb").chmod(0)
    listed = found(root, tmp_path)
    assert listed["good", "01_l1_math"][1] == ""
    assert listed["link", "01_l1_math"][1] == "01_l1_math.ipynb is a link, which is not followed."
    assert "is no regular file" in listed["fifo", "01_l1_math"][1] and "more than 1 MiB" in listed["large", "01_l1_math"][1]
    assert {s for s, _ in listed} == {"good", "large", "link", "loop", "fifo", "secret"}
    with pytest.raises(Refused, match="No such file"):
        read_file(root / "nobody")


def test_links_and_paths_that_lead_out_of_a_zip_are_refused_for_their_student_alone(tmp_path):
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as z:
        link = zipfile.ZipInfo("link/01_l1_math.ipynb")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(link, "/etc/passwd")
        for name in (
            "../up/01_l1_math.ipynb",
            "/root/01_l1_math.ipynb",
            "C:\\x\\01_l1_math.ipynb",
            "a/../../b/01_l1_math.ipynb",
        ):
            z.writestr(name, FIRST)
        z.writestr("good/01_l1_math.ipynb", FIRST)
        z.writestr("..", b"")
    listed = found(archive, tmp_path)
    assert {s: why for (s, _), (_, why) in listed.items() if not why} == {"good": ""}
    assert sum("leads out of the zip" in why for _, why in listed.values()) == 4
    assert "is a link" in listed["link", "01_l1_math"][1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.zip", "kept"] and len(list((tmp_path / "kept").iterdir())) == 1


def test_bombs_and_damage_are_refused_for_their_student_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(handed_in, "FILE_LIMIT", 2**20)
    monkeypatch.setattr(handed_in, "ZIP_LIMIT", 3 * 2**20)
    many = zipped({f"{i}.ipynb": b"" for i in range(handed_in.ZIP_ENTRIES + 1)})
    half = zipped({f"01_l1_math-{i}.ipynb": os.urandom(50) + b"\0" * 900_000 for i in range(5)})
    files = {
        "bomb/01_l1_math.ipynb": b"\0" * (2**20 + 1),
        "many/hw.zip": many,
        "sum/hw.zip": half,
        "broken/hw.zip": b"PK\3\4 no zip",
        "good/01_l1_math.ipynb": FIRST,
    }
    archive = tmp_path / "all.zip"
    archive.write_bytes(zipped(files))
    listed = found(archive, tmp_path)
    assert listed["good", "01_l1_math"][1] == ""
    assert "more than 1 MiB" in listed["bomb", "01_l1_math"][1] and "more than 200 files" in listed["many", ""][1]
    assert "is a damaged zip" in listed["broken", ""][1]
    (left,) = [s for s in collect(archive, PART, LESSONS, tmp_path / "kept") if s.student == "sum"]
    assert len(left.notes) == 4 and left.name == "hw/01_l1_math-2.ipynb", "three fit into what may be unpacked"


def test_an_entry_that_is_encrypted_or_damaged_is_refused_for_its_student_alone(tmp_path):
    data = bytearray(zipped({"damaged/01_l1_math.ipynb": os.urandom(500), "good/01_l1_math.ipynb": FIRST}))
    data[80:90] = bytes(10)
    secret = bytearray(zipped({"01_l1_math.ipynb": FIRST}))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        secret[secret.index(mark) + at] |= 1
    folder = write_folder(tmp_path / "in", {"secret/hw.zip": bytes(secret), "damaged/hw.zip": bytes(data)})
    listed = found(folder, tmp_path)
    assert "is encrypted" in listed["secret", "01_l1_math"][1]
    assert [why for (s, _), (_, why) in listed.items() if s == "damaged"] == [""], "the good one in it counts"
    (tmp_path / "all.zip").write_bytes(data)
    assert "is damaged (BadZipFile)" in found(tmp_path / "all.zip", tmp_path)["damaged", "01_l1_math"][1]


def test_names_in_other_encodings_are_kept_apart_and_shown(tmp_path):
    root = tmp_path / "in"
    for raw in (b"J\xf6rg", "Jörg".encode(), b"line\nbreak"):
        folder = os.fsencode(root) + b"/" + raw
        os.makedirs(folder)
        with open(folder + b"/01_l1_math.ipynb", "wb") as file:
            file.write(FIRST)
    submissions = collect(root, PART, LESSONS, tmp_path / "kept")
    assert [s.student for s in submissions] == ["J\\xf6rg", "Jörg", "line\\x0abreak"]
    assert all(read_submission(s) == FIRST for s in submissions)


def without_flag(data: bytes) -> bytes:
    """A zip whose names no longer say that they are UTF-8."""
    data = bytearray(data)
    for mark, at in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + at] &= ~0x08
    return bytes(data)


def test_names_in_a_zip_that_lacks_the_flag_are_read_as_utf8_where_they_are(tmp_path):
    data = zipped({"Jörg/01_l1_math.ipynb": FIRST, "Zo\u0308e/01_l1_math.ipynb": FIRST})
    archive = tmp_path / "all.zip"
    archive.write_bytes(without_flag(data).replace("Jörg".encode(), b"J\x94rg1"))  # the ö of the old code page: no UTF-8
    assert {s for s, _ in found(archive, tmp_path)} == {"Jörg1", "Zöe"}
    archive.write_bytes(data.replace("Jörg".encode(), b"J\x94rg1"))
    with pytest.raises(CourseError, match="or unpack it and name the folder"):
        list(entries(archive))


def test_a_file_that_changes_between_collecting_and_grading_is_noticed(tmp_path):
    root = write_folder(tmp_path / "in", {"anna/01_l1_math.ipynb": FIRST})
    (submission,) = collect(root, PART, LESSONS, tmp_path / "kept")
    assert read_submission(submission) == FIRST
    submission.path.write_bytes(SECOND)
    with pytest.raises(Refused, match="has changed while"):
        read_submission(submission)


def test_what_is_neither_a_folder_nor_a_zip_is_an_error_that_says_what_is_expected(tmp_path):
    with pytest.raises(CourseError, match=r"expected a folder or a \.zip"):
        list(entries(tmp_path / "nothing"))
    (tmp_path / "cut.zip").write_bytes(zipped({"a": b"b" * 99})[:-1] + b"\1")
    (tmp_path / "none.zip").write_bytes(b"no zip at all")
    with pytest.raises(CourseError, match=r"expected a folder or a \.zip"):
        list(entries(tmp_path / "none.zip"))


def test_a_shown_path_leads_nowhere_else():
    assert plain("a/../../\u202eb.ipynb") == "a/\\u202eb.ipynb" or plain("a/../../\u202eb.ipynb") == "a/\\x202eb.ipynb"
    assert plain("..") == "" and Entry("a", lambda: b"").path is None


HERS = {f"grace/{PART}/01_l1_math-99.ipynb": FIRST + b" of mallory"}


@pytest.mark.parametrize(
    "grace, mallory, names",
    [
        (f"grace/{PART}/01_l1_math.ipynb", "mallory.zip", ("grace", "mallory")),
        (f"submitted/grace/{PART}/01_l1_math.ipynb", f"submitted/mallory/{PART}/hw.zip", ("grace", "mallory")),
        ("grace_1_2_01_l1_math.ipynb", "mallory_3_4_hw.zip", ("grace_1", "mallory_3")),
        ("grace.ipynb", "mallory.zip", ("grace", "mallory")),
        (
            "Grace_1_assignsubmission_file_/01_l1_math.ipynb",
            "Mallory_2_assignsubmission_file_/hw.zip",
            ("Grace_1", "Mallory_2"),
        ),
    ],
)
def test_no_folder_in_a_students_own_zip_names_another_student(grace, mallory, names, tmp_path):
    inside = {**HERS, "Grace_1_assignsubmission_file_/01_l1_math-99.ipynb": FIRST, "grace_1_2_01_l1_math-99.ipynb": FIRST}
    listed = both_ways({grace: FIRST, mallory: zipped(inside)}, tmp_path)
    assert {student for student, _ in listed} == set(names)
    assert "99" not in listed[names[0], "01_l1_math"][0]


def test_a_class_of_one_zip_has_one_student(tmp_path):
    inner = {f"{student}/01_l1_math.ipynb": FIRST for student in ("grace", "ben")}
    assert {student for student, _ in both_ways({"mallory.zip": zipped(inner)}, tmp_path)} == {"mallory"}


def test_the_parts_folder_has_one_place_for_all(tmp_path):
    files = {f"{student}/{PART}/01_l1_math.ipynb": FIRST for student in ("grace", "ben")}
    listed = both_ways({**files, f"mallory/grace/{PART}/01_l1_math-99.ipynb": FIRST}, tmp_path)
    assert {student for student, _ in listed} == {"grace", "ben", "mallory"}
    assert listed["grace", "01_l1_math"] == ("01_l1_math.ipynb", "")


def test_notebooks_of_this_part_in_another_parts_folder_are_told(tmp_path):
    files = {
        f"anna/{PART}/01_l1_math.ipynb": FIRST,
        "anna/2_quantization/02_which_weights.ipynb": SECOND,
        "ben/2_quantization/01_l1_math.ipynb": FIRST,
        "cleo/2_quantization/06_linear.ipynb": FIRST,
        f"dora/{PART}/hw.zip": zipped({"2_quantization/mine.ipynb": FIRST}),
    }
    made = {s.student: s for s in collect(write_folder(tmp_path / "in", files), PART, LESSONS, tmp_path / "kept")}
    assert made["anna"].notes == ("In another part's folder, and not looked at: anna/2_quantization/02_which_weights.ipynb.",)
    assert "another part's folder" in made["ben"].problem and made["ben"].path is None
    assert "another part's folder" in made["dora"].problem
    assert "cleo" not in made, "that is a notebook of the other part"


def test_a_student_whose_folder_cannot_be_listed_does_not_vanish(tmp_path, monkeypatch):
    root, real = write_folder(tmp_path / "in", {"anna/01_l1_math.ipynb": FIRST, "ben/01_l1_math.ipynb": FIRST}), os.scandir
    closed = root / "ben"

    def scandir(path="."):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listed = found(root, tmp_path)
    assert listed["anna", "01_l1_math"][1] == ""
    assert listed["ben", ""][1] == "… lies in a folder that cannot be listed (Permission denied)."
    closed = root
    with pytest.raises(CourseError, match="cannot be listed"):
        list(entries(root))
