"""From a torch module to C without floats, and programs built by hand: the interpreter's outputs, bit for bit."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

import qcc
from qcc.driver import Options, plan_source
from qcc.errors import QccError, UnsupportedOp
from qcc.ir.types import tensor
from tests.compiling import golden_tolerance, interpreter
from tests.cpu_programs import compare, load
from tests.e2e.test_hls_programs import PROGRAMS
from tests.hls_programs import Net, random_frames
from tests.modules import make
from tests.unit.cpu_project import SANITIZE, WARNINGS, build_main, kernels_object, run_main

INTEGERS = {"arithmetic": "integer"}
RECIPES = ["fixed8", "fixed6", "w4a8-fixed", "ternary-fixed", "pow2-w4a8"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 12), nn.SiLU(), nn.LayerNorm(12), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))


def samples(count: int, rows: int = 3) -> list[tuple[torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(rows, 10, generator=random),) for _ in range(count)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_c_equals_the_interpreter(name: str, tmp_path: Path) -> None:
    build, inputs = PROGRAMS[name]
    net = Net(len(name))
    kinds = {one: tensor(shape, scalar) for one, (shape, scalar) in inputs.items()}
    module = make(kinds, lambda *values: build(net, *values))
    with closing(load(module, net.store, tmp_path)) as program:
        compare(program, module, net.store, list(random_frames(module, 6)), tolerance=0.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_integers_is_exact_in_c(recipe: str, tmp_path: Path) -> None:
    calls = samples(8)
    compiled = qcc.compile(
        model().eval(), calls[0], dynamic_shapes=({0: torch.export.Dim("rows", min=1, max=64)},), recipe=recipe,
        calibration=calls, output=tmp_path / "net", settings=INTEGERS, strict=True,
    )  # fmt: skip
    assert golden_tolerance(compiled) == 0.0
    assert {one.plan for one in compiled.manifest.coverage.layers} == {"integer"}
    oracle, name = interpreter(compiled), compiled.input_names[0]
    for index, rows in enumerate((1, 2, 7, 40)):
        x = 10 ** (index % 3) * samples(1, rows)[0][0]
        (wanted,) = oracle.run({name: x}).values()
        assert torch.equal(compiled(x).view(torch.int32), wanted.view(torch.int32))
    with torch.no_grad():
        assert torch.allclose(compiled(*calls[0]), model().eval()(*calls[0]), atol=1.0)
    if recipe == "fixed8":
        subprocess.run(["make", "-s", "-C", str(compiled.folder / "c"), "CFLAGS=-O1", "test"], check=True)


def test_refusals_of_the_setting_leave_nothing_behind(tmp_path: Path) -> None:
    calls, out = samples(2), tmp_path / "net"
    for target, settings, said in (
        ("cpu", {"arithmetic": "fixed"}, "'fixed' is no arithmetic"),
        ("triton", INTEGERS, "target triton has no such setting"),
        ("cpu", {**INTEGERS, "plan": "lookup"}, "one plan"),
    ):
        with pytest.raises(QccError, match=said):
            qcc.compile(
                model(), calls[0], recipe="fixed8", target=target, settings=settings, calibration=calls, output=out
            )
    with pytest.raises(QccError, match="calibration"):
        qcc.compile(model(), calls[0], recipe="fixed8", settings=INTEGERS, output=out)
    assert list(tmp_path.iterdir()) == []

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, -1)

    path = tmp_path / "odd.pt2"
    torch.export.save(torch.export.export(Odd(), calls[0]), path)
    with pytest.raises(UnsupportedOp, match="cumulative_sum has no integer form"):
        plan_source(str(path), Options(recipe="fixed8", settings=INTEGERS))


@pytest.mark.slow
def test_no_undefined_behaviour(tmp_path: Path) -> None:
    """Golden vectors under AddressSanitizer and UBSan: no shift or sum that the C standard leaves undefined."""
    flags = (*WARNINGS, *SANITIZE, "-O1")
    calls = samples(4)
    compiled = qcc.compile(
        model().eval(), calls[0], recipe="w4a8-fixed", calibration=calls, output=tmp_path / "net", settings=INTEGERS
    )
    folder = compiled.folder / "c"
    program = build_main(folder, kernels_object(flags), flags)
    done = run_main(program, "--weights", str(folder / "weights.bin"), "--golden", str(folder / "golden"))
    assert done.returncode == 0, done.stdout + done.stderr
