"""What lower-integer and quantize-values refuse, and how they leave a module."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from xdsl.dialects.builtin import ModuleOp

from qcc.errors import QccError, RecipeError, UnsupportedOp
from qcc.ir.context import QccContext
from qcc.ir.elementwise import UnaryOp
from qcc.ir.integer import IntegerContractOp
from qcc.ir.kernel import KernelOp
from qcc.ir.quant import ContractOp, QuantizeOp, RequantOp
from qcc.ir.store import WeightStore
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from qcc.passes.lower_integer import LowerInteger
from qcc.passes.pipeline import planning, run_passes, targeting
from qcc.recipes.load import load_recipe
from tests.importing import export
from tests.integer_nets import nets
from tests.integer_ops import expect_integers, lower
from tests.modules import run


class Odd(nn.Module):
    """A module with three operations that integers cannot compute, and some that they can."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cumsum(self.up(x), -1)
        z = torch.atan2(y, y) if False else torch.where(y > 0, y, -y)
        return (z / y.abs().sum(-1, keepdim=True)).relu()


def import_planned(model: nn.Module, *args: torch.Tensor, recipe: object = "fixed8") -> tuple[ModuleOp, WeightStore]:
    from qcc.frontend.export import import_program

    imported = import_program(export(model, *args))
    passes = planning(load_recipe(recipe), integer_only=True)  # type: ignore[arg-type]
    run_passes(passes, QccContext(imported.store), imported.module)
    return imported.module, imported.store


def test_operations_without_an_integer_form_are_all_named_before_anything_is_calibrated() -> None:
    with pytest.raises(UnsupportedOp) as raised:
        import_planned(Odd(), torch.randn(2, 4))
    text = str(raised.value)
    assert len(raised.value.problems) == 3
    assert "cumulative_sum" in text
    assert "gt of floats" in text
    assert "div of floats" in text
    assert "test_lower_integer.py" in text


@pytest.mark.parametrize(
    ("activations", "what"),
    [
        ({"format": "int8"}, "scales computed at run time need floats"),
        ({}, "which a target without floats cannot compute"),
        ({"format": "uint8", "granularity": "tensor", "when": "static"}, "more than a scale"),
        ({"format": "int8", "granularity": "channel", "when": "static"}, "not one scale a tensor"),
        ({"format": "fp4_3 | tensor f32", "when": "static"}, "no integer codes"),
    ],
)
def test_formats_of_activations(activations: dict[str, str], what: str) -> None:
    recipe = {"version": 1, "weights": {"format": "int8"}, "activations": activations}
    recipe["overrides"] = [{"match": "up", "activations": activations}]
    model = nn.Sequential()
    model.add_module("up", nn.Linear(4, 3))
    with pytest.raises(RecipeError, match=what) as raised:
        import_planned(model, torch.randn(1, 4), recipe=recipe)
    assert len(raised.value.problems) == 2
    assert "granularity: tensor, when: static" in str(raised.value)


def test_layers_left_in_float_are_refused_by_name() -> None:
    recipe = json.loads(load_recipe("fixed8").model_dump_json())
    recipe["overrides"] = [{"match": "0", "weights": {"format": "f32"}}]
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(UnsupportedOp, match=r"0 .*linear is left in float: the recipe keeps its weights in float"):
        import_planned(model, torch.randn(1, 4), recipe=recipe)


def test_what_is_not_ready_is_refused_all_at_once() -> None:
    module, store = import_planned(nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), torch.randn(1, 4))
    with pytest.raises(UnsupportedOp) as raised:
        LowerInteger().apply(QccContext(store), module)
    text = str(raised.value)
    assert "has no scale yet" in text
    assert "has no codes yet" in text
    with pytest.raises(QccError, match="reads the values of weights"):
        LowerInteger().apply(QccContext(), module)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("int4 | (1,4) f16", "a scale per 4 of 8 columns"),
        ("fp2_1 | row f32", "stand for no integers"),
        ("hlq2-g128", ""),
    ],
)
def test_weights_without_integers(text: str, what: str) -> None:
    if not what:
        text, what = "planes(2, 01, free) | row f16 | post f16", "stand for no integers"
    stored = quantize(torch.randn(3, 8), parse_qtype(text))
    with pytest.raises(UnsupportedOp, match=what):
        lower(lambda x, w: ContractOp(x, w), [(torch.randn(2, 8), 0.1, 8)], (0.1, 8), w=stored)


