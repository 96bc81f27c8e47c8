"""Scores against what they estimate: the change of the loss, measured by really scaling a neuron's activation."""

import contextlib

import pytest
import torch
import torch.nn.functional as F

from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.pruning.scores import ffn_taylor_scores, taylor_unit_scores, weight_unit_scores
from course_lib.pruning.structure import encoder_layers

TAGS = ["O", "B-X", "I-X"]


@pytest.fixture
def model():
    """Tiny in fp64, with weights large enough for gradients to be far from 0, in training mode."""
    model, generator = load_token_classifier(find_encoder("tiny"), TAGS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return model.double().train()


def batch(seed: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 100, (rows, length), generator=generator), torch.randint(0, 3, (rows, length), generator=generator)


def loss_of(model, ids, labels, mask=None) -> torch.Tensor:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask).logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


@contextlib.contextmanager
def scaled(layer, neuron: int, factor: float):
    """One neuron's activation multiplied by ``factor``."""

    def hook(module, inputs, output):
        scale = torch.ones(output.shape[-1], dtype=output.dtype)
        scale[neuron] = factor
        return output * scale

    handle = layer.intermediate.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_a_score_is_the_first_order_change_of_the_loss_per_unit_of_scale(model):
    """One sentence: ``(L(1 − ε) − L(1)) / ε`` goes to the signed sum, its size to the score, with an error of order ε."""
    ids, labels = batch(0, 1, 9)
    scores = ffn_taylor_scores(model, (loss_of(model, ids, labels) for _ in range(1)))
    model.eval()
    for number, layer in enumerate(encoder_layers(model)):
        strongest = scores[number].argsort(descending=True)[:6].tolist()
        for neuron in strongest:
            errors = []
            for epsilon in (1e-1, 1e-2, 1e-3, 1e-4):
                with torch.no_grad(), scaled(layer, neuron, 1 - epsilon):
                    changed = loss_of(model, ids, labels)
                with torch.no_grad():
                    slope = (changed - loss_of(model, ids, labels)) / epsilon
                errors.append(abs(float(slope.abs() / scores[number][neuron]) - 1))
            assert errors[-1] < 1e-3, "the ratio must go to 1"
            assert errors[0] > 10 * errors[2] and errors[1] > 5 * errors[3], "in proportion to the scale"


def test_signed_contributions_of_a_unit_add_up_to_the_derivative_by_its_scale(model):
    """The derivative by a factor on the activation is Σ a · ∂L/∂a: autograd through the factor itself is the oracle."""
    model.eval()
    ids, labels = batch(1, 4, 7)
    for layer in encoder_layers(model):
        factor, seen = torch.ones(64, dtype=torch.float64, requires_grad=True), []

        def hook(module, inputs, output, factor=factor, seen=seen):
            output.retain_grad()
            seen.append(output)
            return output * factor

        handle = layer.intermediate.register_forward_hook(hook)
        loss_of(model, ids, labels).backward()
        handle.remove()
        (activation,) = seen
        signed = (activation * activation.grad).sum(dim=(0, 1))
        torch.testing.assert_close(signed, factor.grad, rtol=1e-10, atol=1e-15)  # fp64, the same sum in another order
        assert (signed.abs() <= taylor_unit_scores(activation.detach(), activation.grad) * (1 + 1e-12)).all()


