"""Choose parameters by the squared error they leave: searched scales, and the decode of every block."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from qcc.errors import Problem, RecipeError
from qcc.numerics.blocks import parent_block, spread_blocks
from qcc.numerics.deviation import squared_error
from qcc.numerics.levels import Chain
from qcc.numerics.parameters import (
    Reach,
    Statistics,
    leaf_grid,
    member_types,
    parameters_of,
    part_of_statistics,
    reach_of,
    statistics_of,
)
from qcc.numerics.parts import Index, Parts, working_dtype
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Level, SelectDecode, TableDecode, block_grid
from qcc.numerics.slices import cuts_parameters, row_slices
from qcc.numerics.statistics import peak
from qcc.numerics.tensor import Parameters

# Shrinking the range from whole to a fifth in steps of 1 % (MR-GPTQ, arXiv 2509.23202, searches the same span).
FACTORS = tuple(step / 100 for step in range(100, 19, -1))
# Powers of two: one exponent up, as it is, one down.
EXPONENT_FACTORS = (1.0, 2.0, 0.5)
# Outlier-victim pairs start with every value normal and end with the largest on the largest outlier.
_PAIR_FACTORS = tuple(0.93**step for step in range(60))


def searched_factors(x: Tensor, qtype: QType, statistics: Statistics) -> Tensor | None:
    """Find by how much to shrink the range of every leaf block; None where no level asks for `mse`.

    All leaves below a block of the level that asks shrink alike, to the least squared error of that block; ties
    go to the wider range. The other levels follow from the shrunk ranges as usual.
    """
    shape = tuple(x.shape)
    level = next((level for level in qtype.levels if level.statistic == "mse"), None)
    if level is None:
        return None
    # Parts that share no parameter are searched one by one, which keeps what a search works on small.
    indices = [(slice(None),)] if cuts_parameters(qtype, shape) else row_slices(qtype, shape)

    def search(part: Tensor, index: Index) -> Tensor:
        return _best_factors(part, qtype, part_of_statistics(statistics, qtype, shape, index), level)

    found = Parts(x, tuple(indices), lambda part, _: part).reduce(level.block, search, torch.maximum)
    block = parent_block(qtype.levels[0].block, level.block, shape)
    return spread_blocks(found, block, leaf_grid(qtype, shape))


def _best_factors(x: Tensor, qtype: QType, statistics: Statistics, level: Level) -> Tensor:
    shape = tuple(x.shape)
    grid = block_grid(level.block, shape)
    least = torch.full(grid, math.inf, dtype=torch.float64, device=x.device)
    best = torch.ones(grid, dtype=working_dtype(x), device=x.device)
    factors = _factors(qtype, level)
    # Every eighth first: a good one found early spares most of the sums over many parts that the others need.
    for place in sorted(range(len(factors)), key=lambda place: (place % 8 > 0, place % 4 > 0, place % 2 > 0)):
        factor = factors[place]
        parameters = parameters_of(statistics.shrunk(factor), qtype, shape)
        error = squared_error(x, qtype, parameters, level.block, least)
        better = (error < least) | ((error == least) & (best < factor))
        least = torch.where(better, error, least)
        best = torch.where(better, factor, best)
    return best


def _factors(qtype: QType, level: Level) -> tuple[float, ...]:
    if qtype.layout == "ovp":
        return _PAIR_FACTORS
    return EXPONENT_FACTORS if level.dtype in ("e8m0", "pow2") else FACTORS


def selected_parameters(x: Tensor, qtype: QType, roots: tuple[Tensor, ...], given: Tensor | None = None) -> Parameters:
    """Choose a member for every block of the selector, then compute the parameters of that choice.

    Tables are chosen by the squared error each leaves (BitMoD, arXiv 2411.11745). Decodes with shares go by
    the range of a block: the widest decodes to the blocks of largest range, as many as their share. A choice that is
    `given`, integers on the grid of the selector, stays.
    """
    shape, kind = tuple(x.shape), qtype.decode
    assert isinstance(kind, TableDecode | SelectDecode)
    assert kind.selector is not None
    members = member_types(qtype)
    statistics = statistics_of(_parts(x, qtype), qtype, roots)
    factors = [searched_factors(x, member, statistics) for member in members]
    if given is not None:
        choice = given.to(torch.int64)
    elif isinstance(kind, TableDecode):
        own = (statistics.shrunk(factor) for factor in factors)
        pairs = ((member, parameters_of(ranges, member, shape)) for member, ranges in zip(members, own, strict=True))
        errors = [squared_error(x, *pair, kind.selector.block) for pair in pairs]
        choice = torch.stack(errors).argmin(0)
    else:
        choice = chosen_by_shares(_parts(x, qtype), kind)
    selector = choice.to(torch.uint8)
    if not qtype.levels:
        return Parameters(Chain((), ()), selector=selector)
    leaves = leaf_grid(qtype, shape)
    spread = spread_blocks(choice, parent_block(qtype.levels[0].block, kind.selector.block, shape), leaves)
    searched = [factor.expand(leaves) for factor in factors if factor is not None]
    if searched:
        statistics = statistics.shrunk(torch.stack(searched).gather(0, spread.expand(leaves)[None])[0])
    chosen = parameters_of(statistics, members[0], shape, _reach_of_choice(members, spread))
    return replace(chosen, selector=selector)


def _parts(x: Tensor, qtype: QType) -> Parts:
    return Parts(x, tuple(row_slices(qtype, tuple(x.shape))))


def _reach_of_choice(members: tuple[QType, ...], choice: Tensor) -> Reach:
    reaches = [reach_of(member) for member in members]

    def chosen(values: list[Tensor | float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=choice.device)[choice]

    return Reach(
        chosen([reach.magnitude for reach in reaches]),
        chosen([reach.low for reach in reaches]),
        chosen([reach.high for reach in reaches]),
    )


def chosen_by_shares(parts: Parts, kind: SelectDecode) -> Tensor:
    """Rank blocks by their largest magnitude and deal out the decodes, narrowest first, by their shares.

    Raises:
        RecipeError: a decode without shares.
    """
    assert kind.selector is not None
    if not kind.fractions:
        raise RecipeError(
            "a selected decode without shares cannot be encoded",
            [Problem(str(kind), "nothing says how many blocks take each decode")],
            fix="write a share after every decode, as in select(int4n 0.875, int8n 0.125) by u1 (-1,128)",
        )
    peaks = peak(parts, kind.selector.block)
    order = sorted(range(len(kind.options)), key=lambda index: kind.options[index].bits)
    shares = torch.tensor([kind.fractions[index] for index in order], dtype=torch.float64, device=peaks.device)
    ends = (shares.cumsum(0) * peaks.numel()).round().long()
    ranks = torch.empty(peaks.numel(), dtype=torch.int64, device=peaks.device)
    ranked = peaks.flatten().argsort(stable=True)
    ranks[ranked] = torch.arange(peaks.numel(), device=peaks.device)
    place = torch.bucketize(ranks, ends[:-1], right=True)
    return torch.tensor(order, device=peaks.device)[place].reshape(peaks.shape)