def test_sums_beyond_64_bits_are_refused() -> None:
    def build(x: object, y: object) -> UnaryOp:
        from qcc.ir.elementwise import BinaryOp

        return BinaryOp("mul", x, y)  # type: ignore[arg-type, return-value]

    inputs = [(torch.randn(2, 8), 1e-4, 16), (torch.randn(2, 8), 1e-4, 16)]
    assert lower(build, inputs, (1e-4, 8)).worst <= 1
    wide = quantize(torch.full((1, 4), 3e4), parse_qtype("int16n | tensor f32"))
    found = lower(lambda x, w: ContractOp(x, w), [(torch.randn(2, 4), 1e-4, 16)], (1e3, 8), w=wide)
    (contract,) = [op for op in found.module.walk() if isinstance(op, IntegerContractOp)]
    assert str(contract.result.type).endswith("i64>")  # 4 * 32767 * 32767 is more than 32 bits
    assert found.worst <= 0.51


class Residual(nn.Module):
    """A convolution beside a shortcut, a max pool, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x) + x)
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize("recipe", ["fixed8", "fixed6", "w4a8-fixed", "ternary-fixed", "pow2-w4a8"])
def test_a_net_of_every_recipe_is_close_to_its_quantized_floats(recipe: str) -> None:
    torch.manual_seed(3)
    samples = [(torch.randn(2, 2, 4, 4),) for _ in range(3)]
    found = nets(Residual(), samples, recipe)
    expect_integers(found.integer_module)
    _, quantized, integers = found.run(*samples[0])
    # a code of some layer may fall on the other side of a tie, no more
    assert float((quantized - integers).abs().max()) <= 2.01 * found.step


def test_fixed_point_rescales_by_shifts_alone() -> None:
    torch.manual_seed(4)
    found = nets(Residual(), [(torch.randn(2, 2, 4, 4),)], "fixed8")
    store = found.integer_store
    multipliers = [op.multiplier.owner for op in found.integer_module.walk() if isinstance(op, RequantOp)]
    assert multipliers
    for weight in multipliers:
        values = store.tensor(weight.key.data)  # type: ignore[union-attr]
        assert bool(((values & (values - 1)) == 0).all())


def test_lowered_programs_fuse_and_have_proved_sums() -> None:
    torch.manual_seed(5)
    samples = [(torch.randn(1, 2, 4, 4),)]
    found = nets(Residual(), samples, "w4a8-fixed")
    module, store = found.integer_module, found.integer_store
    before = found.run(*samples[0])[2]
    rules = ("integer_contract: requant|lookup *",)
    run_passes(targeting(rules, ("integer_contract: unfold",), 32, ()), QccContext(store), module)
    kernels = [op for op in module.walk() if isinstance(op, KernelOp)]
    assert [kernel.accumulator.value.data for kernel in kernels if kernel.accumulator] == [32, 32, 32]
    names = [[op.name.removeprefix("qcc.") for op in kernel.body.block.ops] for kernel in kernels]
    assert names[0] == ["unfold", "integer_contract", "requant", "yield"]
    assert torch.equal(found.run(*samples[0])[2], before)
    with pytest.raises(QccError, match="sums need more than 16 bits"):
        run_passes(targeting(rules, (), 16, ()), QccContext(store), module)


def test_quantizing_at_the_way_in_is_that_of_quantize() -> None:
    x = torch.tensor([[0.5, 1.5, -0.5, 200.0]])
    scale = torch.tensor([[1.0]])
    wanted = run(lambda x, s: QuantizeOp(x, parse_qtype("int8n | tensor f32"), [s]), x, scale)
    found = nets(nn.ReLU(), [(torch.tensor([[127.0, -127.0, 0.0, 1.0]]),)], "fixed8")
    assert found.step == 1.0
    assert found.run(x)[2].tolist() == [[0.0, 2.0, 0.0, 127.0]]
    assert wanted.codes.tolist() == [[0, 2, 0, 127]]
