"""Projects for FPGAs, simulated without the vendor's tools: seconds, wrong bits, depths that are minimal, estimates.

    python tests/benchmarks/hls.py [--quick] [--json FILE]

Every network is compiled to a project; its simulation is built by the project's Makefile and run on raw float32 inputs,
of which every output bit is compared with the interpreter's. Where a FIFO must be deep, the design is run with that
depth and with one place less, which must stop. hls4ml, where it is installed, converts the networks it takes from the
same weights (dequantized) with its default types; its outputs on the same raw inputs are compared with the network it
was given, on the grid of its own output type. `--quick` takes two small networks and fewer frames. Nothing here runs
Vitis, Vivado or RTL: `lut`, `ff`, `dsp`, `bram`, `rtl_cycles` and `rtl_mismatches` stay empty, `estimate` is what
formulas say.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import qcc
from qcc.backends.base import BackendOptions
from qcc.backends.hls.backend import HlsBackend
from qcc.backends.hls.report import read_report
from qcc.backends.hls.runtime import build_simulation
from qcc.calibrate.run import SampleRun
from qcc.frontend.export import import_program
from qcc.inspection import read_module
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import lowering, planning, run_passes, solving
from qcc.recipes.load import load_recipe


@dataclass(frozen=True)
class Network:
    """A network, a sample of its inputs by number, the recipe, the settings of the design, frames to compare."""

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[int], torch.Tensor]
    recipe: str
    settings: dict[str, str]
    frames: int
    batched: bool = True
    peer: bool = False


def jets() -> nn.Module:
    """Return the jet-tagging network 16-64-32-32-5, trained for a moment on five random clusters (synthetic data)."""
    torch.manual_seed(0)
    sizes = (16, 64, 32, 32)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 5))
    centres = torch.randn(5, 16)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        classes = torch.randint(0, 5, (256,))
        loss = nn.functional.cross_entropy(model(centres[classes] + torch.randn(256, 16)), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def digits() -> nn.Module:
    """Return the network of `examples/digits_hls.py`, trained on scikit-learn's digits."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import digits_hls

    torch.manual_seed(0)
    training, (images, classes) = digits_hls.load()
    model = digits_hls.network()
    digits_hls.train(model, training)
    model.eval()
    with torch.no_grad():
        print(f"digits: float accuracy {digits_hls.accuracy(model(images), classes):.2%} on {len(images)} test images")
    return model


class Residual(nn.Module):
    """Two convolutions beside a skip, then a mean over the image and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.third(torch.relu(self.second(x))))
        return self.last(x.mean((2, 3)))


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


def minilm_layer() -> nn.Module:
    """Return the first layer of all-MiniLM-L6-v2 with its real weights."""
    import transformers

    from tests import zoo

    transformers.utils.logging.disable_progress_bar()
    layer = transformers.AutoModel.from_pretrained(zoo.minilm_folder()).encoder.layer[0]

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = self.layer(x)
            return found[0] if isinstance(found, tuple) else found

    return Layer().eval()


def large(size: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(size, size)).eval()

    return build


def normal(*shape: int) -> Callable[[int], torch.Tensor]:
    return lambda index: torch.randn(shape, generator=torch.Generator().manual_seed(index))


XCK26 = {"part": "xck26", "clock_ns": "4"}
NETWORKS = (
    Network("jets 16-64-32-32-5", jets, normal(1, 16), "fixed8", {**XCK26, "target_fps": "1e6"}, 20_000, peer=True),
    Network("digits CNN", digits, normal(1, 1, 8, 8), "fixed8", {**XCK26, "target_fps": "5e4"}, 10_000, peer=True),
    Network("residual net", residual, normal(1, 3, 8, 8), "fixed8", {**XCK26, "target_fps": "5e4"}, 10_000),
    Network(
        "MiniLM layer, 16 tokens", minilm_layer, normal(1, 16, 384), "w4a8-fixed", {**XCK26, "target_fps": "1e3"}, 17,
        batched=False,
    ),
    Network("linear 256x256 W4", large(256), normal(1, 256), "w4a8-fixed",
            {"part": "xcu55c", "target_fps": "1e4"}, 400),
    Network("linear 4096x4096 W4", large(4096), normal(1, 4096), "w4a8-fixed",
            {"part": "xcu55c", "target_fps": "1e3"}, 25),
)  # fmt: skip


def oracle(network: Network, model: nn.Module, samples: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the interpreter of the network's integers, for a batch of inputs where the network takes one."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=65536)},) if network.batched else None
    example = samples[0].expand(3, *samples[0].shape[1:]).contiguous() if network.batched else samples[0]
    with torch.no_grad():
        imported = import_program(torch.export.export(model, (example,), dynamic_shapes=shapes))
    module, store, recipe = imported.module, imported.store, load_recipe(network.recipe)
    name = program_of(module).input_names[0]
    run_passes(planning(recipe, integer_only=True), QccContext(store), module)
    run_passes(solving(), QccContext(store, SampleRun([{name: one} for one in samples])), module)
    run_passes(lowering(integer_only=True), QccContext(store), module)
    interpreter = Interpreter(module, store)
    return lambda x: next(iter(interpreter.run({name: x}).values()))


def expected(network: Network, run: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Return the outputs of all frames."""
    step = 256 if network.batched else 1
    return torch.cat([run(part) for part in inputs.split(step)])


