"""How big a model is: parameters stored and effective, multiply-adds per token."""

from torch import nn

from course_lib.models.surgery import encoder_layers
from course_lib.report import parameter_count


def effective_parameters(model: nn.Module) -> int:
    """Parameters that are not zero, tied ones once; zeros cost bytes all the same."""
    return sum(int((p != 0).sum()) for p in model.parameters())


def stored_parameters(model: nn.Module) -> int:
    """Parameters the model stores, zero or not, tied ones once."""
    return parameter_count(model)


def megabytes(parameters: int, bits: float) -> float:
    """Size of so many parameters of so many bits each, in MB (10⁶ bytes): ``parameters · bits / 8 / 10⁶``.

    Scales, codebooks and whatever else a format needs come on top.

    >>> megabytes(22_000_000, 32)
    88.0
    """
    return parameters * bits / 8 / 1e6


def macs_per_token(model: nn.Module, length: float) -> int:
    """Multiply-adds per piece of a sentence of ``length`` pieces.

    Every linear layer that runs per piece costs ``in · out``; attention costs ``2 · length · heads · head size``
    per layer (scores and weighted sum). Embedding look-ups, norms and activations are not multiplications of matrices and
    are left out, as is usual.

    Args:
        model: a BERT-like token classifier.
        length: pieces of the sentence, special tokens included; a mean may be a fraction.
    """
    linear = sum(
        m.in_features * m.out_features for name, m in model.named_modules() if isinstance(m, nn.Linear) and "pooler" not in name
    )
    attention = 2 * length * sum(layer.attention.self.all_head_size for layer in encoder_layers(model))
    return round(linear + attention)
