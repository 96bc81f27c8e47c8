"""Servers that fork confined children: that they start, end, and leave nothing; which tiers there are."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hand_in import LIMITS

from course_lib.classroom import confine, sight, wire
from course_lib.classroom.confine import CONFINED, Server, ServerGone, doctor, start_server
from course_lib.classroom.sight import CARRIED, bubblewrap, carry, hidden, readable
from course_lib.errors import CourseError


@pytest.fixture(params=CONFINED)
def server(request):
    """A server of each tier of this system."""
    try:
        found = Server(request.param, LIMITS)
    except CourseError as error:
        pytest.skip(str(error))
    with found:
        yield found


def gone(pids, seconds: float = 10.0) -> bool:
    """All of these processes have ended."""
    until = time.monotonic() + seconds
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def below(pid: int) -> list[int]:
    return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]


def test_children_come_one_after_another_and_end_when_their_socket_closes(server):
    for _ in range(3):
        child = server.fork()
        wire.send(child, {"do": "build", "with": {"name": "f", "modules": {}, "others": {}}})
        assert wire.receive(child, time.monotonic() + 30) == {"error": "it was not defined", "failed": []}
        child.close()
        assert server.end(patience=10) == 0


def test_a_child_that_does_not_end_is_ended(server):
    child = server.fork()
    assert server.end() == -signal.SIGKILL
    with pytest.raises((EOFError, ConnectionResetError)):
        wire.receive(child, time.monotonic() + 10)
    child.close()


def test_a_server_leaves_no_file_and_when_closed_no_process(server):
    child = server.fork()
    wire.send(child, {"do": "build", "with": {"name": "f", "modules": {}, "others": {}}})
    wire.receive(child, time.monotonic() + 30)
    pids = below(server._process.pid)
    folder = Path(psutil.Process(pids[0]).cmdline()[-1])
    assert len(pids) >= 2 and folder.name.startswith("course-grade-") and not folder.exists()
    server.close()
    assert gone(pids)
    child.close()


def test_a_server_that_was_killed_is_noticed(server):
    child = server.fork()
    for pid in below(server._process.pid):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ServerGone):
        server.end()
    with pytest.raises(ServerGone):
        server.fork()
        server.end()
    child.close()


JUDGE = """
import sys, time
from course_lib.classroom.confine import Limits, Server
server = Server(sys.argv[1], Limits())
child = server.fork()
print(server._process.pid, flush=True)
time.sleep(100)
"""


def test_when_the_judge_is_killed_nothing_of_its_server_is_left(server):
    judge = subprocess.Popen([sys.executable, "-c", JUDGE, server.tier], stdout=subprocess.PIPE, text=True)
    pids = below(int(judge.stdout.readline()))
    judge.kill()
    judge.wait()
    judge.stdout.close()
    assert gone(pids)


def test_the_best_tier_that_works_is_taken(monkeypatch):
    with start_server(LIMITS) as server:
        assert server.tier in CONFINED
        best = server.tier
    real = Server.__init__

    def without_the_best(self, tier, *given):
        if tier == best:
            raise CourseError(f"{tier} is not available here: no.")
        real(self, tier, *given)

    monkeypatch.setattr(Server, "__init__", without_the_best)
    try:
        with start_server(LIMITS) as server:
            assert server.tier != best
    except CourseError as error:
        assert f"{best} is not available here: no." in str(error)


def test_where_nothing_confines_grading_is_refused_unless_told(monkeypatch):
    monkeypatch.setattr(confine, "START", "import sys; sys.exit('no such luck')")
    with pytest.raises(CourseError, match=r"cannot be confined here.*no such luck.*--unconfined"):
        start_server(LIMITS)
    found = dict(doctor())
    assert list(found) == list(CONFINED) and all("no such luck" in why or "bwrap" in why for why in found.values())
    monkeypatch.undo()
    with start_server(LIMITS, tier="unconfined") as server:
        server.fork().close()
        assert server.end(patience=10) == 0


def test_a_server_that_does_not_start_in_time_is_given_up(monkeypatch):
    monkeypatch.setattr(confine, "START", "import time; time.sleep(60)")
    monkeypatch.setattr(confine, "START_SECONDS", 0.2)
    with pytest.raises(CourseError, match=r"unconfined is not available here: it said nothing within 0\.2 seconds"):
        Server("unconfined", LIMITS)


def test_a_system_that_cannot_fork_is_told_so(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(CourseError, match="graded on Linux"):
        Server("unconfined", LIMITS)


def test_the_doctor_tries_every_tier():
    found = dict(doctor())
    assert list(found) == list(CONFINED) and None in found.values(), found


def test_a_tier_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="tier = 'jail'"):
        Server("jail", LIMITS)


def test_what_the_confined_process_carries_knows_no_case_and_imports_nothing_of_the_course(tmp_path):
    carry(tmp_path / "confined")
    files = {p.relative_to(tmp_path / "confined").as_posix() for p in tmp_path.rglob("*.py") if p.name != "__init__.py"}
    assert files == {f"{folder}/{name}" for folder, names in CARRIED.items() for name in names}
    program = "import sys; sys.path.insert(0, sys.argv[1]); import confined.classroom.fork_server, confined.classroom.child;"
    program += "print([m for m in sys.modules if m.split('.')[0] == 'course_lib'])"
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"


def test_the_course_is_hidden_wherever_it_is_installed(tmp_path):
    course = str(Path(confine.__file__).parents[1])
    assert course in hidden([]) and str(tmp_path) in hidden([str(tmp_path)])
    reads = readable(tmp_path)
    assert reads == sorted(reads) and sys.prefix in reads and str(tmp_path) in reads
    assert not any(course.startswith(r + "/") or r.startswith(course) for r in reads)


def test_bubblewrap_is_told_to_cover_what_is_hidden(monkeypatch, tmp_path):
    (tmp_path / "bwrap").touch(0o755)
    monkeypatch.setattr(sight.shutil, "which", lambda name: str(tmp_path / name))
    command = " ".join(bubblewrap(["/usr"], ["/usr/lib/course", "/home/x"]))
    assert "--tmpfs /usr/lib/course --remount-ro /usr/lib/course" in command and "/home/x" not in command
    monkeypatch.setattr(sight.shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match="bwrap is not installed"):
        bubblewrap([], [])


OPENS = """import os
def f():
    try:
        return bool(open(os.path.join(os.path.dirname(os.__file__), {name!r})).read())
    except OSError:
        return False"""


def test_a_folder_below_what_is_readable_is_closed_to_children(server):
    """As the course would be, installed beside torch."""
    with Server(server.tier, LIMITS, hides=[Path(os.__file__).parent / "wsgiref"]) as other:
        for name, expected in (("wsgiref/util.py", False), ("os.py", True)):
            assert called(other.fork(), OPENS.format(name=name)) is expected
            other.end()
    assert called(server.fork(), OPENS.format(name="wsgiref/util.py")) is True
    server.end()


def called(child: socket.socket, source: str):
    """What the function ``f`` of a cell returns."""
    import numpy as np
    from hand_in import notebook

    until = time.monotonic() + 30
    with child:
        data = np.frombuffer(notebook(source), dtype=np.uint8)
        for message in (
            {"do": "read", "with": {"data": data, "exercises": ["f"], "questions": {}}},
            {"do": "build", "with": {"name": "f", "modules": {}, "others": {}}},
            {"do": "call", "with": {"call": [(), ()], "seconds": 5.0}},
        ):
            wire.send(child, message)
            found = wire.receive(child, until)
    assert found["error"] is None, found
    return found["output"]
