"""Full mode for readers, fast mode for tests: one switch, the environment variable ``COURSE_FAST``."""

import os
from typing import TypeVar

T = TypeVar("T")


def fast() -> bool:
    """True in fast mode (``COURSE_FAST=1``): less data, fewer steps, the same code."""
    return os.environ.get("COURSE_FAST", "") not in ("", "0")


def pick(full: T, fast_value: T) -> T:
    """The first in full mode, the second in fast mode; stored outputs are those of full mode."""
    return fast_value if fast() else full


def headless() -> bool:
    """True where nobody can press a button (``COURSE_HEADLESS=1``, set when lessons are built or tested): no widgets."""
    return os.environ.get("COURSE_HEADLESS", "") not in ("", "0")
