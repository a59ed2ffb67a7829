from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import VerifyException

from qcc.interpreter import Interpreter
from qcc.ir.base import integers
from qcc.ir.nn import UnfoldOp
from qcc.ir.program import ProgramOp, ReturnOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor

SETTINGS = [
    ((3, 7, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    ((5, 8, 3), (2, 3), (2, 3), (0, 2), (1, 1)),
    ((2, 11, 6), (3, 2), (1, 2), (3, 0), (2, 4)),
    ((4, 1, 13), (1, 7), (1, 5), (0, 3), (3, 1)),
    ((3, 2, 2), (5, 5), (3, 1), (4, 3), (1, 1)),
]


def build(shape: tuple[int | str, ...], **windows: tuple[int, ...]) -> ModuleOp:
    program = ProgramOp(
        "main",
        [("x", tensor(("s0", *shape), "f32"))],
        symbols=[SymbolAttr.make(name, 1, 64) for name in ("s0", *(one for one in shape if isinstance(one, str)))],
        outputs=["y"],
    )
    unfold = UnfoldOp(program.body.block.args[0], **windows)
    program.body.block.add_ops([unfold, ReturnOp([unfold.result])])
    return ModuleOp([program])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("shape", "window", "stride", "padding", "dilation"), SETTINGS)
def test_unfold_is_that_of_torch(
    shape: tuple[int, int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    batch: int,
) -> None:
    module = build(shape, window=window, stride=stride, padding=padding, dilation=dilation)
    module.verify()
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
    x[0, 0, 0, 0] = float("nan")
    rows = Interpreter(module, WeightStore()).run({"x": x})["y"]
    wanted = F.unfold(x, window, dilation=dilation, padding=padding, stride=stride)
    assert rows.shape[3] == shape[0] * window[0] * window[1]
    torch.testing.assert_close(rows.flatten(1, 2), wanted.mT, rtol=0, atol=0, equal_nan=True)


def test_spatial_sizes_may_be_dynamic() -> None:
    module = build((2, "s1"), window=(4,), stride=(2,), padding=(1,), dilation=(1,))
    module.verify()
    interpreter = Interpreter(module, WeightStore())
    for size in (2, 3, 10):
        x = torch.randn(1, 2, size)
        rows = interpreter.run({"x": x})["y"]
        weight = torch.randn(3, 2, 4)
        wanted = F.conv1d(x, weight, stride=2, padding=1)
        torch.testing.assert_close((rows @ weight.flatten(1).T).mT, wanted)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("window", (3,), "does not fit"),
        ("window", (9, 3), "wider than"),
        ("stride", (0, 1), "must be positive"),
        ("padding", (-1, 1), "not negative"),
        ("dilation", (1, 4), "wider than"),
        ("padding", (0, 2), "result has shape"),
    ],
)
def test_windows_that_do_not_fit_are_refused(name: str, values: tuple[int, ...], message: str) -> None:
    module = build((3, 5, 5), window=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    unfold = next(one for one in module.walk() if isinstance(one, UnfoldOp))
    unfold.properties[name] = integers(values)
    with pytest.raises(VerifyException, match=message):
        module.verify()
