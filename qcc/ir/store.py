"""The weight store: tensors beside the text of a module, referred to by name.

A plain weight is one entry of a safetensors file. A quantized weight `name` of any format is one entry a part: its
packed codes (`name#codes`), its scales leaf to root (`name#scale0`, ...), its zero point (`name#zero`) and whatever
else `qcc.numerics.stored_parts` lists for its format, each in its stored dtype. Format and shape are in the file's
metadata, under the format's name, with the names of its side tensors (`name#side.sparse.values`, ...). Several
operations may name one entry: tied weights are stored once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open

from qcc.errors import CheckpointError, Problem, QccError, RecipeError
from qcc.ir.on_disk import OnDisk, Spool, Weight
from qcc.numerics.named_tensors import from_named, named_tensors
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.safetensors_file import write_safetensors
from qcc.numerics.stored_parts import SIDE
from qcc.numerics.tensor import QuantizedTensor

FORMAT = "qcc-weights-1"
PART = "#"
"""What stands between the name of a quantized weight and that of a part of it."""


class WeightStore:
    """Named weights of one module, in memory or in files.

    A weight in a file is mapped or unpacked anew whenever it is read: hold on to it no longer than it is needed. With a
    `spool`, large weights that are put in go to a file at once.
    """

    def __init__(self, weights: Mapping[str, Weight | OnDisk] | None = None) -> None:
        self._weights: dict[str, Weight | OnDisk] = dict(weights or {})
        self.spool: Spool | None = None

    def __getitem__(self, key: str) -> Weight:
        found = self._weights[key]
        return found.read() if isinstance(found, OnDisk) else found

    def __setitem__(self, key: str, weight: Weight | OnDisk) -> None:
        if self.spool is not None and not isinstance(weight, OnDisk):
            weight = self.spool.put(weight)
        self._weights[key] = weight

    def __delitem__(self, key: str) -> None:
        del self._weights[key]

    def __contains__(self, key: object) -> bool:
        return key in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def entry(self, key: str) -> Weight | OnDisk:
        """Return what is held for a name: the weight, or where it is; nothing is read."""
        return self._weights[key]

    def copy(self) -> WeightStore:
        """Return a store of the same weights, which are not copied; without the spool."""
        return WeightStore(self._weights)

    def tensor(self, key: str) -> torch.Tensor:
        """Return a plain weight.

        Raises:
            CheckpointError: if there is none of this name, or it is quantized.
        """
        weight = self[key] if key in self._weights else None
        if not isinstance(weight, torch.Tensor):
            raise CheckpointError(f"the weight store has no plain tensor '{key}'")
        return weight

    def quantized(self, key: str) -> QuantizedTensor:
        """Return a quantized weight.

        Raises:
            CheckpointError: if there is none of this name, or it is plain.
        """
        weight = self[key] if key in self._weights else None
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
                tensors[key] = weight
                continue
            if isinstance(weight, OnDisk) and weight.qtype is None:
                tensors[key] = weight.tensors()[""]
                continue
            named = weight.tensors() if isinstance(weight, OnDisk) else named_tensors(weight)
            assert weight.qtype is not None
            formats[key] = {"qtype": str(weight.qtype), "shape": list(weight.shape)}
            if weight.qtype.sides:
                formats[key]["sides"] = sorted(part for part in named if part.startswith(SIDE))
            tensors |= {f"{key}{PART}{part}": tensor for part, tensor in named.items()}
        write_safetensors(path, tensors, {FORMAT: json.dumps(formats, sort_keys=True)})

    @staticmethod
    def load(path: Path) -> WeightStore:
        """Read what `save` wrote; plain tensors are mapped from the file.

        Raises:
            CheckpointError: if the file is missing, truncated, or of another kind or version; or naming every
                weight and part that is missing or damaged.
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
        entries = _entries(path, metadata[FORMAT])
        parts: dict[str, dict[str, torch.Tensor]] = {key: {} for key in entries}
        store = WeightStore()
        for name, tensor in tensors.items():
            key, mark, part = name.rpartition(PART)
            if mark and key in parts:
                parts[key][part] = tensor
            else:
                store[name] = tensor
        problems: list[Problem] = []
        for key, entry in entries.items():
            try:
                store[key] = _load_quantized(entry, parts[key])
            except QccError as error:
                found = error.problems or (Problem("", error.message),)
                problems += [Problem(f"'{key}', {one.where or 'format'}", one.what) for one in found]
        if problems:
            raise CheckpointError(f"{path}: {len(problems)} parts of quantized weights are damaged", problems)
        return store


class Plain(Mapping[str, torch.Tensor]):
    """The plain tensors of a store as they are now; what is in a file is mapped when it is asked for."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store.copy()

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in self._store:
            raise KeyError(key)
        return self._store.tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store)

    def __len__(self) -> int:
        return len(self._store)

    def entry(self, key: str) -> Weight | OnDisk:
        """Return what is held for a name; nothing is read."""
        return self._store.entry(key)


def _entries(path: Path, text: str) -> dict[str, object]:
    """Read the metadata: key of a quantized weight -> its format and shape."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: the list of quantized weights is damaged ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: the list of quantized weights is damaged (it is no mapping)")
    return cast(dict[str, object], found)


def _load_quantized(entry: object, parts: Mapping[str, torch.Tensor]) -> QuantizedTensor:
    fields = cast(dict[str, object], entry) if isinstance(entry, dict) else {}
    text, sizes = fields.get("qtype"), fields.get("shape")
    if not isinstance(text, str) or not isinstance(sizes, list):
        raise CheckpointError("the metadata lacks its format or its shape")
    shape = cast(list[object], sizes)
    if not all(type(size) is int for size in shape):
        raise CheckpointError(f"its shape {shape} is no list of integers")
    try:
        qtype = parse_qtype(text)
    except RecipeError as error:
        raise CheckpointError(f"this version of qcc cannot read its format '{text}'") from error
    listed = cast(list[object], fields.get("sides") or [])
    if missing := [str(part) for part in listed if part not in parts]:
        raise CheckpointError("side tensors are missing", [Problem(part, "is missing") for part in missing])
    return from_named(qtype, cast(tuple[int, ...], tuple(shape)), parts)
