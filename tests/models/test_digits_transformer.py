"""The digits' Transformer: drawn by its seed, built like BERT, and cut like BERT."""

import pytest
import torch

from course_lib.models.digits_transformer import digits_transformer
from course_lib.models.surgery import encoder_layers, layer_shapes
from course_lib.pruning.unit_masks import compact, mask_by_plan, mask_layers
from course_lib.report import parameter_count


def small(seed: int = 0):
    return digits_transformer(seed, layers=2, width=16, heads=4, neurons=32).eval()


def test_equal_seeds_give_equal_networks_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    one, two, other = small(0), small(0), small(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.rows.weight, other.rows.weight)


def test_it_has_the_sizes_asked_for():
    network = small()
    assert layer_shapes(network) == {"heads": [4, 4], "ffn": [32, 32]}
    # A layer of width D and F neurons: 4 (D² + D) of attention, 2 D F + F + D of neurons, 4 D of two LayerNorms.
    assert parameter_count(encoder_layers(network)) == 2 * (4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 4 * 16)
    assert network(torch.rand(5, 1, 8, 8)).shape == (5, 10)


def test_the_order_of_the_rows_of_an_image_matters():
    network, image = small(), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    upside_down = image.flip(2)
    assert not torch.allclose(network(image), network(upside_down))


@torch.no_grad()
def test_masked_and_compacted_it_puts_out_the_same():
    network = small().double()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask_by_plan(network, {"*.heads": 0.5, "*.neurons": 0.5})
    mask_layers(network, [1])
    masked = network(images)
    compact(network)
    # Sums of at most 32 terms of order 1, a dozen of them one after the other, each LayerNorm dividing by no less than .1:
    # 32 · 12 · 10 · 2.2e-16 = 8.5e-13.
    torch.testing.assert_close(network(images), masked, rtol=0, atol=8.5e-13)
    assert layer_shapes(network) == {"heads": [2], "ffn": [16]}


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of the number of attention heads"):
        digits_transformer(width=10, heads=4)
