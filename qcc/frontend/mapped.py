"""Where in the files of a model folder the tensors of a loaded model lie.

`transformers` maps the tensors of safetensors files. The kernel's list of mappings says which file, and which place in
it, an address belongs to; the header of the file says which tensor is there. What is found so can be mapped again
whenever it is needed, instead of staying in memory once it was read. Systems without `/proc`, and tensors that were
copied, converted or changed when they were loaded, give nothing: they stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from qcc.ir.on_disk import OnDisk

_MAPS = Path("/proc/self/smaps")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Mapping:
    start: int
    stop: int
    offset: int
    path: str


class MappedFiles:
    """The safetensors files of a folder that are mapped in this process, and what is where in them."""

    def __init__(self, folder: Path) -> None:
        files = {str(path.resolve()) for path in folder.glob("*.safetensors")}
        self._mappings = [one for one in _clean_mappings() if one.path in files]
        self._places = {path: dict(_tensors_of(Path(path))) for path in {one.path for one in self._mappings}}

    def find(self, tensor: torch.Tensor) -> OnDisk | None:
        """Return where a tensor lies; None if that is not the whole of one tensor of these files."""
        address = tensor.data_ptr()
        for one in self._mappings:
            if one.start <= address < one.stop and tensor.is_contiguous():
                found = self._places[one.path].get(address - one.start + one.offset)
                if found is not None and (found.shape, found.dtype) == (tuple(tensor.shape), tensor.dtype):
                    return found
        return None


def _clean_mappings() -> Iterator[_Mapping]:
    """List the mappings of files of which no page was written to: such a page becomes an anonymous one."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return
    current: _Mapping | None = None
    for line in lines:
        head, *fields = line.split(maxsplit=5)
        if head.endswith(":"):
            if head == "Anonymous:" and fields[0] == "0" and current is not None:
                yield current
            continue
        start, _, stop = head.partition("-")
        path = fields[4] if len(fields) > 4 else ""
        current = _Mapping(int(start, 16), int(stop, 16), int(fields[1], 16), path)


def _tensors_of(path: Path) -> Iterable[tuple[int, OnDisk]]:
    """List the tensors of a file by their places in it; none where the header cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, ValueError):
        return
    for name, entry in cast(dict[str, dict[str, Any]], header).items():
        dtype = _DTYPES.get(str(entry.get("dtype")))
        if name != "__metadata__" and dtype is not None:
            place = 8 + length + int(entry["data_offsets"][0])
            yield place, OnDisk(path, {"": name}, tuple(entry["shape"]), dtype=dtype)
