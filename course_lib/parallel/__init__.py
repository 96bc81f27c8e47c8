"""Training on several processes: collectives, data, tensor and pipeline parallelism, and a launcher for notebooks.

``from course_lib import parallel``, then ``parallel.run(fn, world_size=4)``; all else is imported from its module.
"""


def __getattr__(name: str):
    """``run``, imported when it is used: workers start here and torch takes its time."""
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from course_lib.parallel.launcher import run

    return run
