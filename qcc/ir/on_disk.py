"""Weights that stay in files: mapped when they are read, gone from memory when whoever read them lets go.

Each read maps the file anew, so that the pages of one weight stay in memory no longer than the tensor that was given
out, and the kernel may drop them at any time: they are those of a file.
"""

from __future__ import annotations

import fcntl
import math
import shutil
import tempfile
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from qcc.errors import CheckpointError
from qcc.numerics.named_tensors import from_named, named_tensors
from qcc.numerics.qtype import QType
from qcc.numerics.safetensors_file import write_safetensors
from qcc.numerics.tensor import QuantizedTensor

Weight = torch.Tensor | QuantizedTensor

_SUFFIX, _LOCK = ".spool", "lock"

LEAST_BYTES = 1 << 20
"""Weights below this size stay in memory: a file each would cost more than it saves."""


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A weight in a safetensors file.

    `parts` gives the name in the file by the name of a part (`qcc.numerics.named_tensors`); of a plain tensor, which
    has a `dtype` and no `qtype`, that of its one part, ''.
    """

    path: Path
    parts: Mapping[str, str]
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    qtype: QType | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Map the parts, by their names.

        Raises:
            CheckpointError: if the file is gone or damaged.
        """
        try:
            with safe_open(str(self.path), framework="pt") as file:
                return {part: file.get_tensor(name) for part, name in self.parts.items()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{self.path}: the file of a weight was lost or changed while qcc worked ({error})",
                fix="leave the model's folder and the output's folder alone, and compile again",
            ) from error

    def read(self) -> Weight:
        """Return the weight: a plain tensor as it is mapped, a quantized one unpacked."""
        found = self.tensors()
        return found[""] if self.qtype is None else from_named(self.qtype, self.shape, found)


class Spool:
    """A folder for the weights of one compilation; the file of a weight goes when nobody refers to it any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def put(self, weight: Weight) -> Weight | OnDisk:
        """Write a weight and return where it is; a small one is returned as it is."""
        if _size(weight) < LEAST_BYTES:
            return weight
        path = self._folder / f"{next(self._numbers)}.safetensors"
        parts = {"": weight.detach()} if isinstance(weight, torch.Tensor) else named_tensors(weight)
        write_safetensors(path, {part or "whole": tensor for part, tensor in parts.items()}, {})
        names = {part: part or "whole" for part in parts}
        if isinstance(weight, torch.Tensor):
            found = OnDisk(path, names, tuple(weight.shape), dtype=weight.dtype)
        else:
            found = OnDisk(path, names, weight.shape, qtype=weight.qtype)
        weakref.finalize(found, path.unlink, missing_ok=True)
        return found


@contextmanager
def spool_beside(output: Path) -> Generator[Spool]:
    """Make a spool on the disk of an output, as temporary files may be in memory; what a killed one left goes away."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for left in output.parent.glob(f".{output.name}.*{_SUFFIX}"):
        with suppress(OSError), (left / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=_SUFFIX, dir=output.parent) as folder:
        with (Path(folder) / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Spool(Path(folder))


def _size(weight: Weight) -> int:
    tensor = weight if isinstance(weight, torch.Tensor) else weight.codes
    return math.prod(tensor.shape) * tensor.element_size()
