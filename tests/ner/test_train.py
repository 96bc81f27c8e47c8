"""The training loop: against a loop written out here, on a corpus it can learn, interrupted, and resumed.

One thread throughout, so that equal means equal to the bit.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from course_lib.artifacts import digest
from course_lib.data.align import IGNORED, collate, make_windows, pad, pad_id, window_labels
from course_lib.deploy.engines import TorchEngine
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
from course_lib.ner.checkpoint import Checkpoints, weights_sha256
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.ner.train import Settings, hard_labels, learning_rate, make_optimizer, train
from course_lib.pruning.masks import Masks, mask_by_sparsity, sparsity
from course_lib.pruning.proximal import proximal_groups, proximal_steps

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
FAST = Settings(epochs=2, batch_size=4, learning_rate=3e-3, seed=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_encoder("tiny"))


def toy_corpus(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Invented names of three letters; the letters they are made of say what they are, and whether first or second."""
    rng, corpus = random.Random(seed), []
    letters = {"B-PER": "bcd", "I-PER": "hjl", "B-LOC": "fgk", "I-LOC": "mpq"}
    for _ in range(count):
        words, tags = [], []
        for _ in range(rng.randint(1, 3)):
            kind = rng.choice(("PER", "LOC"))
            chosen = rng.choice(([f"B-{kind}"], [f"B-{kind}", f"I-{kind}"], []))
            words += [rng.choice(("in", "mr", "the")), *("".join(rng.choices(letters[tag], k=3)) for tag in chosen), "was"]
            tags += ["O", *chosen, "O"]
        corpus.append((words, tags))
    return corpus


def prepared(corpus, tokenizer):
    windows = make_windows([words for words, _ in corpus], tokenizer)
    index = {tag: i for i, tag in enumerate(TAGS)}
    return windows, [window_labels(w, corpus[w.sentence][1], index) for w in windows]


@pytest.fixture(scope="module")
def small(tokenizer):
    """Ten windows and their labels: three batches of four."""
    return prepared(toy_corpus(10, seed=5), tokenizer)


def new_model():
    return load_token_classifier(find_encoder("tiny"), TAGS, seed=0)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def run(folder: Path, small, settings: Settings = FAST, validate=lambda model: 0.5, **options):
    """A model trained on the small corpus, its weights and its history."""
    model = new_model()
    history = train(model, *small, 0, validate, settings, folder, **options)
    return weights(model), untimed(history)


# Learning


def test_it_learns_what_can_be_learnt_and_finds_names_it_never_saw(tokenizer, tmp_path):
    learnt, unseen = toy_corpus(240, seed=0), toy_corpus(80, seed=1)
    gold = [tags for _, tags in unseen]

    def f1(model) -> float:
        return entity_f1(gold, predict_tags([words for words, _ in unseen], TorchEngine(model), tokenizer, TAGS))

    model = new_model()
    assert f1(model) < 0.3
    settings = Settings(epochs=8, batch_size=16, learning_rate=5e-3)
    windows, labels = prepared(learnt, tokenizer)
    history = train(model, windows, labels, pad_id(tokenizer), f1, settings, tmp_path)
    losses = [entry["loss"] for entry in history]
    assert losses[0] < math.log(len(TAGS))  # better than guessing evenly already
    assert losses[-1] < 0.2 * losses[0]
    assert f1(model) > 0.9
    assert f1(model) == max(entry["validation_f1"] for entry in history)


