"""The same training on one process, several, or several hosts: ``torchrun --nproc-per-node 2 -m course_lib.parallel.demo``.

A random Transformer learns the tags of made-up sentences by data parallelism with a sharded optimizer. The first worker prints
the losses, as JSON. In fp64, so that what differs from one process by more than 1e-8 is a mistake and no rounding.
"""

import json

import torch
import torch.distributed as dist
from torch import nn

from course_lib.parallel.collectives import ring_all_reduce
from course_lib.parallel.data_parallel import DataParallel, global_tokens, part_of
from course_lib.parallel.pipeline import token_loss
from course_lib.parallel.process_group import device, init_from_env
from course_lib.parallel.sharded_optimizer import ShardedAdamW

STEPS, ROWS, LENGTH, WORDS, TAGS, WIDTH, LR = 5, 6, 12, 100, 3, 32, 1e-3
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Tagger(nn.Module):
    """Embeddings, one Transformer layer, a classifier; random weights, always the same, fp64, no dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.classifier = nn.Linear(WIDTH, TAGS)
        self.double()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, TAGS) of ids int64 (B, L); mask bool (B, L), True at real pieces."""
        return self.classifier(self.layer(self.words(ids), src_key_padding_mask=~mask))


def made_up(step: int) -> Batch:
    """Ids, mask and labels (ROWS, LENGTH) of a step, the same wherever it is called; rows get shorter, one label in three is −100."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, WORDS, (ROWS, LENGTH), generator=generator)
    labels = torch.randint(0, TAGS, (ROWS, LENGTH), generator=generator)
    mask = torch.arange(LENGTH) < LENGTH - torch.arange(ROWS)[:, None]
    return ids, mask, labels.masked_fill(~mask | (ids % 3 == 0), -100)


def one_process() -> list[float]:
    """The losses of :data:`STEPS` steps without any parallelism."""
    model = Tagger()
    optimizer, losses = torch.optim.AdamW(model.parameters(), LR), []
    for step in range(STEPS):
        ids, mask, labels = made_up(step)
        loss = token_loss(model(ids, mask), labels) / (labels != -100).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def together() -> list[float]:
    """The same by all workers of the process group, each with its rows of the batch."""
    here = device()
    model = Tagger().to(here)
    parallel = DataParallel(model)
    optimizer, losses = ShardedAdamW(model.parameters(), LR), []
    for step in range(STEPS):
        ids, mask, labels = (part_of(tensor).to(here) for tensor in made_up(step))
        loss = torch.zeros((), dtype=torch.float64, device=here)
        tokens = global_tokens(labels)
        optimizer.zero_grad()
        if len(ids):  # more workers than rows: some have none
            loss = token_loss(model(ids, mask), labels) / tokens
            loss.backward()
        parallel.wait()
        optimizer.step()
        losses.append(ring_all_reduce(loss.detach().clone()).item())
    parallel.remove()
    return losses


def main() -> None:
    """Join the group that torchrun describes, train, print the losses."""
    rank, workers = init_from_env()
    losses = together()
    if rank == 0:
        print(json.dumps({"workers": workers, "losses": losses}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
