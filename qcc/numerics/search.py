"""Choose parameters by the squared error they leave: searched scales, and the decode of every block."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from qcc.errors import Problem, RecipeError
from qcc.numerics.blocks import amax, parent_block, reduce_blocks, spread_blocks, total
from qcc.numerics.coding import decode, encode
from qcc.numerics.parameters import (
    Reach,
    Statistics,
    leaf_grid,
    member_types,
    parameters_of,
    reach_of,
    statistics_of,
)
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Block, SelectDecode, TableDecode, block_grid
from qcc.numerics.slices import is_cut, row_slices, slice_grid, slice_parameters
from qcc.numerics.tensor import Parameters

# Shrinking the range from whole to a fifth in steps of 1 % (MR-GPTQ, arXiv 2509.23202, searches the same span).
_FACTORS = tuple(step / 100 for step in range(100, 19, -1))
# Powers of two: one exponent up, as it is, one down.
_EXPONENT_FACTORS = (1.0, 2.0, 0.5)
# Outlier-victim pairs start with every value normal and end with the largest on the largest outlier.
_PAIR_FACTORS = tuple(0.93**step for step in range(60))


def searched_parameters(x: Tensor, qtype: QType, statistics: Statistics) -> Parameters:
    """Shrink the range of every block of the level that asks for `mse` to the one of least squared error.

    Ties go to the wider range. The other levels follow from the shrunk ranges as usual.
    """
    shape = tuple(x.shape)
    level = next(level for level in qtype.levels if level.statistic == "mse")
    factors = _EXPONENT_FACTORS if level.dtype in ("e8m0", "pow2") else _FACTORS
    if qtype.layout == "ovp":
        factors = _PAIR_FACTORS
    grid = block_grid(level.block, shape)
    best_error = torch.full(grid, math.inf, dtype=torch.float64, device=x.device)
    best_factor = torch.ones(grid, dtype=x.dtype, device=x.device)
    for factor in factors:
        error = squared_error(x, qtype, parameters_of(statistics.shrunk(factor), qtype, shape), level.block)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_factor = torch.where(better, factor, best_factor)
    block = parent_block(qtype.levels[0].block, level.block, shape)
    spread = spread_blocks(best_factor, block, leaf_grid(qtype, shape))
    return parameters_of(statistics.shrunk(spread), qtype, shape)


def selected_parameters(x: Tensor, qtype: QType, roots: tuple[Tensor, ...]) -> Parameters:
    """Choose a member for every block of the selector, then compute the parameters of that choice.

    Tables are chosen by the squared error each leaves (BitMoD, arXiv 2411.11745). Decodes with shares go by
    the range of a block: the widest decodes to the blocks of largest range, as many as their share.
    """
    shape, kind = tuple(x.shape), qtype.decode
    assert isinstance(kind, TableDecode | SelectDecode)
    assert kind.selector is not None
    members = member_types(qtype)
    statistics = statistics_of(x, qtype, roots)
    if isinstance(kind, TableDecode):
        errors = [
            squared_error(x, member, _own_parameters(x, member, roots), kind.selector.block) for member in members
        ]
        choice = torch.stack(errors).argmin(0)
    else:
        choice = _by_shares(x, kind)
    block = parent_block(qtype.levels[0].block, kind.selector.block, shape)
    spread = spread_blocks(choice, block, leaf_grid(qtype, shape))
    chosen = parameters_of(statistics, members[0], shape, _reach_of_choice(members, spread))
    return replace(chosen, selector=choice.to(torch.uint8))


def squared_error(x: Tensor, qtype: QType, parameters: Parameters, block: Block) -> Tensor:
    """Sum the squared error of coding `x` over every block, in float64; NaN counts as infinite."""
    shape = tuple(x.shape)
    grid = torch.zeros(block_grid(block, shape), dtype=torch.float64, device=x.device)
    for rows in row_slices(qtype, shape):
        part, own = x[rows], slice_parameters(parameters, qtype, shape, rows)
        values = decode(encode(part, qtype, own), qtype, own, part.dtype)
        error = reduce_blocks((values - part).square(), block, total).double()
        if is_cut(block, shape):
            grid += error
        else:
            slice_grid(grid, block, shape, rows).copy_(error)
    return torch.nan_to_num(grid, nan=math.inf)


def _own_parameters(x: Tensor, member: QType, roots: tuple[Tensor, ...]) -> Parameters:
    statistics = statistics_of(x, member, roots)
    if any(level.statistic == "mse" for level in member.levels):
        return searched_parameters(x, member, statistics)
    return parameters_of(statistics, member, tuple(x.shape))


def _reach_of_choice(members: tuple[QType, ...], choice: Tensor) -> Reach:
    reaches = [reach_of(member) for member in members]

    def chosen(values: list[Tensor | float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=choice.device)[choice]

    return Reach(
        chosen([reach.magnitude for reach in reaches]),
        chosen([reach.low for reach in reaches]),
        chosen([reach.high for reach in reaches]),
    )


def _by_shares(x: Tensor, kind: SelectDecode) -> Tensor:
    """Rank blocks by their largest magnitude and deal out the decodes, narrowest first, by their shares."""
    assert kind.selector is not None
    if not kind.fractions:
        raise RecipeError(
            "a selected decode without shares cannot be encoded",
            [Problem(str(kind), "nothing says how many blocks take each decode")],
            fix="write a share after every decode, as in select(int4n 0.875, int8n 0.125) by u1 (-1,128)",
        )
    peaks = reduce_blocks(x.abs(), kind.selector.block, amax)
    order = sorted(range(len(kind.options)), key=lambda index: kind.options[index].bits)
    shares = torch.tensor([kind.fractions[index] for index in order], dtype=torch.float64).cumsum(0)
    ends = (shares * peaks.numel()).round().long()
    ranks = torch.empty(peaks.numel(), dtype=torch.int64, device=peaks.device)
    ranked = peaks.flatten().argsort(stable=True)
    ranks[ranked] = torch.arange(peaks.numel(), device=peaks.device)
    place = torch.bucketize(ranks, ends[:-1].to(peaks.device), right=True)
    return torch.tensor(order, device=peaks.device)[place].reshape(peaks.shape)
