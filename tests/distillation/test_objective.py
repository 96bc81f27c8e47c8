"""The student's objective: targets equal the teacher's own outputs, and each term counts where it must."""

import pytest
import torch

from course_lib.data.align import IGNORED, collate, make_windows, pad
from course_lib.distillation.losses import hidden_state_loss, token_kd_loss
from course_lib.distillation.objective import (
    SOFT_ONLY,
    LastHidden,
    TeacherTargets,
    distil_objective,
    label_loss,
    soft_only_labels,
    teacher_targets,
)
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
from course_lib.ner.train import hard_labels
from course_lib.tasks import CLASSIFICATION, NER

TAGS = ["O", "B-PER", "I-PER"]
SENTENCES = [["the", "club", "said"], ["a"], ["mr", "smith", "was", "at", "the", "club"]]


@pytest.fixture(scope="module")
def teacher():
    return load_token_classifier(find_encoder("tiny"), TAGS, seed=3).eval()


@pytest.fixture(scope="module")
def windows():
    return make_windows(SENTENCES, load_tokenizer(find_encoder("tiny")))


def batch(windows):
    """Ids, mask and labels of all windows: label 1 at every word's first piece."""
    ids, mask = (torch.from_numpy(a) for a in collate(windows, 0))
    rows = [[1 if i in dict(w.heads) else IGNORED for i in range(len(w.ids))] for w in windows]
    return ids, mask, torch.from_numpy(pad(rows, IGNORED))


def test_targets_are_the_teachers_outputs_without_padding(teacher, windows):
    seen = []
    targets = teacher_targets(teacher, windows, 0, bf16=False, progress=seen.append)
    assert sum(seen) == len(windows)
    for i, window in enumerate(windows):
        out = teacher(torch.tensor([window.ids]), output_hidden_states=True)
        assert targets.logits[i].shape == (len(window.ids), len(TAGS))
        # alone or in a padded batch: the same up to fp32 rounding of sums in another order
        torch.testing.assert_close(torch.from_numpy(targets.logits[i]), out.logits[0], atol=1e-5, rtol=1e-5)
        # float16 keeps 11 bits: relative error 2^-11
        torch.testing.assert_close(
            torch.from_numpy(targets.hidden[i]).float(), out.hidden_states[-1][0], atol=1e-4, rtol=2**-10
        )


def test_a_student_equal_to_its_teacher_has_no_soft_and_nearly_no_hidden_loss(teacher, windows):
    targets = teacher_targets(teacher, windows, 0, bf16=False)
    listener = LastHidden(teacher)
    ids, mask, labels = batch(windows)
    logits = teacher(ids, attention_mask=mask).logits
    assert distil_objective(listener, targets, 2.0, hard=0.0, hidden=0.0)(logits, labels, [0, 1, 2]).item() < 1e-9
    # float16 targets: relative squared error at most (2^-11)^2 of the states, whose spread is of the order of their size
    assert distil_objective(listener, targets, 2.0, hard=0.0, hidden=1.0)(logits, labels, [0, 1, 2]).item() < 1e-5
    listener.remove()


def test_the_terms_add_up_with_their_weights(teacher, windows):
    student = load_token_classifier(find_encoder("tiny"), TAGS, seed=4).eval()
    with torch.no_grad():
        student.base_model.encoder.layer[0].output.dense.weight.mul_(1.3)
    targets = teacher_targets(teacher, windows, 0, bf16=False)
    listener = LastHidden(student)
    ids, mask, labels = batch(windows)
    logits = student(ids, attention_mask=mask).logits
    with torch.no_grad():
        out = teacher(ids, attention_mask=mask, output_hidden_states=True)
    kd = token_kd_loss(logits, out.logits, labels != IGNORED, 2.0)
    hidden = hidden_state_loss(listener.states, out.hidden_states[-1], mask.bool())
    expected = 0.75 * kd + 0.25 * hard_labels(logits, labels, []) + 0.5 * hidden
    got = distil_objective(listener, targets, 2.0, hard=0.25, hidden=0.5)(logits, labels, [0, 1, 2])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)  # the float16 of the stored states
    listener.remove()


def drawn(seed=0):
    """Logits of a student and of its teacher, (2, 4, 3)."""
    return torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(seed)).unbind()


@pytest.mark.parametrize("hard", [0.0, 0.3, 1.0])
def test_a_batch_in_which_nothing_is_read_has_a_loss_and_a_gradient_of_zero(hard):
    student, teacher = drawn()
    student.requires_grad_()
    loss = label_loss(student, teacher, torch.full((2, 4), IGNORED), [0, 1], 2.0, hard)
    loss.backward()
    assert loss.item() == 0 and torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("hard", [0.0, 0.3, 1.0])
