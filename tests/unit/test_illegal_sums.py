"""Facts of sums and of layers that run as one, which no rewrite may overrule: refused by name, line and way out.

A scale that changes inside a sum stays in it, layers that are fused have one format and one root scale, and integers
are as wide as their sums. Every test forces the illegal form too, and says what that breaks at least.
"""

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

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.numerics.named_tensors import named_parameters
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.code_ranges import stored_integers
from qcc.passes.fuse_epilogue import FuseEpilogue
from qcc.passes.pipeline import run_passes
from qcc.passes.prove_overflow import ProveOverflow
from qcc.passes.solve_weights import SolveWeights
from qcc.passes.solvers.gptq import gptq
from tests.folding import relative
from tests.hand_made import built, located, randn
from tests.modules import Made, kind_of, make

NVFP4 = "fp2_1 | (1,16) e4m3, tensor f32 | fuse_group(qkv)"
NAMES = ("q", "k", "v")


def contraction(x: Tensor, text: str, weight: QuantizedTensor) -> tuple[ModuleOp, WeightStore]:
    def build(value: SSAValue) -> Made:
        return located(
            ContractOp(QuantizeOp(value, parse_qtype(text)), WeightOp("w", kind_of(weight))), "up (net.py:2)"
        )

    return make({"x": kind_of(x)}, build), WeightStore({"w": weight})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("int8n | (1,-1) f32 | dynamic", ""),
        ("uint8 | (1,-1) f32 | pre u8 | dynamic", ""),
        ("int8n | (1,16) f32 | dynamic", "the scales of its activations"),
        ("uint8 | (1,16) f32 | pre u8 | dynamic", "the scales and the zero points of its activations"),
    ],
)
def test_the_scale_of_a_token_crosses_the_sum_over_channels_and_that_of_a_block_does_not(text: str, says: str) -> None:
    """So does the zero point of a token, in the sum over the weights."""
    x, w = randn(6, 64, seed=1).float(), randn(4, 64, seed=2).float()
    x *= 4 ** randn(64, seed=3).float()
    weight, given_ = quantize(w, parse_qtype("int8n | row f32")), quantize(x, parse_qtype(text))
    module, store = contraction(x, text, weight)
    once = FuseEpilogue(scales_after_sum=True)
    if says:
        with pytest.raises(IllegalFold) as caught:
            once.apply(QccContext(store), module.clone())
        assert f"w at up (net.py:2): {says} '{given_.qtype}' change inside the sum over K" in str(caught.value)
        assert "fix: give them one scale per token" in str(caught.value)
    else:
        once.apply(QccContext(store), module)
    found = Interpreter(module, store).run({"x": x})["y"].double()
    wanted = dequantize(given_, torch.float64) @ dequantize(weight, torch.float64).T
    size = float(wanted.abs().max())
    assert float((found - wanted).abs().max()) <= 1e-6 * size
    parts = named_parameters(given_.qtype, given_.parameters)
    scale, zero = parts["scale0"].double(), parts.get("zero", torch.zeros(1, 1)).double()
    values = dequantize(weight, torch.float64)
    hoisted = (given_.codes.double() @ values.T - zero[:, :1] * values.sum(1)) * scale[:, :1]
    error = float((hoisted - wanted).abs().max()) / size
    assert error > 0.1 if says else error <= 1e-12


def siblings(columns: int = 32, seed: int = 0, rows: tuple[int, ...] = (6, 4, 5)) -> dict[str, Tensor]:
    """Weights of which the first is far smaller than the last."""
    sizes = (0.02, 1.0, 9.0)
    made = [randn(n, columns, seed=seed + at).float() for at, n in enumerate(rows)]
    return {name: one * size for name, one, size in zip(NAMES, made, sizes, strict=True)}


def planned(weights: dict[str, Tensor], recipe: dict[str, Any]) -> tuple[ModuleOp, WeightStore, dict[str, Tensor]]:
    columns = next(iter(weights.values())).shape[1]

    def build(x: SSAValue, **stored: SSAValue) -> list[Made]:
        return [located(LinearOp(x, stored[name]), f"{name} (net.py:{at})") for at, name in enumerate(weights, 1)]

    module, store, inputs = built(weights, build, x=randn(40, columns, seed=9).float())
    run_passes([AssignFormats(json.dumps(recipe))], QccContext(store), module)
    return module, store, inputs


