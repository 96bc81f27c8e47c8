"""Storing a matrix with zeros: COO, CSR, bitmask and 2:4, each back to the same matrix, none with a byte left uncounted.

Formats for a matrix (rows, columns) of any dtype; flatten a convolution's weight to two dimensions first. What is stored are the
tensors of each class, and ``stored_bytes`` is their size; the formulas and break-even densities are in
:mod:`course_lib.pruning.storage_bytes`. −0 is a zero and comes back as 0.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from course_lib.errors import expect
from course_lib.pruning.bits import pack_bits, unpack_bits
from course_lib.pruning.masks import n_m_mask
from course_lib.pruning.storage_bytes import index_dtype


@dataclass(frozen=True)
class _Stored:
    shape: tuple[int, int]
    values: torch.Tensor

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors this format keeps."""
        parts = (getattr(self, field.name) for field in fields(self))
        return sum(part.numel() * part.element_size() for part in parts if isinstance(part, torch.Tensor))

    def _scatter(self, flat: np.ndarray) -> torch.Tensor:
        dense = torch.zeros(self.shape, dtype=self.values.dtype)
        _array(dense).reshape(-1)[flat] = _array(self.values)
        return dense


@dataclass(frozen=True)
class Coo(_Stored):
    """Coordinates: a row and a column number beside each value (nonzeros,), in row-major order."""

    rows: torch.Tensor
    columns: torch.Tensor

    def decode(self) -> torch.Tensor:
        """The dense matrix."""
        return self._scatter(self.rows.numpy().astype(np.int64) * self.shape[1] + self.columns.numpy())


@dataclass(frozen=True)
class Csr(_Stored):
    """Compressed sparse rows: a column number beside each value, and where each row begins, ``pointers`` (rows + 1,)."""

    columns: torch.Tensor
    pointers: torch.Tensor

    def decode(self) -> torch.Tensor:
        """The dense matrix."""
        starts = np.arange(self.shape[0]) * self.shape[1]
        return self._scatter(np.repeat(starts, np.diff(self.pointers.numpy())) + self.columns.numpy())


@dataclass(frozen=True)
class Bitmask(_Stored):
    """The values in row-major order, and a bit per entry that says where they are: ``bits`` (ceil(n/8),) uint8."""

    bits: torch.Tensor

    def decode(self) -> torch.Tensor:
        """The dense matrix."""
        return self._scatter(np.flatnonzero(unpack_bits(self.bits, self.shape)))


@dataclass(frozen=True)
class TwoFour(_Stored):
    """Two values of every four neighbours (n/2,), and their two places of 2 bits each: ``places`` (ceil(n/8),) uint8.

    The first group of a byte is in its low half, the first place in the low bits of that. (Sparse tensor cores keep the same
    bits in another order; Mishra et al. 2021, 2104.08378.)
    """

    places: torch.Tensor

    def decode(self) -> torch.Tensor:
        """The dense matrix."""
        groups = len(self.values) // 2
        nibbles = torch.stack([self.places & 15, self.places >> 4], dim=1).view(-1)[:groups].long()
        inside = torch.stack([nibbles & 3, nibbles >> 2], dim=1)  # (groups, 2)
        return self._scatter((inside + 4 * torch.arange(groups)[:, None]).view(-1).numpy())


def encode_coo(w: torch.Tensor) -> Coo:
    """Store a matrix as coordinates; row and column numbers take the fewest bytes that hold them.

    Args:
        w: (rows, columns), any dtype.

    >>> coo = encode_coo(torch.tensor([[0.0, 5.0], [0.0, 0.0]]))
    >>> coo.rows.tolist(), coo.columns.tolist(), coo.values.tolist(), coo.stored_bytes
    ([0], [1], [5.0], 6)
    """
    flat, values = _nonzeros(w)
    rows, columns = np.divmod(flat, w.shape[1])
    return Coo(tuple(w.shape), values, _narrow(rows, w.shape[0]), _narrow(columns, w.shape[1]))


