"""Training for integers: the same parameters, codes that are equal at the end, and runs that resume to the bit."""

import copy

import pytest
import torch
from torch import nn

from course_lib.data.align import make_windows, pad_id, window_labels
from course_lib.errors import CourseError
from course_lib.layerwise import evaluating, inputs_of
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
from course_lib.ner.checkpoint import weights_sha256
from course_lib.ner.train import Settings, make_optimizer, train
from course_lib.quantization.affine import choose_affine, choose_from_range, fake_quantize, quantize
from course_lib.quantization.apply import apply
from course_lib.quantization.fake_quantizers import LearnedStep, LearnedWeight, MovingRange, RoundedWeight
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.observers import MovingAverage
from course_lib.quantization.packed_linear import Int4Linear
from course_lib.quantization.qat import Qat, QatLinear, export, prepare_qat
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.static import input_ranges

TAGS = ["O", "B-X", "I-X"]
MOVING, LEARNED = Qat(), Qat(step="learned")
BOTH = pytest.mark.parametrize(
    "config", [MOVING, LEARNED, Qat(4, activation_bits=4, step="learned"), Qat(3, "tensor")], ids=str
)


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), TAGS)


def batches(count: int = 4, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 80, (count, 3, 9), generator=generator)
    return [{"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids]


def some_steps(model, count: int = 4) -> None:
    optimizer = make_optimizer(model, Settings(learning_rate=1e-2))
    model.train()
    for batch in batches(count):
        loss = model(**batch).logits.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The exported codes


@BOTH
def test_exported_codes_are_the_trained_ones(tiny, config):
    """Per layer: codes of weights and of inputs equal, and outputs within K·ε·(Σ|x̂ŵ| + |b|) (derived for Int8Linear)."""
    prepare_qat(tiny, {"*.dense": config, "*.query": config})
    some_steps(tiny)
    tiny.eval()
    layers = {n: m for n, m in tiny.named_modules() if isinstance(m, QatLinear)}
    trained = copy.deepcopy(tiny)
    with evaluating(tiny), inputs_of(layers) as inputs:
        tiny(**batches()[0])
    export(tiny)
    eps = torch.finfo(torch.float32).eps
    for name, layer in layers.items():
        x, integer, trained_layer = inputs[name].flatten(0, -2), tiny.get_submodule(name), trained.get_submodule(name)
        assert type(integer) is Int8Linear
        fake_w, fake_x = (
            trained_layer.weight_quantizer(trained_layer.weight).detach(),
            trained_layer.input_quantizer(x).detach(),
        )
        assert torch.equal(integer.dequantize(), fake_w)
        assert torch.equal(integer.codes, trained_layer.weight_quantizer.codes(trained_layer.weight)[0])
        codes, scale, zero = integer.quantize_input(x)
        assert torch.equal((codes.int() - zero) * scale, fake_x)
        size = torch.nn.functional.linear(fake_x.abs().double(), fake_w.abs().double(), layer.bias.abs().double())
        off = (integer(x) - trained_layer(x)).abs().double()
        assert (off <= layer.in_features * eps * (1 + 2**-10) * size).all()


def test_weights_alone_become_packed_layers_with_groups(tiny):
    prepare_qat(tiny, {"*.dense": Qat(4, 8, activation_bits=None, step="learned")})
    some_steps(tiny)
    trained = copy.deepcopy(tiny).eval()
    export(tiny.eval())
    layer, before = tiny.bert.encoder.layer[0].output.dense, trained.bert.encoder.layer[0].output.dense
    assert type(layer) is Int4Linear
    assert torch.equal(layer.weight.dequantize(), before.weight_quantizer(before.weight))
    assert torch.equal(tiny(**batches()[0]).logits, trained(**batches()[0]).logits)


def test_the_exported_model_is_one_more_quantized_model(tiny):
    prepare_qat(tiny, {"*.dense": MOVING})
    some_steps(tiny)
    report = export(tiny.eval())
    assert report.changed[0].endswith("8 bits, symmetric, per channel, int8 inputs)") or "int8 inputs" in report.changed[0]
    assert report.bytes_after < report.bytes_before
    apply(tiny, {"*word_embeddings": Scheme()})
    assert tiny(**batches()[0]).logits.isfinite().all()


# Preparing


def test_parameters_stay_the_same_objects_under_the_same_names(tiny):
    before = dict(tiny.named_parameters())
    report = prepare_qat(tiny, {"*.query": MOVING, "*.key": LEARNED})
    after = dict(tiny.named_parameters())
    assert all(after[name] is p for name, p in before.items())
    extra = set(after) - set(before)
    assert {n.rpartition(".")[2] for n in extra} == {"log_scale"}
    assert len(extra) == 2 * 2
    assert "bert.encoder.layer.0.attention.self.query: trained for 8 bits" in report.changed[0]


def test_no_weight_decay_falls_on_learned_scales(tiny):
    prepare_qat(tiny, {"*.query": LEARNED, "*.key": Qat(4, 8, activation_bits=None, step="learned")})
    decayed = {id(p) for p in make_optimizer(tiny, Settings()).param_groups[0]["params"]}
    assert not any(id(p) in decayed for n, p in tiny.named_parameters() if n.endswith("log_scale"))


def test_fine_codes_change_the_model_little_and_gradients_reach_everything(tiny):
    whole = tiny.eval()(**batches()[0]).logits.detach()
    prepare_qat(tiny, {"*.dense": LEARNED, "*.query": LEARNED}, input_ranges(tiny, ["*.dense", "*.query"], batches()))
    out = tiny(**batches()[0]).logits
    assert (out - whole).abs().max() < 0.05 * whole.abs().max()
    out.square().sum().backward()
    missing = [n for n, p in tiny.named_parameters() if p.grad is None or (n.endswith("log_scale") and not p.grad.any())]
    assert missing == []


@pytest.mark.parametrize("step", ["moving", "learned"])
def test_training_finds_better_codes_than_rounding_to_nearest(step):
    """Inputs that rise and fall together let errors of one weight make up for those of another: at 3 bits at least half the
    loss goes. (With independent inputs rounding to nearest is the best already, and training only shakes the codes.)"""
    x = drawn(64, 1) + 0.3 * drawn(64, 16, seed=2)
    model = nn.Sequential(nn.Linear(16, 8))
    with torch.no_grad():
        model[0].weight.copy_(drawn(16, 8, seed=1).t())
        target = model(x)
    prepare_qat(model, {"0": Qat(3, step=step)}, {"0": (x.min(), x.max())})
    losses, optimizer = [], torch.optim.Adam(model.parameters(), 3e-3)
    model.eval()
    for i in range(200):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - i / 200)
        losses.append((model(x) - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


# Ranges and steps


def test_a_moving_range_is_the_observers(tiny):
    """The buffers are float32, the observer counts in float64: three roundings a batch, of the largest end."""
    range_, observer = MovingRange(8, rate=0.1), MovingAverage(0.1)
    largest = 0.0
    for i in range(30):
        x = drawn(50, seed=i) * (1 + i) + i  # a distribution that drifts
        range_(x)
        observer.update(x)
        largest = max(largest, float(x.abs().max()))
    tolerance = 30 * 3 * torch.finfo(torch.float32).eps / 2 * largest
    for ours, theirs in zip((range_.low, range_.high), observer.range(), strict=True):
        assert abs(float(ours) - float(theirs)) <= tolerance


def test_a_moving_range_follows_in_training_and_stands_still_in_evaluation():
    range_ = MovingRange(8, rate=0.5)
    range_(torch.tensor([-1.0, 1.0]))
    assert (range_.low, range_.high) == (-1.0, 1.0)
    range_(torch.tensor([-3.0, 5.0]))
    assert (range_.low, range_.high) == (-2.0, 3.0)
    range_.eval()
    y = range_(torch.tensor([-30.0, 50.0]))
    assert (range_.low, range_.high) == (-2.0, 3.0)
    assert torch.equal(y, fake_quantize(torch.tensor([-30.0, 50.0]), *range_.choose(), symmetric=False))


def test_ranges_given_are_where_both_start():
    ends = torch.tensor(-1.5), torch.tensor(4.0)
    scale, zero = choose_from_range(*ends, 8, symmetric=False)
    moving, learned = MovingRange(8, ends), LearnedStep(8, ends)
    assert moving.choose() == (scale, zero)
    # log and exp are each right to an ulp or two of a number below 8
    torch.testing.assert_close(learned.choose()[0], scale, rtol=8 * torch.finfo(torch.float32).eps, atol=0)
    assert learned.choose()[1] == zero


def test_a_learned_step_starts_with_the_first_batch_and_is_left_alone_after_it():
    step, x = LearnedStep(8), drawn(100)
    step(x)
    scale, zero = (t.detach().clone() for t in step.choose())
    expected, expected_zero = choose_from_range(x.min(), x.max(), 8, symmetric=False)
    torch.testing.assert_close(scale, expected, rtol=8 * torch.finfo(torch.float32).eps, atol=0)
    step(100 * x)
    assert torch.equal(step.choose()[0], scale)
    assert step.choose()[1] == zero == expected_zero


def test_rounded_weights_follow_the_weight_and_learned_ones_their_parameter():
    w = drawn(4, 8)
    rounded, learned = RoundedWeight(w, 4, "channel"), LearnedWeight(w, 4, "channel")
    scale, zero = choose_affine(3 * w, 4, granularity="channel")
    assert torch.equal(rounded(3 * w), fake_quantize(3 * w, scale, zero, 4))
    before = learned.scale(w).detach().clone()
    assert torch.equal(learned(3 * w), fake_quantize(3 * w, before, zero, 4))
    learned.log_scale.data += 0.1
    assert torch.equal(learned.codes(w)[0], quantize(w, learned.log_scale.exp().view(-1, 1), zero, 4))


def test_learned_steps_start_with_less_error_than_the_largest_entries_give():
    w = drawn(8, 64)
    for bits in (2, 3, 4):
        errors = [(kind(w, bits, "channel")(w) - w).square().sum() for kind in (LearnedWeight, RoundedWeight)]
        assert errors[0] < errors[1]


def test_bfloat16_activations_are_quantized_in_float32():
    x = drawn(5, 8).bfloat16()
    for quantizer in (MovingRange(8), LearnedStep(8)):
        assert quantizer(x).dtype == torch.float32


# In the training loop


def prepared(config: Qat) -> tuple[nn.Module, tuple]:
    folder = find_encoder("tiny")
    tokenizer, model = load_tokenizer(folder), load_token_classifier(folder, TAGS)
    prepare_qat(model, {"*.dense": config, "*.query": config})
    sentences = [["new", "york", "is", "a", "city"], ["he", "said", "it"], ["the", "company", "of", "mr", "city"]] * 4
    windows = make_windows(sentences, tokenizer)
    index = {tag: i for i, tag in enumerate(TAGS)}
    labels = [window_labels(w, ["B-X", "I-X", "O", "O", "O"], index) for w in windows]
    return model, (windows, labels, pad_id(tokenizer), lambda m: 0.5)


class Killed(Exception):
    """Stands for the end of the process."""


@BOTH
def test_the_training_loop_resumes_to_the_bit(tmp_path, config):
    settings = Settings(epochs=2, batch_size=4, learning_rate=1e-3)
    model, arguments = prepared(config)
    train(model, *arguments, settings, tmp_path / "whole")

    def dies(event):
        if event["step"] == 4:
            raise Killed

    broken, _ = prepared(config)
    with pytest.raises(Killed):
        train(broken, *arguments, settings, tmp_path / "killed", progress=dies, checkpoint_every=0.0)
    again, _ = prepared(config)
    steps = []
    train(again, *arguments, settings, tmp_path / "killed", progress=lambda e: steps.append(e["step"]))
    assert steps[0] == 4, "it went on from the checkpoint after step 3"
    assert weights_sha256(again) == weights_sha256(model)
    for each in (again, model):
        export(each.eval())
    assert weights_sha256(again) == weights_sha256(model)


def test_the_training_loop_runs_under_bf16_and_with_frozen_embeddings(tmp_path):
    model, arguments = prepared(LEARNED)
    history = train(model, *arguments, Settings(epochs=1, batch_size=4, bf16=True, freeze_embeddings=True), tmp_path)
    assert history[0]["loss"] > 0
    assert export(model.eval()).changed


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": "lsq"}, "step = 'lsq': expected 'moving' or 'learned'"),
        ({"rate": 0.0}, "rate = 0.0"),
        ({"rate": 1.5}, "rate = 1.5"),
        ({"bits": 9}, "bits = 9"),
        ({"activation_bits": 1}, "activation_bits = 1"),
        ({"granularity": 8}, "granularity = 8: expected 'tensor' or 'channel'"),
    ],
)
def test_a_wrong_configuration_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Qat(**fields)


def kinds(model) -> list[type]:
    return [type(m) for m in model.modules()]


def test_a_wrong_plan_is_an_error_and_changes_nothing(tiny):
    before = kinds(tiny)
    for plan, message in (
        ({"*.quarry": MOVING}, "matches nothing"),
        ({"*.query": Scheme()}, "expected a Qat"),
        ({"*.query": MOVING, "*layer.0*": MOVING}, "is matched by"),
        ({"*.query": Qat(4, 7, activation_bits=None)}, "query: granularity = .*Nothing was changed"),
    ):
        with pytest.raises((CourseError, ValueError), match=message):
            prepare_qat(tiny, plan)
        assert kinds(tiny) == before


def test_weights_that_are_not_finite_or_not_float32_are_named(tiny):
    tiny.classifier.weight.data[0, 0] = float("inf")
    with pytest.raises(CourseError, match=r"classifier: .*finite"):
        prepare_qat(tiny, {"classifier": MOVING})
    with pytest.raises(CourseError, match=r"classifier: weight = torch.float64: expected torch.float32"):
        prepare_qat(tiny.double(), {"classifier": MOVING})


def test_preparing_twice_or_exporting_nothing_is_an_error(tiny):
    with pytest.raises(CourseError, match=r"has no layer prepared by prepare_qat"):
        export(tiny)
    prepare_qat(tiny, {"*.query": MOVING})
    with pytest.raises(CourseError, match=r"query is prepared for training already"):
        prepare_qat(tiny, {"*.key": MOVING})


@pytest.mark.parametrize("config", [MOVING, LEARNED], ids=["moving", "learned"])
def test_without_a_batch_there_is_no_range(tiny, config):
    prepare_qat(tiny, {"*.query": config})
    with pytest.raises(CourseError, match=r"query: no batch of training has been seen"):
        export(tiny)
    assert isinstance(tiny.bert.encoder.layer[0].attention.self.query, QatLinear)
    with pytest.raises(CourseError, match=r"no batch of training has been seen"):
        tiny.eval()(**batches()[0])


@pytest.mark.parametrize("config", [MOVING, LEARNED], ids=["moving", "learned"])
def test_inputs_of_nan_are_an_error(config):
    layer = QatLinear(nn.Linear(4, 4), config, (torch.tensor(-1.0), torch.tensor(1.0))).eval()
    with pytest.raises(ValueError, match=r"NaN"):
        layer(torch.full((1, 4), float("nan")))


def test_a_moving_range_starts_at_the_first_batch_and_moves_by_its_rate():
    moving = MovingRange(8, rate=0.25)
    moving.observe(torch.tensor([-1.0, 2.0]))
    assert (moving.low.item(), moving.high.item()) == (-1.0, 2.0)
    moving.observe(torch.tensor([[-5.0], [0.0]]))
    assert (moving.low.item(), moving.high.item()) == (-2.0, 1.5)
