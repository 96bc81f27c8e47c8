"""Make the submissions of a made-up class: right, wrong, partial, hostile and broken ones, with what each should earn.

``SUBMISSIONS/submitted/STUDENT/PART/LESSON.ipynb``, in nbgrader's layout, and ``SUBMISSIONS/expected.json``: student → lesson →
exercise → points. Equal seeds make equal classes. Wrong answers are those of ``tests/wrong_answers``. To try grading out:

    python data_scripts/made_up_class.py 1_pruning --out made_up --students 30
    course grade 1_pruning made_up/submitted --out graded --seed 1
"""

import ast
import inspect
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from course_lib.artifacts import write_json, write_text
from course_lib.classroom.layout import Lesson
from course_lib.classroom.parts import find_part, lessons_of
from course_lib.console import say
from course_lib.exercises.checks import run_check
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.registry import find

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = {  # what stands in the place of an answer; each must earn nothing
    "always_equal": """class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __getattr__(self, name): return self
    def __call__(self, *args): return self
    def __bool__(self): return True
    def __float__(self): return 0.0
    def __array__(self, *args, **kwargs): return 0
def {name}(*args):
    return Equal()""",
    "exits": "import os\ndef {name}(*args):\n    os._exit(0)",
    "kills_itself": "import os, signal\ndef {name}(*args):\n    os.kill(os.getpid(), signal.SIGKILL)",
    "kills_the_parent": "import os, signal\ndef {name}(*args):\n    os.kill(os.getppid(), signal.SIGKILL)",
    "reads_the_library": "def {name}(*args):\n    import course_lib.exercises.registry as r\n    return r.find('{name}').reference(*args)",
    "patches_torch": """import torch
torch.equal = torch.allclose = lambda *args, **kwargs: True
torch.Tensor.__eq__ = lambda self, other: True
def {name}(*args):
    return 0""",
    "never_returns": "import signal\ndef {name}(*args):\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    while True: pass",
    "floods": "def {name}(*args):\n    while True: print('x' * 10**6)",
}
BROKEN = {  # what is handed in instead of the text of a good notebook
    "cut_off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no_notebook": lambda text: "<html>Please log in</html>",
    "no_cells": lambda text: '{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    "other_json": lambda text: "[" * 100_000,
}
TEXTS = (
    "Zeros are numbers too: they are stored in as many bits as any other, unless the format leaves them out.",
    "Adam hops over the corner. I would count weights below a threshold, or apply the soft threshold after each step. <b>Or both?</b>",
    "I don't know.",
    "=HYPERLINK(\"http://example.com\") is what I would do & more </pre><script>document.title='owned'</script>",
)


def known_answers(topic: str) -> list:
    """The answers of ``tests/wrong_answers`` to a lesson's exercises, wrong and right ones."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    from wrong_answers import answers

    return answers(topic)


def cell_of(answer) -> str:
    """An answer of ``tests/wrong_answers`` as a learner's cell: under the exercise's name, with the imports and helpers it uses."""
    module = ast.parse(Path(inspect.getfile(answer.function)).read_text("utf-8"))
    provides = {name: node for node in module.body for name in _names(node)}
    first = inspect.getsourcelines(answer.function)[1]  # two answers may have one name: its decorator's line tells
    own = next(n for n in module.body if min([n.lineno, *(d.lineno for d in getattr(n, "decorator_list", []))]) == first)
    provides[answer.name] = own
    wanted, queue = [], [own]
    while queue:
        node = queue.pop()
        if node not in wanted:
            wanted.append(node)
            queue += [provides[n.id] for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in provides]
    wanted = [ast.parse(ast.unparse(node)).body[0] for node in module.body if node in wanted]
    for top in wanted:
        for node in ast.walk(top):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == answer.name:
                node.name, node.decorator_list = answer.exercise, []
            elif isinstance(node, ast.Name) and node.id == answer.name:
                node.id = answer.exercise
    return "\n\n".join(ast.unparse(node) for node in wanted)


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [a.asname or a.name.partition(".")[0] for a in node.names if a.name not in ("right", "wrong")]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


class Maker:
    """Makes notebooks of one lesson.

    Args:
        lesson: which.
        seed: that the class will be graded with: what a wrong answer earns depends on it a little.
    """

    def __init__(self, lesson: Lesson, seed: int) -> None:
        self.seed, self.known_points = seed, {}
        self.blank = json.loads(lesson.notebook.read_text("utf-8"))
        solution = json.loads(lesson.solution.read_text("utf-8"))
        self.solved = {
            c["metadata"]["course"]["exercise"]: c["source"]
            for c in solution["cells"]
            if "exercise" in c["metadata"].get("course", {})
        }
        self.exercises = [find(name) for name in self.solved]
        given = known_answers(lesson.stem.partition("_")[2])
        self.known = {e.id: [a for a in given if a.exercise == e.id] for e in self.exercises}

    def pick(self, kind: str, exercise: Exercise, rng: random.Random) -> tuple[str | None, float]:
        """A cell and what it earns; None leaves the stub."""
        if kind == "solved":
            return "".join(self.solved[exercise.id]), exercise.points
        if kind in ("right", "wrong"):
            answer = rng.choice([a for a in self.known[exercise.id] if (a.says is None) == (kind == "right")])
            return cell_of(answer), self.earned(exercise, answer.function)
        if kind in HOSTILE:
            return HOSTILE[kind].replace("{name}", exercise.id), 0.0
        return None, 0.0

    def earned(self, exercise: Exercise, function: Callable) -> float:
        """The points of an answer, by the notebook's own check."""
        if function not in self.known_points:
            self.known_points[function] = run_check(exercise, function, self.seed).points
        return self.known_points[function]

    def notebook(self, kinds: list[str], text: str, rng: random.Random) -> tuple[dict, dict[str, float]]:
        """A notebook with an answer of these kinds to each exercise, and what they earn."""
        nb, points = json.loads(json.dumps(self.blank)), {}
        for exercise, kind in zip(self.exercises, kinds, strict=True):
            cell, points[exercise.id] = self.pick(kind, exercise, rng)
            if cell is not None:
                _cell(nb, "exercise", exercise.id)["source"] = cell.splitlines(keepends=True)
        for cell in nb["cells"]:
            if "open" in cell["metadata"].get("course", {}):
                cell["source"] = "".join(cell["source"]).replace("YOUR ANSWER HERE", text).splitlines(keepends=True)
        return nb, points


