"""Importing the library is instant, and brings none of the heavy libraries."""

import json
import subprocess
import sys

IMPORT = """
import json, sys, time
began, before = time.perf_counter(), {*sys.modules}
import course_lib
print(json.dumps([time.perf_counter() - began, sorted({name.split(".")[0] for name in {*sys.modules} - before})]))
"""


def test_importing_the_library_is_instant_and_brings_nothing_heavy():
    """Promised are 0.3 s, of which a module of two lines takes some thousandths, also on a busy machine in the best of three; torch alone
    takes more than all of it."""
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, timeout=60)
        runs.append(json.loads(done.stdout))
    assert all("course_lib" in brought for _, brought in runs)
    heavy = {"torch", "transformers", "onnxruntime", "tokenizers", "numpy", "matplotlib"}
    assert not heavy & {name for _, brought in runs for name in brought}
    assert min(seconds for seconds, _ in runs) < 0.3
