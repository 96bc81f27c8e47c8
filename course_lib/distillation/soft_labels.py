"""What softens a label: a temperature, and label smoothing, which is distillation from a teacher that knows nothing."""

import torch
import torch.nn.functional as F

from course_lib.errors import expect


def soft_label_entropy(logits: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """How much a teacher's labels say beyond their winner: mean entropy of ``softmax(logits / T)`` over real tokens.

    0 for a teacher that is certain everywhere: then soft labels are hard ones. It rises with T, to ``log K`` for K labels (Hinton,
    Vinyals, Dean 2015, 1503.02531).

    Args:
        logits: (B, L, K), any float dtype; computed in fp32.
        mask: bool (B, L), True at the tokens that count.
        temperature: T > 0.
    Returns:
        A scalar in nats.
    Raises:
        ValueError: a mask of another shape or without True, or a temperature of 0 or less.

    >>> logits = torch.zeros(1, 1, 4)
    >>> round(soft_label_entropy(logits, torch.tensor([[True]])).item(), 4)
    1.3863
    """
    expect(temperature > 0, "temperature", temperature, "a number above 0")
    _check(logits, mask)
    log_p = F.log_softmax(logits[mask].float() / temperature, dim=-1)  # (N, K)
    return -(log_p.exp() * log_p).sum(-1).mean()


def smoothed_label_loss(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy with labels of which a share ε is spread over all K (Szegedy et al. 2015, 1512.00567).

    ``−Σ_k ((1−ε)·[k = y] + ε/K)·log q_k``. Up to a constant this is ``(1−ε)·cross-entropy + ε·KL(uniform ‖ q)``: distillation from a
    teacher whose every label is as likely as any other, so it says nothing of which wrong label is nearly right (Müller, Kornblith,
    Hinton 2019, 1906.02629).

    Args:
        logits: (B, L, K), any float dtype; computed in fp32.
        labels: int64 (B, L); only those under the mask are looked at.
        mask: bool (B, L), True at the tokens that count.
        smoothing: ε, from 0 to below 1.
    Returns:
        A scalar in nats, the mean over the tokens that count.
    Raises:
        ValueError: shapes that do not fit, a mask without True, or ε outside its range.

    >>> logits, labels = torch.zeros(1, 1, 2), torch.tensor([[0]])
    >>> round(smoothed_label_loss(logits, labels, torch.tensor([[True]]), 0.1).item(), 4)
    0.6931
    """
    expect(0 <= smoothing < 1, "smoothing", smoothing, "a share from 0 to below 1")
    _check(logits, mask)
    expect(labels.shape == mask.shape, "labels", tuple(labels.shape), f"the mask's shape {tuple(mask.shape)}")
    log_q = F.log_softmax(logits[mask].float(), dim=-1)  # (N, K)
    hard = -log_q.gather(1, labels[mask][:, None])[:, 0]
    return ((1 - smoothing) * hard - smoothing * log_q.mean(-1)).mean()


def _check(logits: torch.Tensor, mask: torch.Tensor) -> None:
    expect(mask.shape == logits.shape[:2], "mask", tuple(mask.shape), f"a mask of shape {tuple(logits.shape[:2])}")
    expect(bool(mask.any()), "mask", "no True in it", "a token that counts")
