"""A two-layer classifier whose units all matter, inputs with padding, and removals drawn at random."""

import torch

from course_lib.models.surgery import layer_shapes
from course_lib.models.zoo import find_encoder, load_token_classifier

TAGS = ["O", "B-X", "I-X"]


def small_bert(dtype: torch.dtype = torch.float64, attention: str = "sdpa"):
    """The tiny classifier (2 layers of 4 heads of size 8 and 64 neurons, width 32), its weights large enough to matter."""
    model, generator = load_token_classifier(find_encoder("tiny"), TAGS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    model.set_attn_implementation(attention)
    return model.to(dtype).eval()


def inputs(vocabulary: int = 137, batch: int = 3, length: int = 20) -> dict[str, torch.Tensor]:
    """A batch whose rows have different lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, vocabulary, (batch, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([length - 4 * i for i in range(batch)])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def logits(model) -> torch.Tensor:
    """Logits of real tokens only; what comes out at padding is read by nobody."""
    given = inputs(model.config.vocab_size)
    with torch.inference_mode():
        return model(**given).logits[given["attention_mask"] == 1]


def drawn_masks(model, generator: torch.Generator, share: float = 0.5) -> dict[str, torch.Tensor]:
    """Each head and neuron masked with probability ``share``, some layers empty by chance; never all of them everywhere."""
    masks = {}
    for i, (heads, neurons) in enumerate(zip(*layer_shapes(model).values(), strict=True)):
        for kind, count in (("heads", heads), ("neurons", neurons)):
            if count:
                masks[f"bert.encoder.layer.{i}.{kind}"] = torch.rand(count, generator=generator) > share
    return masks


def layer_parameters(hidden: int, heads: int, head_size: int, width: int) -> int:
    """Query, key, value and output of attention, two matrices of the feed-forward block, two LayerNorms; all with biases."""
    attention = 3 * (hidden + 1) * heads * head_size + hidden * heads * head_size + hidden
    return attention + (2 * hidden * width + width + hidden) + 2 * 2 * hidden
