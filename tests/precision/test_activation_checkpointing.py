"""Activation checkpointing: gradients equal to the bit, dropout that repeats, and memory of inputs instead of activations."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from course_lib.models.digits_transformer import digits_transformer
from course_lib.models.surgery import encoder_layers
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.precision.checkpointing import checkpoint, checkpointed
from course_lib.precision.live_bytes import LiveBytes
from course_lib.precision.mixed import Precision


class Block(nn.Module):
    """With dropout, so that a second pass that draws anew is found out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.3), nn.Linear(64, 16), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor, scale: float = 1.0, shift: torch.Tensor | None = None) -> torch.Tensor:
        return x + scale * self.layers(x) + (0 if shift is None else shift)


def blocks(count: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(count)))


def gradients(run, parameters, mode=contextlib.nullcontext) -> list[torch.Tensor]:
    """Of ``run()``, a scalar; the random numbers begin anew, and some are drawn between forward and backward."""
    torch.manual_seed(1)
    with mode():
        loss = run()
    torch.rand(3)
    return list(torch.autograd.grad(loss, parameters))


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


MODES = {
    "full": contextlib.nullcontext,
    "precision bf16": lambda: Precision(torch.bfloat16),
    "autocast bf16": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
def test_gradients_with_dropout_are_the_plain_ones_and_torchs_to_the_bit(mode):
    model, x = blocks(), torch.randn(5, 16, requires_grad=True)
    wanted = [x, *model.parameters()]

    def ours(model=model):
        y = x
        for block in model:
            y = checkpoint(block, y, parameters=block.parameters())
        return y.square().sum()

    def theirs(reentrant: bool):
        y = x
        for block in model:
            y = torch.utils.checkpoint.checkpoint(block, y, use_reentrant=reentrant)
        return y.square().sum()

    plain = gradients(lambda: model(x).square().sum(), wanted, MODES[mode])
    assert equal(gradients(ours, wanted, MODES[mode]), plain)
    if mode != "precision bf16":  # torch's knows autocast and no other mode
        assert equal(gradients(lambda: theirs(False), wanted, MODES[mode]), plain)
    if mode == "full":  # torch's older kind calls backward itself, which fills .grad
        model.zero_grad()
        torch.manual_seed(1)
        theirs(True).backward()
        assert equal([x.grad, *(p.grad for p in model.parameters())], plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_of_an_encoder_are_the_plain_ones_to_the_bit(dtype, attention):
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-X"]).train()
    model.set_attn_implementation(attention)
    assert model.config.hidden_dropout_prob > 0
    ids, mask = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1), ids.flatten() % 2)

    def ours() -> torch.Tensor:
        with checkpointed(encoder_layers(model)):
            return loss()

    wanted, mode = [p for p in model.parameters() if p.requires_grad], lambda: Precision(dtype)
    assert equal(gradients(ours, wanted, mode), gradients(loss, wanted, mode))
    assert all("forward" not in vars(layer) for layer in encoder_layers(model)), "the layers are as they were"


def test_the_random_numbers_that_follow_are_those_without_checkpoints():
    model, x = blocks(), torch.randn(5, 16, requires_grad=True)
    after = []
    for run in (model, lambda x: checkpoint(model, x, parameters=model.parameters())):
        torch.manual_seed(1)
        run(x).sum().backward()
        after.append(torch.rand(4))
    assert torch.equal(*after)


def test_a_step_keeps_the_inputs_of_the_layers_and_at_most_the_activations_of_one():
    """And what a layer's backward pass works with, at most as much again. (Random states, 5 KB each, come from no operator.)"""
    model, x = blocks(6), torch.randn(128, 16)
    held = {}
    for name, around in (("plain", contextlib.nullcontext()), ("checkpointed", checkpointed(model))):
        model.zero_grad()
        with LiveBytes(model, x) as live:
            before = live.now
            with around:
                y = model(x)
            held[name] = live.now - before
            y.sum().backward()
            held[name + " peak"] = live.peak - before
            del y
    inputs = 5 * x.nbytes + x.nbytes  # of layers 2 to 6, and the output
    assert held["checkpointed"] == inputs
    one_layer = held["plain"] / 6
    gradients = sum(p.nbytes for p in model.parameters())
    assert held["checkpointed peak"] < inputs + 2 * one_layer + gradients < held["plain peak"]


def test_an_input_without_gradient_leaves_those_of_the_parameters():
    model, x = blocks(1)[0], torch.randn(5, 16)
    plain = gradients(lambda: model(x).sum(), list(model.parameters()))
    ours = gradients(lambda: checkpoint(model, x, parameters=model.parameters()).sum(), list(model.parameters()))
    assert equal(ours, plain)


def test_frozen_parameters_get_no_gradient_and_other_arguments_pass_through():
    model, x, shift = blocks(1), torch.randn(5, 16), torch.ones(16)
    model[0].layers[0].requires_grad_(False)
    learnt = [p for p in model.parameters() if p.requires_grad]
    with checkpointed(model):
        ours = gradients(lambda: model[0](x, 0.5, shift=shift).square().sum(), learnt)
    assert equal(ours, gradients(lambda: model[0](x, 0.5, shift=shift).square().sum(), learnt))


def test_weights_changed_before_the_backward_pass_are_found_out():
    model = digits_transformer(layers=1, width=8, heads=2, neurons=8)
    with checkpointed(encoder_layers(model)):
        loss = model(torch.rand(2, 1, 8, 8)).sum()
    with torch.no_grad():
        encoder_layers(model)[0].output.dense.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_layers_are_as_they_were_after_an_error():
    model = blocks(2)
    with pytest.raises(ZeroDivisionError), checkpointed(model):
        raise ZeroDivisionError
    assert "forward" not in vars(model[0])


def test_what_would_lose_a_gradient_is_refused():
    model, x = blocks(1), torch.randn(5, 16)
    with checkpointed(model), pytest.raises(ValueError, match=r"kwargs = \['shift'\]: expected no keyword argument that needs"):
        model[0](x, shift=torch.ones(16, requires_grad=True))
    with pytest.raises(ValueError, match="run = 'tuple': expected a function that returns one tensor"):
        checkpoint(lambda x: (x, x), x)
    with pytest.raises(ValueError, match="modules = 0"), checkpointed([]):
        pass
    with (
        checkpointed(model),
        pytest.raises(ValueError, match="modules = 'Block': expected modules that are not"),
        checkpointed(model),
    ):
        pass
    y = torch.ones(2, requires_grad=True)
    (slope,) = torch.autograd.grad(checkpoint(torch.exp, y).sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()