def measure(network: Network, folder: Path, frames: int) -> dict[str, Any]:
    """Compile, build, run and compare one network; returns its row."""
    model = network.build()
    samples = [network.draw(1_000_000 + index) for index in range(16)]
    start = time.perf_counter()
    calls = [(one,) for one in samples]
    out = folder / network.name.replace(" ", "_")
    qcc.compile(
        model, calls[0], recipe=network.recipe, target="hls", calibration=calls, output=out, settings=network.settings
    )
    seconds = {"compile": time.perf_counter() - start}
    project = out / "hls"
    seconds["export"] = export_seconds(out, folder / "again", network.settings)
    start = time.perf_counter()
    program = build_simulation(project)
    seconds["build"] = time.perf_counter() - start
    inputs = torch.cat([network.draw(index) for index in range(frames)])
    (folder / "in.dat").write_bytes(inputs.numpy().tobytes())
    start = time.perf_counter()
    subprocess.run([program.resolve(), "--run", folder / "in.dat", folder / "out.dat"], cwd=project, check=True)
    seconds["run"] = time.perf_counter() - start
    found = np.frombuffer((folder / "out.dat").read_bytes(), np.uint32)
    wanted = expected(network, oracle(network, model, samples), inputs).numpy().view(np.uint32).ravel()
    report = read_report(project)
    texts = [one for one in project.rglob("*") if one.suffix in (".h", ".cpp") and "ap_types" not in one.parts]
    return {
        "network": network.name, "outputs": int(found.size), "csim_mismatches": int((found != wanted).sum()),
        "rtl_mismatches": None, "predicted_cycles": report["predicted"]["interval_cycles"],
        "predicted_latency": report["predicted"]["latency_cycles"], "rtl_cycles": None, "lut": None, "ff": None,
        "dsp": None, "bram": None, "estimate": report["estimate"], "part": report["part"], "fits": report["fits"],
        "seconds": {key: round(value, 2) for key, value in seconds.items()},
        "text_bytes": sum(one.stat().st_size for one in texts),
        "depths": prove_depths(project, report),
        "peer": peer(network, model, inputs[:2000]) if network.peer else None,
    }  # fmt: skip


def export_seconds(artifact: Path, folder: Path, settings: dict[str, str]) -> float:
    """Return the seconds from the final module to a project: quantization and golden vectors are not counted."""
    module = read_module(artifact / "program.mlir")
    store = WeightStore.load(artifact / "weights.safetensors")
    start = time.perf_counter()
    HlsBackend().emit(module, store, None, BackendOptions(settings=settings), folder)
    return time.perf_counter() - start


