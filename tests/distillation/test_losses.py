"""The soft-label loss against torch's own divergence, the properties that make it usable, and what no loss can be taken of."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.distillation.losses import hidden_state_loss, relation_loss, token_kd_loss


def draw(seed: int, batch: int = 3, length: int = 7, tags: int = 9, scale: float = 3.0):
    """Student and teacher logits and a mask with at least one token per row; fp32."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(batch, length, tags, generator=generator) for _ in range(2))
    mask = torch.rand(batch, length, generator=generator) < 0.6
    mask[:, 0] = True
    return student, teacher, mask


def gradient(student, teacher, mask, temperature) -> torch.Tensor:
    student = student.clone().requires_grad_()
    token_kd_loss(student, teacher, mask, temperature).backward()
    return student.grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_it_is_torchs_divergence_from_teacher_to_student(temperature):
    """The mean over counted tokens of F.kl_div, times T²; both sum fp32 values of size 1, off by some 1e-7 each."""
    for seed in range(40):
        student, teacher, mask = draw(seed, batch=1 + seed % 4, length=1 + seed % 9, tags=2 + seed % 7)
        log_q = F.log_softmax(student[mask] / temperature, dim=-1)
        log_p = F.log_softmax(teacher[mask] / temperature, dim=-1)
        expected = temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        torch.testing.assert_close(token_kd_loss(student, teacher, mask, temperature), expected, rtol=1e-5, atol=1e-6)


def test_the_direction_is_from_teacher_to_student():
    """By hand: p = (3/4, 1/4), q = (1/2, 1/2): KL(p ‖ q) = 3/4 log 3/2 + 1/4 log 1/2, unlike KL(q ‖ p)."""
    teacher, student = torch.tensor([[[3.0, 1.0]]]).log(), torch.zeros(1, 1, 2)
    mask = torch.tensor([[True]])
    assert token_kd_loss(student, teacher, mask).item() == pytest.approx(0.130812, abs=1e-6)
    assert token_kd_loss(teacher, student, mask).item() == pytest.approx(0.143841, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equal_models_lose_nothing_and_learn_nothing(temperature):
    student, _, mask = draw(1)
    assert token_kd_loss(student, student, mask, temperature).item() == 0
    # the gradient is T (q − p) / tokens; p is exp of a rounded logarithm, so some 1e-7 is left
    assert gradient(student, student, mask, temperature).abs().max() < 1e-6
    shifted = student + torch.arange(21.0).reshape(3, 7, 1)  # a constant per token does not change a softmax
    assert token_kd_loss(shifted, student, mask, temperature).item() == pytest.approx(0, abs=1e-5)


def test_different_models_lose_something():
    for seed in range(50):
        assert token_kd_loss(*draw(seed)).item() > 0


def test_padding_cannot_change_loss_or_gradient():
    student, teacher, mask = draw(2)
    loss, grad = token_kd_loss(student, teacher, mask, 2.0), gradient(student, teacher, mask, 2.0)
    assert (grad[~mask] == 0).all() and (grad[mask] != 0).any(dim=-1).all()
    noise = torch.randn(student.shape) * 1e4
    other_student = torch.where(mask[..., None], student, noise)
    other_teacher = torch.where(mask[..., None], teacher, noise.flip(-1))
    assert torch.equal(token_kd_loss(other_student, other_teacher, mask, 2.0), loss)
    assert torch.equal(gradient(other_student, other_teacher, mask, 2.0), grad)
    longer = [F.pad(x, (0, 0, 0, 5), value=3.0) for x in (student, teacher)]
    torch.testing.assert_close(token_kd_loss(*longer, F.pad(mask, (0, 5)), 2.0), loss, rtol=1e-6, atol=0)  # another order


def test_the_mean_is_over_tokens_not_over_sentences():
    student, teacher, mask = draw(3)
    rows = [token_kd_loss(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1]) * mask[i].sum() for i in range(3)]
    torch.testing.assert_close(token_kd_loss(student, teacher, mask), sum(rows) / mask.sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", [token_kd_loss, hidden_state_loss, lambda s, t, m: relation_loss(s, t, m, heads=3)])
def test_a_mask_without_a_token_that_counts_is_refused(loss):
    """0 would say that the student is perfect."""
    student, teacher, mask = draw(4)
    assert loss(student, teacher, mask).item() > 0
    with pytest.raises(ValueError, match="mask = 'no True in it': expected a token that counts"):
        loss(student, teacher, mask & False)


def test_the_gradient_keeps_its_size_however_soft_the_labels():
    """For large T it goes to (centred student − centred teacher logits) / (K · tokens), with an error of order 1/T.

    Without the factor T² the last gradient would be 100 times smaller than the one at T = 100. fp64 is not on
    offer, so T stays below 10⁴, where the difference of two softmaxes still has three digits.
    """
    student, teacher, mask = draw(5, scale=1.0)
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = centred * mask[..., None] / (9 * mask.sum())
    errors = []
    for temperature in (10.0, 100.0, 1000.0):
        grad = gradient(student, teacher, mask, temperature)
        errors.append(float((grad - limit).norm() / limit.norm()))
    assert errors[0] < 0.2 and errors[1] < 0.02 and errors[2] < 0.005
    assert errors[1] < errors[0] / 5


def test_no_gradient_reaches_the_teacher():
    student, teacher, mask = draw(6)
    source = torch.ones(9, requires_grad=True)
    student.requires_grad_()
    token_kd_loss(student, teacher * source, mask).backward()
    assert source.grad is None and student.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="does not require grad"):
        token_kd_loss(student.detach(), teacher * source, mask).backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_is_computed_in_fp32_whatever_comes_in(dtype):
    student, teacher, mask = draw(7)
    student, teacher = student.to(dtype), teacher.to(dtype)
    loss = token_kd_loss(student, teacher, mask, 2.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, token_kd_loss(student.float(), teacher.float(), mask, 2.0))
    assert gradient(student, teacher, mask, 2.0).dtype == dtype