def test_it_equals_the_same_loop_written_out(small, tmp_path):
    """Bitwise: the same operations in the same order, with the schedule, clipping and groups stated anew."""
    settings = dataclasses.replace(FAST, epochs=3, warmup=0.3, clip=0.5, weight_decay=0.1)
    seen = []

    def objective(logits, labels, indices):
        seen.append(indices)
        return hard_labels(logits, labels, indices)

    ours, history = run(tmp_path, small, settings, lambda model: float(len(seen)), objective=objective)

    windows, labels = small
    model = new_model().train()
    torch.manual_seed(settings.seed)
    named = list(model.named_parameters())
    vectors = [p for n, p in named if n.endswith("bias") or "LayerNorm" in n]
    matrices = [p for n, p in named if not (n.endswith("bias") or "LayerNorm" in n)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    # 9 steps, 3 of them (0.3 of 9, rounded up) to warm up, then down to 0 at step 9
    rates = [3e-3 * f for f in (1 / 3, 2 / 3, 3 / 3, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    losses = []
    for step, indices in enumerate(seen):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 9, settings)
            assert group["lr"] == pytest.approx(rates[step], rel=1e-12)  # products in another order
        ids, mask = collate([windows[i] for i in indices], 0)
        logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
        target = torch.tensor(pad([labels[i] for i in indices], IGNORED))
        loss = F.cross_entropy(logits[target != IGNORED], target[target != IGNORED])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert equal(ours, weights(model))
    means = [sum(losses[e * 3 : e * 3 + 3]) / 3 for e in range(3)]
    assert [entry["loss"] for entry in history] == pytest.approx(means, abs=1e-5)  # the history has five digits


def test_each_epoch_visits_every_window_once_in_an_order_of_its_own(small, tmp_path):
    def orders(seed: int, name: str) -> list[list[int]]:
        seen = []

        def objective(logits, labels, indices):
            expected = pad([small[1][i] for i in indices], IGNORED)
            assert torch.equal(labels, torch.tensor(expected)) and logits.shape[:2] == labels.shape
            seen.extend(indices)
            return hard_labels(logits, labels, indices)

        run(tmp_path / name, small, dataclasses.replace(FAST, seed=seed), objective=objective)
        return [seen[:10], seen[10:]]

    first, second = orders(1, "a")
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert orders(1, "b") == [first, second]
    assert orders(2, "c")[0] != first


def test_same_seed_same_weights_another_seed_others(small, tmp_path):
    torch.manual_seed(99)
    one, history = run(tmp_path / "a", small)
    torch.manual_seed(100)
    again, repeated = run(tmp_path / "b", small)
    other, _ = run(tmp_path / "c", small, dataclasses.replace(FAST, seed=2))
    assert equal(one, again) and history == repeated
    assert not equal(one, other)


def test_bf16_is_only_used_for_the_computation(small, tmp_path):
    """Weights stay fp32; the loss stays near that of fp32 (bf16 has 8 bits: each logit is off by about 1 %)."""
    full, exact = run(tmp_path / "a", small)
    half, rough = run(tmp_path / "b", small, dataclasses.replace(FAST, bf16=True))
    assert {t.dtype for t in half.values() if t.is_floating_point()} == {torch.float32}
    assert not equal(full, half)
    assert [e["loss"] for e in rough] == pytest.approx([e["loss"] for e in exact], rel=0.05)


def test_the_gradient_is_clipped_to_its_norm(small, tmp_path):
    """When the objective is called, the gradients of the step before are still there, as the optimizer saw them."""
    model, norms = new_model(), []

    def objective(logits, labels, indices):
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item() if grads else None)
        return 1e4 * hard_labels(logits, labels, indices)

    train(model, *small, 0, lambda model: 0.0, dataclasses.replace(FAST, clip=0.25), tmp_path, objective=objective)
    assert norms[0] is None and len(norms) == 6
    assert norms[1:] == pytest.approx([0.25] * 5, rel=1e-4)  # fp32 sums of 38 000 squares


def test_weight_decay_acts_on_matrices_alone():
    """With zero gradients AdamW only decays: matrices by the factor 1 − rate · decay, vectors not at all."""
    model = new_model()
    before = weights(model)
    optimizer = make_optimizer(model, Settings(learning_rate=0.5, weight_decay=0.5))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    kinds = set()
    for name, p in model.named_parameters():
        matrix = p.dim() == 2
        kinds.add(matrix)
        torch.testing.assert_close(p.detach(), before[name] * (0.75 if matrix else 1), rtol=1e-6, atol=0)  # one rounding
    assert kinds == {True, False}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def changed(model, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_what_the_caller_has_frozen_stays(small, tmp_path):
    model = new_model()
    model.base_model.embeddings.requires_grad_(False)
    before = weights(model)
    train(model, *small, 0, lambda model: 0.0, FAST, tmp_path)
    assert not any("embeddings" in name for name in changed(model, before))
    assert "classifier.weight" in changed(model, before)
    assert not any(p.requires_grad for p in model.base_model.embeddings.parameters())


def test_freeze_embeddings_keeps_the_word_embeddings_and_nothing_else(small, tmp_path):
    model = new_model()
    before = weights(model)
    train(model, *small, 0, lambda model: 0.0, dataclasses.replace(FAST, freeze_embeddings=True), tmp_path)
    assert set(before) - changed(model, before) == {"bert.embeddings.word_embeddings.weight"}
    assert all(p.requires_grad for p in model.parameters())


# The schedule


def test_the_rate_rises_to_its_peak_and_ends_at_zero_after_the_last_step():
    rng = random.Random(0)
    for _ in range(300):
        steps, peak = rng.randint(1, 400), rng.uniform(1e-5, 0.5)
        settings = Settings(learning_rate=peak, warmup=rng.choice((0.0, rng.random())))
        warm = math.ceil(settings.warmup * steps)
        rates = [learning_rate(i, steps, settings) for i in range(steps + 1)]
        assert max(rates) == pytest.approx(peak, rel=1e-12) and rates[max(warm - 1, 0)] == pytest.approx(peak, rel=1e-12)
        assert rates[-1] == 0 and all(0 < r <= peak * (1 + 1e-12) for r in rates[:-1])
        assert all(a < b for a, b in itertools.pairwise(rates[:warm]))
        assert all(a > b for a, b in itertools.pairwise(rates[warm:]))
        if steps > warm:
            assert rates[-2] == pytest.approx(peak / (steps - warm), rel=1e-9)  # the last step still learns


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "such as 3e-4"),
        ("learning_rate", 3.0, "such as 3e-4"),
        ("warmup", 1.0, "fraction"),
        ("warmup", -0.1, "fraction"),
        ("clip", 0.0, "positive"),
    ],
)
def test_impossible_settings_are_refused_by_name(field: str, value: float, expected: str):
    with pytest.raises(ValueError, match=f"{field} = {value}: expected .*{expected}"):
        Settings(**{field: value})


