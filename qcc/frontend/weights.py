"""The stored tensors of an export: checked, tied ones found, put into the weight store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensor

from qcc.errors import CheckpointError, Problem, ShapeError
from qcc.frontend.signature import Stored
from qcc.ir.on_disk import OnDisk
from qcc.ir.store import WeightStore
from qcc.numerics.torch_dtypes import SCALAR_NAMES


@dataclass(frozen=True)
class Weights:
    """Which key of the store each placeholder reads, and in whose memory each key's tensor lay.

    Tied placeholders read one key.
    """

    store: WeightStore
    keys: dict[str, str]
    memory: dict[str, int]


def collect(
    stored: Iterable[Stored], used: frozenset[str], find: Callable[[torch.Tensor], OnDisk | None] = lambda _: None
) -> Weights:
    """Put the tensors that the graph reads into a store; one key for what lies at one place in memory.

    `find` says where in a file a tensor lies; what it finds is mapped from there whenever it is read.

    Raises:
        CheckpointError: listing every tensor that has no values, is no dense tensor, or is not finite.
        ShapeError: listing every tensor without elements.
    """
    store, keys, memory = WeightStore(), dict[str, str](), dict[str, int]()
    places: dict[tuple[object, ...], str] = {}
    problems: list[Problem] = []
    empty: list[Problem] = []
    for one in stored:
        if one.placeholder not in used:
            continue
        tensor = one.tensor
        what = _unusable(tensor)
        if what or not isinstance(tensor, torch.Tensor):
            problems.append(Problem(one.name, what, "export the model with real, dense weights"))
            continue
        if tensor.numel() == 0:
            empty.append(Problem(one.name, f"has the shape {list(tensor.shape)}", "remove the layer that owns it"))
            continue
        place = _place(tensor)
        if place not in places:
            places[place] = one.name
            store[one.name] = find(tensor) or tensor.detach().cpu().contiguous()
            memory[one.name] = tensor.untyped_storage().data_ptr()
        problems.extend(_not_finite(one, store.tensor(places[place])))
        keys[one.placeholder] = places[place]
    if problems:
        raise CheckpointError("the weights cannot be compiled", problems)
    if empty:
        raise ShapeError("the model has tensors without elements", empty)
    return Weights(store, keys, memory)


def _unusable(tensor: object) -> str:
    if not isinstance(tensor, torch.Tensor):
        return "is missing from the exported program"
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"is stored as {tensor.layout}, qcc takes dense tensors"
    if tensor.dtype not in SCALAR_NAMES:
        return f"has elements of {tensor.dtype}, which qcc does not have"
    if isinstance(tensor, FakeTensor) or tensor.is_meta:
        return "has a shape but no values"
    return ""


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device


def _not_finite(one: Stored, tensor: torch.Tensor) -> Iterator[Problem]:
    """Find NaN anywhere and infinities in parameters; buffers may hold -inf, as attention masks do."""
    if not tensor.is_floating_point():
        return
    low, high = torch.aminmax(tensor.detach())
    if bool(torch.isnan(low)):
        count = int(torch.isnan(tensor).sum())
        yield Problem(one.name, f"holds NaN in {count} of {tensor.numel()} elements", "repair the checkpoint")
    elif one.parameter and not bool(torch.isfinite(low) & torch.isfinite(high)):
        count = int(torch.isinf(tensor).sum())
        yield Problem(one.name, f"is infinite in {count} of {tensor.numel()} elements", "repair the checkpoint")
