"""Train on two hosts and on one process, and compare: ``sudo python data_scripts/two_hosts.py [WORKERS_PER_HOST]``.

The hosts are network namespaces with a cable between them (docs/parallel.md); torchrun joins them.
"""

import json
import sys

from course_lib.errors import CourseError
from course_lib.parallel.demo import one_process
from course_lib.parallel.hosts import torchrun, two_hosts


def main(workers: int = 2) -> float:
    """Print both rows of losses and return the largest difference."""
    with two_hosts() as hosts:
        out = torchrun(hosts, workers, ["-m", "course_lib.parallel.demo"])
    together = next(json.loads(line) for line in out[0].splitlines() if line.startswith('{"workers"'))
    alone = one_process()
    difference = max(abs(a - b) for a, b in zip(together["losses"], alone, strict=True))
    print(f"2 hosts, {together['workers']} workers:", *(f"{loss:.12f}" for loss in together["losses"]))
    print("one process:         ", *(f"{loss:.12f}" for loss in alone))
    print(f"largest difference: {difference:.1e}")
    return difference


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except CourseError as error:
        sys.exit(str(error))
