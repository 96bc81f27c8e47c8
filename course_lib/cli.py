"""``course …``: the command line. Results go to standard output, progress and messages to standard error."""

import os
import sys
from typing import Annotated

import typer

from course_lib import __version__
from course_lib.commands import (
    bench,
    compression,
    costs,
    grading,
    learning,
    lessons,
    levers,
    peers,
    search,
    sweeps,
    techniques,
    training,
)
from course_lib.errors import CourseError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make Transformers smaller and faster: a course and its library.\n\nStart with `course doctor`, then `make course`, then `make lab`.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    training.doctor,
    training.prepare,
    training.train,
    compression.compress,
    compression.predict,
    compression.score,
    search.search,
    levers.levers,
    techniques.techniques,
    costs.costs,
    peers.peers,
    bench.bench,
    sweeps.sweeps,
    lessons.list,
    lessons.start,
    lessons.build,
    learning.progress,
    learning.check,
    grading.release,
    grading.grade,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"course_lib {__version__}")
        raise typer.Exit()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 well, 1 a check failed, 2 something the user can put right, 130 interrupted.

    A :class:`CourseError` is printed without a traceback.
    """
    from course_lib.console import stderr

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(arguments)
    except CourseError as error:
        stderr.print("[red]Error:[/red]", end=" ")
        stderr.print(str(error), soft_wrap=True, markup=False)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:
            stderr.print("Interrupted. Run the same command again: it goes on from the last checkpoint.")
        raise


if __name__ == "__main__":
    main()
