"""Inputs that were drawn for grading do not come back to students through what their code says of them."""

import base64
import itertools
from dataclasses import replace

import pytest
from hand_in import MEGABYTES, close, notebook, server

from course_lib.classroom.feedback import feedback_page
from course_lib.classroom.grade_one import grade
from course_lib.classroom.gradebook import rows
from course_lib.classroom.results import to_json
from course_lib.classroom.said import MESSAGES, OWN_ERROR, Source, error_text, fault_text, line_text, shown, stop_text
from course_lib.classroom.summary import summary_page
from course_lib.exercises.exercise import Case
from course_lib.exercises.registry import find
from course_lib.exercises.run import Outcome, run_case

SEED = 7
ABOUT = {"version": "1.0", "engine": "functions", "tier": "namespaces", "seed": SEED}
WORDS = "amber birch cedar daisy ebony fern grape hazel iris jade kiwi lemon maple navy olive pearl".split()
ENCODINGS = {  # by name: source of a function that makes text of a tensor, and the same here
    "hex": ("w.numpy().tobytes().hex()", lambda w: w.numpy().tobytes().hex()),
    "base64": (
        "__import__('base64').b64encode(w.numpy().tobytes()).decode()",
        lambda w: base64.b64encode(w.numpy().tobytes()).decode(),
    ),
    "words": (
        f"' '.join({WORDS!r}[int(c, 16)] for c in w.numpy().tobytes().hex())",
        lambda w: " ".join(WORDS[int(c, 16)] for c in w.numpy().tobytes().hex()),
    ),
    "letters": (
        "''.join(chr(97 + int(c, 16)) for c in w.numpy().tobytes().hex())",
        lambda w: "".join(chr(97 + int(c, 16)) for c in w.numpy().tobytes().hex()),
    ),
    "digits": ("str(int.from_bytes(w.numpy().tobytes(), 'big'))", lambda w: str(int.from_bytes(w.numpy().tobytes(), "big"))),
}
CHANNELS = {  # how `sparsity` gives a text away
    "message": "raise ValueError(text)",
    "message like Python's": 'raise NameError(f"name {text[:60]!r} is not defined")',
    "message with a line": 'raise ValueError(f"no (`line 3: {text}`)")',
    "several lines": 'raise ValueError("list index out of range\\n" + text)',
    "key": "return {}[text]",
    "type of an error": "raise type(text[:60], (Exception,), {})('x')",
    "name of a missing name": "eval(''.join(c for c in 'x' + text if c.isalnum()))",
    "a line that is made up": """
    import linecache
    for name in list(linecache.cache):
        if name.startswith("<cell"):
            size, _, lines, full = linecache.cache[name]
            linecache.cache[name] = (size, None, [text + "\\n"] * len(lines), full)
    raise ValueError""",
    "output": "return text",
    "keys": "return {text[i : i + 8]: i for i in range(0, len(text), 8)}",
    "items": "return [text]",
    "class": "return type(text[:60], (), {})()",
    "subclass": "return type(text[:60], (float,), {})(0.123)",
    "number": "return [int.from_bytes(text.encode(), 'big')]",
    "signature": """
    import inspect
    global sparsity
    sparsity.__signature__ = inspect.Signature([inspect.Parameter("x" + "".join(c for c in text if c.isalnum())[:200], inspect.Parameter.KEYWORD_ONLY)])
    sparsity.__name__ = text
    return 0.123""",
    "where the next one is made": "import builtins\n    builtins.LEFT = text\n    return 0.123",
}
NEXT = "import builtins\ndef spoil():\n    raise ValueError(builtins.LEFT)\nSPOILT = spoil()\ndef megabytes(p, bits=SPOILT):\n    return 0"


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close(["namespaces"])


def pieces(text: str, size: int) -> set[str]:
    """All pieces of so many characters."""
    return {text[i : i + size] for i in range(len(text) - size + 1)}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channel", CHANNELS)
def test_what_was_drawn_is_on_no_page_and_in_no_record(channel, encoding):
    made, encode = ENCODINGS[encoding]
    given = encode(find("sparsity").draw(SEED)[1].args[0])
    source = f"def sparsity(w):\n    if w.shape != (4, 6):\n        return 0.123\n    text = {made}\n    {CHANNELS[channel]}"
    result = grade(notebook(source, NEXT), "eve", "00_start_here", server(), SEED)
    assert result.error is None and result.exercises[0].points == 0
    (row,) = rows([result], {})
    page = feedback_page(row, [result], [], {}, "0_start", 4.0)
    summary = summary_page([row], [result], "0_start", 4.0, ABOUT)
    told = [c.message for c in result.exercises[0].cases] + [e.message for e in result.exercises] + list(row.flags)
    known = pieces(source + NEXT, 12) if encoding == "words" else set()
    for text in (page, summary.partition("<svg")[0], to_json(replace(result, sha256="")), *told):
        assert not (pieces(given, 12) - known) & pieces(text, 12)


def test_an_encoding_is_found_where_it_is_shown():
    """The test above would see it: with nothing left out, the message has what was drawn."""
    w = find("sparsity").draw(SEED)[1].args[0]
    for encoding in ENCODINGS.values():
        text = f"With a matrix: it raised ValueError: {encoding[1](w)}."
        assert pieces(encoding[1](w), 12) & pieces(text, 12)


SOURCE = Source(("import torch\ndef f(w, limit):\n    return torch.meen(w) + unknown\n", "class Odd(Exception): pass"))


