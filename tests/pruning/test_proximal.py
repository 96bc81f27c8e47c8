"""L1 in training: the optimizer untouched where λ = 0, and the lasso's minimum reached whichever optimizer it is."""

import copy
import math

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.pruning.apply import Prune, apply
from course_lib.pruning.l1 import ista, ista_step, lambda_max, lasso_gradient, lasso_violation
from course_lib.pruning.masks import sparsity
from course_lib.pruning.proximal import (
    l1_path,
    l1_penalty,
    penalised_parameters,
    proximal_groups,
    proximal_steps,
    step_size,
)

OPTIMIZERS = {
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr),
    "momentum": lambda groups, lr: torch.optim.SGD(groups, lr=lr / 10, momentum=0.9),
    "dampened": lambda groups, lr: torch.optim.SGD(groups, lr=lr / 5, momentum=0.9, dampening=0.5),
    "nesterov": lambda groups, lr: torch.optim.SGD(groups, lr=lr / 10, momentum=0.9, nesterov=True),
    "adam": lambda groups, lr: torch.optim.Adam(groups, lr=lr / 10),
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr / 10, weight_decay=0.0),
    "amsgrad": lambda groups, lr: torch.optim.AdamW(groups, lr=lr / 10, weight_decay=0.0, amsgrad=True),
    "fused": lambda groups, lr: torch.optim.AdamW(groups, lr=lr / 10, weight_decay=0.0, fused=True),
}


def regression(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    w = torch.zeros(12, dtype=torch.float64)
    w[:4] = torch.tensor([2.0, -1.5, 1.0, 0.3], dtype=torch.float64)
    return x, x @ w + 0.1 * torch.randn(60, generator=generator, dtype=torch.float64)


def mse(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (y - x @ w).square().sum() / (2 * len(y))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1)).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> float:
    x, y = regression(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x).squeeze(1) - y).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


# The optimizer itself


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_with_lambda_0_every_weight_is_that_of_the_bare_optimizer_to_the_bit(name):
    bare, ours = network(), network()
    groups = proximal_groups(ours, {"*": 0.0})
    assert [group["lam"] for group in groups] == [0.0]
    optimizer = OPTIMIZERS[name](groups, 0.1)
    proximal_steps(optimizer)
    train(bare, OPTIMIZERS[name](bare.parameters(), 0.1), 20)
    train(ours, optimizer, 20)
    for a, b in zip(bare.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a.view(torch.int64), b.view(torch.int64))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_minimum_reached_is_that_of_the_lasso(name):
    """The step size falls to nothing. Plain steps shrink with the gradient's distance, so these end at rounding; Adam's are of
    size lr whatever the gradient, 4e-6 at the end, and an error of some such steps times a curvature of 2 remains."""
    x, y = regression()
    lam = 0.05 * lambda_max(x, y)
    w = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[name]([{"params": [w], "lam": lam}], 0.3)
    proximal_steps(optimizer)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.997)
    for _ in range(3000):
        optimizer.zero_grad()
        mse(x, y, w).backward()
        optimizer.step()
        scheduler.step()
    w = w.detach()
    exact = ista(x, y, lam, tolerance=1e-12)
    adaptive = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
    assert lasso_violation(lasso_gradient(x, y, w), w, lam) < (1e-4 if adaptive else 1e-9)
    assert torch.equal(w == 0, exact == 0) and 0 < int((w == 0).sum()) < 12


def test_plain_sgd_takes_istas_steps():
    """The same formula: iterates differ by fused multiply-adds, one rounding a step, which the map (a contraction) does not add up."""
    x, y = regression()
    w = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [w], "lam": 0.05}], lr=0.2)
    proximal_steps(optimizer)
    theirs = torch.zeros(12, dtype=torch.float64)
    for _ in range(50):
        optimizer.zero_grad()
        mse(x, y, w).backward()
        optimizer.step()
        theirs = ista_step(theirs, lasso_gradient(x, y, theirs), step=0.2, lam=0.05)
        torch.testing.assert_close(w.detach(), theirs, rtol=0, atol=50 * 4 * 2.3e-16)
    assert (theirs == 0).any()


