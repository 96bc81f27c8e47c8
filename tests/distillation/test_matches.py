"""Attention, projections and tables of matches: zero for equal models, padding says nothing, and a student learns by them."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from course_lib.data.align import IGNORED, collate, make_windows, pad
from course_lib.distillation.attention import attention_log_probabilities, attention_loss
from course_lib.distillation.matches import Listener, Match, MatchedDistillation, check_models, spread_matches
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, hugging_face, load_token_classifier, load_tokenizer
from course_lib.ner.train import Settings, train
from course_lib.pruning.structure import drop_layers

TAGS = ["O", "B-PER", "I-PER"]
SENTENCES = [["the", "club", "said"], ["a"], ["mr", "smith", "was", "at", "the", "club"]] * 4
TABLE = [Match(2, 1), Match(0, 0, weight=0.5), Match(2, 1, "attention"), Match(1, 1, "relations", 2.0)]


@pytest.fixture(scope="module")
def windows():
    return make_windows(SENTENCES, load_tokenizer(find_encoder("tiny")))


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
    objective = MatchedDistillation(model, model, windows, 0, same, hard=0.0)
    assert loss_of(objective, model, windows).item() == 0.0
    objective.remove()
    objective = MatchedDistillation(model, model, windows, 0, same, hard=1.0)
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
        objective = MatchedDistillation(student, teacher, windows, 0, matches, hard=0.0)
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
    objective = MatchedDistillation(student, teacher, windows, 0, [Match(2, 1), Match(2, 1, "relations")], hard=0.5)
    assert objective.projections[0].weight.shape == (32, 16) and isinstance(objective.projections[1], torch.nn.Identity)
    before, was = loss_of(objective, student.eval(), windows).item(), objective.projections[0].weight.clone()
    settings = Settings(epochs=15, batch_size=4, learning_rate=1e-2)
    own, rising = ("matches", objective.optimizer), itertools.count()
    train(student, windows, labels_of(windows), 0, lambda m: next(rising), settings, tmp_path, objective, own_optimizer=own)
    assert not torch.equal(objective.projections[0].weight, was), "projections are trained too"
    assert loss_of(objective, student.eval(), windows).item() < 0.8 * before
    objective.remove()


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
        (lambda: MatchedDistillation(tiny(), tiny(), [], 0, [Match(3, 1)]), CourseError, "the teacher has 2 layers"),
        (
            lambda: MatchedDistillation(narrow(), tiny(), [], 0, [Match(1, 1, "attention")]),
            CourseError,
            "2 heads, the teacher 4; use loss='rel",
        ),
        (lambda: MatchedDistillation(tiny(), tiny(), [], 0, [], hard=2), ValueError, "hard = 2"),
    ],
)
def test_bad_tables_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_models_that_cannot_be_compared_are_refused():
    other = load_token_classifier(find_encoder("tiny"), ["O", "B-LOC", "I-LOC"])
    with pytest.raises(CourseError, match=r"student's tags are .*B-PER.*teacher's .*B-LOC"):
        check_models(tiny(), other)
    small = tiny()
    small.resize_token_embeddings(50)
    with pytest.raises(CourseError, match=r"student's vocabulary has 50 pieces"):
        check_models(small, tiny())


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