def test_extreme_logits_stay_finite():
    student, teacher = torch.tensor([[[1e4, -1e4, 0.0]]]), torch.tensor([[[-1e4, 1e4, 0.0]]])
    mask = torch.tensor([[True]])
    assert token_kd_loss(student, teacher, mask).item() == pytest.approx(2e4, rel=1e-6)  # all of p where log q = −2e4
    assert gradient(student, teacher, mask, 1.0).isfinite().all()


def test_following_it_turns_the_student_into_the_teacher():
    student, teacher, mask = draw(8)
    student.requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        token_kd_loss(student, teacher, mask, 2.0).backward()
        optimizer.step()
    gap = (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)
    assert gap[mask].max() < 0.02
    assert gap[~mask].max() > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t, m: (s, t[:, :-1], m), r"teacher = \(3, 6, 9\): expected logits of the student's shape \(3, 7, 9\)"),
        (lambda s, t, m: (s, t[..., :-1], m), r"teacher = \(3, 7, 8\): expected logits of the student's shape \(3, 7, 9\)"),
        (lambda s, t, m: (s, t[:1], m), r"teacher = \(1, 7, 9\): expected"),  # would broadcast silently
        (lambda s, t, m: (s, t, m[:, :-1]), r"mask = \(3, 6\): expected a mask of shape \(3, 7\)"),
        (lambda s, t, m: (s, t, m[:1]), r"mask = \(1, 7\): expected a mask of shape \(3, 7\)"),
        (lambda s, t, m: (s, t, m[..., None]), r"mask = \(3, 7, 1\): expected a mask of shape \(3, 7\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(change, message):
    with pytest.raises(ValueError, match=message):
        token_kd_loss(*change(*draw(9)))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature = {temperature}: expected a number above 0"):
        token_kd_loss(*draw(10), temperature)


# --- relations between tokens


def vectors(seed: int, width: int, batch: int = 2, length: int = 6) -> torch.Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


def lengths_mask(*lengths: int, length: int = 6) -> torch.Tensor:
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def test_relations_are_those_of_a_loop_over_sentences_and_heads():
    student, teacher, mask, heads = vectors(0, 8), vectors(1, 12), lengths_mask(6, 4), 4
    total = 0.0
    for sentence, count in ((0, 6), (1, 4)):
        for head in range(heads):
            q, p = (
                (v[sentence, :count, head * d : (head + 1) * d] @ v[sentence, :count, head * d : (head + 1) * d].T) / d**0.5
                for v, d in ((student, 2), (teacher, 3))
            )
            total += F.kl_div(F.log_softmax(q, -1), F.log_softmax(p, -1), reduction="sum", log_target=True).item()
    # fp32 sums of 10 · 4 terms of the order of 1: 40 roundings of 2^-24, and as many again in the loop
    assert relation_loss(student, teacher, mask, heads).item() == pytest.approx(total / (4 * 10), abs=1e-5)


def test_a_rotation_of_the_space_of_each_head_changes_no_relation():
    """Only dot products enter, and those an orthogonal Q leaves alone: ‖Qx‖ = ‖x‖. In double the rest is rounding."""
    teacher, mask = vectors(2, 12), lengths_mask(6, 5)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
    turned = (teacher.unflatten(-1, (4, 3)) @ rotation).flatten(-2)
    # scores of at most 3·3² / √3 ≈ 16 with errors of 2^-22 relative: their softmax moves by less than 1e-5, and the KL by its square
    assert abs(relation_loss(turned, teacher, mask, 4).item()) < 1e-6
    assert relation_loss(turned, teacher, mask, 6).item() > 1e-3, "across heads it is no rotation of their space"


def test_padding_says_nothing_about_relations_and_gets_no_gradient():
    student, teacher, mask = vectors(4, 8).requires_grad_(), vectors(5, 8), lengths_mask(6, 3)
    loss = relation_loss(student, teacher, mask, 2)
    loss.backward()
    assert torch.equal(student.grad[1, 3:], torch.zeros(3, 8)) and student.grad[1, :3].abs().sum() > 0
    other = student.detach().clone()
    other[1, 3:] = 100.0
    assert relation_loss(other, teacher, mask, 2).item() == loss.item()


def test_equal_relations_cost_nothing_and_others_something():
    states, mask = vectors(6, 8), lengths_mask(6, 2)
    assert relation_loss(states, states, mask, 2).item() == 0.0
    assert relation_loss(vectors(7, 8), states, mask, 2).item() > 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads = 3: expected a number that divides the widths 8 and 8"),
        ({"heads": 0}, "heads = 0"),
        ({"teacher": vectors(0, 8, length=5)}, r"teacher = \(2, 5, 8\)"),
        ({"mask": lengths_mask(5, 2, length=5)}, r"mask = \(2, 5\)"),
    ],
)
def test_relations_that_do_not_fit_are_refused(change, message):
    good = {"student": vectors(0, 8), "teacher": vectors(1, 8), "mask": lengths_mask(6, 2), "heads": 2}
    with pytest.raises(ValueError, match=message):
        relation_loss(**(good | change))


