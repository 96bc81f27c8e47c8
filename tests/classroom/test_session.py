"""The judge's side of the conversation with a child, which may say anything."""

import contextlib
import dataclasses
import signal
import socket
import threading

import numpy as np
import pytest
import torch

from course_lib.classroom import session, wire
from course_lib.classroom.session import Lost, Session, clean
from course_lib.exercises.exercise import Case
from course_lib.exercises.run import Outcome

CASE = Case("a vector", (torch.ones(2), 3))
GOOD = vars(Outcome(output=1.5))


class Text(str):
    """Text that is not exactly that."""


class Puppet:
    """A server whose child says what the test wants."""

    def __init__(self, *answers, code: int = 0, says_nothing: bool = False):
        self.answers, self.code, self.says_nothing, self.asked, self.ended = answers, code, says_nothing, [], 0

    def fork(self):
        ours, theirs = socket.socketpair()
        self.theirs = theirs
        threading.Thread(target=self._answer, daemon=True).start()
        return ours

    def _answer(self):
        for answer in self.answers:
            self.asked.append(wire.receive(self.theirs))
            with contextlib.suppress(BrokenPipeError):  # the judge hangs up on an answer that is too long
                self.theirs.sendall(answer) if isinstance(answer, bytes) else wire.send(self.theirs, answer)
        if not self.says_nothing:
            self.theirs.close()

    def end(self, patience=0.0):
        self.ended += 1
        return self.code


def test_a_child_that_behaves_is_asked_and_believed_what_is_its_own():
    puppet = Puppet({"lesson": None}, {"error": None, "failed": []}, GOOD | {"changed": (0,), "printed": "x\x1b"})
    with Session(puppet) as talk:
        assert talk.read(b"{}", ["f"], {"q": "?"}) == {"lesson": None}
        assert talk.build("f", {"course_lib": ""}, {"g": None}) == {"error": None, "failed": []}
        assert talk.call(CASE, 1.0) == Outcome(output=1.5, changed=(0,), printed="x�") and talk.open
    assert not talk.open and puppet.ended == 1
    assert [m["do"] for m in puppet.asked] == ["read", "build", "call"]
    assert np.array_equal(puppet.asked[0]["with"]["data"], np.frombuffer(b"{}", dtype=np.uint8))
    assert torch.equal(puppet.asked[2]["with"]["call"][0][0], torch.ones(2))


@pytest.mark.parametrize(
    "answer",
    [None, 3, [], {"output": 1.0}, GOOD | {"points": 2.0}, {k: v for k, v in GOOD.items() if k != "error"}, b"x" * 100, b"\xff" * 12],
    ids=str,
)  # fmt: skip
def test_a_child_that_says_what_is_no_outcome_is_ended(answer):
    puppet = Puppet(answer, says_nothing=True)
    talk = Session(puppet)
    with pytest.raises(Lost, match="none of its business") as lost:
        talk.call(CASE, 1.0)
    assert lost.value.why == "refused" and not talk.open and puppet.ended == 1


@pytest.mark.parametrize(
    "change",
    [
        {"not_attempted": 1}, {"timed_out": "yes"}, {"skipped": [1]}, {"skipped": True}, {"changed": 3}, {"changed": [0]},
        {"changed": (True,)}, {"changed": (2,)}, {"changed": (-1,)}, {"error": 3}, {"error": ["x"]}, {"line": {"a": 1}},
        {"misfit": torch.ones(2)}, {"printed": torch.ones(2)}, {"printed": None}, {"printed": Text("x")},
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_a_wrong_type_or_one_that_is_not_the_childs_to_fill_in_is_refused(change):
    puppet = Puppet(GOOD | change, says_nothing=True)
    with pytest.raises(Lost, match="none of its business") as lost:
        Session(puppet).call(CASE, 1.0)
    assert lost.value.why == "refused" and puppet.ended == 1


def test_an_error_in_reading_an_answer_is_the_childs_not_the_judges(monkeypatch):
    receive = wire.receive

    def no_good(*given):
        if threading.current_thread() is threading.main_thread():  # the judge's side
            raise AssertionError
        return receive(*given)

    monkeypatch.setattr(wire, "receive", no_good)
    with pytest.raises(Lost, match="AssertionError") as lost:
        Session(Puppet(GOOD, says_nothing=True)).call(CASE, 1.0)
    assert lost.value.why == "refused"


def test_texts_of_a_child_are_cut_and_cleaned():
    found = Session(Puppet(GOOD | {"error": "E" * 10_000, "line": "a\x00b", "misfit": "at 0x7f0012345678\ud800"})).call(
        CASE, 1.0
    )
    assert len(found.error) == session.TEXT_LIMIT and found.line == "a�b" and found.misfit == "at 0x…�"
    assert clean("é\n\t\x00", 3) == "é\n�"


@pytest.mark.parametrize(
    "answer", [None, {"error": 1}, {"error": None, "failed": 3}, {"error": 1, "failed": []}, {"error": None, "failed": [1]}]
)
def test_a_strange_answer_to_build_is_refused(answer):
    with pytest.raises(Lost) as lost:
        Session(Puppet(answer, says_nothing=True)).build("f", {}, {})
    assert lost.value.why == "refused"


@pytest.mark.parametrize(
    "code, says", [(0, "exit code 0"), (-signal.SIGSEGV, "SIGSEGV"), (-signal.SIGKILL, "SIGKILL"), (-100, "signal 100")]
)
def test_how_a_child_ended_is_said(code, says):
    with pytest.raises(Lost, match=says) as lost:
        Session(Puppet(code=code)).call(CASE, 1.0)
    assert lost.value.why == "crashed"


def test_a_child_that_says_nothing_is_ended_in_time(monkeypatch):
    monkeypatch.setattr(session, "GRACE", 0.05)
    monkeypatch.setattr(session, "BUILD_SECONDS", 0.05)
    puppet = Puppet(says_nothing=True)
    talk = Session(puppet)
    assert talk.call(CASE, 0.05) == Outcome(timed_out=True)
    assert not talk.open and puppet.ended == 1
    with pytest.raises(Lost, match=r"within 0\.05 seconds") as lost:
        Session(Puppet(says_nothing=True)).build("f", {}, {})
    assert lost.value.why == "timed out"


def test_what_is_no_answer_to_read_is_unreadable():
    assert Session(Puppet(3)).read(b"", [], {}) == {"unreadable": "it could not be read"}


def test_an_outcome_has_the_fields_that_are_expected():
    assert {f.name for f in dataclasses.fields(Outcome)} == session.FIELDS == set(GOOD)
