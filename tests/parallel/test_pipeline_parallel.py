"""Pipelines of 2 and 4 stages compute what one process computes, in the order, the ticks and the memory of their schedule."""

import doctest

import model_launches
import pytest
import torch
from model_jobs import drawn_batch, small

from course_lib.errors import CourseError
from course_lib.models.zoo import load_encoder
from course_lib.parallel import stage as module
from course_lib.parallel.cost import pipeline_cost
from course_lib.parallel.pipeline import token_loss
from course_lib.parallel.schedule import gpipe, one_f_one_b
from course_lib.parallel.stage import Stage, even_counts

EPS = torch.finfo(torch.float64).eps
SMALL, REAL = 7 * [12 * 32 * 8], 4 * [8 * 384 * 8]  # bytes of each sentence's hidden states
RUNS = {  # name → schedule, its micro-batches, bytes of each sentence
    "GPipe": (gpipe, 3, SMALL),
    "1F1B": (one_f_one_b, 5, SMALL),
    "one micro-batch": (one_f_one_b, 1, SMALL),
    "tied": (one_f_one_b, 3, SMALL),
    "real": (one_f_one_b, 3, REAL),
}


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request) -> list[dict]:
    """What each worker found."""
    return [found["pipeline"] for found in model_launches.results(request.param)]


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_every_gradient_equal_one_process(ranks, name):
    """Micro-batches are uneven: 7 sentences make 3, 2 and 2, or 2, 2, 1, 1 and 1, each with another number of labels."""
    owned = [parameter for rank in ranks for parameter in rank[name]["names"]]
    assert set(owned) == set(ranks[0][name]["all_names"])
    assert len(owned) - len(set(owned)) == (name == "tied")  # the word embeddings, on both ends
    for found in (rank[name] for rank in ranks):
        assert max(found["loss"], found["gradients"]) <= found["tolerance"]


def test_tied_embeddings_have_one_gradient_on_both_ends_to_the_bit(ranks):
    assert all(rank["tied"]["tied_alike"] for rank in ranks)
    assert [rank["tied"]["tied_bytes"] > 0 for rank in ranks] == [True, *[False] * (len(ranks) - 2), True]


@pytest.mark.parametrize("name", RUNS)
def test_clipping_by_the_norm_of_all_stages_is_clipping_in_one_process(ranks, name):
    for found in (rank[name] for rank in ranks):
        assert found["norm"] <= found["values"] * EPS  # a sum of so many squares, in another order
        assert found["clipped"] <= found["tolerance"] + found["values"] * EPS


@pytest.mark.parametrize("name", RUNS)
def test_order_and_clocks_of_the_run_are_those_of_the_schedule(ranks, name):
    assert all(rank[name]["order_as_scheduled"] and rank[name]["clocks_as_scheduled"] for rank in ranks)


@pytest.mark.parametrize("name", RUNS)
def test_activations_kept_bytes_and_messages_are_those_of_the_cost_model(ranks, name):
    kind, micro_batches, sentences = RUNS[name]
    sizes = [int(part.sum()) for part in torch.tensor(sentences).tensor_split(micro_batches)]
    tied = max(rank[name]["tied_bytes"] for rank in ranks)
    cost = pipeline_cost(kind(len(ranks), micro_batches), sizes, tied)
    assert tuple(rank[name]["peaks"][0] for rank in ranks) == cost.peak_activations
    assert tuple(rank[name]["traffic"].bytes for rank in ranks) == cost.bytes
    assert tuple(rank[name]["traffic"].messages for rank in ranks) == cost.messages


@pytest.mark.oracles
@pytest.mark.parametrize("kind", ["gpipe", "one_f_one_b"])
def test_losses_and_gradients_are_those_of_torch_distributed_pipelining(ranks, kind):
    for found in (rank["torch"] for rank in ranks):
        assert max(found[kind]["loss"], found[kind]["gradients"]) <= found["tolerance"]


