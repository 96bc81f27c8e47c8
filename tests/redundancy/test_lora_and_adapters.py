"""LoRA and adapters: nothing changes at first, merged is attached, and a compressed model learns while its codes stay."""

import copy

import pytest
import torch
from redundant_models import EPS, TAGS, batches, logits, real_batches, tiny
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.apply import apply as quantize_model
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.straight_through import IntegerProduct
from course_lib.redundancy.adapters import BOTH_BLOCKS, AdaptedLinear, Adapter, attach_adapters
from course_lib.redundancy.added_weights import added_modules, freeze_base, load_added, save_added
from course_lib.redundancy.lora import Lora, LoraLinear, attach_lora, merge_lora

VALUES = {"*.query": Lora(rank=2), "*.value": Lora(rank=3, alpha=6)}
WEIGHTS = Scheme(bits=4, granularity=16)
INTEGERS = Scheme(bits=8, granularity="channel", activation="dynamic")
ATTACH = {
    "lora": lambda model: attach_lora(model, VALUES),
    "adapters": lambda model: attach_adapters(model, {BOTH_BLOCKS: Adapter(width=4)}),
}


def loss_of(model):
    """Cross-entropy of the tiny classifier on labels that depend on the pieces."""
    total = 0.0
    for batch in batches():
        labels = torch.where(batch["attention_mask"] == 1, batch["input_ids"] % 3, -100)
        total = total + nn.functional.cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    return total


