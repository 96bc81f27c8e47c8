"""The page about parallel training: its examples run as they stand, and its table has every module."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "parallel.md"


def blocks() -> list[str]:
    """Its Python, block by block."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_table_has_every_module_and_no_other():
    text = PAGE.read_text("utf-8")
    table = re.findall(r"`(\w+\.py)`", text[text.index("## What is there") :])
    there = {path.name for path in (PAGE.parents[1] / "course_lib" / "parallel").glob("*.py")} - {"__init__.py"}
    assert sorted(table) == sorted(there)


def test_examples_that_need_no_workers_run_and_give_what_stands_beside_them():
    page: dict = {}
    setup, costs = (next(b for b in blocks() if words in b) for words in ("def model():", "timeline(gpipe(4, 8)"))
    exec(setup, page)
    exec(costs, page)
    assert page["bubble"](page["gpipe"](4, 12)) == 0.2
    assert "F0 F1 B0 F2 B1 B2" in str(page["one_f_one_b"](2, 3))


def test_all_examples_are_python_with_imports_that_there_are():
    for block in blocks():
        compile(block, str(PAGE), "exec")
    assert len(blocks()) == 8
