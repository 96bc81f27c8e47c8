"""The models and inputs that the tests of redundancy share: the tiny encoder, and the real one on sentences."""

import functools

import torch

from course_lib.calibration import calibration_batches
from course_lib.data.align import make_windows, pad_id
from course_lib.data.generated import generate
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier, load_tokenizer

TAGS = ["O", "B-X", "I-X"]
EPS, EPS64 = 2**-24, 2**-53  # half a unit in the last place of 1


def tiny(dtype: torch.dtype = torch.float64):
    """The tiny classifier (2 layers of 4 heads of size 8 and 64 neurons, width 32), its weights large enough to matter."""
    model, generator = load_token_classifier(find_encoder("tiny"), TAGS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return model.to(dtype).eval()


def batches(count: int = 2) -> list[dict[str, torch.Tensor]]:
    """Batches of the tiny vocabulary whose rows have different lengths."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(12) < torch.tensor([[12], [7], [9], [12]])).long()
    return [{"input_ids": torch.randint(5, 100, (4, 12), generator=generator), "attention_mask": mask} for _ in range(count)]


@torch.no_grad()
def logits(model) -> torch.Tensor:
    """Logits at the real tokens of :func:`batches`."""
    return torch.cat([model(**b).logits[b["attention_mask"] == 1] for b in batches()])


@functools.cache
def real_batches(count: int = 48) -> list[dict[str, torch.Tensor]]:
    """Sentences in pieces of the real encoder."""
    tokenizer = load_tokenizer(find_encoder("minilm"))
    sentences = generate(seed=0, sizes={"train": count, "validation": 1, "test": 1}).train
    return calibration_batches(make_windows([s.words for s in sentences], tokenizer), pad_id(tokenizer), count)


@functools.cache
def _real():
    return load_encoder("minilm")


def real_encoder():
    """The real encoder, read once; whoever changes it takes a copy."""
    return _real()
