"""Scores of single weights against what they estimate: the loss, measured with a weight or a row really changed."""

import itertools
import math

import pytest
import torch
from torch import nn

from course_lib.pruning.masks import block_scores
from course_lib.pruning.scores import fisher_scores, gradient_scores, magnitude_scores, taylor_scores


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data(seed: int = 0, rows: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 5, generator=generator, dtype=torch.float64),
        torch.randint(3, (rows,), generator=generator),
    )


def loss_of(model: nn.Module, seed: int = 0) -> torch.Tensor:
    x, y = data(seed)
    return nn.functional.cross_entropy(model(x), y)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.dim() > 1}


def changed(model: nn.Module, weight: torch.Tensor, index, to: torch.Tensor | float, seed: int = 0) -> float:
    """The loss with some entries of a weight set to other values."""
    before = weight.detach().clone()
    with torch.no_grad():
        weight[index] = to
        loss = float(loss_of(model, seed).detach())
        weight.copy_(before)
    return loss


# Magnitude


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_block_sums_of_magnitudes_are_powers_of_norms(dtype):
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    for p in (1, 2):
        sums = block_scores(magnitude_scores(w, p), "channel").double().flatten()
        norms = w.double().norm(p, dim=1)
        # 64 terms added in fp32 or better: off by at most 64 eps relative, all terms being positive; |w| is exact
        torch.testing.assert_close(sums, norms**p, rtol=64 * torch.finfo(torch.float32).eps, atol=0)


def test_squares_of_small_fp16_weights_do_not_underflow():
    assert (magnitude_scores(torch.tensor([1e-4, 1e-5], dtype=torch.float16), p=2) > 0).all()


@pytest.mark.parametrize(
    "w, p, message",
    [
        (torch.ones(2, dtype=torch.int8), 1, r"w\.dtype = torch\.int8: expected floating-point weights"),
        (torch.ones(2), 0, "p = 0: expected 1 or 2"),
    ],
)
def test_other_weights_and_norms_are_refused(w, p, message):
    with pytest.raises(ValueError, match=message):
        magnitude_scores(w, p)


# Gradients


def test_a_gradient_score_is_the_slope_of_the_loss(model):
    """Central differences at h: off by h²/6·|L'''|, of order 1e-10 here, and by rounding, 2·eps·L/h ≈ 5e-11."""
    scores, h = gradient_scores(weights(model), (loss_of(model) for _ in range(1))), 1e-5
    for name, w in weights(model).items():
        for index in [(0, 0), (2, 4), (1, 3)]:
            up, down = (changed(model, w, index, w[index].item() + s) for s in (h, -h))
            assert abs(abs(up - down) / (2 * h) - float(scores[name][index])) < 1e-9


def test_a_weight_the_loss_does_not_depend_on_scores_zero(model):
    with torch.no_grad():
        model[2].weight[:, 3] = 0  # what neuron 3 puts out goes nowhere
    unused = nn.Parameter(torch.ones(2, 2))
    for score in (gradient_scores, taylor_scores, fisher_scores):
        scores = score({**weights(model), "unused": unused}, (loss_of(model) for _ in range(1)))
        assert not scores["0.weight"][3].any() and scores["0.weight"][2].all()
        assert not scores["unused"].any()


def test_scores_add_up_over_losses_and_opposite_gradients_do_not_cancel(model):
    for score in (gradient_scores, taylor_scores):
        apart = [score(weights(model), (loss_of(model, seed) for _ in range(1))) for seed in (1, 2)]
        both = score(weights(model), (loss_of(model, seed) for seed in (1, 2)))
        for name in both:
            torch.testing.assert_close(both[name], apart[0][name] + apart[1][name], rtol=1e-14, atol=0)  # one fp64 addition
        opposite = score(weights(model), (sign * loss_of(model) for sign in (1, -1)))
        once = score(weights(model), (loss_of(model) for _ in range(1)))
        assert all(torch.equal(opposite[n], 2 * once[n]) for n in once)


def test_fisher_scores_are_means_over_losses(model):
    once = fisher_scores(weights(model), (loss_of(model) for _ in range(1)))
    thrice = fisher_scores(weights(model), (loss_of(model) for _ in range(3)))
    for name in once:
        torch.testing.assert_close(thrice[name], once[name], rtol=1e-14, atol=0)  # 3g²/3: two fp64 roundings


def test_each_graph_is_freed_before_the_next_loss_is_asked_for_and_the_model_is_left_as_it_was(model):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    freed = []

    def losses():
        for seed in range(3):
            loss = loss_of(model, seed)
            yield loss
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                loss.backward()
            freed.append(seed)

    taylor_scores(weights(model), losses())
    assert freed == [0, 1, 2]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert (model[0].weight.grad == 7).all() and model[2].weight.grad is None


# Taylor and Fisher


def test_the_signed_sum_over_a_row_is_the_change_of_the_loss_as_its_scale_goes_to_zero(model):
    """A row of scale s adds s·a − s²·b + … to the loss: ratio of estimate and truth is 1 + O(s)."""
    row = model[0].weight[4].detach().clone()
    errors = []
    for s in (1e-1, 1e-2, 1e-3, 1e-4):
        with torch.no_grad():
            model[0].weight[4] = s * row
        scores = taylor_scores(weights(model), (loss_of(model) for _ in range(1)), signed=True)
        estimate = float(block_scores(scores["0.weight"], "channel")[4])
        truth = changed(model, model[0].weight, 4, 0.0) - float(loss_of(model).detach())
        errors.append(abs(estimate / truth - 1))
    assert errors[-1] < 1e-3
    for larger, smaller in itertools.pairwise(errors):
        assert 5 < larger / smaller < 20, "the error falls in proportion to the scale"


