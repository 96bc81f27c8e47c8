"""Movement: the score's gradient is W·∂L/∂W', masked weights can come back, and the model ends as an ordinary one."""

import copy
import itertools

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.pruning.masks import Masks, mask_by_sparsity, sparsity
from course_lib.pruning.movement import Movement, masked_weight, movement_of_steps, movement_scores
from course_lib.pruning.schedules import cubic


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def loss_of(model: nn.Module, seed: int = 1) -> torch.Tensor:
    return (model(drawn(16, 6, seed=seed)) - drawn(16, 3, seed=seed + 100)).square().mean()


# The maths


def test_the_scores_of_some_steps_are_half_of_what_the_square_has_grown_by_but_for_the_steps_squares():
    w, gradients, lr = drawn(5, 4), [drawn(5, 4, seed=s) for s in range(1, 8)], 0.05
    path = [w]
    for gradient in gradients:
        path.append(path[-1] - lr * gradient)
    steps = sum((b - a).square() for a, b in itertools.pairwise(path))
    expected = ((path[-1].square() - w.square()) / 2 - steps / 2) / lr
    # float64: some thirty additions and products of numbers below 10, each rounded to 2⁻⁵³ of that, divided by lr = 0.05
    assert torch.allclose(movement_of_steps(w, gradients, lr), expected, rtol=0, atol=30 * 10 * 2**-53 / lr)
    assert torch.equal(movement_of_steps(w, gradients[:1], lr), movement_scores(torch.zeros_like(w), w, gradients[0]))


def test_the_scores_gradient_is_the_weight_times_the_gradient_of_the_masked_weight():
    """dL/dS = dL/dW'·W, masked or not; and dL/dW is the true derivative, that of a mask of zeros and ones. Autograd is the oracle."""
    w, mask, x = drawn(4, 5), drawn(4, 5, seed=1) > 0, drawn(5, 7, seed=2)
    ours, scores = w.clone().requires_grad_(), torch.zeros_like(w, requires_grad=True)
    used = masked_weight(ours, scores, mask)
    used.retain_grad()
    (used @ x).sin().sum().backward()
    plain = w.clone().requires_grad_()
    leaf = (plain * mask).detach().requires_grad_()
    (leaf @ x).sin().sum().backward()
    ((plain * mask) @ x).sin().sum().backward()
    assert torch.equal(used, w * mask) and torch.equal(used.grad, leaf.grad)
    assert torch.equal(scores.grad, leaf.grad * w) and scores.grad[~mask].all()
    assert torch.equal(ours.grad, plain.grad) and not ours.grad[~mask].any()


def test_a_score_is_positive_where_a_gradient_step_moves_the_weight_away_from_zero():
    w, gradient = drawn(100), drawn(100, seed=1)
    scores = movement_scores(torch.zeros_like(w), w, gradient)
    away = (w - 1e-6 * gradient).abs() > w.abs()  # a step too small to pass zero
    assert torch.equal(scores > 0, away)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shapes = \[\(2,\), \(3,\), \(3,\)\]: expected one shape"):
        movement_scores(torch.zeros(2), torch.zeros(3), torch.zeros(3))


# A model


def test_scores_are_the_sum_over_steps_of_minus_w_times_its_gradient():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    movement = Movement(model, {"*": "weight"})
    expected = {name: torch.zeros_like(s) for name, s in movement.scores.items()}
    for step in range(6):
        movement.prune(cubic(step, 4, final=0.6))
        twin = copy.deepcopy(model)  # the same masks, differentiated by hand
        weights = {name: twin.get_submodule(name).weight.detach().requires_grad_() for name in expected}
        x = drawn(16, 6, seed=step)
        out = torch.tanh(x @ weights["0"].T + twin[0].bias) @ weights["2"].T + twin[2].bias
        gradients = torch.autograd.grad((out - drawn(16, 3, seed=step + 100)).square().mean(), list(weights.values()))
        for (name, s), gradient in zip(expected.items(), gradients, strict=True):
            expected[name] = movement_scores(s, twin.get_submodule(name).parametrizations.weight.original.detach(), gradient)
        optimizer.zero_grad()
        loss_of(model, step).backward()
        movement.accumulate()
        optimizer.step()
    for name, s in movement.scores.items():
        torch.testing.assert_close(s, expected[name], rtol=1e-12, atol=1e-14)  # fp64; sums in another order


