"""What must be the same on all workers, checked before they compute: a mistake is named, not waited for."""

import zlib
from collections.abc import Mapping

import torch
import torch.distributed as dist

from course_lib.errors import expect


def require_equal(argument: str, value: object, group: dist.ProcessGroup | None = None) -> None:
    """Refuse a value that differs from worker to worker; all workers raise, so that none waits for the others.

    Args:
        argument: its name, for the message.
        value: what this worker has; anything that can be pickled and compared.
        group: the workers; None: all.
    Raises:
        ValueError: at least two workers have different values; the message has each one's, by rank in the group.
    """
    values = gathered(value, group)
    same = all(v == values[0] for v in values)
    expect(same, argument, dict(enumerate(values)), "the same on every worker (rank: what it has)")


def gathered(value: object, group: dist.ProcessGroup | None = None) -> list:
    """Each worker's value, by rank in the group."""
    values: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group)
    return values


def fingerprints(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and checksum of tensors of any shape, by name: what workers compare in place of the tensors.

    >>> fingerprints({"ids": torch.tensor([[1, 2, 3]])})
    {'ids': ((1, 3), '2bcb8d87')}
    """
    contents = {name: t.detach().cpu().flatten().view(torch.uint8).numpy().tobytes() for name, t in tensors.items()}
    return {name: (tuple(t.shape), f"{zlib.crc32(contents[name]):08x}") for name, t in tensors.items()}
