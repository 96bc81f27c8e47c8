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
        mask: bool (B, L), True at the tokens that count. Padding must be False: it would water the mean down.
        temperature: T > 0.
    Returns:
        A scalar in nats, 0 when both agree everywhere; 0 when no token counts.

    >>> logits = torch.tensor([[[1.0, 0.0]]])
    >>> token_kd_loss(logits, logits, torch.tensor([[True]])).item()
    0.0
    """
    expect(
        student.shape == teacher.shape, "teacher", tuple(teacher.shape), f"logits of the student's shape {tuple(student.shape)}"
    )
    expect(mask.shape == student.shape[:2], "mask", tuple(mask.shape), f"a mask of shape {tuple(student.shape[:2])}")
    expect(temperature > 0, "temperature", temperature, "a number above 0")
    log_p = F.log_softmax(teacher.detach().float() / temperature, dim=-1)  # (B, L, K)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, L)
    return temperature**2 * (kl * mask).sum() / mask.sum().clamp(min=1)


def hidden_state_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Squared distance of hidden states, mean over real tokens, as a share of the teacher's own spread.

    ``Σ_t m_t ‖h_t − g_t‖² / Σ_t m_t ‖g_t − ḡ‖²`` with student states ``h``, teacher states ``g`` and their mean ``ḡ``: 0 for
    equal states, 1 for a student that always puts out the mean. It speaks at every token, also where the teacher's
    labels are certain and soft labels say nothing new (as in TinyBERT, Jiao et al. 2019, 1909.10351, without the
    projection, since both widths are equal here).

    Args:
        student, teacher: (B, L, D), any float dtype; computed in fp32; no gradient flows into the teacher.
        mask: bool (B, L), True at real tokens.
    Returns:
        A scalar; 0 when no token counts.

    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> hidden_state_loss(states, states, torch.ones(1, 2, dtype=torch.bool)).item()
    0.0
    """
    expect(
        student.shape == teacher.shape, "teacher", tuple(teacher.shape), f"states of the student's shape {tuple(student.shape)}"
    )
    expect(mask.shape == student.shape[:2], "mask", tuple(mask.shape), f"a mask of shape {tuple(student.shape[:2])}")
    g = teacher.detach().float()[mask]  # (N, D), real tokens only
    distance = (student.float()[mask] - g).square().sum()
    spread = (g - g.mean(dim=0)).square().sum()
    return distance / spread.clamp(min=torch.finfo(torch.float32).tiny)
