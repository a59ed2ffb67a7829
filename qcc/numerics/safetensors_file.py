"""Write tensors to a safetensors file one after another, without a copy of them all.

The format (github.com/huggingface/safetensors): u64 length of the header, the header as JSON, padded with spaces to a
multiple of 8 bytes, then the bytes of every tensor, row-major and without gaps. Tensors are in the order of falling
element size, so that each lies at a multiple of it, then of their names: the same tensors give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PART = 1 << 24
"""Bytes that are written at once."""


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file; the dict is emptied: a tensor that is mapped is read when its turn comes, and let go once written.

    Raises:
        KeyError: for a dtype that the format does not have.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
        del tensor
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            flat = tensors.pop(name).detach().cpu().contiguous().reshape(-1)
            for start in range(0, flat.nbytes, _PART):
                file.write(flat.view(torch.uint8)[start : start + _PART].numpy().data)
            del flat
