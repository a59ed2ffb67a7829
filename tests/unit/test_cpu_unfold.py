"""The CPU backend computes unfold with its own kernel and quantizes its rows where they lie."""

from __future__ import annotations

import pytest

from qcc.backends.cpu.emit_nn import LOWERINGS as NN
from qcc.backends.cpu.emit_program import LOWERINGS as PROGRAM
from qcc.backends.cpu.emit_quant import LOWERINGS as QUANT
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.statements import Call, Pointer, Schedule, Struct
from qcc.backends.cpu.weights import Constants
from qcc.errors import UnsupportedOp
from qcc.ir.dims import Dim
from qcc.ir.nn import UnfoldOp
from qcc.ir.program import ProgramOp, ReturnOp
from qcc.ir.quant import DequantizeOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import int_qtype


def lower(shape: tuple[int | str, ...], symbols: tuple[str, ...], **windows: tuple[int, ...]) -> Schedule:
    program = ProgramOp(
        "main", [("x", tensor(shape, "f32"))], [SymbolAttr.make(one, 1, 99) for one in symbols], outputs=["y"]
    )
    rows = UnfoldOp(program.body.block.args[0], **windows)
    codes = QuantizeOp(rows, int_qtype(8, group="row", scale="f32", when="dynamic"))
    values = DequantizeOp(codes)
    program.body.block.add_ops([rows, codes, values, ReturnOp([values.result])])
    program.verify()
    return Lowering(program, Constants(WeightStore())).run({**NN, **QUANT, **PROGRAM})


def one_call(schedule: Schedule, kernel: str) -> Call:
    (found,) = [one for one in schedule.calls if one.kernel == kernel]
    return found


def test_rows_of_images() -> None:
    schedule = lower(("s0", 3, 9, 8), ("s0",), window=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 3))
    unfold = one_call(schedule, "unfold")
    windows, rows = unfold.fields["conv"], unfold.fields["rows"]
    assert isinstance(windows, Struct)
    assert isinstance(rows, Pointer)
    found = {name: value for name, value in windows.fields.items() if not isinstance(value, Pointer)}
    assert {name: str(value) for name, value in found.items()} == {
        "batch": "s0",
        "in_channels": "3",
        "groups": "1",
        "in_h": "9",
        "in_w": "8",
        "out_h": "5",
        "out_w": "5",
        "kernel_h": "3",
        "kernel_w": "2",
        "stride_h": "2",
        "stride_w": "1",
        "pad_top": "1",
        "pad_left": "0",
        "dilation_h": "1",
        "dilation_w": "3",
    }
    assert unfold.fields["row_stride"] == Dim.of(18)
    # no copy between the rows and their codes
    quantize = one_call(schedule, "quantize")
    source = quantize.fields["x"]
    assert isinstance(source, Pointer)
    assert source.view.buffer == rows.view.buffer
    assert quantize.fields["m"] == Dim.symbol("s0") * 25
    assert quantize.fields["x_stride"] == Dim.of(18)


def test_one_axis_is_height_one_and_its_length_is_checked_at_run_time() -> None:
    schedule = lower((2, 3, "s1"), ("s1",), window=(5,), stride=(2,), padding=(1,), dilation=(1,))
    windows = one_call(schedule, "unfold").fields["conv"]
    assert isinstance(windows, Struct)
    assert {str(windows.fields[name]) for name in ("in_h", "out_h", "kernel_h", "stride_h", "dilation_h")} == {"1"}
    assert windows.fields["pad_top"] == 0
    (check,) = schedule.checks
    assert [check.size.evaluate({"s1": size}) for size in (2, 3, 4, 5)] == [-1, 0, 0, 1]


def test_three_axes_are_refused() -> None:
    with pytest.raises(UnsupportedOp, match="slides over 3 axes"):
        lower((1, 2, 4, 4, 4), (), window=(2, 2, 2), stride=(1, 1, 1), padding=(0, 0, 0), dilation=(1, 1, 1))