def test_no_windows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="windows = 0: expected at least one"):
        train(new_model(), [], [], 0, lambda model: 0.0, FAST, tmp_path)


# Validation: the best epoch, and stopping


def scripted(scores: list[float], seen: list) -> object:
    """A validation that returns these scores in turn and keeps the weights it was shown."""

    def validate(model) -> float:
        seen.append(weights(model))
        return scores[len(seen) - 1]

    return validate


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.9, 0.5], 1), ([0.9, 0.1, 0.5], 0), ([0.2, 0.4, 0.4], 1), ([0.0] * 3, 0)])
def test_the_first_best_epochs_weights_are_left_in_the_model(small, tmp_path, scores, best):
    seen = []
    final, history = run(tmp_path, small, dataclasses.replace(FAST, epochs=3), scripted(scores, seen))
    assert [entry["validation_f1"] for entry in history] == scores
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert equal(final, seen[best])
    assert not any(equal(final, other) for k, other in enumerate(seen) if k != best)
    assert max(p.name for p in tmp_path.glob("best-*")) == f"best-{best + 1:04d}", "an epoch that is no better was kept"


@pytest.mark.parametrize(
    ("scores", "patience", "epochs"),
    [
        ([0.5, 0.6, 0.6, 0.5, 0.9], 2, 4),  # an equal score is no better one
        ([0.5, 0.4, 0.6, 0.5, 0.7], 2, 5),
        ([0.5, 0.4, 0.6, 0.7, 0.8], 1, 2),
        ([0.5, 0.4, 0.3, 0.2, 0.1], None, 5),
    ],
)
def test_patience_counts_epochs_without_a_better_score(small, tmp_path, scores, patience, epochs):
    settings = dataclasses.replace(FAST, epochs=5, patience=patience)
    _, history = run(tmp_path, small, settings, scripted(scores, []))
    assert [entry["validation_f1"] for entry in history] == scores[:epochs]