def test_the_cross_entropy_is_left_out_where_only_the_teacher_has_labelled_and_counts_what_has_a_tag(hard):
    student, teacher = drawn(1)
    labels = torch.tensor([[IGNORED, SOFT_ONLY, SOFT_ONLY, IGNORED], [SOFT_ONLY, IGNORED, IGNORED, IGNORED]])
    soft = (1 - hard) * token_kd_loss(student, teacher, labels == SOFT_ONLY, 2.0)
    assert torch.equal(label_loss(student, teacher, labels, [0, 1], 2.0, hard), soft)
    labels[1, 2] = 1
    soft = (1 - hard) * token_kd_loss(student, teacher, labels != IGNORED, 2.0)
    due = soft - hard * torch.log_softmax(student[1, 2], -1)[1]
    # fp32 sums of a few terms of size 1 in another order
    torch.testing.assert_close(label_loss(student, teacher, labels, [0, 1], 2.0, hard), due, rtol=1e-5, atol=1e-6)


def test_the_hidden_states_of_a_batch_count_where_no_label_does(teacher, windows):
    student = load_token_classifier(find_encoder("tiny"), TAGS, seed=4).eval()
    with torch.no_grad():
        student.base_model.encoder.layer[0].output.dense.weight.mul_(1.3)
    targets, listener = teacher_targets(teacher, windows, 0, bf16=False), LastHidden(student)
    ids, mask, labels = batch(windows)
    logits = student(ids, attention_mask=mask).logits
    found = distil_objective(listener, targets, 2.0, hard=0.5, hidden=2.0)(logits, labels.fill_(IGNORED), [0, 1, 2])
    states = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(h).float() for h in targets.hidden], batch_first=True)
    assert (
        found.item() == pytest.approx(2 * hidden_state_loss(listener.states, states, mask.bool()).item(), rel=1e-6)
        and found > 0
    )
    found.backward()
    listener.remove()


def test_labels_of_text_that_only_the_teacher_has_labelled_say_where_it_is_read(windows):
    for task in (NER, CLASSIFICATION):
        for window, labels in zip(windows, soft_only_labels(windows, task.read_at), strict=True):
            assert len(labels) == len(window.ids) and {*labels} <= {SOFT_ONLY, IGNORED}
            assert [i for i, label in enumerate(labels) if label == SOFT_ONLY] == list(task.read_at(window))


def test_targets_without_what_a_weight_is_for_are_refused(teacher, windows):
    targets, listener = teacher_targets(teacher, windows, 0, bf16=False), LastHidden(teacher)
    with pytest.raises(ValueError, match=r"targets.values = '0 rows': expected 3, one for each window"):
        distil_objective(listener, targets, 2.0, 0.0, hidden=1.0, relations=1.0)
    with pytest.raises(ValueError, match=r"targets.hidden = '0 rows': expected 3"):
        distil_objective(listener, TeacherTargets(targets.logits), 2.0, 0.0, hidden=1.0)
    ids, mask, labels = batch(windows)
    logits = teacher(ids, attention_mask=mask).logits
    alone = distil_objective(listener, TeacherTargets(targets.logits), 2.0, 0.5, hidden=0.0)(logits, labels, [0, 1, 2])
    assert torch.equal(alone, distil_objective(listener, targets, 2.0, 0.5, hidden=0.0)(logits, labels, [0, 1, 2]))
    listener.remove()


def test_teachers_of_other_tags_are_refused_and_so_is_none(teacher, windows):
    for tags in (["O", "I-PER", "B-PER"], ["O", "B-PER"]):
        other = load_token_classifier(find_encoder("tiny"), tags)
        with pytest.raises(
            CourseError, match=r"teachers\[1\]'s tags are .*, teachers\[0\]'s .*: expected the same, in the same order"
        ):
            teacher_targets([teacher, other], windows, 0, bf16=False)
    with pytest.raises(ValueError, match="teachers = 0: expected at least one model"):
        teacher_targets([], windows, 0, bf16=False)


def test_listener_stops_listening(teacher, windows):
    listener = LastHidden(teacher)
    listener.remove()
    teacher(torch.tensor([windows[0].ids]))
    assert listener.states is None


@pytest.mark.parametrize(("hard", "hidden"), [(-0.1, 0.0), (1.1, 0.0), (0.5, -1.0)])
def test_silly_weights_are_refused(teacher, hard, hidden):
    with pytest.raises(ValueError, match=r"(hard|hidden) = .*expected"):
        distil_objective(LastHidden(teacher), None, 2.0, hard, hidden)


def test_hidden_loss_is_one_for_the_mean_and_blind_to_padding():
    torch.manual_seed(0)
    g, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    mean = g[mask].mean(0).expand_as(g)
    # exactly the spread over the spread, up to fp32 rounding of 64 terms
    assert hidden_state_loss(mean, g, mask).item() == pytest.approx(1.0, rel=1e-5)
    changed = g.clone()
    changed[~mask] = 1e6
    student = torch.randn(2, 5, 8)
    assert hidden_state_loss(student, g, mask) == hidden_state_loss(student, changed, mask)


def test_hidden_loss_sends_no_gradient_to_the_teacher_and_refuses_other_shapes():
    student, teacher = torch.randn(1, 2, 4, requires_grad=True), torch.randn(1, 2, 4, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    hidden_state_loss(student, teacher, mask).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="teacher"):
        hidden_state_loss(student, teacher[:, :1], mask)
    with pytest.raises(ValueError, match="mask"):
        hidden_state_loss(student, teacher, mask[:, :1])
