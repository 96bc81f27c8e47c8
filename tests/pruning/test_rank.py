"""The k smallest of many tensors: equal to sorting, for every dtype, sign, tie and layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pruning import rank
from course_lib.pruning.rank import BITS, first_true, kth_smallest, ordered_bits, require_rankable

NUMBERS = st.floats(width=16, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf")])


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=12), min_size=1, max_size=3), st.sampled_from(list(BITS)), st.data())
def test_the_kth_smallest_is_that_of_the_sorted_list_and_its_ties_are_counted(lists, dtype, data):
    parts = [torch.tensor(numbers, dtype=dtype) for numbers in lists]
    joined = torch.cat(parts)
    k = data.draw(st.integers(1, len(joined)))
    value, smaller, equal = kth_smallest(parts, k)
    assert value == joined.sort().values[k - 1] and value.dtype == dtype
    assert (smaller, equal) == (int((joined < value).sum()), int((joined == value).sum()))


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=20))
def test_the_integers_sort_as_the_numbers_do(numbers):
    x = torch.tensor(numbers)
    bits = ordered_bits(x)
    assert bits.dtype == np.uint32
    for i in range(len(x)):
        assert np.array_equal(bits < bits[i], (x < x[i]).numpy()) and np.array_equal(bits == bits[i], (x == x[i]).numpy())


@pytest.mark.parametrize("dtype", list(BITS))
def test_many_pieces_and_a_transposed_view_change_nothing(dtype):
    x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0)).to(dtype).t()
    assert x.numel() > 3 * rank.PIECE and not x.is_contiguous()
    ordered = x.flatten().sort().values
    for k in (1, 2, 60_000, 119_999, 120_000):
        assert kth_smallest([x[:7], x[7:]], k)[0] == ordered[k - 1]


def test_a_constant_tensor_is_all_ties():
    assert kth_smallest([torch.full((100_000,), 0.3)], 70_000) == (torch.tensor(0.3), 0, 100_000)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 45))
def test_the_first_true_entries_stay(entries, count):
    mask = torch.tensor(entries)
    assert torch.equal(first_true(mask, count), mask & (mask.cumsum(0) <= count))


def test_the_first_true_entries_of_a_view_go_by_its_own_rows():
    mask = torch.rand(300, 500, generator=torch.Generator().manual_seed(0)).t() > 0.5
    expected = mask & (mask.flatten().cumsum(0) <= 40_000).view(mask.shape)
    assert torch.equal(first_true(mask, 40_000), expected) and int(mask.sum()) > 70_000


@pytest.mark.parametrize("k", [0, 4])
def test_a_rank_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k = {k}: expected between 1 and the number of entries, 3"):
        kth_smallest([torch.ones(2), torch.ones(1)], k)


def test_two_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtypes = \['torch.float32', 'torch.float64'\]: expected one dtype"):
        kth_smallest([torch.ones(2), torch.ones(2).double()], 1)


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.ones(2, dtype=torch.int64), "w.dtype = torch.int64: expected a floating-point tensor"),
        (torch.ones(0, 3), r"w = \(0, 3\): expected at least one entry"),
        (torch.tensor([1.0, float("nan"), float("nan")]), "w = 2 NaN: expected numbers that can be ranked"),
        (torch.tensor([float("inf"), float("nan")]), "w = 1 NaN"),
    ],
)
def test_what_has_no_order_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        require_rankable("w", x)
