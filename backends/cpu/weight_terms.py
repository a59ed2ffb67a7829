"""A weight of any format as a sum of terms that the kernels multiply.

    W = sum of integers under scales + up·down + sparse + dense

The kernels read integers of 1 to 8 bits under one scale and one integer zero point a group (`qformat`). Every other
format is taken apart, so that what is multiplied is what `dequantize` gives, up to the rounding of sums:

- values that are integers over one power of two (small floats such as E2M1, tables such as BitMoD's or powers of two,
  planes of 1, 2, 4, ..., integers of a choice of widths) become integers of as many bits as the widest of them takes;
- free digit planes become one term each, of 1 bit, or 2 for ternary digits;
- what is added to a block besides (`post`, `min`, `scaled` and real `pre` zero points) is one number a block of
  columns, times the sum of the inputs of the block: a product of two thin matrices, as are low-rank factors and whole
  columns kept apart;
- scattered outliers stay scattered;
- all else (NF4 and other tables of real numbers, 8-bit floats, masked and permuted weights) is decoded to float32 when
  the project is written: the numbers are exact, and take 32 bits each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcc.backends.cpu.qformat import is_native
from qcc.numerics.blocks import block_extents, spread_blocks
from qcc.numerics.levels import chain_product
from qcc.numerics.lowrank import LowRankFactors
from qcc.numerics.plane_digits import digit_matrix
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, Level, LowRank, PlanesDecode, Sparse
from qcc.numerics.quantize import dequantize
from qcc.numerics.sparse import DenseColumns, SparseTensor
from qcc.numerics.stored_parts import side_parts
from qcc.numerics.tensor import Parameters, QuantizedTensor, code_dtype

_DENOMINATORS = tuple(2.0**power for power in range(8))
_EXACT = 1e-6


@dataclass(frozen=True, eq=False)
class Thin:
    """A product `up [N, R] @ down [R, K]`, float32."""

    up: Tensor
    down: Tensor


@dataclass(frozen=True, eq=False)
class WeightTerms:
    """What a weight `[N, K]` is the sum of; `integers` are of formats that the kernels read."""

    integers: tuple[QuantizedTensor, ...]
    thin: Thin | None = None
    sparse: SparseTensor | None = None
    dense: Tensor | None = None


def terms_of(weight: QuantizedTensor) -> WeightTerms:
    """Take a weight `[N, K]` apart."""
    qtype = weight.qtype
    kept = tuple(side for side in qtype.sides if not isinstance(side, Sparse | LowRank))
    inner = QuantizedTensor(replace(qtype, sides=kept), weight.shape, weight.codes, weight.parameters)
    if side_parts(inner.qtype):
        return WeightTerms((), dense=dequantize(weight))
    found = [side for side in weight.sides if isinstance(side, SparseTensor)]
    scattered = next((one for one in found if not isinstance(one, DenseColumns)), None)
    thin = [_columns(one, weight.shape[1]) for one in found if isinstance(one, DenseColumns)]
    thin += [Thin(*one.decoded()) for one in weight.sides if isinstance(one, LowRankFactors)]
    integers, offset = _integers(inner)
    dense = None if integers else dequantize(inner)
    if integers and offset is not None:
        thin.append(_by_blocks(offset, inner))
    return WeightTerms(integers, _joined(thin), scattered, dense)


def _integers(weight: QuantizedTensor) -> tuple[tuple[QuantizedTensor, ...], Tensor | None]:
    """Return integers under scales, if that can be, and what is added to them, `[N, K]` of one value a block."""
    qtype, decode = weight.qtype, weight.qtype.decode
    if not qtype.levels or (qtype.layout == "ovp" and qtype.zero is not None):
        return (), None
    if isinstance(decode, PlanesDecode) and decode.coefficients == "free":
        terms = tuple(_plane(weight, decode, place) for place in range(decode.count)) if len(qtype.levels) == 1 else ()
        rest = None if qtype.zero is None else dequantize(weight, torch.float64) - _sum(terms)
    elif is_native(qtype):
        return (weight,), None
    elif isinstance(decode, IntDecode) and is_native(replace(qtype, zero=None)):
        parameters = replace(weight.parameters, zero=None)
        terms = (QuantizedTensor(replace(qtype, zero=None), weight.shape, weight.codes, parameters),)
        rest = dequantize(weight, torch.float64) - _sum(terms)
    else:
        return (_over_power_of_two(weight) if qtype.zero is None else ()), None
    if not terms or (rest is not None and not _one_a_block(rest, weight)):
        return (), None
    return terms, rest


def _sum(terms: tuple[QuantizedTensor, ...]) -> Tensor:
    return torch.stack([dequantize(one, torch.float64) for one in terms]).sum(0)


def _plane(weight: QuantizedTensor, decode: PlanesDecode, place: int) -> QuantizedTensor:
    """Return one digit plane as integers under its coefficient."""
    digits = digit_matrix(decode.count, decode.digits)[weight.codes.to(torch.int64), place]
    plain = IntDecode(1, signed=False) if decode.digits == "01" else IntDecode(2, narrow=True)
    qtype = replace(weight.qtype, decode=plain, zero=None, grid="mid_tread", layout="dense")
    scales = weight.scales[0][..., place]
    return QuantizedTensor(qtype, weight.shape, digits.to(code_dtype(plain)), Parameters.of((scales,)))


def _over_power_of_two(weight: QuantizedTensor) -> tuple[QuantizedTensor, ...]:
    """Return the weight as integers of up to 8 bits under its scales over a power of two, where that is exact."""
    qtype, shape = weight.qtype, weight.shape
    block = qtype.levels[0].block
    scales = chain_product(weight.parameters.scales, qtype.levels, shape, torch.float32)
    spread = spread_blocks(scales.double(), block, shape).expand(shape)
    values = torch.where(spread == 0, 0.0, dequantize(weight, torch.float64) / spread)
    for denominator in _DENOMINATORS:
        integers = (values * denominator).round()
        wide = float(torch.where(integers < 0, -integers - 1, integers).max()) if integers.numel() else 0.0
        if wide > 127:
            break
        if bool(((values * denominator - integers).abs() <= _EXACT).all()):
            bits = max(2, int(wide).bit_length() + 1)
            plain = QType(IntDecode(bits), (Level(block, "f32"),))
            return (QuantizedTensor(plain, shape, integers.to(torch.int8), Parameters.of((scales / denominator,))),)
    return ()


def _one_a_block(values: Tensor, weight: QuantizedTensor) -> bool:
    """Say whether values are, up to rounding, the same in every leaf block of a row."""
    first = _first_of_blocks(values, weight)
    peak = dequantize(weight, torch.float64).abs().max()
    return bool(
        ((values - first.repeat_interleave(_width(weight), 1)[:, : values.shape[1]]).abs() <= 1e-6 * peak).all()
    )


def _first_of_blocks(values: Tensor, weight: QuantizedTensor) -> Tensor:
    return values[:, :: _width(weight)]


def _width(weight: QuantizedTensor) -> int:
    return max(1, block_extents(weight.qtype.levels[0].block, weight.shape)[1])


def _by_blocks(offset: Tensor, weight: QuantizedTensor) -> Thin:
    """Return what is added to blocks of columns as a product with the sums of inputs over blocks."""
    columns, width = weight.shape[1], _width(weight)
    up = _first_of_blocks(offset, weight).to(torch.float32)
    owner = torch.arange(columns) // width
    return Thin(up, (torch.arange(up.shape[1])[:, None] == owner[None]).to(torch.float32))


def _columns(side: DenseColumns, columns: int) -> Thin:
    down = torch.nn.functional.one_hot(side.columns.to(torch.int64), columns)
    return Thin(side.values.to(torch.float32), down.to(torch.float32))


def _joined(parts: list[Thin]) -> Thin | None:
    parts = [one for one in parts if one.up.shape[1]]
    if not parts:
        return None
    return Thin(
        torch.cat([one.up for one in parts], 1).contiguous(), torch.cat([one.down for one in parts]).contiguous()
    )