# --- hidden states


@pytest.mark.parametrize(
    "teacher",
    [
        torch.full((1, 3, 4), 0.1),  # whose mean, added up and divided, is not exactly 0.1
        torch.full((1, 3, 4), 1e-30) * torch.arange(3)[:, None],  # whose squares are all 0
        torch.zeros(1, 3, 4),
    ],
    ids=["constant", "too small to square", "zero"],
)
def test_a_teacher_without_spread_is_refused_and_never_divided_by(teacher):
    student, mask = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, dtype=torch.bool)
    for states in (student, teacher):  # also where the student is equal, and 0 / 0 would be 0 or NaN
        with pytest.raises(ValueError, match="teacher = 'no spread over 3 real tokens': expected states that differ"):
            hidden_state_loss(states, teacher, mask)


def test_one_real_token_has_no_spread_and_two_have():
    student, teacher = vectors(0, 4), vectors(1, 4)
    with pytest.raises(ValueError, match="teacher = 'no spread over 1 real tokens'"):
        hidden_state_loss(student, teacher, lengths_mask(1, 0))
    # by hand, of two states g and g': the spread is ‖g − g'‖² / 2
    g, h, both = teacher[0, :2], student[0, :2], lengths_mask(2, 0)
    due = (h - g).square().sum() / ((g[0] - g[1]).square().sum() / 2)
    assert hidden_state_loss(student, teacher, both).item() == pytest.approx(due.item(), rel=1e-5)
