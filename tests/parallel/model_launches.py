"""One launch of all model-parallel checks for each number of workers, shared by the test modules that look at its results."""

import functools

import hybrid_jobs
import pipeline_jobs
import tensor_jobs

from course_lib.measure.parallel_runs import ROWS, Work, train
from course_lib.parallel.launcher import run

WORK = Work("tiny", sentences=8, length=16, steps=2)


def everything(workers: int) -> dict:
    """What every worker computes."""
    ways = [way for way, number, _ in ROWS if number == workers]
    return {
        "tensor": tensor_jobs.everything(),
        "pipeline": pipeline_jobs.everything(),
        "hybrid": hybrid_jobs.everything(),
        "measured": {way: train(way, WORK) for way in ways},
    }


@functools.cache
def results(workers: int) -> list[dict]:
    """The results of all ranks."""
    return run(everything, workers, workers)