def encode_csr(w: torch.Tensor) -> Csr:
    """Store a matrix as compressed sparse rows; numbers take the fewest bytes that hold them (Saad 2003, section 3.4).

    Args:
        w: (rows, columns), any dtype.

    >>> csr = encode_csr(torch.tensor([[0.0, 5.0], [0.0, 0.0], [7.0, 8.0]]))
    >>> csr.values.tolist(), csr.columns.tolist(), csr.pointers.tolist(), csr.stored_bytes
    ([5.0, 7.0, 8.0], [1, 0, 1], [0, 1, 1, 3], 19)
    """
    flat, values = _nonzeros(w)
    starts = np.arange(w.shape[0] + 1) * w.shape[1]
    pointers = np.searchsorted(flat, starts)  # the nonzeros are in order: a row's begin where its first entry would stand
    flat -= np.repeat(starts[:-1], np.diff(pointers))
    return Csr(tuple(w.shape), values, _narrow(flat, w.shape[1]), _narrow(pointers, len(flat) + 1))


def encode_bitmask(w: torch.Tensor) -> Bitmask:
    """Store a matrix as a bit per entry and the values whose bit is set.

    Args:
        w: (rows, columns), any dtype.

    >>> encode_bitmask(torch.tensor([[0.0, 5.0], [0.0, 7.0]])).bits.tolist()
    [10]
    """
    _, values = _nonzeros(w)
    return Bitmask(tuple(w.shape), values, pack_bits(torch.from_numpy(_mask(w))))


def encode_two_four(w: torch.Tensor) -> TwoFour:
    """Store a matrix that has at most two nonzeros in every four neighbours of a row.

    Args:
        w: (rows, columns), any dtype, columns a multiple of 4. Where a group has fewer than two, zeros are stored too.
    Raises:
        ValueError: groups with more nonzeros.

    >>> stored = encode_two_four(torch.tensor([[0.0, 5.0, 0.0, 7.0], [0.0, 0.0, 0.0, 9.0]]))
    >>> stored.values.tolist(), [f"{b:08b}" for b in stored.places]
    ([5.0, 7.0, 0.0, 9.0], ['11001101'])
    """
    _check(w)
    expect(w.shape[1] % 4 == 0, "w", tuple(w.shape), "a number of columns that is a multiple of 4")
    full = int(((w != 0).reshape(-1, 4).sum(1) > 2).sum())
    expect(full == 0, "w", f"{full} groups of four with more than two nonzeros", "at most two in each")
    kept = n_m_mask((w != 0).float(), 2, 4).view(-1, 4)
    places = kept.nonzero()[:, 1].view(-1, 2)  # (groups, 2), ascending
    nibbles = (places[:, 0] | places[:, 1] << 2).to(torch.uint8)
    nibbles = torch.cat([nibbles, nibbles.new_zeros(len(nibbles) % 2)]).view(-1, 2)
    return TwoFour(tuple(w.shape), w.detach().reshape(-1, 4)[kept], nibbles[:, 0] | nibbles[:, 1] << 4)


def _check(w: torch.Tensor) -> None:
    expect(w.dim() == 2 and w.numel() > 0, "w", tuple(w.shape), "a matrix (rows, columns) with at least one entry")


def _nonzeros(w: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """Places in row-major order, int64, and the values there."""
    _check(w)
    flat = np.flatnonzero(_mask(w))  # of a bool array: many times faster than of the numbers
    return flat, w.detach().reshape(-1)[torch.from_numpy(flat)]


def _mask(w: torch.Tensor) -> np.ndarray:
    numbers = _array(w.detach().contiguous())
    return (numbers << 1 if w.dtype == torch.bfloat16 else numbers) != 0  # bits of bfloat16, without the sign


def _array(x: torch.Tensor) -> np.ndarray:
    """The tensor's memory as an array; bfloat16, which NumPy lacks, as the integers of its bits."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _narrow(numbers: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(numbers).to(index_dtype(count))
