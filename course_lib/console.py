"""Progress and messages, in one voice; everything goes to standard error, so that standard output stays for results."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

stderr = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line for the user."""
    stderr.print(message, soft_wrap=True, markup=False)


@contextlib.contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar; yields ``advance(steps=1, total=None, note=None)``.

    Where standard error is no terminal the bar is left out and only a line with the outcome remains.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task(description, total=total)

        def advance(steps: int = 1, total: int | None = None, note: str | None = None, completed: int | None = None) -> None:
            changes = {"total": total, "completed": completed, "description": f"{description} {note}" if note else None}
            progress.update(
                task, advance=steps if completed is None else None, **{k: v for k, v in changes.items() if v is not None}
            )

        yield advance