def prove_depths(project: Path, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the design with every needed depth, and with one place less."""
    program = build_simulation(project, bounded=True).resolve()
    proofs: list[dict[str, Any]] = []
    assert _bounded(program, project, "") == 0, "the design stops at its own depths"
    for fifo in report["fifos"]:
        if fifo["needed"]:
            less = _bounded(program, project, f"{fifo['name']}={fifo['depth'] - 1}")
            proofs.append({"fifo": fifo["name"], "depth": fifo["depth"], "runs": True, "stops_at_less": less == 3})
    return proofs


def _bounded(program: Path, project: Path, depths: str) -> int:
    env = {**os.environ, "QCC_DEPTHS": depths}
    return subprocess.run([program], cwd=project, env=env, capture_output=True, check=False).returncode


def peer(network: Network, model: nn.Module, inputs: torch.Tensor) -> dict[str, Any] | None:
    """Convert the network, its weights rounded by the recipe, with hls4ml's defaults; returns seconds and exactness."""
    if find_spec("hls4ml") is None:
        return None
    import hls4ml

    rounded = _rounded(model, network.recipe)
    with torch.no_grad():
        wanted = rounded.double()(inputs.double())
    rounded = rounded.float()
    with tempfile.TemporaryDirectory() as scratch:
        shape = tuple(inputs.shape[1:])
        start = time.perf_counter()
        config = hls4ml.utils.config_from_pytorch_model(rounded, shape, granularity="name", backend="Vitis")
        converted = hls4ml.converters.convert_from_pytorch_model(
            rounded,
            hls_config=config,
            output_dir=scratch,
            backend="Vitis",
            io_type="io_stream",
            part="xck26-sfvc784-2LV-c",
        )
        convert = time.perf_counter() - start
        start = time.perf_counter()
        converted.compile()
        built = time.perf_counter() - start
        order = inputs.permute(0, 2, 3, 1) if inputs.dim() == 4 else inputs
        found = torch.tensor(np.asarray(converted.predict(order.contiguous().numpy()))).reshape(wanted.shape).double()
    # the output type is ap_fixed<16,6>: a step is 2^-10, and numbers are truncated to it
    steps, exact = found * 1024, wanted * 1024
    same = (steps - exact.round()).abs().minimum((steps - exact.floor()).abs()) < 1e-6
    near = (steps - exact).abs() <= 1
    return {
        "name": "hls4ml", "version": hls4ml.__version__, "convert": round(convert, 2), "build": round(built, 2),
        "exact": float(same.double().mean()),
        "within_one_step": float(near.double().mean()), "largest_error": float((found - wanted).abs().max()),
    }  # fmt: skip


def _rounded(model: nn.Module, recipe: str) -> nn.Module:
    """Return a copy of a network whose weights are what the recipe's codes stand for."""
    import copy

    text = str(load_recipe(recipe).weights.format)
    rounded = copy.deepcopy(model)
    for one in rounded.modules():
        if isinstance(one, nn.Linear | nn.Conv2d):
            flat = one.weight.detach().reshape(len(one.weight), -1)
            one.weight.data = qcc.numerics.fake_quantize(flat, text).reshape(one.weight.shape)
    return rounded


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table and what was proved."""
    table = Table(
        "network", "outputs", "wrong bits", "cycles/frame", "latency", "LUT", "FF", "DSP", "BRAM18", "compile s",
        "export s",
        "build s", "run s", "text kB", box=None,
    )  # fmt: skip
    for row in rows:
        estimate, seconds = row["estimate"], row["seconds"]
        table.add_row(
            row["network"], f"{row['outputs']:,}", str(row["csim_mismatches"]), f"{row['predicted_cycles']:,}",
            f"{row['predicted_latency']:,}", f"{estimate['lut']:,}", f"{estimate['ff']:,}", str(estimate["dsp"]),
            str(estimate["bram18"]), *(f"{seconds[key]:.1f}" for key in ("compile", "export", "build", "run")),
            f"{row['text_bytes'] / 1000:.0f}",
        )  # fmt: skip
    console = Console(width=160)
    console.print(table)
    console.print("cycles and resources are estimates: neither Vitis nor Vivado was run")
    for row in rows:
        for one in row["depths"]:
            verdict = "stops" if one["stops_at_less"] else "DOES NOT STOP"
            console.print(f"{row['network']}: {one['fifo']} runs at {one['depth']}, {verdict} at {one['depth'] - 1}")
        if (other := row["peer"]) is not None:
            console.print(
                f"{row['network']}: hls4ml {other['version']} converts in {other['convert']} s, builds in "
                f"{other['build']} s; on raw inputs {other['exact']:.1%} of its outputs are exact, "
                f"{other['within_one_step']:.1%} within a step, largest error {other['largest_error']:.2g}"
            )


def main() -> int:
    """Measure, print, and fail if any bit is wrong or a depth is not minimal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="part of a network's name")
    chosen = parser.parse_args()
    networks = [one for one in NETWORKS if chosen.only in one.name]
    if chosen.quick:
        networks = [one for one in networks if one.name.startswith(("jets", "residual"))]
    rows: list[dict[str, Any]] = []
    for network in networks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(network, Path(folder), min(network.frames, 500) if chosen.quick else network.frames))
    show(rows)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    wrong = [row for row in rows if row["csim_mismatches"] or not all(one["stops_at_less"] for one in row["depths"])]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
