"""A verdict on a claim from a measured difference and its interval."""

from collections.abc import Sequence

from course_lib.errors import expect


def verdict(difference: Sequence[float], allowed: float) -> str:
    """Whether a model loses no more than a claim allows: a non-inferiority test by the interval.

    An interval that holds zero does not show that nothing is lost: a wide one holds zero and a large loss. The claim stands only
    where the whole interval is on its side (Piaggio et al. 2012, CONSORT for non-inferiority trials).

    Args:
        difference: ``[value, low, high]`` of the metric, smaller model minus the original: negative where it lost.
        allowed: the loss the claim allows, 0 or more, such as 0.01.
    Returns:
        "holds": ``low ≥ −allowed``; "refuted": ``high < −allowed``; "open" otherwise.
    Raises:
        ValueError: no interval around its value, or a negative allowance.

    >>> verdict([-0.004, -0.008, 0.001], 0.01), verdict([-0.05, -0.07, -0.03], 0.01), verdict([-0.01, -0.03, 0.01], 0.01)
    ('holds', 'refuted', 'open')
    """
    value, low, high = difference
    expect(low <= value <= high, "difference", list(difference), "[value, low, high] with low ≤ value ≤ high")
    expect(allowed >= 0, "allowed", allowed, "a loss of 0 or more")
    if low >= -allowed:
        return "holds"
    return "refuted" if high < -allowed else "open"
