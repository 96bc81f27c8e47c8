"""Sums of squares of gradients, exact where fp32 is not; clipping over workers is in the tests of each kind of parallelism."""

import pytest
import torch
from torch import nn

from course_lib.parallel.norms import PIECE, require_no_gradients, sum_of_squares


def with_gradient(gradient: torch.Tensor) -> nn.Parameter:
    p = nn.Parameter(torch.zeros_like(gradient))
    p.grad = gradient
    return p


def test_squares_of_all_gradients_are_summed_and_those_that_are_not_there_left_out():
    found = sum_of_squares(
        [with_gradient(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.ones(3)), with_gradient(torch.tensor([-3.0]))]
    )
    assert found == 14.0


def test_a_long_sum_is_exact_where_fp32_would_lose_the_small_terms():
    gradient = torch.full((2 * PIECE + 1,), 2.0**-13)
    gradient[0] = 2.0  # 4 + n·2⁻²⁶: next to 4 each of the other squares is below half an ulp of fp32
    assert sum_of_squares([with_gradient(gradient)]) == 4.0 + 2 * PIECE * 2.0**-26


def test_slices_that_are_not_contiguous_count_as_they_are():
    assert sum_of_squares([with_gradient(torch.tensor([[1.0, 5.0], [2.0, 7.0]])[:, :1])]) == 5.0


def test_gradients_of_an_earlier_step_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    require_no_gradients(model)
    model[1].bias.grad = torch.zeros(1)
    with pytest.raises(ValueError, match=r"gradient = '1.bias': expected none before a step: zero_grad\(\) first"):
        require_no_gradients(model)
