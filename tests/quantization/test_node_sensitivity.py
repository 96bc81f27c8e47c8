"""The divergence of a model's answers, and the nodes to leave in float within a budget."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.sensitivity import Divergence, nodes_to_exclude
from course_lib.quantization.token_nodes import TokenNode, quantize_nodes_by_token

COSTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(-3, 20).map(lambda n: n / 4))  # quarters add up exactly


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()


def batches() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(5, 80, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [2]])).long()
    return [{"input_ids": i, "attention_mask": mask} for i in ids]


def test_the_divergence_is_torchs_over_real_pieces_and_zero_for_the_model_itself(tiny):
    divergence, other = Divergence(tiny, batches()), copy.deepcopy(tiny)
    assert divergence(tiny) == 0.0
    with torch.no_grad():
        other.classifier.weight.mul_(3)
        p, q = (torch.cat([m(**b).logits[b["attention_mask"].bool()] for b in batches()]).double() for m in (tiny, other))
    theirs = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")
    assert divergence(other) == pytest.approx(float(theirs), rel=1e-12) and divergence(other) > 0


@given(COSTS, st.integers(0, 40).map(lambda n: n / 4))
def test_no_fewer_nodes_would_do_and_those_left_are_within_the_budget(costs, budget):
    chosen = nodes_to_exclude(costs, budget)
    rest = sum(max(0.0, cost) for name, cost in costs.items() if name not in chosen)
    assert rest <= budget
    for fewer in itertools.combinations(costs, max(0, len(chosen) - 1)):
        if len(fewer) < len(chosen):
            assert sum(max(0.0, cost) for name, cost in costs.items() if name not in fewer) > budget


def test_a_gain_by_chance_pays_for_no_loss_and_a_budget_below_0_is_refused():
    assert nodes_to_exclude({"a": -0.5, "b": 0.25, "c": 0.5}, 0.25) == ["c"]
    with pytest.raises(ValueError, match="budget = -1: expected a cost of at least 0"):
        nodes_to_exclude({}, -1)


def test_each_token_has_a_scale_of_its_own():
    x = torch.tensor([[127.0, 1.4], [1.27, 0.5]])
    node = TokenNode(nn.Identity(), ["input"])
    assert torch.allclose(node(x), torch.tensor([[127.0, 1.0], [1.27, 0.5]]), rtol=1e-6)
    assert torch.equal(TokenNode(nn.Identity(), [])(x), x)
    with pytest.raises(ValueError, match="sides"):
        TokenNode(nn.Identity(), ["inside"])


def test_nodes_by_token_change_answers_little_and_name_what_they_are(tiny):
    divergence = Divergence(tiny, batches())
    before = batches()[0]
    report = quantize_nodes_by_token(
        tiny, ["bert.encoder.layer.0.output.LayerNorm:input", "classifier:input", "classifier:output"]
    )
    assert any("classifier: input and output of 8 bits per token" in line for line in report.changed)
    assert isinstance(tiny.classifier, TokenNode) and tiny(**before).logits.shape[-1] == 3
    assert 0 < divergence(tiny) < 1e-3  # 3 nodes in 255 steps
    with pytest.raises(CourseError, match="no module 'nothing'"):
        quantize_nodes_by_token(tiny, ["nothing:input"])
