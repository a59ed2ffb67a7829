"""Code pairs of neighbours in the outlier-victim layout (OliVe, ISCA 2023, arXiv 2304.07493).

Along the last axis elements 2i and 2i+1 are a pair. Codes 0 to n-1 stand for the n normal values; code n says that
this element is the victim of its neighbour: it is zero, and the neighbour's code counts into the outlier table.
An element without a neighbour, at the end of an odd row, is always normal.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from qcc.numerics.codebook import codebook, look_up
from qcc.numerics.qtype_parts import TableDecode


def encode_pairs(values: Tensor, decode: TableDecode) -> Tensor:
    """Give uint8 codes of `values` [..., K], scaled to the tables (normal values, then outliers).

    Each pair takes the cheapest in squared error of: both normal, an outlier on the left, one on the right.
    """
    normal, outlier = decode.tables
    victim = len(normal)
    pairs = functional.pad(values, (0, values.shape[-1] % 2)).unflatten(-1, (-1, 2))
    normal_codes, normal_values = _nearest(pairs, normal)
    outlier_codes, outlier_values = _nearest(pairs, outlier)
    plain = (pairs - normal_values).square()
    lifted = (pairs - outlier_values).square()
    lost = pairs.square()
    # The order settles ties: normal first, so that zeros never become outliers.
    costs = torch.stack(
        (plain.sum(-1), lifted[..., 0] + lost[..., 1], lost[..., 0] + lifted[..., 1]),
    )
    if values.shape[-1] % 2:
        costs[1:, ..., -1] = torch.inf
    chosen = torch.nan_to_num(costs, nan=torch.inf).argmin(0)
    left = torch.where(chosen == 1, outlier_codes[..., 0], normal_codes[..., 0])
    right = torch.where(chosen == 2, outlier_codes[..., 1], normal_codes[..., 1])
    left = torch.where(chosen == 2, victim, left)
    right = torch.where(chosen == 1, victim, right)
    return torch.stack((left, right), -1).flatten(-2)[..., : values.shape[-1]].to(torch.uint8)


def pair_errors(values: Tensor, decode: TableDecode) -> Tensor:
    """Give the squared error of every pair of `values` [..., K] under the codes it takes: [..., ceil(K / 2)]."""
    normal, outlier = (codebook(table) for table in decode.tables)
    pairs = functional.pad(values, (0, values.shape[-1] % 2)).unflatten(-1, (-1, 2)).movedim(-1, 0).contiguous()
    plain = normal.near_values(pairs).sub_(pairs).square_()
    lifted = outlier.near_values(pairs).sub_(pairs).square_()
    lost = pairs.square_()
    if values.shape[-1] % 2:
        plain[1, ..., -1] = 0
        lifted[..., -1] = torch.inf
    with_outlier = torch.minimum(lifted[0] + lost[1], lost[0] + lifted[1])
    return torch.minimum(plain[0] + plain[1], with_outlier)


def decode_pairs(codes: Tensor, decode: TableDecode, dtype: torch.dtype) -> Tensor:
    """Give the values of codes [..., K] before any scale."""
    normal, outlier = decode.tables
    victim = len(normal)
    pairs = functional.pad(codes, (0, codes.shape[-1] % 2)).unflatten(-1, (-1, 2)).to(torch.int32)
    values = look_up((*normal, 0.0), pairs.clamp(max=victim), dtype)
    beside_victim = pairs.flip(-1) == victim
    values = torch.where(beside_victim, look_up(outlier, pairs.clamp(max=len(outlier) - 1), dtype), values)
    values = torch.where(pairs == victim, 0.0, values)
    return values.flatten(-2)[..., : codes.shape[-1]]


def _nearest(values: Tensor, table: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    book = codebook(table)
    position = book.nearest(values, "half_down")
    return position, look_up(table, position, values.dtype)
