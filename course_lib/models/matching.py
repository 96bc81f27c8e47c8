"""What the encoder was trained for, as a loss without labels: find the copy with gaps that belongs to a sentence.

all-MiniLM-L6-v2 was trained to tell the text that belongs to a text from texts that do not (Reimers and Gurevych 2019,
1908.10084; in-batch negatives: Henderson et al. 2017, 1705.00652).
"""

import random
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from course_lib.data.align import collate, make_windows, pad_id

Pairs = list[tuple[tuple[str, ...], tuple[str, ...]]]


def gapped(sentences: Sequence[Sequence[str]], seed: int, at_least: int = 8) -> Pairs:
    """Sentences of at least so many words, each beside a copy in which every word is missing with a chance of one half."""
    rng = random.Random(seed)
    long = [tuple(s) for s in sentences if len(s) >= at_least]
    return [(s, tuple(w for w in s if rng.random() < 0.5) or s[:1]) for s in long]


def embed(encoder: torch.nn.Module, tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Sentence embeddings (N, D): the mean over real pieces of the last hidden states, of length 1."""
    ids, mask = collate(make_windows(texts, tokenizer), pad_id(tokenizer))
    ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (N, L, D)
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def matching_losses(encoder: torch.nn.Module, tokenizer: Tokenizer, pairs: Pairs, size: int = 16) -> Iterator[torch.Tensor]:
    """Per batch: cross-entropy of finding each sentence's copy among those of the batch; cosine times 20, as in training."""
    for start in range(0, len(pairs), size):
        left, right = zip(*pairs[start : start + size], strict=True)
        similarity = 20 * embed(encoder, tokenizer, left) @ embed(encoder, tokenizer, right).T  # (size, size)
        yield F.cross_entropy(similarity, torch.arange(len(left)))


@torch.no_grad()
def matching_accuracy(encoder: torch.nn.Module, tokenizer: Tokenizer, pairs: Pairs, size: int = 50) -> float:
    """How often a sentence's own copy is the nearest of all copies."""
    chunks = [zip(*pairs[i : i + size], strict=True) for i in range(0, len(pairs), size)]
    both = [[embed(encoder, tokenizer, texts) for texts in chunk] for chunk in chunks]
    left, right = torch.cat([a for a, _ in both]), torch.cat([b for _, b in both])
    return float(((left @ right.T).argmax(dim=1) == torch.arange(len(left))).float().mean())