def test_the_formula_written_as_loops():
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = [sum(abs(sum(float(a[b, t, j] * g[b, t, j]) for t in range(4))) for b in range(3)) for j in range(5)]
    torch.testing.assert_close(taylor_unit_scores(a, g), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_tokens_of_a_sentence_may_cancel_sentences_may_not():
    ones = torch.ones(1, 2, 1)
    assert taylor_unit_scores(ones, torch.tensor([[[1.0], [-1.0]]])).item() == 0
    assert taylor_unit_scores(ones.reshape(2, 1, 1), torch.tensor([[[1.0]], [[-1.0]]])).item() == 2


def test_a_neuron_the_loss_does_not_depend_on_scores_zero(model):
    first, last = encoder_layers(model)
    with torch.no_grad():
        first.output.dense.weight[:, 3] = 0  # its output goes nowhere
        last.output.dense.weight[:, 60] = 0
        last.intermediate.dense.weight[7] = 0
        last.intermediate.dense.bias[7] = 0  # gelu(0) = 0: it has no output
    ids, labels = batch(2, 5, 8)
    scores = ffn_taylor_scores(model, (loss_of(model, ids, labels) for _ in range(1)))
    zero = [[i for i, s in enumerate(row.tolist()) if s == 0] for row in scores]
    assert zero == [[3], [7, 60]]


def test_scores_add_up_over_batches_and_padding_adds_nothing(model):
    """Equal but for fp32 totals (6e-8 relative each): padding is masked in attention and has no label."""
    (a, la), (b, lb) = batch(3, 2, 6), batch(4, 3, 9)
    apart = [ffn_taylor_scores(model, (loss_of(model, *pair) for _ in range(1))) for pair in ((a, la), (b, lb))]
    both = ffn_taylor_scores(model, (loss_of(model, *pair) for pair in ((a, la), (b, lb))))
    for x, y, total in zip(*apart, both, strict=True):
        assert total.shape == (64,) and (total >= 0).all() and total.max() > 0
        torch.testing.assert_close(total, x + y, rtol=1e-6, atol=0)
    longer, labels = F.pad(a, (0, 5), value=77), F.pad(la, (0, 5), value=-100)
    mask = F.pad(torch.ones_like(a), (0, 5))
    padded = ffn_taylor_scores(model, (loss_of(model, longer, labels, mask) for _ in range(1)))
    for x, y in zip(apart[0], padded, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-5, atol=0)


def test_the_model_is_scored_without_dropout_and_left_as_it_was(model):
    ids, labels = batch(5, 2, 6)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    one, again = (ffn_taylor_scores(model, (loss_of(model, ids, labels) for _ in range(1))) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(one, again, strict=True))
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not any(layer.intermediate._forward_hooks for layer in encoder_layers(model))
    model.eval()
    ffn_taylor_scores(model, (loss_of(model, ids, labels) for _ in range(1)))
    assert not model.training


def test_hooks_are_removed_when_a_loss_fails(model):
    def failing():
        yield loss_of(model, *batch(6, 1, 4))
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        ffn_taylor_scores(model, failing())
    assert model.training and not any(layer.intermediate._forward_hooks for layer in encoder_layers(model))


def test_losses_computed_too_early_or_not_at_all_are_refused(model):
    """Their activations were never seen: every score would be zero without a word."""
    early = [loss_of(model, *batch(7, 1, 4)) for _ in range(2)]

    def half_early():
        yield loss_of(model, *batch(7, 1, 4))
        yield early[1]

    for losses in (early, half_early()):
        with pytest.raises(ValueError, match=r"losses = .*: expected a generator that computes each loss when asked for it"):
            ffn_taylor_scores(model, losses)
    with pytest.raises(ValueError, match="losses = 0: expected at least one loss"):
        ffn_taylor_scores(model, [])


def test_the_weight_score_is_the_norm_of_the_map_through_the_unit():
    """The map through unit j is the outer product of its column out and its row in."""
    generator = torch.Generator().manual_seed(0)
    into, out = torch.randn(6, 4, generator=generator).double(), torch.randn(5, 6, generator=generator).double()
    expected = torch.stack([torch.linalg.matrix_norm(torch.outer(out[:, j], into[j])) for j in range(6)])
    torch.testing.assert_close(weight_unit_scores(into, out), expected, rtol=1e-12, atol=0)  # fp64


def test_the_weight_score_ignores_how_a_units_scale_is_shared_between_its_matrices():
    generator = torch.Generator().manual_seed(1)
    into, out = torch.randn(6, 4, generator=generator), torch.randn(5, 6, generator=generator)
    scale = torch.tensor([0.25, 0.5, 1, 2, 4, 8])  # powers of two: exact
    assert torch.equal(weight_unit_scores(into * scale[:, None], out / scale), weight_unit_scores(into, out))
    out[:, 2] = 0
    assert weight_unit_scores(into, out)[2] == 0