@pytest.mark.parametrize(
    "what, message",
    [
        ("workers", "ValueError: schedule.stages = {more}: expected as many as there are workers, {workers}"),
        ("circle", "ValueError: schedule = {{0: 'B0', 1: 'F"),
        ("schedule", "ValueError: schedule = {{0: 'stage 0: F0 "),
        ("shapes", "ValueError: batch = {{0: {{'ids': ((6, 12), "),
        ("mask", "ValueError: attention_mask = (7, 11): expected the ids' (7, 12)"),
        ("few", "ValueError: ids = (2, 12): expected at least 3 sentences, one a micro-batch"),
        ("labels", "ValueError: labels = (6, 12): expected the ids' 7 sentences"),
        ("no label", "ValueError: tokens = 0: expected at least one token with a label"),
        ("again", "ValueError: gradient = '"),
        ("norm", "ValueError: max_norm = 0.0: expected a positive norm"),
        ("inf", "ValueError: gradients = {{0: "),
        ("agreed", "not refused"),
    ],
)
def test_what_cannot_work_is_refused_by_every_worker(ranks, what, message):
    due = message.format(workers=len(ranks), more=len(ranks) + 1)
    assert all(rank["refused"][what].startswith(due) for rank in ranks), ranks[0]["refused"][what]


def test_the_stage_with_gradients_that_are_not_finite_is_named(ranks):
    assert f"{len(ranks) - 1}: inf" in ranks[0]["refused"]["inf"]


# Without processes: all stages, one after the other.


@pytest.mark.parametrize("kind", ["TokenClassification", "MaskedLM", "SequenceClassification"])
def test_stages_one_after_the_other_are_the_model(kind):
    model = small(kind)
    ids, mask, _ = drawn_batch(130)
    x = ids
    for number in range(3):
        x = Stage(model, number, [1, 2, 1])(x, mask)
    due = model(input_ids=ids, attention_mask=mask).logits
    real = mask.bool() if x.dim() == 3 else torch.ones(len(x), dtype=torch.bool)
    # The mask reaches attention in another form, so another kernel may sum in another order: over L·d and D in 4 layers.
    assert (x - due)[real].abs().max() <= 4 * (12 + 8 + 32 * 4 + 64) * EPS * due.abs().max()


def test_a_stage_knows_its_parameters_by_their_names_in_the_model():
    model = small()
    first, last = Stage(model, 0, [3, 1]), Stage(model, 1, [3, 1])
    assert {**first.parameter_names, **last.parameter_names}.keys() == dict(model.named_parameters()).keys()
    assert all(model.get_parameter(name) is p for name, p in last.parameter_names.items())
    assert "classifier.bias" in last.parameter_names and first.head is None and last.embeddings is None


def test_tied_embeddings_are_known_at_both_ends_unless_they_are_frozen_or_there_is_one_stage():
    model = small("MaskedLM")
    words = model.get_input_embeddings().weight
    assert [Stage(model, number, [2, 1, 1]).tied is words for number in range(3)] == [True, False, True]
    assert Stage(model, 0, [4]).tied is None and Stage(small(), 0, [2, 2]).tied is None
    words.requires_grad_(False)
    assert Stage(model, 0, [2, 2]).tied is None


def test_the_loss_is_a_sum_over_real_tokens():
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[1, -100, 0], [-100, -100, 3]])
    log = logits.log_softmax(-1)
    due = -(log[0, 0, 1] + log[0, 2, 0] + log[1, 2, 3])
    assert float((token_loss(logits, labels) - due).abs()) <= 8 * torch.finfo(torch.float32).eps * float(due)  # 3 terms of 4


def test_counts_that_do_not_fit_the_layers_are_refused():
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted
    with pytest.raises(ValueError, match="stages = 4: expected a divisor of 6 layers; else say how many layers each one has"):
        even_counts(6, 4)
    with pytest.raises(ValueError, match="stages = 7: expected at most one for each of 6 layers"):
        even_counts(6, 7)
    with pytest.raises(ValueError, match="stages = 0: expected at least 1"):
        even_counts(6, 0)
    model = small()
    for counts in ([2, 3], [4, 0], []):
        with pytest.raises(ValueError, match=r"counts = \[.*\]: expected at least one layer for each stage, 4 in all"):
            Stage(model, 0, counts)
    with pytest.raises(ValueError, match="stage = 2: expected between 0 and 1"):
        Stage(model, 2, [2, 2])
    with pytest.raises(CourseError, match="BertModel: expected a head, in a module called classifier or cls"):
        Stage(load_encoder("tiny"), 0, [1, 1])