@pytest.mark.oracles
def test_scikit_learns_lasso_is_where_plain_sgd_ends():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = regression()
    lam = 0.05
    w = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [w], "lam": lam}], lr=0.4)
    proximal_steps(optimizer)
    for _ in range(1000):
        optimizer.zero_grad()
        mse(x, y, w).backward()
        optimizer.step()
    oracle = linear_model.Lasso(alpha=lam, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x.numpy(), y.numpy())
    # its duality gap of tol·‖y‖²/n is, by strong convexity, a distance
    smallest = float(torch.linalg.eigvalsh(x.T @ x / len(x))[0])
    off = math.sqrt(2 * 1e-14 * float(y @ y) / len(y) / smallest)
    torch.testing.assert_close(w.detach(), torch.tensor(oracle.coef_), rtol=0, atol=off + 1e-10)
    assert torch.equal(w == 0, torch.tensor(oracle.coef_ == 0))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_step_size_is_what_the_optimizer_moves_a_weight_by(name):
    """Under a constant gradient of 1 the averages are 1 too, so after many steps each step is the step size itself (0.9^400 ≈ 5e-19)."""
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[name]([w], 0.1)
    for _ in range(400):
        w.grad = torch.ones_like(w)
        before = w.detach().clone()
        optimizer.step()
    moved = before - w.detach()
    size = step_size(optimizer, optimizer.param_groups[0], w)
    # moved is a difference of numbers up to 40, each rounded to 40 eps
    torch.testing.assert_close(moved, torch.as_tensor(size, dtype=torch.float64).expand(3), rtol=0, atol=80 * 2.3e-16)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamws_threshold_is_the_proximal_step_in_its_own_metric(amsgrad):
    """With u the optimizer's own result, w minimises Σ (w_j − u_j)²/(2η_j) + λ|w_j|: no other point is lower."""
    generator = torch.Generator().manual_seed(0)
    plain = (0.05 * torch.randn(20, generator=generator, dtype=torch.float64)).requires_grad_()
    ours, lam = plain.detach().clone().requires_grad_(), 0.3
    optimizers = [
        torch.optim.AdamW([{"params": [p], "lam": penalty}], lr=0.05, weight_decay=0.1, amsgrad=amsgrad)
        for p, penalty in ((plain, 0.0), (ours, lam))
    ]
    proximal_steps(optimizers[1])
    gradient = torch.randn(20, generator=generator, dtype=torch.float64)
    for p, optimizer in zip((plain, ours), optimizers, strict=True):
        p.grad = gradient.clone()
        optimizer.step()
    eta = 0.05 / (gradient.abs() + 1e-8)  # after one step, √v̂ = |g|
    torch.testing.assert_close(step_size(optimizers[1], optimizers[1].param_groups[0], ours), eta, rtol=1e-14, atol=0)

    def objective(w):
        return (w - plain.detach()).square() / (2 * eta) + lam * w.abs()

    best = objective(ours.detach())
    for scale in (1e-3, 1e-2, 1e-1, 1.0):
        other = ours.detach() + scale * torch.randn(20, generator=generator, dtype=torch.float64)
        assert (objective(other) >= best - 1e-12).all()  # fp64: values below 100, some roundings of 1e-14
    assert 0 < int((ours == 0).sum()) < 20


def test_a_weight_without_a_gradient_is_left_alone():
    used, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [used, unused], "lam": 1.0}], lr=0.1, weight_decay=0.0)
    proximal_steps(optimizer)
    used.sum().backward()
    optimizer.step()
    assert (unused == 1).all() and (used < 0.9).all()


