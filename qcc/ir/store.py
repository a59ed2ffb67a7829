"""The weight store: tensors beside the text of a module, referred to by name.

A plain weight is one entry of a safetensors file. A quantized weight `name` is its packed codes
(`name#codes`), its scales leaf to root (`name#scale0`, ...) and its zero point (`name#zero`); format and shape are in
the file's metadata, under the format's name. Several operations may name one entry: tied weights are stored once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qcc.errors import CheckpointError
from qcc.numerics.pack import pack, unpack
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.tensor import Parameters, QuantizedTensor

Weight = torch.Tensor | QuantizedTensor

FORMAT = "qcc-weights-1"


class WeightStore:
    """Named weights of one module."""

    def __init__(self, weights: Mapping[str, Weight] | None = None) -> None:
        self._weights: dict[str, Weight] = dict(weights or {})

    def __getitem__(self, key: str) -> Weight:
        return self._weights[key]

    def __setitem__(self, key: str, weight: Weight) -> None:
        self._weights[key] = weight

    def __delitem__(self, key: str) -> None:
        del self._weights[key]

    def __contains__(self, key: object) -> bool:
        return key in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def tensor(self, key: str) -> torch.Tensor:
        """Return a plain weight.

        Raises:
            CheckpointError: if there is none of this name, or it is quantized.
        """
        weight = self._weights.get(key)
        if not isinstance(weight, torch.Tensor):
            raise CheckpointError(f"the weight store has no plain tensor '{key}'")
        return weight

    def quantized(self, key: str) -> QuantizedTensor:
        """Return a quantized weight.

        Raises:
            CheckpointError: if there is none of this name, or it is plain.
        """
        weight = self._weights.get(key)
        if not isinstance(weight, QuantizedTensor):
            raise CheckpointError(f"the weight store has no quantized tensor '{key}'")
        return weight

    def fresh_key(self, wish: str) -> str:
        """Return `wish`, or `wish.1`, `wish.2`, ... where that is taken."""
        key, count = wish, 0
        while key in self._weights:
            count += 1
            key = f"{wish}.{count}"
        return key

    def save(self, path: Path) -> None:
        """Write a safetensors file; the order of entries is the order of their names, so bytes repeat."""
        tensors: dict[str, torch.Tensor] = {}
        formats: dict[str, dict[str, object]] = {}
        for key in sorted(self._weights):
            weight = self._weights[key]
            if isinstance(weight, torch.Tensor):
                tensors[key] = weight.detach().contiguous().clone()
                continue
            formats[key] = {"qtype": str(weight.qtype), "shape": list(weight.shape)}
            tensors[f"{key}#codes"] = pack(weight.codes, weight.qtype.decode.bits)
            for level, scale in enumerate(weight.scales):
                tensors[f"{key}#scale{level}"] = scale.contiguous().clone()
            if weight.zero is not None:
                tensors[f"{key}#zero"] = weight.zero.contiguous().clone()
        # safetensors writes the entries of its metadata in random order: one entry, so that bytes repeat
        save_file(tensors, str(path), metadata={FORMAT: json.dumps(formats, sort_keys=True)})

    @staticmethod
    def load(path: Path) -> WeightStore:
        """Read what `save` wrote; plain tensors are mapped from the file.

        Raises:
            CheckpointError: if the file is missing, truncated, or of another kind or version.
        """
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
        if FORMAT not in metadata:
            found = ", ".join(sorted(metadata)) or "none"
            raise CheckpointError(f"{path}: not weights of format '{FORMAT}' (entries of the metadata: {found})")
        store = WeightStore({key: value for key, value in tensors.items() if "#" not in key})
        for key, entry in json.loads(metadata[FORMAT]).items():
            store[key] = _load_quantized(path, key, entry, tensors)
        return store


def _load_quantized(
    path: Path, key: str, entry: dict[str, object], tensors: Mapping[str, torch.Tensor]
) -> QuantizedTensor:
    try:
        qtype = parse_qtype(str(entry["qtype"]))
        sizes = entry["shape"]
        assert isinstance(sizes, list)
        shape = tuple(int(size) for size in sizes)
        scales = tuple(tensors[f"{key}#scale{level}"] for level in range(len(qtype.levels)))
        if not isinstance(qtype.decode, IntDecode):
            raise ValueError(f"codes of '{qtype}' are no integers")
        codes = unpack(tensors[f"{key}#codes"], qtype.decode.bits, shape[-1], qtype.decode.signed)
    except (KeyError, ValueError, AssertionError) as error:
        raise CheckpointError(f"{path}: the quantized weight '{key}' is incomplete ({error})") from error
    return QuantizedTensor(qtype, shape, codes, Parameters.of(scales, tensors.get(f"{key}#zero")))
