"""Attention distillation: the student shall look where the teacher looks."""

import torch

from course_lib.errors import expect


def attention_log_probabilities(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """``log softmax(Q·Kᵀ/√d)`` over the real tokens, head by head, in fp32.

    Args:
        query, key: (B, L, H·d), as the linear layers of attention put them out.
        mask: bool (B, L), True at real tokens, at least one in each sentence.
        heads: H.
    Returns:
        (B, H, L, L), a row for each token that looks; about the lowest number of fp32 where a padded token is looked at.
    Raises:
        ValueError: shapes that do not fit, or a width that ``heads`` does not divide.
    """
    expect(key.shape == query.shape, "key", tuple(key.shape), f"the query's shape {tuple(query.shape)}")
    expect(mask.shape == query.shape[:2], "mask", tuple(mask.shape), f"a mask of shape {tuple(query.shape[:2])}")
    expect(heads >= 1 and query.shape[2] % heads == 0, "heads", heads, f"a number that divides the width {query.shape[2]}")
    q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))  # heads before tokens: (B, H, L, d)
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (B, H, L, L)
    return torch.log_softmax(scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min), dim=-1)


def attention_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``KL(teacher ‖ student)`` of attention, mean over heads and real tokens that look (MiniLM, Wang et al. 2020, 2002.10957).

    Args:
        student, teacher: log probabilities (B, H, L, L) of :func:`attention_log_probabilities`; no gradient flows into the teacher.
        mask: bool (B, L), True at real tokens. An empty mask would make any student look perfect.
    Returns:
        A scalar in nats; 0 for equal attention.
    Raises:
        ValueError: other shapes (heads of another number cannot be paired: see
            :func:`course_lib.distillation.losses.relation_loss`), or no real token.

    >>> log_p = torch.log_softmax(torch.tensor([[[[1.0, 2.0], [0.0, 3.0]]]]), dim=-1)
    >>> attention_loss(log_p, log_p, torch.ones(1, 2, dtype=torch.bool)).item()
    0.0
    """
    hint = f"attention of the student's shape {tuple(student.shape)}; relation_loss pairs models with other numbers of heads"
    expect(student.shape == teacher.shape, "teacher", tuple(teacher.shape), hint)
    expect(mask.shape == (student.shape[0], student.shape[2]), "mask", tuple(mask.shape), "(B, L) of the attention")
    expect(bool(mask.any()), "mask", "no True in it", "a real token at least")
    log_p, looks = teacher.detach(), mask[:, None, :, None] & mask[:, None, None, :]  # (B, 1, L, L)
    kl = torch.where(looks, log_p.exp() * (log_p - student), 0.0).sum(-1)  # (B, H, L)
    return kl.sum() / (student.shape[1] * mask.sum())