def test_gradients_of_several_backward_passes_add_up_in_one_step():
    model, other = network(), network()
    together, apart = Movement(model, {"0": "weight"}), Movement(other, {"0": "weight"})
    (loss_of(model, 1) + loss_of(model, 2)).backward()
    together.accumulate()
    for seed in (1, 2):
        loss_of(other, seed).backward()
    apart.accumulate()
    torch.testing.assert_close(together.scores["0"], apart.scores["0"], rtol=1e-12, atol=1e-15)


def test_a_masked_weight_keeps_its_value_and_comes_back_when_the_loss_asks_for_it():
    """y = Σ w: first the loss wants less, and the larger score stays; then more, and the masked weight returns as it was."""
    layer = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    movement = Movement(nn.Sequential(layer), {"0": "weight"})
    x = torch.ones(1, 2, dtype=torch.float64)

    def step(sign: float) -> None:
        (sign * layer(x)).sum().backward()
        movement.accumulate()
        optimizer.step()
        movement.prune(0.5)

    step(1.0)  # S = −w: (−1, −2): the second goes
    assert movement.scores["0"].tolist() == [[-1.0, -2.0]] and layer.weight.tolist() == [[1.0, 0.0]]
    step(-1.0)  # S = (0, 0): still a tie, which the first wins
    assert layer.weight.tolist() == [[1.0, 0.0]]
    step(-1.0)  # S = (1, 2): the masked weight's score went on growing
    assert layer.weight.tolist() == [[0.0, 2.0]]


def test_without_pruning_the_model_computes_and_trains_as_before():
    bare, ours = network(), network()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (bare, ours)]
    movement = Movement(ours, {"*": "weight"})
    for step in range(5):
        for model, optimizer in zip((bare, ours), optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        movement.accumulate()
    movement.finish()
    for (name, a), (other, b) in zip(bare.named_parameters(), ours.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)


def test_scores_are_no_parameters_of_the_model_and_are_not_saved():
    model = network()
    count = sum(p.numel() for p in model.parameters())
    Movement(model, {"*": "weight"})
    assert sum(p.numel() for p in model.parameters()) == count
    assert not any("scores" in key or "mask" in key for key in model.state_dict())


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_finished_model_is_an_ordinary_one_with_real_zeros(scope):
    model = network()
    keys, parameters = list(model.state_dict()), dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    movement = Movement(model, {"*": "weight"})
    loss_of(model).backward()
    movement.accumulate()
    optimizer.step()
    movement.prune(0.5, scope)
    before = model(drawn(4, 6))
    masks, report = movement.finish()
    assert isinstance(masks, Masks) and masks.sparsity == 0.5
    assert torch.equal(model(drawn(4, 6)), before)
    assert list(model.state_dict()) == keys
    assert all(p is parameters[name] for name, p in model.named_parameters()), "the optimizer still holds them"
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
        if scope == "layer":
            assert sparsity(mask) == 0.5
    assert report.parameters_after == report.parameters_before
    assert report.changed[0].startswith("0: ") and "of 48 weights are zero (movement)" in report.changed[0]
    masks.keep(model, optimizer)
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_rows_go_as_a_whole_by_their_summed_scores():
    model = network()
    movement = Movement(model, {"0": "channel", "2": "weight"})
    loss_of(model).backward()
    movement.accumulate()
    movement.prune(0.5)
    scores = movement.scores
    assert torch.equal(model[0].weight != 0, mask_by_sparsity(scores["0"], 0.5, "channel"))
    assert torch.equal(model[2].weight != 0, mask_by_sparsity(scores["2"], 0.5))
    with pytest.raises(ValueError, match="expected one granularity for all, with scope='global'"):
        movement.prune(0.5, "global")


def test_what_cannot_be_pruned_is_refused():
    model = network()
    with pytest.raises(CourseError, match="'nothing' matches nothing"):
        Movement(model, {"nothing": "weight"})
    movement = Movement(model, {"0": "weight"})
    with pytest.raises(CourseError, match=r"the weight of 0 is computed from other parameters"):
        Movement(model, {"0": "weight"})
    with pytest.raises(CourseError, match=r"no gradients; expected loss\.backward\(\)"):
        movement.accumulate()
    with pytest.raises(ValueError, match="scope = 'row': expected 'layer' or 'global'"):
        movement.prune(0.5, "row")
    with pytest.raises(ValueError, match=r"sparsity = 1\.5"):
        movement.prune(1.5)
