"""Losses that compare a student with its teacher, token by token."""

import torch
import torch.nn.functional as F

from course_lib.errors import expect


def token_kd_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Soft-label loss of a token classifier: ``T² · mean over tokens of KL(teacher ‖ student)`` at temperature T.

    With ``p = softmax(teacher / T)`` and ``q = softmax(student / T)``, ``KL = Σ_k p_k (log p_k − log q_k)``. The
    factor T² keeps the size of the gradient, which softening divides by T² (Hinton, Vinyals, Dean 2015, 1503.02531).

    Args:
        student: logits (B, L, K), any float dtype; the loss is computed in fp32.
        teacher: logits (B, L, K); no gradient flows into them.
        mask: bool (B, L), True at the tokens that count, at least one. Padding must be False: it would water the mean down.
        temperature: T > 0.
    Returns:
        A scalar in nats, 0 when both agree everywhere.
    Raises:
        ValueError: shapes that do not fit, a mask without True (any student would look perfect), or a temperature of 0 or less.

    >>> logits = torch.tensor([[[1.0, 0.0]]])
    >>> token_kd_loss(logits, logits, torch.tensor([[True]])).item()
    0.0
    """
    expect(
        student.shape == teacher.shape, "teacher", tuple(teacher.shape), f"logits of the student's shape {tuple(student.shape)}"
    )
    _check_mask(mask, student)
    expect(temperature > 0, "temperature", temperature, "a number above 0")
    log_p = F.log_softmax(teacher.detach().float() / temperature, dim=-1)  # (B, L, K)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, L)
    return temperature**2 * (kl * mask).sum() / mask.sum()


def hidden_state_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Squared distance of hidden states, mean over real tokens, as a share of the teacher's own spread.

    ``Σ_t m_t ‖h_t − g_t‖² / Σ_t m_t ‖g_t − ḡ‖²`` with student states ``h``, teacher states ``g`` and their mean ``ḡ``: 0 for
    equal states, 1 for a student that always puts out the mean. It speaks at every token, also where the teacher's
    labels are certain and soft labels say nothing new (as in TinyBERT, Jiao et al. 2019, 1909.10351, without the
    projection, since both widths are equal here).

    Args:
        student, teacher: (B, L, D), any float dtype; computed in fp32; no gradient flows into the teacher.
        mask: bool (B, L), True at real tokens, at least two of them with different states of the teacher: one state alone, or the
            same everywhere, has no spread to be a share of.
    Returns:
        A scalar.
    Raises:
        ValueError: shapes that do not fit, a mask without True, or a teacher without spread.

    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> hidden_state_loss(states, states, torch.ones(1, 2, dtype=torch.bool)).item()
    0.0
    """
    expect(
        student.shape == teacher.shape, "teacher", tuple(teacher.shape), f"states of the student's shape {tuple(student.shape)}"
    )
    _check_mask(mask, student)
    g = teacher.detach().float()[mask]  # (N, D), real tokens only
    distance = (student.float()[mask] - g).square().sum()
    spread = (g - g.mean(dim=0)).square().sum()  # of equal states it is 0, or what rounding their mean leaves
    differ = bool((g != g[0]).any()) and not bool(spread < torch.finfo(torch.float32).tiny)
    expect(differ, "teacher", f"no spread over {len(g)} real tokens", "states that differ: the loss is a share of their spread")
    return distance / spread


def relation_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """How differently two models relate the tokens of a sentence to each other: MiniLM's value relation.

    Vectors are cut into ``heads`` parts of width d; ``R = softmax(V Vᵀ / √d)`` over the real tokens of the sentence, one (L, L)
    table per head, and the loss is the mean over heads and real tokens of ``KL(R_teacher ‖ R_student)`` (Wang et al. 2020,
    2002.10957; cut into heads anew as in 2012.15828, so that both may have other widths and other numbers of attention heads).
    Only dot products enter: a rotation of the space of a head changes nothing.

    Args:
        student: (B, L, D), such as the value vectors of the last layer; any float dtype, computed in fp32.
        teacher: (B, L, E); no gradient flows into it.
        mask: bool (B, L), True at real tokens, at least one in each sentence.
        heads: parts that both widths are cut into.
    Returns:
        A scalar in nats; 0 for equal relations.
    Raises:
        ValueError: shapes that do not fit, a mask without True, or widths that ``heads`` does not divide.

    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> relation_loss(states, states, torch.ones(1, 2, dtype=torch.bool), heads=1).item()
    0.0
    """
    expect(student.shape[:2] == teacher.shape[:2], "teacher", tuple(teacher.shape), f"(B, L) = {tuple(student.shape[:2])}")
    _check_mask(mask, student)
    fits = heads >= 1 and not (student.shape[2] % heads or teacher.shape[2] % heads)
    expect(fits, "heads", heads, f"a number that divides the widths {student.shape[2]} and {teacher.shape[2]}")
    log_q = _relations(student.float(), mask, heads)  # (B, heads, L, L)
    log_p = _relations(teacher.detach().float(), mask, heads)
    both = mask[:, None, :, None] & mask[:, None, None, :]
    kl = torch.where(both, log_p.exp() * (log_p - log_q), 0.0).sum(-1)  # (B, heads, L)
    return kl.sum() / (heads * mask.sum())


def _check_mask(mask: torch.Tensor, student: torch.Tensor) -> None:
    expect(mask.shape == student.shape[:2], "mask", tuple(mask.shape), f"a mask of shape {tuple(student.shape[:2])}")
    expect(bool(mask.any()), "mask", "no True in it", "a token that counts")


def _relations(vectors: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    parts = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, L, d)
    scores = parts @ parts.mT / parts.shape[-1] ** 0.5
    low = torch.finfo(scores.dtype).min
    return torch.log_softmax(scores.masked_fill(~mask[:, None, None, :], low), dim=-1)