def test_the_penalty_in_the_loss_makes_weights_small_and_the_proximal_step_makes_zeros():
    in_loss, proximal = network(), network()
    optimizer = torch.optim.AdamW(in_loss.parameters(), lr=0.01, weight_decay=0.0)
    x, y = regression()
    weights = [in_loss[0].weight, in_loss[3].weight]
    for _ in range(300):
        optimizer.zero_grad()
        ((in_loss(x).squeeze(1) - y).square().mean() + 0.02 * l1_penalty(weights)).backward()
        optimizer.step()
    optimizer = torch.optim.AdamW(proximal_groups(proximal, {"*": 0.02}), lr=0.01, weight_decay=0.0)
    proximal_steps(optimizer)
    train(proximal, optimizer, 300)
    assert all(sparsity(w) == 0 for w in weights)
    assert sparsity(proximal[0].weight) > 0.3
    assert sparsity(proximal[0].bias) == sparsity(proximal[1].weight) == 0


def test_lambda_survives_the_optimizers_state_dict_and_a_handle_ends_the_steps():
    model = network()
    optimizer = torch.optim.AdamW(proximal_groups(model, {"0": 0.5}), lr=0.01)
    handle = proximal_steps(optimizer)
    other = torch.optim.AdamW(proximal_groups(network(), {"0": 0.25}), lr=0.01)
    other.load_state_dict(optimizer.state_dict())
    assert [group["lam"] for group in other.param_groups] == [0.5, 0.0]
    train(model, optimizer, 5)
    assert sparsity(model[0].weight) > 0
    handle.remove()
    train(model, optimizer, 5)
    assert sparsity(model[0].weight) == 0


# Which parameters


def test_patterns_give_each_group_its_lambda():
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-X"])
    plan = {"*.self.*": 1e-4, "*.dense": 2e-4, "classifier": 0.0}
    included, excluded = penalised_parameters(model, plan)
    modules = dict(model.named_modules())
    for name, lam in included.items():
        assert isinstance(modules[name.removesuffix(".weight")], nn.Linear)
        assert lam == (1e-4 if ".self." in name else 2e-4)
    assert len(included) == 2 * 6
    reasons = {name: reason.split(":")[0] for name, reason in excluded.items()}
    assert reasons["bert.encoder.layer.0.output.dense.bias"] == "a bias"
    assert reasons["bert.encoder.layer.0.output.LayerNorm.weight"] == "a norm's gain or bias"
    assert reasons["bert.embeddings.word_embeddings.weight"] == "an embedding that the plan does not name"
    assert reasons["classifier.weight"] == "λ is 0"
    assert included.keys() | excluded.keys() == {name for name, _ in model.named_parameters()}
    groups = proximal_groups(model, plan)
    assert [group["lam"] for group in groups] == [1e-4, 2e-4, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_star_leaves_embeddings_out_and_their_full_name_takes_them_in():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    assert penalised_parameters(model, {"*": 0.1})[0] == {"1.weight": 0.1}
    assert penalised_parameters(model, {"0": 0.2, "*": 0.1})[0] == {"0.weight": 0.2, "1.weight": 0.1}
    assert penalised_parameters(model, {"1": 0.1})[1]["1.bias"].startswith("a bias")


def test_tied_and_unmatched_and_frozen_weights_are_left_out():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4))
    model[2].weight = model[0].weight
    included, excluded = penalised_parameters(model, {"[12]": 0.1})
    assert included == {"1.weight": 0.1}
    assert excluded["0.weight"] == "an embedding that the plan does not name: its unused rows would all become zero"
    assert excluded["3.weight"] == "not in the plan"
    with pytest.raises(CourseError, match="must be left alone"):
        penalised_parameters(model, {"0": 0.1})
    model[1].weight.requires_grad_(False)
    assert [group["lam"] for group in proximal_groups(model, {"1": 0.1})] == [0.0]


