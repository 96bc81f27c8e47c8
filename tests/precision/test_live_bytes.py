"""Live bytes: each storage once, from its making to the end of its last view, in forward, backward and step."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib.precision.live_bytes import LiveBytes


def test_a_view_and_an_in_place_operator_cost_nothing():
    with LiveBytes() as live:
        x = torch.ones(100)
        y = x.view(10, 10).T[2:]
        x.add_(1)
        assert live.now == live.peak == 400
        del x
        assert live.now == 400, "a view keeps all of the storage"
        del y
        assert live.now == 0 and live.peak == 400


def test_an_operator_inside_an_expression_counts_while_it_lives():
    x = torch.ones(100)
    with LiveBytes(x) as live:
        y = (x * 2 + 1).exp()  # x, and two at a time of the three that follow
    assert live.peak == 400 + 2 * 400 and live.now == 400 + y.numel() * 4


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.sampled_from([torch.float16, torch.float64])), max_size=30))
def test_now_and_peak_are_those_of_a_list_of_what_is_kept(steps):
    kept, most = [], 0
    with LiveBytes() as live:
        for new, count, dtype in steps:
            if new:
                kept.append(torch.empty(count, dtype=dtype))
            elif kept:
                kept.pop(0)
            expected = sum(x.numel() * x.element_size() for x in kept)
            most = max(most, expected)
            assert live.now == expected
    assert live.peak == most == sum(live.at_peak.values())


def test_the_backward_pass_and_the_optimizer_are_seen():
    model = nn.Linear(100, 50, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.ones(2, 100)
    with LiveBytes(model, {"x": [x]}) as live:
        assert live.now == 4 * (5000 + 200)
        model(x).sum().backward()
        assert live.now == 4 * (2 * 5000 + 200), "a gradient"
        optimizer.step()
        assert live.now == 4 * (4 * 5000 + 200 + 1), "two moments, and a count of steps"
        optimizer.zero_grad()
        assert live.now == 4 * (3 * 5000 + 200 + 1)
    assert LiveBytes(model, optimizer).now == 4 * (3 * 5000 + 1)
    model(x).sum().backward()
    assert LiveBytes(model).now == 4 * 2 * 5000, "gradients that are there already"


def test_the_bytes_at_the_peak_are_parted_by_type():
    with LiveBytes() as live:
        x = torch.ones(100)
        y = x.half()
        z = y > 0
        del x, y, z
    assert live.at_peak == {"float32": 400, "float16": 200, "bool": 100}


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert LiveBytes(model).now == 64


def test_counting_keeps_nothing_alive():
    with LiveBytes():
        x = torch.ones(10)
        gone = weakref.ref(x)
        del x
        gc.collect()
        assert gone() is None


def test_something_that_has_no_tensors_is_refused():
    with pytest.raises(ValueError, match=r"held = 'model': expected tensors"):
        LiveBytes("model")