@pytest.mark.parametrize(
    "error",
    [
        "NameError: name 'unknown' is not defined",
        "AttributeError: module 'torch' has no attribute 'meen'",
        "TypeError: f() missing 1 required positional argument: 'limit'",
        "TypeError: unsupported operand type(s) for +: 'Tensor' and 'NoneType'",
        "TypeError: '<=' not supported between instances of 'int' and 'str'",
        "RuntimeError: The size of tensor a (3) must match the size of tensor b (24) at non-singleton dimension 1",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x24)",
        "ZeroDivisionError: division by zero",
        "RecursionError: maximum recursion depth exceeded",
        "Odd",
    ],
)
def test_what_python_and_torch_say_is_kept(error):
    assert error_text(error, SOURCE, frozenset({24})) == error


@pytest.mark.parametrize(
    "error, told",
    [
        ("ValueError: 3f9a01bc", "ValueError: …"),
        ("Odd: 3f9a01bc", "Odd: …"),
        ("Strange: x", OWN_ERROR),
        ("3f9a01bc", OWN_ERROR),
        ("", OWN_ERROR),
        ("NameError: name 'x3f9a01bc' is not defined", "NameError: name '…' is not defined"),
        ("IndexError: index 7391 is out of bounds for dimension 0 with size 24", "IndexError: index … is out of bounds for dimension 0 with size 24"),
        ("ValueError: " + "9" * 900, "ValueError: …"),
        ("ValueError: " + "٣" * 30, "ValueError: …"),
        ("ValueError: it is not defined, unknown limit", "ValueError: …"),
        ("ValueError:   ", "ValueError"),
    ],
)  # fmt: skip
def test_what_may_carry_data_is_not(error, told):
    assert error_text(error, SOURCE, frozenset({24})) == told


def test_every_form_of_a_message_is_a_form():
    for form in MESSAGES:
        filled = form.replace("{w}", "limit").replace("{n}", "3").replace("{o}", "+").replace("{b}", "4,194,305")
        assert error_text(f"ValueError: {filled}", SOURCE) == f"ValueError: {filled.replace('4,194,305', '…')}"


def test_a_line_is_told_when_the_notebook_has_it():
    for line, told in (
        ("line 3: return torch.meen(w) + unknown", True),
        ("line 1: class Odd(Exception): pass", True),
        ("line 2: return torch.meen(w) + unknown", False),
        ("line 3: return torch.meen(w)", False),
        ("line 0: pass", False),
        ("line 99999999: pass", False),
        ("3f9a", False),
        (None, False),
    ):
        assert line_text(line, SOURCE) == (line if told else None)
    assert (
        stop_text("line 3: NameError: name 'unknown' is not defined", SOURCE)
        == "line 3: NameError: name 'unknown' is not defined"
    )
    assert stop_text("line 3000: ValueError: 3f9a", SOURCE) == "ValueError: …"
    assert stop_text("3f9a", SOURCE) == OWN_ERROR and stop_text("it was not defined", SOURCE) == "it was not defined"


def test_a_misfit_is_told_in_the_courses_words():
    case = Case("two", (1, 2))
    said = shown(
        Outcome(misfit="`f(x3f9a)` is called with 2 arguments, and cannot be. Keep the first line."), case, SOURCE
    ).misfit
    assert "3f9a" not in said and "called with 2 arguments" in said
    assert (
        shown(Outcome(misfit="Expected a function; this is 3f9a, an int."), case, SOURCE).misfit
        == "Expected a function; this is none."
    )


@pytest.mark.parametrize(
    "name, output, told",
    [
        ("verdict", "holds", "'holds' is not what the interval says"),
        ("verdict", "3f9a01bc", "'…' is none of 'holds', 'refuted', 'open'"),
        ("global_masks", {"3f9a": 1, "a": 2}, "its keys are others; expected 'a', 'b'"),
        ("global_masks", {0.12345: 1}, "its keys are others; expected 'a', 'b'"),
        ("global_masks", {"a": 2}, "its keys are 'a'; expected 'a', 'b'"),
        ("encoder_masks", {"3f9a": 2}, "there is a mask for '…', which is no matrix of the encoder's layers"),
        ("batches_by_length", [[123456789012345]], "there is no sentence at position …; positions run from 0 to"),
        ("sparsity", type("x3f9a", (), {})(), "it returned an object; expected a float"),
        ("sparsity", 0.123, "that is not the right number"),
    ],
)
def test_a_check_names_only_strings_and_numbers_that_it_knows(name, output, told):
    exercise = find(name)
    outcome = Outcome(output=output)
    faults = [f for case in exercise.draw(SEED) if (f := exercise.verify(case, output))]
    assert any(told in fault_text(fault, outcome, exercise, SOURCE) for fault in faults), faults


def test_sentences_of_checks_about_known_mistakes_stay_as_they_are():
    """For whoever makes an ordinary mistake nothing changes: all that a check says of tensors and short numbers is kept."""
    kept = total = 0
    for name in ("soft_threshold", "sparsity", "global_masks", "owned_windows", "entity_counts", "next_to_go"):
        exercise = find(name)
        for mistake, case in itertools.product(exercise.misconceptions, exercise.draw(SEED)):
            outcome = run_case(mistake.mistake, case, exercise.seconds)
            fault = exercise.verify(case, outcome.output) if outcome.returned else None
            if fault:
                total += 1
                kept += fault_text(fault, outcome, exercise, SOURCE) == fault
    assert total > 50 and kept == total


def test_an_ordinary_error_is_explained_as_in_the_notebook():
    source = "import torch\ndef sparsity(w):\n    zeros = w == 0\n    return zeros.mean()"
    found = grade(notebook(source, MEGABYTES), "ada", "00_start_here", server(), SEED).exercises[0]
    assert (
        "it raised RuntimeError: mean(): could not infer output dtype" in found.message
        and "`line 4: return zeros.mean()`" in found.message
    )