@pytest.mark.parametrize(
    "plan, error, message",
    [
        ({}, ValueError, r"plan = \{\}: expected at least one module name or pattern"),
        ({"0": -1.0}, ValueError, r"plan\['0'\] = -1\.0: expected a finite number of at least 0"),
        ({"0": math.nan}, ValueError, r"plan\['0'\] = nan"),
        ({"nothing": 0.1}, CourseError, "'nothing' matches nothing"),
        ({"0": 0.1, "*": 0.1}, CourseError, "0 is matched by '0' and by"),
    ],
)
def test_plans_that_cannot_be_meant_are_refused(plan, error, message):
    with pytest.raises(error, match=message):
        penalised_parameters(network(), plan)


def test_an_optimizer_whose_step_is_unknown_is_refused():
    model = network()
    groups = proximal_groups(model, {"0": 0.1})
    with pytest.raises(CourseError, match="a RMSprop; expected SGD, Adam or AdamW"):
        proximal_steps(torch.optim.RMSprop(copy.copy(groups)))
    with pytest.raises(CourseError, match="maximize=True"):
        proximal_steps(torch.optim.SGD(proximal_groups(model, {"0": 0.1}), lr=0.1, maximize=True))
    with pytest.raises(CourseError, match="no group has a lam; expected groups made by proximal_groups"):
        proximal_steps(torch.optim.SGD(model.parameters(), lr=0.1))


# A path of penalties, and what follows it


def test_a_path_goes_from_dense_to_sparse_and_each_point_starts_from_the_last():
    model = network()
    optimizer = torch.optim.AdamW(proximal_groups(model, {"0": 0.01, "3": 0.02}), lr=0.01, weight_decay=0.0)
    proximal_steps(optimizer)
    seen = []

    def run() -> float:
        seen.append(([group["lam"] for group in optimizer.param_groups], model[0].weight.detach().clone()))
        return train(model, optimizer, 150)

    rows = l1_path(optimizer, [0.0, 1.0, 4.0, 16.0], run)
    assert [row["factor"] for row in rows] == [0.0, 1.0, 4.0, 16.0]
    assert [lams for lams, _ in seen] == [[f * 0.01, f * 0.02, 0.0] for f in (0.0, 1.0, 4.0, 16.0)]
    sparsities = [row["sparsity"] for row in rows]
    assert sparsities[0] == 0 and sparsities == sorted(sparsities) and sparsities[-1] > 0.5
    zeros = sum(int((model[i].weight == 0).sum()) for i in (0, 3))
    assert sparsities[-1] == zeros / (12 * 16 + 16)
    assert [group["lam"] for group in optimizer.param_groups] == [0.01, 0.02, 0.0]
    assert sparsity(seen[-1][1]) > 0, "the last penalty began where the one before it ended"


def test_a_path_without_a_penalty_or_with_a_negative_factor_is_refused_and_lambda_stays():
    model = network()
    optimizer = torch.optim.SGD(proximal_groups(model, {"0": 0.01}), lr=0.01)
    with pytest.raises(ValueError, match=r"factors = -1: expected finite numbers of at least 0"):
        l1_path(optimizer, [1, -1], lambda: 0.0)
    assert optimizer.param_groups[0]["lam"] == 0.01
    with pytest.raises(ValueError, match=r"optimizer = \[0\.0\]: expected a group whose lam is above 0"):
        l1_path(torch.optim.SGD(model.parameters(), lr=0.1), [1], lambda: 0.0)


def test_after_training_the_smallest_weights_go_to_the_exact_sparsity_which_zeros_may_exceed():
    model = network()
    optimizer = torch.optim.AdamW(proximal_groups(model, {"0": 0.02}), lr=0.01, weight_decay=0.0)
    proximal_steps(optimizer)
    train(model, optimizer, 300)
    already = sparsity(model[0].weight)
    assert 0.3 < already < 0.9
    for asked in (0.1, 0.95):
        masks, _ = apply(model, {"0": Prune(asked)})
        assert sparsity(masks["0.weight"]) == sparsity(model[0].weight) == max(already, round(asked * 192) / 192)