def test_progress_reports_every_step_and_every_epoch(small, tmp_path):
    events = []
    _, history = run(tmp_path, small, progress=events.append)
    steps = [e for e in events if "f1" not in e]
    epochs = [e for e in events if "f1" in e]
    assert [(e["step"], e["steps"], e["epoch"]) for e in steps] == [(i + 1, 6, i // 3) for i in range(6)]
    assert [(e["step"], e["epoch"], e["f1"], e["loss"]) for e in epochs] == [
        (3 * (k + 1), k + 1, 0.5, history[k]["loss"]) for k in range(2)
    ]
    assert history[0]["loss"] == pytest.approx(sum(e["loss"] for e in steps[:3]) / 3, abs=1e-5)


# Going on


class Interrupted(BaseException):
    """As Ctrl-C does, it passes every ``except Exception``."""


def interrupt_at(step: int, epoch_end: bool = False):
    def progress(event: dict) -> None:
        if event["step"] == step and ("f1" in event) == epoch_end:
            raise Interrupted

    return progress


def best_of_two(model) -> float:
    """A score that depends on the weights, so that a wrong restart changes the history too."""
    return float(model.classifier.weight.detach().abs().mean())


@pytest.mark.parametrize("checkpoint_every", [0.0, 1e9])
def test_interrupted_after_any_step_it_goes_on_to_the_same_bit(small, tmp_path, checkpoint_every):
    """With checkpoints at every step, and with those at the ends of epochs alone."""
    undisturbed = run(tmp_path / "whole", small, validate=best_of_two)
    for step, epoch_end in [(i, False) for i in range(1, 7)] + [(3, True), (6, True)]:
        folder = tmp_path / f"cut-{step}-{epoch_end}"
        with contextlib.suppress(Interrupted):
            run(folder, small, validate=best_of_two, progress=interrupt_at(step, epoch_end), checkpoint_every=checkpoint_every)
            pytest.fail("not interrupted")
        torch.manual_seed(step)  # whatever another process starts with
        events = []
        resumed = run(folder, small, validate=best_of_two, progress=events.append, checkpoint_every=checkpoint_every)
        assert resumed[1] == undisturbed[1]
        assert equal(resumed[0], undisturbed[0])
        finished = step if epoch_end else step - 1  # the event of a step comes before its checkpoint
        done = finished // 3 * 3 if checkpoint_every else finished
        assert [e["step"] for e in events if "f1" not in e] == list(range(done + 1, 7))


def test_a_finished_run_is_not_run_again(small, tmp_path):
    seen = []
    first = run(tmp_path, small, validate=scripted([0.9, 0.1], seen))
    again = run(tmp_path, small, validate=lambda model: pytest.fail("validated again"), progress=pytest.fail)
    assert equal(again[0], first[0]) and again[1] == first[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-0001", "step-0000006-0002"]


def test_a_run_interrupted_and_resumed_keeps_counting_its_seconds(small, tmp_path):
    with contextlib.suppress(Interrupted):
        run(tmp_path, small, progress=interrupt_at(3), checkpoint_every=0.0)
    (state,) = tmp_path.glob("step-*/state.json")
    saved = json.loads(state.read_text())
    assert saved["seconds"] > 0
    saved["seconds"] = 1000.0
    state.write_text(json.dumps(saved))
    history = train(new_model(), *small, 0, lambda model: 0.5, FAST, tmp_path, checkpoint_every=0.0)
    assert history[0]["seconds"] >= 1000 > history[1]["seconds"]


@pytest.mark.parametrize("other", ["seed", "learning_rate", "labels", "windows"])
def test_checkpoints_of_other_settings_or_data_are_deleted_not_used(small, tmp_path, other):
    windows, labels = small
    theirs, settings = small, FAST
    if other == "seed":
        settings = dataclasses.replace(FAST, seed=7)
    elif other == "learning_rate":
        settings = dataclasses.replace(FAST, learning_rate=1e-4)
    elif other == "labels":
        theirs = windows, [[0 if label > 0 else label for label in row] for row in labels]
    else:
        theirs = [dataclasses.replace(w, ids=(*w.ids[:-2], 9, w.ids[-1])) for w in windows], labels
    run(tmp_path / "used", theirs, settings)
    (tmp_path / "used" / "notes.txt").write_text("kept")
    (tmp_path / "used" / ".hidden").mkdir()
    events = []
    ours = run(tmp_path / "used", small, validate=best_of_two, progress=events.append)
    assert events[0]["step"] == 1
    fresh = run(tmp_path / "fresh", small, validate=best_of_two)
    assert equal(ours[0], fresh[0]) and ours[1] == fresh[1]
    names = {p.name for p in (tmp_path / "fresh").iterdir()}
    assert {p.name for p in (tmp_path / "used").iterdir()} == names | {"notes.txt", ".hidden"}


def test_what_a_killed_run_left_half_written_or_half_deleted_is_not_used(small, tmp_path):
    undisturbed = run(tmp_path / "whole", small, validate=best_of_two)
    folder = tmp_path / "cut"
    with contextlib.suppress(Interrupted):
        run(folder, small, validate=best_of_two, progress=interrupt_at(3), checkpoint_every=0.0)
    for name in (".step-0000009-0001.x1", ".best-0001.x2", ".step-0000002-0000.old.x3/old"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"half")
    (folder / "step-0000009-0002").mkdir()  # its deletion had begun: the state is gone
    resumed = run(folder, small, validate=best_of_two, checkpoint_every=0.0)
    assert equal(resumed[0], undisturbed[0]) and resumed[1] == undisturbed[1]
    assert {p.name for p in folder.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_best_weights_are_kept_as_long_as_the_newest_checkpoint_needs_them(tmp_path):
    """Killed between new best weights and the checkpoint that knows of them, a rerun may still need the old ones."""
    model = new_model()
    optimizer, checkpoints = make_optimizer(model, FAST), Checkpoints(tmp_path, "key")

    def best() -> list[str]:
        return sorted(p.name for p in tmp_path.glob("best-*"))

    for epoch, before in ((1, []), (2, ["best-0001"]), (3, ["best-0002"])):
        checkpoints.save_best(model, epoch)
        assert best() == [*before, f"best-{epoch:04d}"]
        checkpoints.state.history.append({"epoch": epoch, "validation_f1": epoch / 10})
        checkpoints.state.epoch = checkpoints.state.step = epoch
        checkpoints.save(model, optimizer)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-0000003-0003"]


def test_a_damaged_checkpoint_is_named_with_the_remedy(small, tmp_path):
    run(tmp_path, small)
    (state,) = tmp_path.glob("step-*/state.json")
    state.write_text('{"epoch": 1')
    with pytest.raises(CourseError, match=r"state\.json.*Delete it"):
        run(tmp_path, small)


def test_checkpoints_of_other_initial_weights_are_not_used(small, tmp_path):
    """The same data and settings, another start: it must train from its own start, not from the other's checkpoint."""

    def other():
        return load_token_classifier(find_encoder("tiny"), TAGS, seed=1)

    run(tmp_path / "shared", small)
    resumed, fresh = other(), other()
    train(resumed, *small, 0, lambda model: 0.5, FAST, tmp_path / "shared")
    train(fresh, *small, 0, lambda model: 0.5, FAST, tmp_path / "own")
    assert equal(weights(resumed), weights(fresh))


def test_weights_sha256_sees_names_shapes_and_values():
    def module(**tensors):
        holder = torch.nn.Module()
        for name, tensor in tensors.items():
            holder.register_buffer(name, tensor)
        return holder

    a = module(x=torch.arange(6.0), n=torch.tensor(3))
    same = module(x=torch.arange(6.0), n=torch.tensor(3))
    others = [
        module(y=torch.arange(6.0), n=torch.tensor(3)),
        module(x=torch.arange(6.0).view(2, 3), n=torch.tensor(3)),
        module(x=torch.arange(6.0) + 1e-6, n=torch.tensor(3)),
        module(x=torch.arange(6.0), n=torch.tensor(4)),
    ]
    digests = {weights_sha256(m) for m in (a, same, *others)}
    assert len(digests) == 5 and weights_sha256(a) == weights_sha256(same)


# An optimizer of the caller's own


def masked(model) -> Masks:
    """Half of every matrix inside the layers, drawn."""
    generator = torch.Generator().manual_seed(3)
    named = {n: p for n, p in model.named_parameters() if "encoder" in n and p.dim() == 2}
    return Masks({n: mask_by_sparsity(torch.rand(p.shape, generator=generator), 0.5) for n, p in named.items()})


def with_masks(model, settings: Settings) -> torch.optim.Optimizer:
    optimizer = make_optimizer(model, settings)
    masked(model).keep(model, optimizer)
    return optimizer


def with_l1(lam: float):
    """AdamW without weight decay, a λ for all linear layers inside the encoder's."""

    def make(model, settings: Settings) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(proximal_groups(model, {"*.dense": lam}), lr=settings.learning_rate, weight_decay=0.0)
        proximal_steps(optimizer)
        return optimizer

    return make


def key_of(folder: Path) -> str:
    (state,) = folder.glob("step-*/state.json")
    return json.loads(state.read_text())["made_of"]


OWN = {"masks": ("masks 0.5", with_masks), "l1": ("l1 1e-4", with_l1(1e-4))}


@pytest.mark.parametrize("own", OWN)
def test_with_masks_or_l1_too_an_interrupted_run_goes_on_to_the_same_bit(small, tmp_path, own):
    options = {"validate": best_of_two, "checkpoint_every": 0.0, "own_optimizer": OWN[own]}
    undisturbed = run(tmp_path / "whole", small, **options)
    for step in range(1, 7):
        folder = tmp_path / f"cut-{step}"
        with pytest.raises(Interrupted):
            run(folder, small, progress=interrupt_at(step), **options)
        events = []
        resumed = run(folder, small, progress=events.append, **options)
        assert events[0]["step"] == step, "the steps before are not done again"
        assert equal(resumed[0], undisturbed[0]) and resumed[1] == undisturbed[1]


def test_masked_weights_stay_zero_at_every_step_and_others_learn(small, tmp_path):
    """Checked when validation and the objective see the model; weight decay and momentum would move them."""
    model, zeros = new_model(), masked(new_model())

    def zero_at_masks() -> bool:
        named = dict(model.named_parameters())
        return all(torch.equal(named[n][~mask], torch.zeros(int((~mask).sum()))) for n, mask in zeros.items())

    seen = []

    def objective(logits, labels, indices):
        seen.append(zero_at_masks())
        return hard_labels(logits, labels, indices)

    def validate(model) -> float:
        seen.append(zero_at_masks())
        return 0.5

    train(model, *small, 0, validate, FAST, tmp_path / "a", objective, own_optimizer=("masks", with_masks))
    assert seen == [True] * 8 and zero_at_masks()
    weight, mask = dict(model.named_parameters())[next(iter(zeros))], zeros[next(iter(zeros))]
    start = new_model().state_dict()[next(iter(zeros))]
    assert (weight[mask] != start[mask]).any()


def test_without_the_hook_a_sparse_start_grows_back(small, tmp_path):
    model, zeros = new_model(), masked(new_model())
    zeros.apply(model)
    train(model, *small, 0, lambda model: 0.5, FAST, tmp_path)
    name, mask = next(iter(zeros.items()))
    assert dict(model.named_parameters())[name][~mask].any()


def test_l1_makes_exact_zeros_and_lambda_zero_none(small, tmp_path):
    def zeros(lam: float) -> float:
        trained, _ = run(tmp_path / str(lam), small, own_optimizer=(f"l1 {lam}", with_l1(lam)))
        return sparsity(trained["bert.encoder.layer.0.intermediate.dense.weight"])

    none, some, many = zeros(0.0), zeros(1e-4), zeros(1e-2)
    assert 0 == none < some < many


def test_an_own_optimizer_that_is_the_usual_one_changes_no_bit_and_the_label_is_in_the_key(small, tmp_path):
    usual = run(tmp_path / "usual", small)
    own = run(tmp_path / "own", small, own_optimizer=("mine", make_optimizer))
    other = run(tmp_path / "other", small, own_optimizer=("other", make_optimizer))
    assert equal(usual[0], own[0]) and usual[1] == own[1] == other[1]
    assert len({key_of(tmp_path / name) for name in ("usual", "own", "other")}) == 3


def test_without_an_own_optimizer_the_key_is_that_of_data_settings_and_weights_alone(small, tmp_path):
    windows, labels = small
    run(tmp_path, small)
    parts = dataclasses.asdict(FAST), [w.ids for w in windows], labels, weights_sha256(new_model())
    assert key_of(tmp_path) == digest(*parts)


def test_an_own_optimizer_without_a_label_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="own_optimizer = '': expected a label"):
        run(tmp_path, small, own_optimizer=("", make_optimizer))
    assert list(tmp_path.iterdir()) == []
