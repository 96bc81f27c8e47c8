"""One launch of all model-parallel checks for each number of workers, shared by the test modules that look at its results."""

import functools

import hybrid_jobs
import pipeline_jobs
import tensor_jobs

from course_lib.parallel.launcher import run


def everything(workers: int) -> dict:
    """What every worker computes."""
    found = {"tensor": tensor_jobs.everything(), "pipeline": pipeline_jobs.everything()}
    return found | ({"hybrid": hybrid_jobs.everything()} if workers == 4 else {})


@functools.cache
def results(workers: int) -> list[dict]:
    """The results of all ranks."""
    return run(everything, workers, workers)
