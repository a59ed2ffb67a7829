"""Plans: how their costs are written, which one is taken, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.backend import CpuBackend
from qcc.backends.cpu.costs import COSTS
from qcc.backends.targets import backend_of
from qcc.errors import QccError
from qcc.ir.context import QccContext
from qcc.ir.kernel import contracts_of, kernel_of
from qcc.ir.plans import FLOAT, PlanCost, Widths, parse_costs
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype_text import parse_qtype
from qcc.passes.fuse_epilogue import FuseEpilogue
from qcc.passes.select_plans import SelectPlans
from qcc.settings import Settings, read_settings
from tests.modules import make

TOKEN = "int8 | (1,-1) f32 | dynamic"
AFTER = "group_after weights=1-8 activations=2-8 group=32 decode=0.1 mac=0.1"
LOOKUP = "lookup weights=1-4 activations=8 mac_bit=0.02 table=64.0"


def layers(**weights: str) -> ModuleOp:
    """One contraction of 8-bit activations for each weight, of 256 rows and 64 columns."""

    def build(x: SSAValue) -> list[Operation]:
        codes = QuantizeOp(x, parse_qtype(TOKEN))
        kinds = {name: tensor([256, 64], parse_qtype(text)) for name, text in weights.items()}
        return [ContractOp(codes, WeightOp(name, kind)) for name, kind in kinds.items()]

    module = make({"x": tensor(["s", 64], "f32")}, build, [SymbolAttr.make("s", 1)])
    FuseEpilogue().apply(QccContext(), module)
    return module


def plans(module: ModuleOp, **options: object) -> list[str]:
    costs = options.pop("costs", (AFTER, LOOKUP))
    SelectPlans(costs, **options).apply(QccContext(), module)
    module.verify()
    return [op.plan.data.value for op in contracts_of(module) if op.plan is not None]


def test_costs_are_text_and_back() -> None:
    costs = (*COSTS, PlanCost("planes", Widths(2, 3, codes=True), FLOAT, group=8, table=1.5, table_bytes=0.25))
    assert parse_costs(map(str, costs)) == costs
    assert parse_costs([AFTER])[0].group == 32


def test_costs_that_cannot_be_read_are_all_named() -> None:
    lines = ("fastest weights=1-8 activations=8", "lookup weights=1-8", "lookup weights=1 activations=8 speed=3", "")
    with pytest.raises(QccError) as raised:
        parse_costs(lines)
    assert len(raised.value.problems) == 4
    assert "'fastest' is none of the plans" in str(raised.value)
    assert "no cost called speed" in str(raised.value)


def test_the_cheapest_plan_that_takes_the_formats() -> None:
    # by hand: after 0.1 + rows 0.1, lookup rows (0.02 * 2 + 64 / 256) = rows 0.29
    module = layers(two="int2 | (1,32) f16", eight="int8 | (1,32) f16", odd="int4 | (1,16) f16")
    assert plans(module) == ["group_after", "group_after", "lookup"]
    whys = [kernel.why.data for op in contracts_of(module) if (kernel := kernel_of(op)) and kernel.why]
    assert whys[0].startswith("group_after: 0.2 instr/weight, 5.1 kB; lookup: 0.29 instr/weight")
    assert whys[1].endswith("lookup refused: 8-bit weights")
    assert whys[2].endswith("group_after refused: groups of 16 columns, no multiple of 32")


def test_rows_of_input_weigh() -> None:
    costs = ("group_after weights=1-8 activations=2-8 decode=1.0 mac=0.1", "lookup weights=1-8 activations=8 mac=0.5")
    assert plans(layers(a="int4 | row f16"), costs=costs) == ["lookup"]
    assert plans(layers(a="int4 | row f16"), costs=costs, rows=64) == ["group_after"]


def test_bytes_weigh() -> None:
    costs = (
        "lookup weights=1-8 activations=8 mac=0.1 table_bytes=100.0",
        "group_after weights=1-8 activations=8 mac=0.2",
    )
    assert plans(layers(a="int4 | row f16"), costs=costs) == ["lookup"]
    assert plans(layers(a="int4 | row f16"), costs=costs, byte_cost=1.0) == ["group_after"]


def test_the_last_wish_that_matches_wins() -> None:
    module = layers(first="int2 | (1,32) f16", second="int2 | (1,32) f16")
    assert plans(module, force=("lookup", "sec*=group_after")) == ["lookup", "group_after"]


def test_plans_that_cannot_be_are_all_refused_with_the_way_out() -> None:
    module = layers(narrow="int2 | (1,32) f16", wide="int8 | (1,32) f16", none="int8 | (1,16) f16")
    with pytest.raises(QccError) as raised:
        plans(module, force=("lookup", "elsewhere=lookup", "nar*=magic"))
    text = str(raised.value)
    assert len(raised.value.problems) == 5
    assert "plan magic: does not exist" in text
    assert "elsewhere=lookup: matches no layer" in text
    assert "wide: cannot have plan lookup (lookup refused: 8-bit weights)" in text
    assert "leave the choice free, or ask for group_after" in text
    assert "none: cannot have plan lookup" in text
    assert "choose other formats" in text


def test_a_contraction_that_no_plan_takes() -> None:
    with pytest.raises(QccError, match=r"none: has no plan on this target \(group_after refused: groups of 16"):
        plans(layers(none="int8 | (1,16) f16"))


def test_the_backend_states_its_plans_once() -> None:
    target = CpuBackend().capabilities
    assert {one.plan for one in target.costs} == target.plans
    assert target.accumulator_bits == 32


def test_settings_are_read_and_refused_together() -> None:
    read = read_settings({"plan": "lookup, a.*=group_after", "rows": "128"}, backend_of("cpu").capabilities)
    assert read == Settings("model", ("lookup", "a.*=group_after"), 128)
    with pytest.raises(QccError) as raised:
        read_settings({"name": "2x", "rows": "0", "colour": "red"}, backend_of("cpu").capabilities)
    assert len(raised.value.problems) == 3


def test_a_plan_is_asked_for_by_a_setting(tmp_path: Path) -> None:
    import torch

    import qcc

    model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    with pytest.raises(QccError, match=r"0: cannot have plan dequant_first \(dequant_first refused: 8-bit activations"):
        qcc.compile(
            model, (torch.randn(2, 32),), recipe="w8a8", settings={"plan": "dequant_first"}, output=tmp_path / "a"
        )
    assert not (tmp_path / "a").exists()
