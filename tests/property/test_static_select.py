"""A decode that samples choose for blocks of channels, under scales that are computed at run time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import VerifyException

from qcc.calibrate.run import SampleRun
from qcc.errors import RecipeError, ShapeError
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor, type_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import compute_qparams, dequantize, fake_quantize, quantize
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.calibrate import Calibrate
from qcc.passes.pipeline import run_passes
from tests.modules import make

LOCAL = "select(int4n 0.75, int8n 0.25) by u1 (-1,8) | (1,8) f32 | dynamic_local"


def outliers(rows: int, seed: int, *channels: int) -> Tensor:
    found = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    found[:, list(channels)] *= 60
    return found


def calibrated(samples: list[Tensor], text: str = LOCAL) -> tuple[ModuleOp, WeightStore]:
    def build(x: SSAValue) -> LinearOp:
        return LinearOp(x, WeightOp("up.weight", tensor([16, 32], "f32")))

    module = make({"x": tensor(["m", 32], "f32")}, build, [SymbolAttr.make("m", 0)])
    store = WeightStore({"up.weight": torch.randn(16, 32, generator=torch.Generator().manual_seed(5))})
    recipe = json.dumps({"weights": {"format": "int8"}, "activations": {"format": text}})
    context = QccContext(store, SampleRun([{"x": one} for one in samples]))
    run_passes([AssignFormats(recipe), Calibrate()], context, module)
    return module, store


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), seed=st.integers(0, 999), chosen=st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_under_a_given_choice_every_block_is_what_its_decode_makes_of_it(rows: int, seed: int, chosen: Any) -> None:
    x, qtype, choice = outliers(rows, seed, 3), parse_qtype(LOCAL), torch.tensor([chosen])
    found = dequantize(quantize(x, qtype, compute_qparams(x, qtype, selector=choice)))
    for block, one in enumerate(chosen):
        part = slice(8 * block, 8 * block + 8)
        wanted = fake_quantize(x[:, part], f"{'int8n' if one else 'int4n'} | (1,8) f32 | dynamic")
        assert torch.equal(found[:, part], wanted)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), at=st.integers(0, 31), count=st.integers(1, 3))
def test_the_blocks_of_the_largest_outliers_of_all_samples_get_the_wider_decode(seed: int, at: int, count: int) -> None:
    samples = [outliers(4, seed + index, at) for index in range(count)]
    module, store = calibrated(samples)
    (key,) = (key for key in store if "selector" in key)
    assert key == "up.input.selector"
    assert store.tensor(key).tolist() == [[int(block == at // 8) for block in range(4)]]
    peaks = torch.cat(samples).abs().reshape(-1, 4, 8).amax((0, 2))
    assert int(peaks.argmax()) == at // 8
    # what a token becomes does not depend on the tokens beside it, as it does where the choice is made at run time
    x = outliers(6, seed, (at + 8) % 32)
    whole = Interpreter(module, store).run({"x": x})["y"]
    for row in range(6):
        alone = Interpreter(module, store).run({"x": x[row : row + 1]})["y"]
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-4)  # floats are added in another order


def test_it_loses_less_than_four_bits_and_depends_on_the_choice() -> None:
    samples = [outliers(16, 0, 3, 5)]
    exact = samples[0] @ torch.randn(16, 32, generator=torch.Generator().manual_seed(5)).T
    errors = []
    for text in (LOCAL, "int4n | (1,8) f32 | dynamic", "int4n | (1,-1) f32 | dynamic"):
        module, store = calibrated(samples, text)
        errors.append(float((Interpreter(module, store).run({"x": samples[0]})["y"] - exact).norm() / exact.norm()))
    assert errors[0] < 0.3 * errors[1]
    module, store = calibrated(samples)
    store["up.input.selector"] = torch.tensor([[0, 1, 0, 0]], dtype=torch.int32)
    other = Interpreter(module, store).run({"x": samples[0]})["y"]
    assert float((other - exact).norm() / exact.norm()) > 2 * errors[0]
    store["up.input.selector"] = torch.tensor([[0, 2, 0, 0]], dtype=torch.int32)
    with pytest.raises(ShapeError, match="outside 0 to 1"):
        Interpreter(module, store).run({"x": samples[0]})


def test_before_it_is_calibrated_the_choice_is_made_at_run_time() -> None:
    x = outliers(5, 1, 20)
    dynamic = fake_quantize(x, LOCAL.replace("dynamic_local", "dynamic"))
    assert torch.equal(dequantize(quantize(x, parse_qtype(LOCAL))), dynamic)


def test_what_cannot_be_chosen_by_samples_is_refused() -> None:
    with pytest.raises(RecipeError, match="dynamic_local needs a static root level"):
        parse_qtype("select(int4n 0.75, int8n 0.25) by u1 (1,8) | (1,8) f32 | dynamic_local")
    with pytest.raises(RecipeError, match="has no shares"):
        calibrated([outliers(3, 0)], "select(int4n, int8n) by u1 (-1,8) | (1,8) f32 | dynamic_local")
    module, _ = calibrated([outliers(3, 0)])
    (op,) = (op for op in module.walk() if isinstance(op, QuantizeOp) and op.parameters)
    assert [str(type_of(one)) for one in op.parameters] == [str(tensor([1, 4], "i32"))]
    op.operands = [op.input]
    module.verify()  # not calibrated yet
    op.operands = [op.input, op.input]
    with pytest.raises(VerifyException, match="selector is"):
        module.verify()
