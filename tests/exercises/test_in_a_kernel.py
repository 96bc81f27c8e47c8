"""Checks in a real kernel: cards arrive as HTML, nothing on standard error, and the kernel lives on."""

import os

import pytest
from nbformat.v4 import new_code_cell, new_notebook

IMPORTS = "import os, sys, warnings, torch\nfrom course_lib.exercises import check, hint, predict, quiz, reveal, use"
ENDLESS = "def sparsity(w):\n    while True:\n        try:\n            sum(range(9))\n        except:\n            pass"
LOUD = "def sparsity(w):\n    print(w)\n    print('!', file=sys.stderr)\n    warnings.warn('!')\n    return (w == 0).double().mean()"
LIBRARY = "from course_lib.pruning import masks as m\ndef sparsity(w):\n    return m.sparsity(w)"
STUB = "def megabytes(parameters, bits):\n    raise NotImplementedError()"
RECURSIVE = "def sparsity(w):\n    return sparsity(w)"
CHECK = 'check("sparsity", sparsity)'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs cells in one kernel and returns the outputs of the last of them."""
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("kernel")
    client = NotebookClient(new_notebook(), timeout=120, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}})
    with client.setup_kernel(env={**os.environ, "COURSE_PROGRESS": str(folder / "p.json"), "COURSE_HEADLESS": "1"}):

        def run(*sources: str) -> list:
            for source in sources:
                client.nb.cells.append(new_code_cell(source))
                cell = client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)
            return cell.outputs

        run(IMPORTS)
        yield run


def card(outputs: list) -> str:
    """The text of the one card shown; its HTML is there too, and nothing went to standard error."""
    assert [o for o in outputs if o.output_type == "stream"] == []
    shown = [o for o in outputs if o.output_type == "display_data"]
    assert len(shown) == 1 and shown[0].data["text/html"].startswith('<div class="course-card"')
    return shown[0].data["text/plain"]


def points(outputs: list) -> str:
    """What nbgrader reads: the value of the cell."""
    return outputs[-1].data["text/plain"]


def test_a_function_that_never_returns_is_stopped_and_the_kernel_lives_on(run):
    outputs = run(ENDLESS, CHECK)
    assert points(outputs) == "0.0" and "it did not return within 5 seconds and was stopped" in card(outputs)
    assert points(run("6 * 7")) == "42"


def test_printing_complaining_and_warning_stay_out_of_the_notebook(run):
    outputs = run(LOUD, CHECK)
    assert points(outputs) == "2.0" and "✔ sparsity: 6 of 6 cases pass, 2 of 2 points\n  It prints (" in card(outputs)


def test_errors_name_the_line_of_the_cell(run):
    text = card(run(RECURSIVE, CHECK))
    assert "RecursionError" in text and "(`line 2: return sparsity(w)`). It calls itself and never stops." in text


def test_calls_of_the_library_are_recognised_by_the_source_of_the_cell(run):
    assert "This answer calls the library's own." in card(run(LIBRARY, CHECK))


def test_unsolved_exercises_go_on_with_the_librarys_function(run):
    outputs = run(STUB, 'check("megabytes", megabytes)')
    assert points(outputs) == "0.0" and "not attempted yet" in card(outputs)
    assert "Going on with the library's `megabytes`" in card(run('megabytes = use("megabytes", megabytes)'))
    assert points(run("megabytes(1_000_000, 32)")) == "4.0"
    outputs = run('check("megabytes", megabytes)')
    assert points(outputs) == "0.0" and "this is the library's function, not yours" in card(outputs)


def test_hints_predictions_and_questions_are_cards(run):
    assert "Hint 1 of 2" in card(run('hint("megabytes")'))
    assert "It is kept." in card(run('predict("size", "How large?", unit="%", answer=75)'))
    assert "Off by 5 %." in card(run('reveal("size", 80)'))
    assert "right" in card(run('quiz("why_predict", "b")'))
