"""Statistics of a layer's input, streamed, against the same formulas over all rows at once; and the calibration set."""

import pytest
import torch

from course_lib.calibration import Channels, Hessian, Sample, Statistic, calibration_batches, checked_batches
from course_lib.data.align import Window


def rows(n: int = 50, features: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def streamed(statistic, x: torch.Tensor, sizes: tuple[int, ...]):
    for part in x.split(sizes):
        statistic.add(part)
    return statistic


def test_channels_are_the_formulas_over_all_rows():
    x = rows()
    channels = streamed(Channels(6), x, (1, 30, 0, 19))
    assert torch.equal(channels.absmax(), x.abs().amax(0))
    # Sums of 50 float64 numbers: at most 50 roundings of 2⁻⁵³ each.
    torch.testing.assert_close(channels.norms(), x.double().norm(dim=0), rtol=50 * 2**-53, atol=0)
    torch.testing.assert_close(channels.absmean(), x.double().abs().mean(0), rtol=50 * 2**-53, atol=0)


def test_the_hessian_errs_by_no_more_than_the_products_of_one_batch():
    """fp32 products of a batch of k rows err by at most γ_k·Σ|x_i||x_j|, γ_k = k·2⁻²⁴/(1 − k·2⁻²⁴); float64 sums add nothing."""
    x = rows(500)
    hessian = streamed(Hessian(6), x, (100,) * 5).matrix()
    exact, sizes = x.double().T @ x.double() / 500, x.double().abs().T @ x.double().abs() / 500
    gamma = 100 * 2**-24 / (1 - 100 * 2**-24)
    assert hessian.dtype == torch.float64
    assert ((hessian - exact).abs() <= gamma * sizes).all()
    assert torch.equal(hessian, hessian.T)


def test_a_hessian_of_float64_inputs_is_of_float64_products():
    x = rows(500, dtype=torch.float64)
    hessian = streamed(Hessian(6), x, (100,) * 5).matrix()
    assert ((hessian - x.T @ x / 500).abs() <= 1000 * 2**-53 * (x.abs().T @ x.abs() / 500)).all()  # two sums of 500 terms


def test_norms_are_the_roots_of_the_hessians_diagonal():
    x = rows(64, dtype=torch.float64)
    diagonal = streamed(Hessian(6), x, (32, 32)).matrix().diagonal()
    norms = streamed(Channels(6), x, (10, 54)).norms()
    torch.testing.assert_close(
        norms.square(), 64 * diagonal, rtol=200 * 2**-53, atol=0
    )  # two sums of 64 terms, a root, a square


def test_half_precision_inputs_are_summed_up_in_float32_products():
    x = rows(40).bfloat16()
    assert torch.equal(streamed(Hessian(6), x, (40,)).matrix(), streamed(Hessian(6), x.float(), (40,)).matrix())


def test_a_sample_holds_rows_of_the_data_and_never_more_than_asked():
    x = rows(200)
    sample = streamed(Sample(6, 17, seed=3), x, (100, 100)).matrix()
    assert sample.shape == (17, 6)
    assert len(sample.unique(dim=0)) == 17 and all((x == row).all(1).any() for row in sample)


def test_a_sample_depends_on_its_seed_and_not_on_the_batches():
    x = rows(60)
    one = streamed(Sample(6, 20, seed=1), x, (60,)).matrix()
    assert torch.equal(streamed(Sample(6, 20, seed=1), x, (7, 30, 23)).matrix(), one)
    assert not torch.equal(streamed(Sample(6, 20, seed=2), x, (60,)).matrix(), one)


def test_a_sample_as_large_as_the_data_is_the_data():
    x = rows(9)
    sample = streamed(Sample(6, 50, seed=0), x, (4, 5)).matrix()
    assert sorted(map(tuple, sample.tolist())) == sorted(map(tuple, x.tolist()))


def test_each_row_is_sampled_equally_often():
    """3 of 10 rows: over 2000 seeds a row is drawn 600 times ± 5·√(2000·0.3·0.7) (the seeds are fixed: no chance of failing)."""
    x = torch.arange(10.0).view(10, 1)
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[streamed(Sample(1, 3, seed), x, (5, 5)).matrix().long().view(-1)] += 1
    assert ((counts - 600).abs() <= 5 * (2000 * 0.3 * 0.7) ** 0.5).all()


@pytest.mark.parametrize(("x", "message"), [
    (torch.zeros(3, 5), r"x = \(3, 5\): expected rows of 6 numbers"),
    (torch.zeros(6), r"x = \(6,\): expected rows of 6 numbers"),
    (torch.zeros(2, 6, dtype=torch.int64), "x = torch.int64: expected a floating-point type"),
    (torch.full((2, 6), float("nan")), "x = 'NaN or infinity': expected finite inputs"),
    (torch.full((2, 6), float("inf")), "x = 'NaN or infinity': expected finite inputs"),
])  # fmt: skip
def test_rows_that_are_no_input_are_refused_and_leave_the_statistic_as_it_was(x, message):
    for statistic in (Channels(6), Hessian(6), Sample(6, 4, 0)):
        with pytest.raises(ValueError, match=message):
            statistic.add(x)
        assert statistic.rows == 0


def test_a_statistic_that_saw_nothing_says_so():
    for read in (Channels(3).norms, Channels(3).absmax, Channels(3).absmean, Hessian(3).matrix, Sample(3, 2, 0).matrix):
        with pytest.raises(ValueError, match=r"rows = 0: expected at least one row added"):
            read()


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match=r"features = 0"):
        Hessian(0)
    with pytest.raises(ValueError, match=r"size = 0: expected at least one row"):
        Sample(3, 0, 0)


