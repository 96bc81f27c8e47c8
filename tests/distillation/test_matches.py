"""Attention, projections and tables of matches: zero for equal models, padding says nothing, a student learns by them, also when stopped."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from course_lib.data.align import IGNORED, collate, make_windows, pad
from course_lib.distillation.attention import attention_log_probabilities, attention_loss
from course_lib.distillation.losses import token_kd_loss
from course_lib.distillation.matches import Listener, Match, MatchedDistillation, check_models, spread_matches
from course_lib.distillation.objective import SOFT_ONLY, soft_only_labels
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, hugging_face, load_token_classifier, load_tokenizer
from course_lib.ner.train import Settings, train
from course_lib.pruning.structure import drop_layers
from course_lib.tasks import NER

TAGS = ["O", "B-PER", "I-PER"]
SENTENCES = [["the", "club", "said"], ["a"], ["mr", "smith", "was", "at", "the", "club"]] * 4
TABLE = [Match(2, 1), Match(0, 0, weight=0.5), Match(2, 1, "attention"), Match(1, 1, "relations", 2.0)]


READ = (load_tokenizer(find_encoder("tiny")),) * 2  # the student's tokenizer and the teacher's


@pytest.fixture(scope="module")
def windows():
    return make_windows(SENTENCES, READ[0])


def tiny(seed=3):
    """The tiny classifier, its weights large enough that layers differ."""
    model, generator = load_token_classifier(find_encoder("tiny"), TAGS, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model.eval()


def narrow():
    """A student of half the width with two heads, one layer, that reads the same pieces."""
    wide = tiny().config
    config = hugging_face().BertConfig(
        vocab_size=wide.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=wide.max_position_embeddings, id2label=wide.id2label, label2id=wide.label2id,
    )  # fmt: skip
    torch.manual_seed(0)
    return hugging_face().BertForTokenClassification(config)


def labels_of(windows):
    return [[1 if i in dict(w.heads) else IGNORED for i in range(len(w.ids))] for w in windows]


def loss_of(objective, student, windows, extra=0):
    """The objective on all windows, with ``extra`` padded columns."""
    ids, mask = (torch.from_numpy(a) for a in collate(windows, 0))
    labels = torch.from_numpy(pad(labels_of(windows), IGNORED))
    logits = student(input_ids=ids, attention_mask=mask).logits
    return objective(logits, labels, list(range(len(windows))))


def test_attention_from_query_and_key_is_the_models_own(windows):
    model = tiny()
    model.set_attn_implementation("eager")
    listener = Listener(model)
    ids, mask = (torch.from_numpy(a) for a in collate(windows, 0))
    due = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions[1]
    parts = listener.attention[2]
    found = attention_log_probabilities(parts["query"], parts["key"], mask.bool(), listener.heads[2]).exp()
    # both are float32 softmaxes of scores of size ≤ 10, which differ by some rounding steps: relative errors of a few 10·2⁻²⁴
    assert torch.allclose(found, due, rtol=2e-5, atol=1e-7)
    states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert all(torch.equal(listener.states[i], s) for i, s in enumerate(states))
    listener.remove()
    listener.states.clear()
    model(input_ids=ids, attention_mask=mask)
    assert not listener.states


def test_attention_loss_is_the_kl_divergence_of_real_tokens():
    generator = torch.Generator().manual_seed(0)
    query, key, other = torch.randn(3, 2, 5, 8, generator=generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    log_p, log_q = attention_log_probabilities(query, key, mask, 2), attention_log_probabilities(query, other, mask, 2)
    rows = [
        F.kl_div(
            log_q[b, h, : mask[b].sum(), : mask[b].sum()],
            log_p[b, h, : mask[b].sum(), : mask[b].sum()],
            log_target=True,
            reduction="sum",
        )
        for b in range(2)
        for h in range(2)
    ]
    due = sum(rows) / (2 * 8)
    assert attention_loss(log_q, log_p, mask).item() == pytest.approx(due.item(), rel=1e-5) and due > 0.1
    assert attention_loss(log_p, log_p, mask).item() == 0.0
    changed = log_q.clone()
    changed[1, :, 3:] = changed[1, :, :, 3:] = -5.0
    assert torch.equal(attention_loss(changed, log_p, mask), attention_loss(log_q, log_p, mask)), "padding cannot change it"


def test_equal_models_lose_nothing_but_the_hard_labels(windows):
    model = tiny()
    same = [Match(i, i) for i in range(3)] + [Match(i, i, loss) for i in (1, 2) for loss in ("attention", "relations")]
    objective = MatchedDistillation(model, model, READ, windows, same, hard=0.0)
    assert loss_of(objective, model, windows).item() == 0.0
    objective.remove()
    objective = MatchedDistillation(model, model, READ, windows, same, hard=1.0)
    ids, mask = (torch.from_numpy(a) for a in collate(windows, 0))
    labels = torch.from_numpy(pad(labels_of(windows), IGNORED))
    due = F.cross_entropy(
        model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )
    assert loss_of(objective, model, windows).item() == pytest.approx(due.item(), rel=1e-6)
    objective.remove()


def test_each_row_adds_its_weighted_loss(windows):
    teacher, student = tiny(3), tiny(4)
    drop_layers(student, [0])

    def total(matches):
        objective = MatchedDistillation(student, teacher, READ, windows, matches, hard=0.0)
        try:
            return loss_of(objective, student, windows).item()
        finally:
            objective.remove()

    alone = total([])
    parts = [total([Match(m.teacher, m.student, m.loss)]) - alone for m in TABLE]
    assert all(part > 1e-4 for part in parts)
    due = alone + sum(m.weight * part for m, part in zip(TABLE, parts, strict=True))
    assert total(TABLE) == pytest.approx(due, rel=1e-4), "differences of float32 sums"


def test_a_narrow_student_of_other_heads_learns_through_projections(windows, tmp_path):
    teacher, student = tiny(), narrow()
    objective = MatchedDistillation(student, teacher, READ, windows, [Match(2, 1), Match(2, 1, "relations")], hard=0.5)
    assert objective.projections[0].weight.shape == (32, 16) and isinstance(objective.projections[1], torch.nn.Identity)
    before, was = loss_of(objective, student.eval(), windows).item(), objective.projections[0].weight.clone()
    settings = Settings(epochs=15, batch_size=4, learning_rate=1e-2)
    own, rising = ("matches", objective.optimizer), itertools.count()
    train(student, windows, labels_of(windows), 0, lambda m: next(rising), settings, tmp_path, objective, own_optimizer=own)
    assert not torch.equal(objective.projections[0].weight, was), "projections are trained too"
    assert loss_of(objective, student.eval(), windows).item() < 0.8 * before
    objective.remove()


SETTINGS = Settings(epochs=3, batch_size=4, learning_rate=1e-2)
TWO_PROJECTIONS = [Match(2, 1), Match(0, 0, weight=0.5)]
OTHER_TABLES = {
    "no projection": [Match(2, 1, "relations")],
    "one projection": [Match(2, 1)],
    "three projections": [Match(2, 1), Match(1, 1), Match(0, 0)],
}


class Stopped(Exception):
    """What kills a run."""


def distilled(windows, folder, stop_after=None, matches=TWO_PROJECTIONS):
    """A narrow student, and its projections, distilled for nine steps, or killed after some of them."""
    student = narrow()
    objective, rising = MatchedDistillation(student, tiny(), READ, windows, matches), itertools.count()

    def progress(event):
        if event["step"] == stop_after:
            raise Stopped

    def make(model, settings):
        optimizer = objective.optimizer(model, settings)
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        return optimizer

    steps, more = [], {"checkpoint_every": -1.0, "own_optimizer": ("matches", make)}
    validate = lambda m: next(rising)  # noqa: E731
    try:
        train(student, windows, labels_of(windows), 0, validate, SETTINGS, folder, objective, progress, **more)
    finally:
        objective.remove()
    return student.state_dict(), objective.projections.state_dict(), len(steps)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_run_that_was_stopped_goes_on_to_the_bit_its_projections_too(windows, tmp_path, stop_after):
    """The event of a step comes before its checkpoint, so that a run stopped at step n goes on from step n − 1."""
    student, projections, steps = distilled(windows, tmp_path / "whole")
    assert steps == 9
    with pytest.raises(Stopped):
        distilled(windows, tmp_path / "stopped", stop_after)
    again, projected, steps = distilled(windows, tmp_path / "stopped")
    assert steps == 9 - (stop_after - 1)
    for found, due in ((again, student), (projected, projections)):
        assert found.keys() == due.keys() and all(torch.equal(found[k], due[k]) for k in due)
    fresh = MatchedDistillation(narrow(), tiny(), READ, windows, TWO_PROJECTIONS).projections.state_dict()
    assert not any(torch.equal(projections[k], fresh[k]) for k in fresh), "they were trained"


@pytest.mark.parametrize("table", OTHER_TABLES)
def test_checkpoints_of_another_table_are_refused(windows, tmp_path, table):
    with pytest.raises(Stopped):
        distilled(windows, tmp_path, stop_after=5)
    with pytest.raises(CourseError, match="does not hold the projections of this table"):
        distilled(windows, tmp_path, matches=OTHER_TABLES[table])


def test_checkpoints_that_hold_no_projections_are_refused(windows):
    objective = MatchedDistillation(narrow(), tiny(), READ, windows, [Match(2, 1)])
    optimizer = objective.optimizer(narrow(), SETTINGS)
    saved = optimizer.state_dict()
    assert [list(s) for s in saved["state"].values()] == [["value"]] * 2, "kept even before the first step"
    optimizer.load_state_dict(saved)
    assert not optimizer.state, "what is set is not left in the optimizer's own state"
    with pytest.raises(CourseError, match="does not hold the projections"):
        optimizer.load_state_dict({**saved, "state": {}})
    objective.remove()


def test_projections_follow_their_seed_and_leave_the_programs_randomness_alone(windows):
    drawn = [MatchedDistillation(narrow(), tiny(), READ, windows, [Match(2, 1)], seed=s).projections[0] for s in (0, 0, 1)]
    assert torch.equal(drawn[0].weight, drawn[1].weight) and not torch.equal(drawn[0].weight, drawn[2].weight)
    student, teacher = narrow(), tiny()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    MatchedDistillation(student, teacher, READ, windows, [Match(2, 1)], seed=7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("hard", [0.0, 0.4, 1.0])
def test_windows_that_the_teacher_alone_has_labelled_have_no_hard_labels(windows, hard):
    """Half of the windows say so; their soft labels count, and the cross-entropy is that of the other half."""
    student, teacher = tiny(4), tiny(3)
    ids, mask = (torch.from_numpy(a) for a in collate(windows, 0))
    labels = torch.from_numpy(pad(labels_of(windows), IGNORED))
    labels[6:] = torch.where(labels[6:] == IGNORED, IGNORED, SOFT_ONLY)
    with torch.no_grad():
        logits, said = (m(input_ids=ids, attention_mask=mask).logits for m in (student, teacher))
        objective = MatchedDistillation(student, teacher, READ, windows, [], temperature=2.0, hard=hard)
        found = objective(logits, labels, list(range(len(windows))))
        objective.remove()
    due = (1 - hard) * token_kd_loss(logits, said, labels != IGNORED, 2.0)
    due = due + hard * F.cross_entropy(logits[:6].flatten(0, 1), labels[:6].flatten(), ignore_index=IGNORED)
    assert found.item() == pytest.approx(due.item(), rel=1e-6)


def test_a_table_trains_where_only_the_teacher_has_labelled(windows, tmp_path):
    teacher, student = tiny(), narrow()
    objective, rising = MatchedDistillation(student, teacher, READ, windows, [Match(2, 1)], hard=0.5), itertools.count()
    labels = soft_only_labels(windows, NER.read_at)
    assert {label for row in labels for label in row} == {SOFT_ONLY, IGNORED}
    before = objective(*forward(student, windows, labels)).item()
    own = ("matches", objective.optimizer)
    train(student, windows, labels, 0, lambda m: next(rising), SETTINGS, tmp_path, objective, own_optimizer=own)
    assert objective(*forward(student.eval(), windows, labels)).item() < before
    objective.remove()


def forward(student, windows, labels):
    """What an objective takes, of all windows."""
    ids, mask = (torch.from_numpy(a) for a in collate(windows, 0))
    logits = student(input_ids=ids, attention_mask=mask).logits
    return logits, torch.from_numpy(pad(labels, IGNORED)), list(range(len(windows)))


def test_matches_are_spread_over_the_depth():
    assert [(m.teacher, m.student) for m in spread_matches(6, 4)] == [(2, 1), (3, 2), (5, 3), (6, 4)]
    assert [(m.teacher, m.student, m.loss) for m in spread_matches(2, 2, "attention")] == [
        (1, 1, "attention"),
        (2, 2, "attention"),
    ]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Match(0, 1, "attention"), ValueError, "teacher = 0.*a layer from 1"),
        (lambda: Match(1, 1, "logits"), ValueError, "loss = 'logits'"),
        (lambda: Match(1, 1, weight=0), ValueError, "weight = 0"),
        (lambda: spread_matches(2, 3), ValueError, "student_layers = 3"),
        (lambda: MatchedDistillation(tiny(), tiny(), READ, [], [Match(3, 1)]), CourseError, "the teacher has 2 layers"),
        (
            lambda: MatchedDistillation(narrow(), tiny(), READ, [], [Match(1, 1, "attention")]),
            CourseError,
            "2 heads, the teacher 4; use loss='rel",
        ),
        (lambda: MatchedDistillation(tiny(), tiny(), READ, [], [], hard=2), ValueError, "hard = 2"),
    ],
)
def test_bad_tables_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_models_that_cannot_be_compared_are_refused():
    other = load_token_classifier(find_encoder("tiny"), ["O", "B-LOC", "I-LOC"])
    with pytest.raises(CourseError, match=r"student's tags are .*B-PER.*teacher's .*B-LOC"):
        check_models(tiny(), other, READ)
    small = tiny()
    small.resize_token_embeddings(50)
    with pytest.raises(CourseError, match=r"student's vocabulary has 50 pieces"):
        check_models(small, tiny(), READ)
    check_models(tiny(), tiny(), READ)


def test_tokenizers_of_one_size_that_read_otherwise_are_refused():
    """Two pieces change numbers: as many pieces, and every text is still cut alike."""
    data = json.loads(READ[0].to_str())
    a, b = (p for p, i in data["model"]["vocab"].items() if i in (20, 21))
    data["model"]["vocab"] |= {a: 21, b: 20}
    other = Tokenizer.from_str(json.dumps(data))
    assert other.get_vocab_size() == READ[0].get_vocab_size()
    for pair in ((other, READ[0]), (READ[0], other)):
        with pytest.raises(CourseError, match="the student has another tokenizer than the teacher"):
            MatchedDistillation(tiny(), tiny(), pair, [], [])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s, t, m: (s[:, :1], t, m), "relation_loss pairs"),
        (lambda s, t, m: (s, t, m[:, :2]), "mask"),
        (lambda s, t, m: (s, t, m & False), "no True in it"),
    ],
)
def test_attention_that_does_not_fit_is_refused(change, message):
    mask = torch.ones(1, 4, dtype=torch.bool)
    log_p = attention_log_probabilities(torch.randn(1, 4, 6), torch.randn(1, 4, 6), mask, 2)
    with pytest.raises(ValueError, match=message):
        attention_loss(*change(log_p, log_p, mask))
    with pytest.raises(ValueError, match="heads = 4"):
        attention_log_probabilities(torch.randn(1, 4, 6), torch.randn(1, 4, 6), mask, 4)