def _cell(nb: dict, key: str, name: str) -> dict:
    return next(c for c in nb["cells"] if c["metadata"].get("course", {}).get(key) == name)


def students(count: int, rng: random.Random, honest: bool = False) -> list[tuple[str, str]]:
    """``(name, kind)`` of so many students: the first ones show every kind, the others are drawn as in a class; ``honest``: all are."""
    each = [] if honest else ["solved", "right", "wrong", "partial", "untouched", "mixed", *BROKEN, *HOSTILE]
    drawn = rng.choices(["right", "wrong", "partial", "mixed", "untouched"], [5, 3, 3, 6, 1], k=max(0, count - len(each)))
    kinds = (each + drawn)[:count]
    return [(f"{number:03d}_{kind}", kind) for number, kind in enumerate(kinds, start=1)]


def kinds_of(kind: str, count: int, rng: random.Random) -> list[str]:
    """The kind of each of ``count`` answers of a student."""
    if kind == "partial":
        return ["right"] * (count // 2) + ["untouched"] * (count - count // 2)
    if kind == "mixed":
        return [rng.choice(["right", "right", "wrong", "untouched"]) for _ in range(count)]
    if kind in HOSTILE:  # one exercise is attacked; the others are honest, and must not suffer
        return ["right"] * (count - 1) + [kind]
    return ["solved" if kind in BROKEN else kind] * count


def make_class(
    part: str,
    out: Path,
    count: int = 30,
    seed: int = 0,
    grading_seed: int = 1,
    root: Path = ROOT,
    honest: bool = False,
    done: Callable = lambda: None,
) -> dict:
    """Write a class, of honest students alone where that is asked for; returns student → lesson → exercise → points expected."""
    rng, expected = random.Random(seed), {}
    makers = {stem: Maker(Lesson(root, part, stem), grading_seed) for stem in lessons_of(part)}
    for name, kind in students(count, rng, honest):
        expected[name] = {}
        for stem, maker in makers.items():
            kinds = kinds_of(kind, len(maker.exercises), rng)
            nb, points = maker.notebook(kinds, rng.choice(TEXTS), rng)
            text = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
            if kind in BROKEN:
                text, points = BROKEN[kind](text), dict.fromkeys(points, 0.0)
            write_text(out / "submitted" / name / part / f"{stem}.ipynb", text)
            expected[name][stem] = points
        done()
    write_json(out / "expected.json", expected)
    return expected


def main(
    part: Annotated[str, typer.Argument(help="Part, as 1_pruning.")],
    out: Annotated[Path, typer.Option(help="Folder to write the class to.")],
    students: Annotated[int, typer.Option("--students", min=1, help="How many.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the class: equal seeds, equal classes.")] = 0,
    grading_seed: Annotated[int, typer.Option(help="That you will grade with, for expected.json.")] = 1,
) -> None:
    """Make the submissions of a made-up class and what they should earn."""
    from course_lib.console import bar

    with bar("students", students) as advance:
        make_class(find_part(part), out, students, seed, grading_seed, done=advance)
    say(f"wrote {students} students to {out / 'submitted'}; what they should earn is in {out / 'expected.json'}")


if __name__ == "__main__":
    typer.run(main)
