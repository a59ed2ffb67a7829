"""The Hugging Face folder an artifact was compiled from, and where its tensors are in the artifact's weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from xdsl.dialects.builtin import ModuleOp, StringAttr

from qcc.errors import CheckpointError, Problem, UnsupportedOp
from qcc.ir.base import FUSE_GROUP
from qcc.ir.kernel import contracts_of, origin_of, uses_of
from qcc.ir.nn import LinearOp
from qcc.ir.on_disk import Weight
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.store import WeightStore
from qcc.ir.transform import AddLowrankOp, AddSparseOp, ExpandKOp, PermuteOp, RotateOp, ScaleAxisOp, SliceBitsOp
from qcc.ir.types import type_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.tensor import QuantizedTensor

CONFIG = "config.json"
HEAD = "lm_head.weight"
"""What goes by this name in a program may be the table that it is tied to in a checkpoint."""

AT_RUN_TIME = (RotateOp, PermuteOp, ScaleAxisOp, ExpandKOp, SliceBitsOp, AddLowrankOp, AddSparseOp)
"""Operations that the model's own code does not have."""


class Source:
    """A Hugging Face folder: its configuration, and its tensors, each read when it is asked for."""

    def __init__(self, path: str) -> None:
        folder = Path(path)
        if not path or not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"the artifact was compiled from {path or 'a module in Python'}, not a Hugging Face folder",
                fix="exports for other programs need the folder's configuration: compile the folder",
            )
        self.folder = folder
        self.config = _read_config(folder / CONFIG)
        self._files = {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the checkpoint."""
        with safe_open(str(self._files[name]), framework="pt") as file:
            return file.get_tensor(name)

    def other_files(self) -> list[Path]:
        """List what is neither configuration nor weights: tokenizer, licence, generation settings."""
        kept = (".json", ".txt", ".model", ".jinja", ".md")
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file() and path.suffix in kept]
        return [path for path in files if path.name != CONFIG and not path.name.endswith(".safetensors.index.json")]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds no mapping")
    return cast(dict[str, Any], data)


def _names(path: Path) -> list[str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


@dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint as the artifact has it.

    `is_layer` says that a quantized layer multiplies by it, `activations` in which format its input is; `is_read` that
    something else reads it too (a table tied to the head). Layers of one `group` read one value.
    """

    name: str
    weight: Weight
    is_layer: bool = False
    is_read: bool = False
    activations: QType | None = None
    group: str = ""


def entries_of(module: ModuleOp, store: WeightStore, source: Source) -> list[Entry]:
    """Find every tensor of a checkpoint among the weights of an artifact.

    Raises:
        UnsupportedOp: listing the operations that the model's own code would not compute, and the tensors that are not
            in the artifact as the checkpoint has them.
    """
    _refuse_operations(module)
    keys = _keys(module)
    prefix = _prefix(source, keys)
    layers = {_key(op.weight): type_of(op.input).qtype for op in contracts_of(module)}
    groups = _groups(module)
    readers = _other_readers(module)
    tied = bool(source.config.get("tie_word_embeddings"))
    found: list[Entry] = []
    problems: list[Problem] = []
    for name in source:
        candidates = keys.get(prefix + name) or (keys.get(prefix + HEAD, []) if tied and "embed" in name else [])
        if len(candidates) != 1 or "/" in candidates[0].split(":")[0]:
            problems.append(Problem(name, _why(candidates)))
            continue
        (key,) = candidates
        found.append(Entry(name, store[key], key in layers, key in readers, layers.get(key), groups.get(key, "")))
    if problems:
        raise UnsupportedOp(
            f"{len(problems)} tensors of the checkpoint are not in the artifact as the model's own code reads them",
            problems,
            fix="export a recipe without transforms",
        )
    return found


def _why(candidates: list[str]) -> str:
    if not candidates:
        return "is folded into other weights, or nothing reads it"
    if len(candidates) > 1:
        formats = ", ".join(key.partition(":")[2] or "float" for key in candidates)
        return f"is there in several formats: {formats}"
    return f"was rewritten ({candidates[0].split(':')[0].partition('/')[2]})"


def _refuse_operations(module: ModuleOp) -> None:
    problems = [
        Problem(op.where, f"computes {op.name} at run time, which the model's own code does not")
        for op in module.walk()
        if isinstance(op, AT_RUN_TIME)
    ]
    if problems:
        raise UnsupportedOp(
            "the program computes what no other program would", problems, fix="leave the transforms away"
        )


def _key(value: Any) -> str:
    owner = origin_of(value).owner
    return owner.key.data if isinstance(owner, WeightOp) else ""


def _keys(module: ModuleOp) -> dict[str, list[str]]:
    """Return the keys of the weights by the name they had in the model."""
    found: dict[str, list[str]] = {}
    for op in module.walk():
        if isinstance(op, WeightOp):
            members = found.setdefault(op.key.data.split(":")[0].split("/")[0], [])
            if op.key.data not in members:
                members.append(op.key.data)
    return found


def _groups(module: ModuleOp) -> dict[str, str]:
    """Return the fuse groups of weights that layers multiply by, quantized or not."""
    layers = [op for op in module.walk() if isinstance(op, ContractOp | LinearOp)]
    noted = {_key(op.weight): op.attributes.get(FUSE_GROUP) for op in layers}
    return {key: group.data for key, group in noted.items() if isinstance(group, StringAttr)}


def _other_readers(module: ModuleOp) -> set[str]:
    contracts = set(contracts_of(module))
    return {
        op.key.data
        for op in module.walk()
        if isinstance(op, WeightOp) and any(use.operation not in contracts for use in uses_of(op.result))
    }


def _prefix(source: Source, keys: Mapping[str, object]) -> str:
    """Return what stands before the checkpoint's names in the artifact: causal models are wrapped once."""
    return max(("", "model."), key=lambda prefix: sum(prefix + name in keys for name in source))


def is_plain_integer(weight: QuantizedTensor, bits: range) -> bool:
    """Say whether a weight is integers under one level of scales, symmetric or with zero points of its codes."""
    qtype = weight.qtype
    decode, zero = qtype.decode, qtype.zero
    if not isinstance(decode, IntDecode) or decode.bits not in bits or len(qtype.levels) != 1 or qtype.sides:
        return False
    if qtype.grid != "mid_tread" or qtype.levels[0].offset != "none" or qtype.levels[0].block[:1] != (1,):
        return False
    if decode.signed:
        return zero is None
    return zero is not None and zero.kind == "pre" and not zero.levels and zero.dtype == f"u{decode.bits}"