def solved(weights: dict[str, Tensor], weight: dict[str, Any]) -> dict[str, QuantizedTensor]:
    module, store, inputs = planned(weights, {"weights": weight})
    run_passes([SolveWeights()], QccContext(store, SampleRun([inputs])), module)
    return {key.split(":")[0]: store.quantized(key) for key in store}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999), solver=st.sampled_from(["rtn", "mse", "gptq"]),
    text=st.sampled_from([
        NVFP4, "int4n | (1,16) e4m3, tensor f32 | fuse_group(qkv)", "int8n | tensor f32 | fuse_group(qkv)",
        "uint4 | (1,16) f16 | pre u4 | fuse_group(qkv)",
    ]), rows=st.sampled_from([(6, 4, 5), (1, 1, 1), (8, 2, 2)]),
)  # fmt: skip
def test_fused_layers_are_the_rows_of_one_matrix(seed: int, solver: str, text: str, rows: tuple[int, ...]) -> None:
    weights = siblings(seed=seed, rows=rows)
    found = solved(weights, {"format": text, "solver": solver})
    roots = [one.scales[-1] for one in found.values()]
    if found["q"].qtype.levels[-1].block == (-1, -1):
        assert all(torch.equal(root, roots[0]) for root in roots)
    joined, qtype = torch.cat(list(weights.values())), parse_qtype(text)
    if solver == "rtn":
        wanted = dequantize(quantize(joined, qtype))
        assert torch.equal(torch.cat([dequantize(one) for one in found.values()]), wanted)
    if solver == "gptq":
        x = randn(40, 32, seed=9).float().double()
        wanted = gptq(joined, qtype, x.T @ x)
        assert float((torch.cat([one.codes for one in found.values()]) == wanted.codes).float().mean()) >= 0.95


def test_the_root_scale_of_the_first_layer_is_that_of_no_other() -> None:
    weights, apart = siblings(), parse_qtype(NVFP4)
    alone = {name: quantize(one, apart) for name, one in weights.items()}
    together = solved(weights, {"format": NVFP4})
    first = alone["q"].scales[-1]
    careless = {name: _under(one, first) for name, one in alone.items()}
    leaves = {name: _under(one, max(other.scales[-1] for other in alone.values())) for name, one in alone.items()}

    def worst(found: dict[str, QuantizedTensor]) -> float:
        errors = [(dequantize(found[name]) - one).norm() / one.norm() for name, one in weights.items()]
        return float(max(errors))

    # a root for all 450 times the smallest layer's own costs that layer leaf scales, which 8-bit floats mostly have
    assert worst(alone) < 0.15
    assert worst(together) < 0.25
    assert worst(careless) > 0.9  # taking the first
    assert worst(leaves) > 10  # taking the largest, leaf scales as they were


def _under(weight: QuantizedTensor, root: Tensor) -> QuantizedTensor:
    return QuantizedTensor(
        weight.qtype, weight.shape, weight.codes, Parameters.of((weight.scales[0], root)), weight.sides
    )


def test_layers_of_one_group_in_different_formats_are_refused() -> None:
    other = "int4n | (1,16) e4m3, tensor f32 | fuse_group(qkv)"
    recipe = {"weights": {"format": NVFP4}, "overrides": [{"match": "k", "weights": {"format": other}}]}
    with pytest.raises(IllegalFold) as caught:
        planned(siblings(), recipe)
    said = str(caught.value)
    assert f"k at k (net.py:2): has '{parse_qtype(other)}', and others of fuse_group(qkv) another format" in said
    assert "v at v (net.py:3)" in said
    assert "fix: give q, k, v one format" in said
    # read in the first layer's format, codes of the other are other numbers
    weights = siblings()
    coded = quantize(weights["k"], parse_qtype(other))
    first = parse_qtype(NVFP4)
    codes = (coded.codes.to(torch.int16) & 15).to(torch.uint8)
    read = QuantizedTensor(first, coded.shape, codes, coded.parameters, coded.sides)
    assert float((dequantize(read) - weights["k"]).norm() / weights["k"].norm()) > 0.5
    named = {"overrides": [{"match": "k", "weights": {"format": other.replace("qkv", "other")}}]}
    planned(siblings(), {**recipe, **named})  # alone in a group of its own


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("int4n | (1,16) e4m3, tensor f32 | lowrank(2, f16) | fuse_group(qkv)", "is found tensor by tensor"),
        ("int4n | (4,16) e4m3, tensor f32 | fuse_group(qkv)", "q at q (net.py:1): its 6 rows are no whole blocks of 4"),
    ],
)
def test_what_cannot_be_one_matrix_is_refused(text: str, says: str) -> None:
    with pytest.raises(IllegalFold) as caught:
        planned(siblings(), {"weights": {"format": text}})
    assert says in str(caught.value)
    assert "or leave fuse_group away" in str(caught.value)


