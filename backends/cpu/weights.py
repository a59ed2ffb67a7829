"""`weights.bin`: the weights a program uses, in the layouts its kernels read in place.

    offset 0   64-byte header, little-endian:
               magic "QCCWEIGH", u32 version, u32 number of sections, u64 size of the file, u64 fingerprint of the
               program, u64 sum and u64 weighted sum of the payload's 64-bit words, 16 zero bytes
    offset 64  sections, each at a multiple of 64 bytes, the file padded to a multiple of 64

The checksum is Fletcher's (IEEE Trans. Communications 30(1), 1982) over 64-bit words modulo 2^64: `sum w_i` and
`sum (i + 1) w_i`: the first sees any change of one word, the second nearly every change of their order.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qcc.backends.cpu.views import ONE, Buffer, View, dense
from qcc.errors import CheckpointError
from qcc.ir.dims import shape_of
from qcc.ir.store import WeightStore
from qcc.numerics.named_tensors import named_tensors
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES

MAGIC = b"QCCWEIGH"
VERSION = 1
ALIGNMENT = 64
_WORDS = 1 << 20


class Constants:
    """The constants of one program: views of stored weights, and what is derived from them, made when written."""

    def __init__(self, store: WeightStore) -> None:
        self.store = store
        self._makers: dict[Buffer, Callable[[], bytes]] = {}

    def weight(self, key: str, scalar: str, shape: Sequence[int]) -> View:
        """Return the row-major view of a stored tensor, converted to `scalar`.

        Raises:
            CheckpointError: if the store has no such plain tensor, or it has another shape.
        """
        stored = self.store.tensor(key)
        if tuple(stored.shape) != tuple(shape):
            raise CheckpointError(f"weight '{key}' has shape {list(stored.shape)}, the program reads {list(shape)}")
        buffer = Buffer("weight", key=f"{key}: {scalar}")
        self._makers.setdefault(buffer, lambda: tensor_bytes(self.store.tensor(key).to(TORCH_DTYPES[scalar])))
        return dense(buffer, scalar, shape_of(shape))

    def derived(self, name: str, make: Callable[[], bytes]) -> Buffer:
        """Return the buffer of bytes computed from weights; the same name is the same bytes."""
        buffer = Buffer("weight", key=name)
        self._makers.setdefault(buffer, make)
        return buffer

    def tensor(self, view: View) -> torch.Tensor | None:
        """Return the value of a view of a stored weight, or None if it is known at run time only."""
        key, _, scalar = view.buffer.key.rpartition(": ")
        sizes = [dim.constant for dim in (*view.shape, *view.strides, view.offset)]
        if view.buffer.kind != "weight" or key not in self.store or any(size is None for size in sizes):
            return None
        known = [size for size in sizes if size is not None]
        stored = self.store.tensor(key).detach().to(TORCH_DTYPES[scalar]).contiguous()
        return torch.as_strided(stored, known[: view.rank], known[view.rank : -1], known[-1])

    def bytes_of(self, buffer: Buffer) -> bytes:
        """Make the contents of a weight buffer."""
        return self._makers[buffer]()


def view_name(view: View) -> str:
    """Name a view of a weight: its key alone where it is the whole tensor."""
    whole = view.is_contiguous and view.offset.constant == 0
    shape = ",".join(map(str, view.shape))
    if whole:
        return f"{view.buffer.key} [{shape}]"
    strides = ",".join(str(s) if n != ONE else "0" for n, s in zip(view.shape, view.strides, strict=True))
    return f"{view.buffer.key} [{shape}; {strides}; {view.offset}]"


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Return the elements of a tensor in row-major order, as stored in memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def quantized_digest(weight: QuantizedTensor) -> str:
    """Name a quantized tensor that is in no store by its contents."""
    digest = hashlib.sha256(str(weight.qtype).encode())
    for part in named_tensors(weight).values():
        digest.update(tensor_bytes(part))
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class WeightsFile:
    """What was written: the place of every section, the size in bytes and the program's fingerprint."""

    offsets: dict[Buffer, int]
    size: int
    fingerprint: int


def write_weights(path: Path, buffers: Sequence[Buffer], constants: Constants, program: str) -> WeightsFile:
    """Write the sections one after another; `program` is the text that the fingerprint stands for."""
    offsets: dict[Buffer, int] = {}
    digest = hashlib.sha256(program.encode())
    total = weighted = words = 0
    path.unlink(missing_ok=True)  # a program that has the old file mapped keeps it
    with path.open("wb") as file:
        file.write(bytes(ALIGNMENT))
        for buffer in buffers:
            data = constants.bytes_of(buffer)
            data += bytes(-len(data) % ALIGNMENT)
            offsets[buffer] = file.tell()
            digest.update(f"{buffer.key} {len(data)}\n".encode())
            file.write(data)
            part, part_weighted = _sums(data, words)
            total, weighted = (total + part) % 2**64, (weighted + part_weighted) % 2**64
            words += len(data) // 8
        size = file.tell()
        fingerprint = int.from_bytes(digest.digest()[:8], "little")
        file.seek(0)
        file.write(
            struct.pack("<8sIIQQQQ", MAGIC, VERSION, len(buffers), size, fingerprint, total, weighted).ljust(64, b"\0")
        )
    return WeightsFile(offsets, size, fingerprint)


def _sums(data: bytes, first: int) -> tuple[int, int]:
    total = weighted = 0
    for start in range(0, len(data) // 8, _WORDS):
        words = np.frombuffer(data, "<u8", min(_WORDS, len(data) // 8 - start), start * 8)
        position = np.arange(first + start + 1, first + start + 1 + len(words), dtype=np.uint64)
        total += int(words.sum(dtype=np.uint64))
        weighted += int((words * position).sum(dtype=np.uint64))
    return total % 2**64, weighted % 2**64