def windows(lengths: list[int]) -> list[Window]:
    return [Window(i, tuple(range(100 * i, 100 * i + n)), ((1, 0),)) for i, n in enumerate(lengths)]


def test_calibration_batches_hold_each_drawn_window_once_with_its_padding_masked():
    some = windows([3, 9, 5, 4, 7, 6, 8])
    batches = calibration_batches(some, padding=77, count=5, batch_size=2, seed=0)
    assert [len(b["input_ids"]) for b in batches] == [2, 2, 1]
    pairs = [(ids, mask.bool()) for b in batches for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)]
    drawn = [tuple(ids[mask].tolist()) for ids, mask in pairs]
    assert len(set(drawn)) == 5 and set(drawn) <= {w.ids for w in some}
    assert all((ids[~mask] == 77).all() for ids, mask in pairs)
    lengths = [len(d) for d in drawn]
    assert lengths == sorted(lengths), "windows of similar length together"


def test_the_draw_follows_its_seed_and_takes_all_when_there_are_fewer():
    some = windows([4] * 30)
    first = [calibration_batches(some, 0, count=10, seed=s)[0]["input_ids"] for s in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert sum(len(b["input_ids"]) for b in calibration_batches(some, 0, count=99)) == 30


def test_impossible_draws_are_refused():
    with pytest.raises(ValueError, match=r"windows = 0: expected at least one window"):
        calibration_batches([], 0)
    with pytest.raises(ValueError, match=r"count = 0"):
        calibration_batches(windows([3]), 0, count=0)
    with pytest.raises(ValueError, match=r"batch_size = 0"):
        calibration_batches(windows([3]), 0, batch_size=0)


GOOD = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.ones(2, 3, dtype=torch.int64)}


@pytest.mark.parametrize(("batches", "message"), [
    ([], "expected at least one batch: the calibration set is empty"),
    (iter(()), "expected at least one batch"),
    ("sentences", "batches = 'str': expected a list of batches"),
    (GOOD, "batches = 'dict': expected a list of batches"),
    (torch.ones(2, 3), "batches = 'Tensor': expected a list of batches"),
    (7, "batches = 'int': expected a list of batches"),
    (["a sentence"], r"batches\[0\] = 'str': expected a mapping with tensors input_ids and attention_mask"),
    ([GOOD, torch.ones(2, 3)], r"batches\[1\] = 'Tensor': expected a mapping"),
    ([{"input_ids": GOOD["input_ids"]}], r"batches\[0\] = 'dict': expected a mapping with tensors"),
    ([GOOD | {"input_ids": [[1, 2, 3]]}], r"batches\[0\] = 'dict': expected a mapping with tensors"),
    ([GOOD | {"attention_mask": torch.ones(2, 4)}], r"batches\[0\] = .*expected one shape \(B, L\)"),
    ([GOOD | {"attention_mask": torch.zeros(2, 3)}], r"batches\[0\] = 'padding alone': expected at least one real token"),
])  # fmt: skip
def test_a_calibration_set_that_is_none_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        checked_batches(batches)


def test_a_generator_of_batches_is_a_calibration_set():
    assert checked_batches(GOOD for _ in range(2)) == [GOOD, GOOD]


def test_a_statistic_counts_its_rows_and_hands_them_on():
    seen = []

    class Kept(Statistic):
        def _add(self, x):
            seen.append(x)

    kept = streamed(Kept(6), rows(), (20, 30))
    assert kept.rows == 50 and torch.equal(torch.cat(seen), rows())
    with pytest.raises(TypeError, match="abstract"):
        Statistic(6)