def test_layers_of_one_group_that_were_solved_apart_are_refused() -> None:
    weights = {f"{name}:{parse_qtype(NVFP4)}": quantize(one, parse_qtype(NVFP4)) for name, one in siblings().items()}

    def build(x: SSAValue, **stored: SSAValue) -> list[Made]:
        return [located(ContractOp(x, one), f"{name[0]} (net.py:1)") for name, one in stored.items()]

    module, store, _ = built(weights, build, x=randn(3, 32).float())
    with pytest.raises(IllegalFold) as caught:
        SolveWeights().apply(QccContext(store), module)
    assert len(caught.value.problems) == 3
    assert "q at q (net.py:1): was solved apart from the rest of fuse_group(qkv), under the root scale (" in str(
        caught.value
    )
    assert "fix: solve q, k, v together" in str(caught.value)


def test_a_weight_of_a_group_that_others_read_too_is_refused() -> None:
    def build(x: SSAValue, q: SSAValue, k: SSAValue) -> list[Made]:
        one = LinearOp(x, q)
        return [BinaryOp("add", one, LinearOp(x, k)), located(LinearOp(one, q), "again (net.py:5)")]

    module, store, _ = built({"q": randn(32, 32).float(), "k": randn(32, 32).float()}, build, x=randn(3, 32).float())
    with pytest.raises(IllegalFold, match=r"its weight 'q' is read outside fuse_group\(qkv\) too, by qcc.contract"):
        AssignFormats(json.dumps({"weights": {"format": NVFP4}})).apply(QccContext(store), module)


def test_sums_wider_than_their_accumulator_are_refused_and_would_have_wrapped() -> None:
    columns = 140_000  # 127 * 127 * 140000 > 2^31
    x, weight = torch.ones(1, columns), quantize(torch.ones(2, columns), parse_qtype("int8n | row f32"))
    module, store = contraction(x, "int8n | (1,-1) f32 | dynamic", weight)
    FuseEpilogue().apply(QccContext(), module)
    with pytest.raises(IllegalFold) as caught:
        ProveOverflow(32).apply(QccContext(store), module)
    said = str(caught.value)
    assert "w at up (net.py:2): sums of 140000 products of -127..127 and 127..127 reach" in said
    assert "fix: give one side groups of at most 133144 columns" in said
    ProveOverflow(64).apply(QccContext(store), module)
    exact = Interpreter(module, store).run({"x": x})["y"]
    codes = quantize(x, parse_qtype("int8n | (1,-1) f32 | dynamic"))
    sums = codes.codes.long() @ weight.codes.long().T
    wrapped = (sums + 2**31) % 2**32 - 2**31
    factor = codes.scales[0].double() * weight.scales[0].double().T
    assert relative({"y": (sums * factor).float()}, {"y": exact}) < 1e-6
    assert relative({"y": (wrapped * factor).float()}, {"y": exact}) > 1.5  # the sign is another


def _hard_rows(peak: int) -> Tensor:
    """Rows whose first block sets the root scale to 1 and whose second goes from every -index to `peak`."""
    rows = torch.zeros(peak, 256)
    rows[:, 0] = peak
    for index in range(peak):
        rows[index, 128:] = torch.linspace(-index, peak, 128).round()
    return rows


@pytest.mark.parametrize("peak", [119, 120])
def test_a_protective_range_of_119_holds_and_one_of_120_wraps(peak: int) -> None:
    text = f"uint4 | (1,128) i8, (1,-1) f16 protect({peak}) | scaled i8"
    weight = quantize(_hard_rows(peak), parse_qtype(text))
    integers = stored_integers(weight)
    wrapped = ((integers + 128) % 256 - 128).float()
    outside = int((integers.abs() > 127).sum()) - int((integers == -128).sum())
    module, store = contraction(torch.ones(1, 256), "int8n | (1,-1) f32 | dynamic", weight)
    FuseEpilogue().apply(QccContext(), module)
    error = float((wrapped - integers).abs().max())
    if peak == 119:
        ProveOverflow(32).apply(QccContext(store), module)
        assert (outside, error) == (0, 0.0)
        return
    with pytest.raises(IllegalFold) as caught:
        ProveOverflow(32).apply(QccContext(store), module)
    assert "w at up (net.py:2): its weights are rebuilt as integers of 8 bits and may reach 128" in str(caught.value)
    assert "fix: use a smaller protective range, such as protect(119)" in str(caught.value)
    assert outside > 0
    assert error == 256.0  # +128 becomes -128
