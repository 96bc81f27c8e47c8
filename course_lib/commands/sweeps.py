"""``course sweeps``: the measurements that lessons plot and that take longer than a lesson may."""

from typing import Annotated

import typer

from course_lib.commands.options import Threads


def sweeps(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SWEEP]...", help="Their names; default: all.")] = None,
    threads: Threads = None,
) -> None:
    """Measure the points of sweeps that are missing, or were made by other code or data.

    They need the models of `course compress`. Each finished point is kept: stop it when you like, it goes on from there.

    Example: `course sweeps pruning`
    """
    import torch

    from course_lib.console import bar, say
    from course_lib.machine import processors
    from course_lib.measure.sweeps import SWEEPS, find_sweep, missing, run_sweep

    chosen, threads = [find_sweep(name) for name in names or SWEEPS], threads or processors()
    torch.set_num_threads(threads)
    for sweep in chosen:
        with bar(sweep.name, len(missing(sweep))) as advance:
            done = -1

            def progress(point: dict, advance=advance) -> None:
                nonlocal done
                done += 1
                advance(completed=done, note=" ".join(str(v) for v in point.values()))

            measured = run_sweep(sweep, threads, progress)
        say(f"{sweep.name}: {measured} points measured, {len(sweep.points) - measured} were there")
