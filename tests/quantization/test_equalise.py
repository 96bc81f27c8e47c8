"""Equalisation: the same function, even ranges, and less rounding error for a scale that all share."""

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.pruning.structure import encoder_layers
from course_lib.quantization.affine import choose_affine, fake_quantize
from course_lib.quantization.equalise import equalise, equalise_input, equalise_values, equalising_scale


def pair(seed=0, dtype=torch.float32) -> tuple[nn.Linear, nn.Linear]:
    """Two layers whose channels differ in size by a factor of about a thousand."""
    torch.manual_seed(seed)
    first, second = nn.Linear(12, 20).to(dtype), nn.Linear(20, 6).to(dtype)
    with torch.no_grad():
        first.weight.mul_(torch.logspace(-1.5, 1.5, 20, dtype=dtype)[torch.randperm(20)][:, None])
        second.weight.mul_(torch.logspace(-1.5, 1.5, 20, dtype=dtype)[torch.randperm(20)])
    return first, second


def ranges(first: nn.Linear, second: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    return first.weight.detach().abs().amax(1), second.weight.detach().abs().amax(0)


def test_rows_and_columns_end_with_the_geometric_mean_of_their_ranges():
    first, second = pair()
    rows, columns = ranges(first, second)
    scale = equalise(first, second, power_of_two=False)
    after_rows, after_columns = ranges(first, second)
    # The scale, the quotient and the product are each rounded: 3·u, taken twice.
    assert torch.allclose(after_rows, (rows * columns).sqrt(), rtol=6 * 2**-24, atol=0)
    assert torch.allclose(after_columns, after_rows, rtol=6 * 2**-24, atol=0)
    assert torch.allclose(scale, (rows * columns).sqrt() / columns, rtol=6 * 2**-24, atol=0)


def test_powers_of_two_leave_the_outputs_as_they_are_to_the_bit_and_ranges_even_up_to_two():
    first, second = pair()
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    before = second(first(x))
    scale = equalise(first, second)
    assert torch.equal(scale.log2(), scale.log2().round())
    assert torch.equal(second(first(x)), before)
    rows, columns = ranges(first, second)
    assert bool((torch.maximum(rows / columns, columns / rows) <= 2 * (1 + 2**-22)).all())


def test_other_scales_leave_the_outputs_as_they_are_to_rounding():
    """In float64 with u = 2^−53: each of 20 products and sums errs by a few u of ``Σ|w₂|·(Σ|w₁||x| + |b₁|)``."""
    first, second = pair(dtype=torch.float64)
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = second(first(x))
    size = (x.abs() @ first.weight.abs().t() + first.bias.abs()) @ second.weight.abs().t() + second.bias.abs()
    equalise(first, second, power_of_two=False)
    assert bool(((second(first(x)) - before).abs() <= 80 * 2.0**-53 * size).all())


def test_a_shared_scale_loses_less_after_equalising():
    first, second = pair()
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    expected = second(first(x)).detach()

    @torch.no_grad()
    def error() -> float:
        weights = [fake_quantize(m.weight.detach(), *choose_affine(m.weight)) for m in (first, second)]
        hidden = nn.functional.linear(x, weights[0], first.bias)
        return float((nn.functional.linear(hidden, weights[1], second.bias) - expected).square().mean())

    before = error()
    equalise(first, second)
    assert error() < before / 4


def test_dead_channels_keep_their_scale_and_layers_without_bias_are_served():
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        first.weight[1] = 0
        second.weight[:, 2] = 0
    scale = equalise(first, second, power_of_two=False)
    assert scale[1] == scale[2] == 1
    assert bool(torch.isfinite(first.weight).all() and torch.isfinite(second.weight).all())


def test_equalising_twice_changes_nothing_more():
    first, second = pair()
    equalise(first, second)
    assert equalise(first, second).tolist() == [1.0] * 20


def encoder():
    model, generator = load_token_classifier(find_encoder("tiny"), ["O", "B-X"]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
        for layer in encoder_layers(model):
            layer.attention.self.value.weight *= torch.logspace(-1, 1, 32)[:, None]
    return model.eval()


def test_an_encoder_with_equalised_values_computes_the_same_to_the_bit():
    model = encoder()
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        report = equalise_values(model)
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
    assert len(report.changed) == 2 and "encoder.layer.0.attention: values divided by" in report.changed[0]
    assert report.bytes_before == report.bytes_after
    for layer in encoder_layers(model):
        rows, columns = ranges(layer.attention.self.value, layer.attention.output.dense)
        assert bool((torch.maximum(rows / columns, columns / rows) <= 2 * (1 + 2**-22)).all())


def test_a_model_that_is_no_encoder_is_refused():
    with pytest.raises(CourseError, match="expected a BERT-like encoder"):
        equalise_values(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("bias", [True, False])
def test_behind_gelu_the_second_layer_divides_its_input_and_computes_the_same(bias):
    first, second = pair()
    second = second if bias else nn.Linear(20, 6, bias=False)
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    kept = second.weight.detach().clone()
    scaled = equalise_input(first.weight, second)
    hidden = nn.functional.gelu(first(x))
    assert torch.equal(scaled(hidden), second(hidden))
    assert torch.equal(second.weight, kept)
    rows, columns = ranges(first, scaled.linear)
    assert bool((torch.maximum((rows / scaled.input_scale) / columns, columns / (rows / scaled.input_scale)) <= 2.001).all())


def test_dividing_the_first_layer_instead_would_change_what_gelu_sees():
    """Why the division stands apart there."""
    first, second = pair()
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    before = second(nn.functional.gelu(first(x)))
    equalise(first, second)
    assert not torch.allclose(second(nn.functional.gelu(first(x))), before, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "into, out, message",
    [
        (torch.ones(3, 2), torch.ones(2, 4), r"into, out = \(\(3, 2\), \(2, 4\)\): expected \(F, D\) and \(D₂, F\)"),
        (torch.ones(3), torch.ones(2, 3), r"into, out = "),
        (torch.ones(3, 2) * float("nan"), torch.ones(2, 3), r"into, out = 'NaN or Inf': expected finite matrices"),
        (torch.ones(3, 2), torch.ones(2, 3) * float("inf"), r"into, out = 'NaN or Inf'"),
    ],
)
def test_matrices_that_do_not_follow_each_other_are_refused(into, out, message):
    with pytest.raises(ValueError, match=message):
        equalising_scale(into, out)
