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