def learn(model, steps=40, rate=1e-2):
    """Train what is trainable; the loss before and after."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    before = loss_of(model).item()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return before, loss_of(model).item()


@pytest.mark.parametrize("kind", ATTACH)
def test_attached_and_untrained_nothing_changes(kind):
    model = tiny()
    before = logits(model)
    report = ATTACH[kind](model)
    assert torch.equal(logits(model), before), "zeros are added"
    assert report.changed and all("numbers to train" in line for line in report.changed)
    assert report.parameters_after - report.parameters_before == sum(
        p.numel() for m in added_modules(model).values() for p in m.added().values()
    )


@pytest.mark.parametrize("kind", ATTACH)
def test_only_what_was_added_and_the_classifier_learns(kind):
    model = tiny()
    ATTACH[kind](model)
    was = copy.deepcopy(model.state_dict())
    before, after = learn(model)
    assert after < 0.9 * before
    moved = {name for name, p in model.state_dict().items() if not torch.equal(p, was[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".down" in name or ".up" in name or name.startswith("classifier") for name in moved)


def test_merged_is_attached_and_a_plain_model_again():
    """``x·(W + s·B·A)ᵀ`` and ``x·Wᵀ + s·(x·Aᵀ)·Bᵀ`` add up the same products in another order: a layer differs by at most
    ``2(D + r + 2)·ε·Σ|x|(|W| + s|B||A|)``, D = 32, r = 3; the network is float64, so 10⁻⁹ is far above what thousands of such
    operations amount to, and far below what a wrong scale would change."""
    model = tiny()
    attach_lora(model, VALUES)
    learn(model)
    attached, x = logits(model), torch.randn(5, 32, dtype=torch.float64)
    name, layer = next(iter(added_modules(model).items()))
    one = layer(x).detach()
    size = x.abs() @ (layer.base.weight.abs() + 8 * layer.up.abs() @ layer.down.abs()).detach().T + layer.base.bias.abs()
    report = merge_lora(model)
    assert (model.get_submodule(name)(x) - one).abs().le(2 * (32 + 3 + 2) * 2**-53 * size).all()
    assert (logits(model) - attached).abs().max() <= 1e-9
    assert type(model.get_submodule(name)) is nn.Linear and len(report.changed) == 4
    assert report.parameters_after < report.parameters_before
    with pytest.raises(CourseError, match="nothing was added"):
        merge_lora(model)


@pytest.mark.oracles
def test_lora_is_pefts():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    ours, x = LoraLinear(nn.Linear(16, 12), Lora(rank=4, alpha=10)), torch.randn(7, 16)
    with torch.no_grad():
        ours.up.normal_()
    theirs = peft.get_peft_model(
        nn.Sequential(copy.deepcopy(ours.base)), peft.LoraConfig(r=4, lora_alpha=10, target_modules=["0"], lora_dropout=0.0)
    )
    own = dict(theirs.named_parameters())
    with torch.no_grad():
        own["base_model.model.0.lora_A.default.weight"].copy_(ours.down)
        own["base_model.model.0.lora_B.default.weight"].copy_(ours.up)
        size = x.abs() @ (ours.base.weight.abs() + 2.5 * ours.up.abs() @ ours.down.abs()).T + ours.base.bias.abs()
        assert ((theirs(x) - ours(x)).abs() <= 2 * (16 + 4 + 2) * EPS * size).all()
        merged = theirs.merge_and_unload()[0].weight
        close = 2 * (4 + 2) * EPS * (ours.base.weight.abs() + 2.5 * ours.up.abs() @ ours.down.abs())
        assert ((merged - (ours.base.weight + ours.update())).abs() <= close).all()


@pytest.mark.parametrize("kind", ATTACH)
@pytest.mark.parametrize("scheme", [WEIGHTS, INTEGERS], ids=["4-bit weights", "int8 weights and inputs"])
def test_a_quantized_model_learns_new_data_while_its_codes_stay(kind, scheme):
    model = tiny(torch.float32)
    quantize_model(model, {"*.layer.*": scheme})
    ATTACH[kind](model)
    codes = {name: b.clone() for name, b in model.named_buffers()}
    before, after = learn(model.train())
    assert after < 0.9 * before
    assert codes and all(torch.equal(b, codes[name]) for name, b in model.named_buffers())


def test_the_gradient_through_an_integer_layer_is_that_of_its_dequantized_weight():
    base = Int8Linear.from_float(nn.Linear(8, 6), INTEGERS).train()
    x, gradient = torch.randn(3, 8, requires_grad=True), torch.randn(3, 6)
    with pytest.raises(CourseError, match="no weights to train"):
        base(x)
    base.pass_gradients = True
    out = base(x)
    out.backward(gradient)
    assert torch.equal(x.grad, gradient @ base.dequantize()) and torch.equal(out, base(x.detach()))
    assert torch.equal(IntegerProduct.apply(x.detach(), base), out)


def test_integers_take_in_no_update():
    model = tiny(torch.float32)
    quantize_model(model, {"*.layer.*": INTEGERS})
    attach_lora(model, VALUES)
    with pytest.raises(CourseError, match=r"query: its base is a Int8Linear of integer codes"):
        merge_lora(model)
    assert len(added_modules(model)) == 4, "nothing was changed"


def test_an_update_that_is_not_finite_is_refused():
    model = tiny()
    attach_lora(model, VALUES)
    with torch.no_grad():
        next(iter(added_modules(model).values())).up.fill_(float("nan"))
    with pytest.raises(ValueError, match="the update"):
        merge_lora(model)


@pytest.mark.parametrize("kind", ATTACH)
def test_only_what_was_added_is_saved_and_comes_back(kind, tmp_path):
    model, other = tiny(), tiny()
    ATTACH[kind](model)
    learn(model, steps=5)
    save_added(model, tmp_path / "task")
    ATTACH[kind](other)
    load_added(other, tmp_path / "task")
    assert torch.equal(logits(other), logits(model))
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    assert (tmp_path / "task" / "added.safetensors").stat().st_size < whole / 4


def test_weights_of_something_else_are_refused(tmp_path):
    model, other = tiny(), tiny()
    attach_lora(model, VALUES)
    save_added(model, tmp_path / "task")
    attach_lora(other, {**VALUES, "*.value": Lora(rank=2)})
    with pytest.raises(CourseError, match=r"value is .*'rank': 3.* there and .*'rank': 2.* in the model"):
        load_added(other, tmp_path / "task")
    (tmp_path / "task" / "added.safetensors").write_bytes(b"no")
    with pytest.raises(CourseError, match=r"added\.safetensors"):
        load_added(model, tmp_path / "task")
    with pytest.raises(CourseError, match="nothing was added"):
        save_added(tiny(), tmp_path / "none")


def test_the_head_may_be_kept_too():
    model = tiny()
    attach_lora(model, VALUES)
    everything = freeze_base(model)
    assert everything - freeze_base(model, also=()) == 32 * 3 + 3


def test_dropout_is_of_training_alone_and_the_same_seed_draws_the_same():
    model = tiny()
    attach_lora(model, {"*.query": Lora(rank=2, dropout=0.5)}, seed=1)
    layer, x = next(iter(added_modules(model).values())), torch.randn(4, 32, dtype=torch.float64)
    with torch.no_grad():
        layer.up.fill_(1.0)
    assert torch.equal(layer(x), layer(x)) and not torch.equal(layer.train()(x), layer(x))
    again = tiny()
    attach_lora(again, {"*.query": Lora(rank=2, dropout=0.5)}, seed=1)
    assert torch.equal(next(iter(added_modules(again).values())).down, layer.down)


def test_on_the_real_encoder_a_hundredth_of_the_numbers_is_trained():
    model = load_token_classifier(find_encoder("minilm"), TAGS)
    before = [model(**b).logits.detach() for b in real_batches(8)]
    report = attach_lora(model, {"*.query": Lora(rank=8), "*.value": Lora(rank=8)})
    assert len(report.changed) == 12 and freeze_base(model, also=()) == 12 * 8 * (384 + 384)
    assert all(torch.equal(model(**b).logits, was) for b, was in zip(real_batches(8), before, strict=True))


@pytest.mark.parametrize(
    "attach, error, message",
    [
        (lambda m: attach_lora(m, {"*.query": Lora(rank=33)}), ValueError, "rank = 33.*at most 32"),
        (lambda m: attach_lora(m, {"*.quary": Lora()}), CourseError, "matches nothing"),
        (lambda m: attach_adapters(m, {BOTH_BLOCKS: Adapter(width=40)}), ValueError, "width = 40.*at most the 32"),
        (lambda m: Lora(rank=0), ValueError, "rank = 0"),
        (lambda m: Lora(alpha=0), ValueError, "alpha = 0"),
        (lambda m: Lora(dropout=1.0), ValueError, "dropout"),
        (lambda m: Adapter(width=0), ValueError, "width = 0"),
        (lambda m: freeze_base(m), CourseError, "nothing was added"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(attach, error, message):
    model = tiny(torch.float32)
    with pytest.raises(error, match=message):
        attach(model)
    assert not [m for m in model.modules() if isinstance(m, (LoraLinear, AdaptedLinear))]
