"""Statistics taken out of a model: real tokens only, layer after layer on what the changed layers before put out."""

import copy
import weakref

import pytest
import torch
from torch import nn

from course_lib.calibration import Channels, Hessian
from course_lib.errors import CourseError
from course_lib.layerwise import collect, inputs_of, layer_by_layer, linear_layers, real_rows
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.plan import match, replace_module

LINEARS = 6  # in a Transformer layer


@pytest.fixture
def model():
    """Tiny, float64, in training mode, with weights large enough for its layers to differ."""
    model, generator = load_token_classifier(find_encoder("tiny"), ["O", "B-X"]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return model.double().train()


def batch(lengths: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    width = max(lengths)
    ids = torch.randint(5, 100, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


BATCHES = [batch((7, 4, 9), 1), batch((5, 5), 2)]


def linears(model, pattern: str = "*") -> dict[str, nn.Linear]:
    return {name: linear for name, (linear, _) in match(model, {pattern: None}).found.items()}


def recorded(model, pattern: str = "*", change=lambda name: None) -> dict[str, torch.Tensor]:
    """Hessians in the order they were solved, while ``change`` is done to each layer."""
    seen = {}

    def solve(name, statistic):
        seen[name] = statistic.matrix()
        change(name)

    layer_by_layer(model, linears(model, pattern), BATCHES, Hessian, solve)
    return seen


def test_padding_is_left_out_of_a_pass_over_the_model(model):
    """The same sentences one by one, without padding: the same rows, but for rounding in float64 (some hundred operations)."""
    apart = [
        {k: v[i : i + 1, : int(b["attention_mask"][i].sum())] for k, v in b.items()}
        for b in BATCHES
        for i in range(len(b["input_ids"]))
    ]
    padded, alone = (collect(model, linears(model), batches, Hessian) for batches in (BATCHES, apart))
    assert len(padded) == 2 * LINEARS + 1
    for name, statistic in padded.items():
        assert statistic.rows == alone[name].rows == 7 + 4 + 9 + 5 + 5
        torch.testing.assert_close(statistic.matrix(), alone[name].matrix(), rtol=1e-10, atol=1e-11)


def test_what_stands_in_the_padding_does_not_matter(model):
    other = [b | {"input_ids": b["input_ids"] + 9 * (1 - b["attention_mask"])} for b in BATCHES]
    assert not torch.equal(other[0]["input_ids"], BATCHES[0]["input_ids"])
    one, two = (collect(model, linears(model), batches, Hessian) for batches in (BATCHES, other))
    assert all(torch.equal(one[n].matrix(), two[n].matrix()) for n in one)


def test_a_walk_that_changes_nothing_sees_what_a_pass_over_the_model_sees(model):
    whole = collect(model, linears(model), BATCHES, Hessian)
    walked = recorded(model)
    assert list(walked) == list(whole)
    assert all(torch.equal(walked[n], whole[n].matrix()) for n in walked)


def test_a_layer_is_measured_on_the_outputs_of_the_layers_changed_before_it(model):
    """Against copies in which only what comes before was changed."""

    def halve(target, name):
        with torch.no_grad():
            target.get_submodule(name).weight *= 0.5

    original = copy.deepcopy(model)
    walked = recorded(model, change=lambda name: halve(model, name))
    for part, before in ((".layer.0.", ()), (".layer.1.", (".layer.0.",)), ("classifier", (".layer.0.", ".layer.1."))):
        reference = copy.deepcopy(original)
        for name in linears(reference):
            if any(b in name for b in before):
                halve(reference, name)
        for name, statistic in collect(reference, linears(reference), BATCHES, Hessian).items():
            if part in name:
                assert torch.equal(walked[name], statistic.matrix())
    changed = collect(original, linears(original), BATCHES, Hessian)
    assert not torch.equal(changed["classifier"].matrix(), walked["classifier"])


def test_a_module_put_in_place_of_another_is_what_later_layers_see(model):
    class Zero(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x[..., :32])

    name = "bert.encoder.layer.0.output.dense"
    seen = {}

    def solve(found, statistic):
        seen[found] = statistic.matrix()
        if found == name:
            replace_module(model, name, Zero())

    layer_by_layer(model, linears(model, "*output.dense"), BATCHES, Hessian, solve)
    reference = collect(model, linears(model, "*.layer.1.*output.dense"), BATCHES, Hessian)
    assert all(torch.equal(statistic.matrix(), seen[n]) for n, statistic in reference.items())
    assert model.get_submodule(name).training, "a new module gets the model's mode"


def test_only_one_layers_statistics_exist_at_a_time(model):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    def gather(features):
        statistic = Channels(features)
        alive.add(statistic)
        most.append(len(alive))
        return statistic

    layer_by_layer(model, linears(model), BATCHES, gather, lambda name, statistic: None)
    assert len(most) == 2 * LINEARS + 1 and max(most) <= LINEARS + 1  # the last one solved may still be held by the loop


def test_the_walk_is_in_the_models_order_and_skips_what_is_not_asked_for(model):
    only = [n for n in linears(model) if n.endswith("intermediate.dense")]
    assert list(recorded(model, "*intermediate.dense")) == only and len(only) == 2
    assert list(recorded(model, "classifier")) == ["classifier"]


def test_layers_behind_the_last_one_asked_for_are_not_run(model):
    with inputs_of({"last": model.bert.encoder.layer[1].output.dense}) as seen:
        recorded(model, "*.layer.0.*")
    assert not seen


def test_the_model_is_read_without_dropout_and_left_as_it_was(model):
    model.bert.encoder.layer[1].eval()
    modes = [m.training for m in model.modules()]
    one, two = (collect(model, linears(model), BATCHES, Hessian) for _ in range(2))
    assert all(torch.equal(one[n].matrix(), two[n].matrix()) for n in one)
    recorded(model)
    assert [m.training for m in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_hooks_and_modes_come_back_when_a_solve_fails(model):
    def fail(name, statistic):
        raise RuntimeError("no solution")

    with pytest.raises(RuntimeError, match=r"no solution"):
        layer_by_layer(model, linears(model), BATCHES, Hessian, fail)
    assert all(m.training for m in model.modules()) and not any(m._forward_pre_hooks for m in model.modules())


def test_an_input_that_is_not_finite_is_refused(model):
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"x = 'NaN or infinity'"):
        recorded(model)
    with pytest.raises(ValueError, match=r"x = 'NaN or infinity'"):
        collect(model, linears(model), BATCHES, Hessian)


def test_an_empty_calibration_set_and_another_kind_of_model_are_refused(model):
    for read in (lambda b: layer_by_layer(model, linears(model), b, Hessian, None), lambda b: collect(model, {}, b, Hessian)):
        with pytest.raises(ValueError, match=r"the calibration set is empty"):
            read([])
    with pytest.raises(CourseError, match=r"Sequential: expected a BERT-like encoder"):
        layer_by_layer(nn.Sequential(nn.Linear(2, 2)), {}, BATCHES, Hessian, None)


def test_real_rows_of_tokens_and_of_a_pooler():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    x = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(real_rows(x, mask), x[[0, 0, 1], [0, 1, 0]])
    assert torch.equal(real_rows(x[:, 0], mask), x[:, 0])
    with pytest.raises(ValueError, match=r"x = \(2, 4, 2\): expected a row for each of \(2, 3\) tokens"):
        real_rows(torch.zeros(2, 4, 2), mask)


def test_a_plan_with_configurations_of_another_kind_is_refused(model):
    assert list(linear_layers(model, {"classifier": 1}, int).found) == ["classifier"]
    with pytest.raises(ValueError, match=r"plan\['\*'\] = 0.5: expected a int"):
        linear_layers(model, {"*": 0.5}, int)