def test_the_score_is_the_size_of_the_signed_one_where_there_is_one_loss(model):
    size, signed = (taylor_scores(weights(model), (loss_of(model) for _ in range(1)), signed=s) for s in (False, True))
    assert all(torch.equal(size[n], signed[n].abs()) for n in size)
    assert any((signed[n] < 0).any() for n in signed)


def test_at_the_minimum_of_a_regression_with_unit_residuals_fisher_scores_are_exact():
    """Loss of an example ½(y − xw)². Columns and residual are orthogonal rows of a Hadamard matrix (entries ±1), so ``w`` is
    the minimum, r² = 1 for all, and F_jj = mean x_j²r² = H_jj: removing w_j costs ½·H_jj·w_j², all of it in fp64."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    hadamard = torch.kron(torch.kron(two, two), two)
    x, residual = hadamard[:, 1:4] * torch.tensor([1.0, 0.5, 2.0]), hadamard[:, 5]
    w = torch.tensor([0.3, -2.0, 0.7], dtype=torch.float64, requires_grad=True)
    y = x @ w.detach() + residual

    def losses():
        return (0.5 * (y[i] - x[i] @ w) ** 2 for i in range(8))

    base, scores = sum(losses()) / 8, fisher_scores({"w": w}, losses())["w"]
    for j in range(3):
        with torch.no_grad():
            kept = w[j].item()
            w[j] = 0
            cost = sum(losses()) / 8 - base
            w[j] = kept
        torch.testing.assert_close(scores[j], cost, rtol=1e-12, atol=0)
    first_order = taylor_scores({"w": w}, losses(), signed=True)["w"]
    assert first_order.abs().max() < 1e-14, "nothing is left of the first order"


@pytest.mark.oracles
def test_torch_prunings_importance_of_output_rows_is_the_same(model):
    """Group importance restricted to the rows themselves; torch-pruning leaves out the ½ of the second order."""
    tp = pytest.importorskip("torch_pruning")
    model = model.float()
    importance, x = tp.pruner.importance, data()[0].float()
    y = data()[1]
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    group = graph.get_pruning_group(model[0], tp.prune_linear_out_channels, idxs=list(range(7)))
    plain = {"group_reduction": "first", "normalizer": None}

    def rows(scores):
        return block_scores(scores, "channel").flatten()

    def losses(count=1):
        return (nn.functional.cross_entropy(model(x[i::count]), y[i::count]) for i in range(count))

    # fp32 sums of 5 terms, and gradients that both sides compute alike
    close = {"rtol": 8 * torch.finfo(torch.float32).eps, "atol": 0}
    for p in (1, 2):
        theirs = importance.GroupMagnitudeImportance(p=p, **plain)(group)
        torch.testing.assert_close(rows(magnitude_scores(model[0].weight, p)), theirs, **close)
    nn.functional.cross_entropy(model(x), y).backward()
    theirs = importance.GroupTaylorImportance(**plain)(group)
    torch.testing.assert_close(rows(taylor_scores(weights(model), losses())["0.weight"]), theirs, **close)
    theirs = importance.GroupTaylorImportance(multivariable=True, **plain)(group)
    ours = rows(taylor_scores(weights(model), losses(), signed=True)["0.weight"]).abs()
    # here terms cancel: the rounding is relative to the sum of sizes
    slack = 8 * torch.finfo(torch.float32).eps * rows(taylor_scores(weights(model), losses())["0.weight"])
    assert ((ours - theirs).abs() <= slack).all()
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    hessian = importance.GroupHessianImportance(**plain)
    hessian.accumulate_grad(model)
    theirs = hessian(group)
    torch.testing.assert_close(2 * rows(fisher_scores(weights(model), losses())["0.weight"]), theirs, **close)


# What is refused


@pytest.mark.parametrize("score", [gradient_scores, taylor_scores, fisher_scores])
def test_losses_and_weights_that_give_no_score_are_refused(model, score):
    some = weights(model)
    with pytest.raises(ValueError, match="losses = 0: expected at least one loss"):
        score(some, [])
    with pytest.raises(ValueError, match=r"weights = \{\}: expected at least one parameter"):
        score({}, (loss_of(model) for _ in range(1)))
    with pytest.raises(ValueError, match=r"losses\[1\] = tensor\(nan.*expected a finite scalar"):
        score(some, (loss_of(model) * factor for factor in (1.0, math.nan)))
    with pytest.raises(ValueError, match=r"losses\[0\] = tensor\(\[.*expected a finite scalar"):
        score(some, (loss_of(model).reshape(1) for _ in range(1)))
    with pytest.raises(ValueError, match=r"losses\[0\]\.requires_grad = False: expected a loss computed with gradients"):
        score(some, (loss_of(model).detach() for _ in range(1)))
    model[2].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"weights\['2\.weight'\]\.requires_grad = False"):
        score(some, (loss_of(model) for _ in range(1)))
