"""Outlier columns are found by magnitude and column; smoothing moves them and changes no output."""

import pytest
import torch

from course_lib.quantization.outliers import outlier_columns, smoothed


def test_columns_above_the_factor_come_largest_first_whatever_the_sign():
    x = torch.ones(4, 7)
    x[1, 5], x[2, 0], x[3, 3] = -30.0, 8.0, 5.9
    assert outlier_columns(x).tolist() == [5, 0] and outlier_columns(x, 5.0).tolist() == [5, 0, 3]
    assert outlier_columns(torch.ones(3, 4)).tolist() == []


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.ones(0, 3)])
def test_what_is_no_matrix_of_floats_is_refused(x):
    with pytest.raises(ValueError, match=r"x = .*: expected floats \(N, D\)"):
        outlier_columns(x)
    with pytest.raises(ValueError, match="factor = 0"):
        outlier_columns(torch.ones(2, 2), 0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_dividing_the_input_and_multiplying_the_weight_leaves_the_output(alpha):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 6, generator=generator).double(), torch.randn(4, 6, generator=generator).double()
    x[:, 2] *= 50
    scale, new = smoothed(x.abs().amax(0), weight, alpha)
    exact = x @ weight.T
    # two roundings more in each of the 6 products of a sum, of 2⁻⁵³ each, and those of the sum itself
    assert ((x / scale) @ new.T - exact).abs().max() <= 16 * 2.0**-53 * (x.abs() @ weight.abs().T).max()
