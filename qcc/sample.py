"""Inputs of other sizes, made from the example a model was exported with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from xdsl.ir import BlockArgument, Operation, SSAValue

from qcc.ir.cache import CacheAppendOp
from qcc.ir.kernel import origin_of
from qcc.ir.program import ProgramOp
from qcc.ir.types import type_of


def resized_inputs(
    program: ProgramOp, example: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Repeat or cut the example inputs to the sizes that `symbols` gives (elements per symbol).

    Values stay ones that the model was exported with, so that indices stay in range; but positions in a quantized cache
    go on counting.
    """
    counted = _counted_inputs(program)
    result: dict[str, torch.Tensor] = {}
    for name, argument in zip(program.input_names, program.body.block.args, strict=True):
        value = example[name]
        for axis, dim in enumerate(type_of(argument).shape):
            size = dim.evaluate(symbols)
            index = torch.arange(size) % max(value.shape[axis], 1)
            value = value.index_select(axis, index)
        if name in counted and value.dim() == 1 and value.numel():
            value = example[name][0] + torch.arange(value.numel(), dtype=value.dtype)
        result[name] = value.contiguous()
    return result


def overruns_cache(program: ProgramOp, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Say whether inputs write behind the end of a quantized cache."""
    counted = _counted_inputs(program)
    return any(value.numel() and int(value.max()) >= counted[name] for name, value in inputs.items() if name in counted)


def _counted_inputs(program: ProgramOp) -> dict[str, int]:
    """Return the inputs that are positions in quantized caches, and how many tokens the shortest of these holds."""
    found: dict[str, int] = {}
    for op in program.body.walk():
        if isinstance(op, CacheAppendOp) and isinstance(source := _source_of(op.positions), BlockArgument):
            name, tokens = program.input_names[source.index], type_of(op.parts[0]).shape[2].constant or 0
            found[name] = min(tokens, found.get(name, tokens))
    return found


def _source_of(value: SSAValue) -> SSAValue:
    """Look through operations of one operand, such as casts."""
    value = origin_of(value)
    while isinstance(owner := value.owner, Operation) and len(owner.operands) == 1:
        value = origin_of(owner.operands[0])
    return value


def varied_inputs(example: Mapping[str, torch.Tensor], count: int) -> list[dict[str, torch.Tensor]]:
    """Return `count` variations of inputs: elements rolled, floats scaled up and down, once with what is no number.

    Integers stay ones that the model was exported with, so that indices stay in range.
    """
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 1e-40])
    found: list[dict[str, torch.Tensor]] = []
    for index in range(count):
        inputs: dict[str, torch.Tensor] = {}
        for name, value in example.items():
            rolled = value.flatten().roll(index + 1)
            if value.is_floating_point():
                rolled = rolled * (-1.5) ** index
                if index == 0:
                    rolled[: len(special)] = special[: rolled.numel()].to(rolled.dtype)
            inputs[name] = rolled.reshape(value.shape)
        found.append(inputs)
    return found


def clamp_to_range(program: ProgramOp, symbol: str, value: int) -> int:
    """Move a size into the range that a symbol was exported with."""
    low, high = program.symbol_ranges[symbol]
    return max(low, min(value, high))


def batch_symbols(program: ProgramOp) -> set[str]:
    """Return the symbols that are the first axis of an input of rank 2 or more: batch sizes."""
    kinds = [type_of(argument) for argument in program.body.block.args]
    return {name for kind in kinds if kind.rank > 1 for name in kind.shape[0].symbols}


def sizes_of(program: ProgramOp, batch: int, sequence: int) -> dict[str, int]:
    """Give every symbol a size: batch symbols `batch`, all others `sequence`, clamped to their ranges."""
    leading = batch_symbols(program)
    return {
        name: clamp_to_range(program, name, batch if name in leading else sequence) for name in program.symbol_ranges
    }


def golden_sizes(program: ProgramOp, example: Mapping[str, int]) -> list[dict[str, int]]:
    """Return symbol values worth testing: the example's, the smallest, and an odd size, without repeats."""
    wanted = [dict(example)]
    if program.symbol_ranges:
        wanted.append(sizes_of(program, 1, 1))
        wanted.append(sizes_of(program, 3, 17))
    unique: list[dict[str, int]] = []
    for sizes in wanted:
        if sizes not in unique:
            unique.append(sizes)
    return unique
