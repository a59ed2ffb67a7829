"""The widths that are proved hold every sum that any input can make, and no width is larger than it must be."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

from qcc.errors import QccError
from qcc.interpreter.contraction import corrected_sums, group_size
from qcc.ir.context import QccContext
from qcc.ir.kernel import KernelOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.passes.code_ranges import Interval, integers_of, reach_of_sums, shared_columns, stored_integers
from qcc.passes.fuse_epilogue import FuseEpilogue
from qcc.passes.prove_overflow import ProveOverflow
from tests.modules import kind_of, make

WEIGHTS = st.sampled_from([
    "int1 mid_rise | (1,2) f32", "int2 | (1,2) f32", "int4 | (1,-1) f32", "uint4 | (1,3) f32 | pre u4",
    "int8n | (1,-1) f32", "uint8 | (1,-1) f32 | pre u8", "uint3 | (1,2) f32 | post f32",
    "int3 mid_rise | (1,-1) f32", "uint2 | (1,-1) f32 | pre i8",
])  # fmt: skip
INPUTS = st.sampled_from([
    "int8 | (1,-1) f32 | dynamic", "int4n | (1,2) f32 | dynamic", "uint8 | (1,-1) f32 | pre u8 | dynamic"
])  # fmt: skip


def contraction(x: str, w: str, columns: int, rows: int = 2, weight: QuantizedTensor | None = None) -> ModuleOp:
    kind = tensor([rows, columns], parse_qtype(w)) if weight is None else kind_of(weight)

    def build(value: object) -> ContractOp:
        return ContractOp(QuantizeOp(value, parse_qtype(x)), WeightOp("w", kind))

    module = make({"x": tensor(["s", columns], "f32")}, build, [SymbolAttr.make("s", 1)])
    FuseEpilogue().apply(QccContext(), module)
    return module


def prove(module: ModuleOp, store: WeightStore | None = None, bits: int = 64) -> int:
    ProveOverflow(bits).apply(QccContext(store), module)
    module.verify()
    (kernel,) = (op for op in module.walk() if isinstance(op, KernelOp))
    assert kernel.accumulator is not None
    return kernel.accumulator.value.data


def inputs_of(qtype: QType, columns: int) -> QuantizedTensor:
    """Every row of extreme codes, with every extreme zero point where there is one."""
    decode = qtype.decode
    codes = torch.tensor([*product([decode.minimum, decode.maximum], repeat=columns)])
    zeros = [decode.minimum, decode.maximum] if qtype.zero is not None else [None]
    codes = codes.repeat(len(zeros), 1)
    groups = -(-columns // qtype.levels[0].block[1]) if qtype.levels[0].block[1] > 0 else 1
    scales = torch.ones(codes.shape[0], groups)
    zero = None
    if zeros[0] is not None:
        zero = torch.tensor(zeros).repeat_interleave(codes.shape[0] // 2)[:, None].expand(-1, groups).to(torch.uint8)
    return QuantizedTensor(qtype, tuple(codes.shape), codes, Parameters.of((scales,), zero))


@settings(max_examples=80, deadline=None)
@given(
    x=INPUTS, w=WEIGHTS, columns=st.integers(1, 6), seed=st.integers(0, 999), scale=st.sampled_from([1e-6, 1.0, 1e6])
)
def test_bounds_hold_for_every_extreme_input(x: str, w: str, columns: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = quantize(torch.randn(3, columns, generator=generator) * scale, parse_qtype(w))
    rows = inputs_of(parse_qtype(x), columns)
    group = group_size(rows, weight)
    assert shared_columns(tensor(rows.shape, rows.qtype), kind_of(weight)) == group
    left, right = integers_of(rows.qtype), integers_of(weight.qtype)
    assert left is not None
    assert right is not None
    integers = stored_integers(weight)
    assert right.interval.low <= int(integers.min())
    assert int(integers.max()) <= right.interval.high
    sums = corrected_sums(rows, weight)
    loose = left.interval.product(right.interval).times(group)
    tight = reach_of_sums(left.interval, integers, group)
    assert loose.low <= tight.low <= int(sums.min())
    assert int(sums.max()) <= tight.high <= loose.high
    if rows.qtype.zero is None:  # then some row has the worst code in every column, and the bound is reached
        assert (tight.low, tight.high) == (min(0, int(sums.min())), max(0, int(sums.max())))


@given(low=st.integers(-(2**70), 0), high=st.integers(0, 2**70))
def test_bits_are_those_of_twos_complement(low: int, high: int) -> None:
    bits = Interval(low, high).bits
    assert -(2 ** (bits - 1)) <= low <= high < 2 ** (bits - 1)
    assert bits == 1 or not -(2 ** (bits - 2)) <= low <= high < 2 ** (bits - 2)


@pytest.mark.parametrize(("columns", "width"), [(131071, 32), (131072, 64)])
def test_the_first_width_that_holds(columns: int, width: int) -> None:
    # -128 * -128 * 131072 is 2^31, one more than 32 bits hold
    assert prove(contraction("int8 | (1,-1) f32 | dynamic", "int8 | (1,-1) f32", columns)) == width


def test_the_weights_at_hand_give_a_tighter_bound() -> None:
    columns = 140000
    values = torch.zeros(2, columns)
    values[:, ::2] = 1.0
    store = WeightStore({"w": quantize(values, parse_qtype("int8 | (1,-1) f32"))})
    module = contraction("int8 | (1,-1) f32 | dynamic", "int8 | (1,-1) f32", columns)
    assert prove(module.clone()) == 64
    assert prove(module, store, 32) == 32


def test_sums_that_the_target_cannot_hold_are_refused_with_the_way_out() -> None:
    module = contraction("int8 | (1,-1) f32 | dynamic", "int8 | (1,-1) f32", 200000)
    with pytest.raises(QccError) as raised:
        prove(module, bits=32)
    text = str(raised.value)
    assert "w: sums of 200000 products of -128..127 and -128..127 reach" in text
    assert "33 bits, where the target sums 32" in text
    assert "groups of at most 131071 columns" in text
    wide = contraction("int8 | (1,131072) f32 | dynamic", "int8 | (1,-1) f32", 262144)
    with pytest.raises(QccError, match="at most 131071"):
        prove(wide, bits=32)


def test_a_protective_range_of_119_keeps_rebuilt_weights_in_eight_bits_and_120_does_not() -> None:
    text = "uint4 | (1,128) i8, (1,-1) f16 protect({}) | scaled i8"
    assert prove(contraction("int8 | (1,-1) f32 | dynamic", text.format(119), 256)) == 32
    with pytest.raises(QccError, match=r"rebuilt as integers of 8 bits and may reach 128[\s\S]*protect\(119\)"):
        prove(contraction("int8 | (1,-1) f32 | dynamic", text.format(120), 256))


def hard_weights(peak: int) -> torch.Tensor:
    """Rows of two blocks: one sets the root scale to 1, the other goes from 0 to `peak`, or below."""
    rows = torch.zeros(2 * peak, 256)
    rows[:, 0] = peak
    for index in range(peak):
        rows[2 * index, 128:] = torch.linspace(-index, peak, 128).round()
        rows[2 * index + 1, 128:] = torch.linspace(-peak, index, 128).round()
    return rows


def test_the_weights_at_hand_decide_whether_rebuilding_overflows() -> None:
    text = "uint4 | (1,128) i8, (1,-1) f16 protect({}) | scaled i8"
    for peak, fits in ((119, True), (120, False)):
        weight = quantize(hard_weights(peak), parse_qtype(text.format(peak)))
        integers = stored_integers(weight)
        torch.testing.assert_close(dequantize(weight), integers * weight.scales[-1].float())
        assert (int(integers.abs().max()) <= 127) is fits
        module = contraction("int8 | (1,-1) f32 | dynamic", text.format(peak), 256, weight=weight)
        if fits:
            assert prove(module, WeightStore({"w": weight})) == 32
        else:
            with pytest.raises(QccError, match="may reach 128"):
                prove(module, WeightStore({"w": weight}))
    tame = quantize(hard_weights(120) * 0 + 1.0, parse_qtype(text.format(120)))
    module = contraction("int8 | (1,-1) f32 | dynamic", text.format(120), 256, weight=tame)
    assert prove(module, WeightStore({"w": tame})) == 32
