"""The emitted C under AddressSanitizer and UBSan: golden vectors, damaged files, wrong shapes, misuse."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.base import ContractCase, Golden, ModelCall, ModelCase, Tolerance
from qcc.interpreter import Interpreter
from qcc.interpreter.contraction import corrected_sums
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import IndexUpdateOp, ReduceOp
from qcc.ir.nn import EmbeddingOp, LinearOp
from qcc.ir.program import IotaOp, StateOp, UpdateStateOp, WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp, NormOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.presets import format_of
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from tests.cpu_programs import emit
from tests.modules import kind_of, make
from tests.unit.cpu_project import SANITIZE, WARNINGS, build_main, kernels_object, run_main

TOKEN = int_qtype(8, group="token", scale="f32", when="dynamic")


def build(x: SSAValue, ids: SSAValue) -> list[object]:
    """A block with a cache of sums: embedding, norm, integer and float linears, attention, state."""
    h = BinaryOp("add", x, EmbeddingOp(WeightOp("table", tensor([40, 16], "f32")), ids))
    normal = NormOp("layer", h, eps=1e-5)
    wide = ContractOp(QuantizeOp(normal, TOKEN), WeightOp("w", STORE_TYPES["w"]))
    heads = TransposeOp(ReshapeOp(wide, ["s0", 3, 2, 8]), (1, 2, 0, 3))
    parts = [SliceOp(heads, 0, i, 1) for i in range(3)]
    mixed = ReshapeOp(TransposeOp(AttentionOp(*parts, scale=0.35, causal=True), (0, 2, 1, 3)), ["s0", 16])
    state = StateOp("sums", tensor([8, 16], "f32"))
    place = IotaOp(2, 1, tensor([1], "i64"))
    total = ReduceOp("sum", UnaryOp("gelu", LinearOp(mixed, WeightOp("o", tensor([16, 16], "f32")))), [0], True)
    updated = IndexUpdateOp(state, [place], total)
    UpdateStateOp("sums", updated)
    kept = ExpandOp(ReduceOp("sum", updated, [0], True), ["s0", 16])
    rounded = DequantizeOp(QuantizeOp(x, replace(format_of("nvfp4"), when="dynamic")), "f32")
    return [BinaryOp("add", BinaryOp("add", h, kept), rounded)]


def make_store() -> WeightStore:
    draw = torch.Generator().manual_seed(3)
    w = quantize(torch.randn(48, 16, generator=draw), int_qtype(4, symmetric=False, group=8))
    return WeightStore(
        {
            "table": torch.randn(40, 16, generator=draw),
            "o": torch.randn(16, 16, generator=draw),
            "w": w,
            "sums": torch.zeros(8, 16),
        }
    )


STORE_TYPES = {"w": kind_of(make_store()["w"])}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sanitized program with golden vectors for three calls."""
    store = make_store()
    kinds = {"x": tensor(["s0", 16], "f32"), "ids": tensor(["s0"], "i64")}
    module = make(kinds, build, [SymbolAttr.make("s0", 1, 50)])  # type: ignore[arg-type]
    oracle = Interpreter(module, store)
    calls = []
    for m in (1, 6, 33):
        inputs = {"x": torch.randn(m, 16), "ids": torch.arange(m)}
        calls.append(ModelCall(inputs, oracle.run(inputs)))
    x = torch.randn(4, 16)
    codes = quantize(x, TOKEN)
    sums = corrected_sums(codes, store.quantized("w")).to(torch.int32)
    golden = Golden(
        (ModelCase("three calls", tuple(calls), Tolerance(0.05)),),
        (ContractCase(0, x, codes.codes, codes.scales[0], sums),),
    )
    folder = emit(module, store, tmp_path_factory.mktemp("sanitized"), golden, build=False).folder
    flags = (*WARNINGS, "-O1", *SANITIZE)
    try:
        kernels = kernels_object(flags)
    except AssertionError as error:
        pytest.skip(f"the compiler has no sanitizers: {str(error)[:100]}")
    build_main(folder, kernels, flags)
    shutil.copyfile(Path(__file__).with_name("cpu_misuse.c"), folder / "misuse.c")
    build_main(folder, kernels, flags, "misuse.c", "misuse")
    return folder


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    found = run_main(project / "model_main", *words)
    assert "Sanitizer" not in found.stderr, found.stderr
    assert "runtime error" not in found.stderr, found.stderr
    return found


def test_golden_vectors(project: Path) -> None:
    found = run(
        project, "--weights", str(project / "weights.bin"), "--golden", str(project / "golden"), "--threads", "1"
    )
    assert found.returncode == 0, found.stderr
    assert "all golden vectors hold" in found.stdout


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "too short"),
        (lambda data: data[:40], "too short"),
        (lambda data: data[:-64], "truncated"),
        (lambda data: data + bytes(64), "truncated"),
        (lambda data: data[:200] + bytes([data[200] ^ 4]) + data[201:], "checksum"),
        (lambda data: data[:128] + data[192:256] + data[128:192] + data[256:], "checksum"),
        (lambda data: b"PK" + data[2:], "no weights file"),
        (lambda data: data[:8] + b"\x09" + data[9:], "version"),
        (lambda data: data[:24] + b"\0" * 8 + data[32:], "another program"),
    ],
)
def test_damaged_weights(project: Path, tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(damage((project / "weights.bin").read_bytes()))  # type: ignore[operator]
    found = run(project, "--weights", str(path), "--golden", str(project / "golden"))
    assert found.returncode == 2
    assert message in found.stderr


def save(folder: Path, **arrays: np.ndarray) -> list[str]:
    words: list[str] = []
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        words += ["--input", f"{name}={folder / f'{name}.npy'}"]
    return words


def test_files_in_and_out(project: Path, tmp_path: Path) -> None:
    good = save(tmp_path, x=np.ones((5, 16), np.float32), ids=np.arange(5))
    common = ["--weights", str(project / "weights.bin"), "--output", str(tmp_path)]
    found = run(project, *common, *good, "--repeat", "3")
    assert found.returncode == 0, found.stderr
    assert "latency_ms median" in found.stdout
    assert np.load(tmp_path / "y.npy").shape == (5, 16)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((5, 15), np.float32), "ids": np.arange(5)}, "axis 1: size 15, expected 16"),
        ({"x": np.ones((5, 16), np.float32), "ids": np.arange(4)}, "expected s0 (5)"),
        ({"x": np.ones((5, 16), np.float64), "ids": np.arange(5)}, "dtype"),
        ({"x": np.ones((5, 16, 1), np.float32), "ids": np.arange(5)}, "too many axes"),
        ({"x": np.ones((51, 16), np.float32), "ids": np.arange(51)}, "takes 1 to 50"),
        ({"x": np.ones((0, 16), np.float32), "ids": np.arange(0)}, "takes 1 to 50"),
        ({"x": np.ones((2, 16), np.float32), "ids": np.array([1, 40])}, "token id"),
        ({"x": np.asfortranarray(np.ones((2, 16), np.float32)), "ids": np.arange(2)}, "C order"),
        ({"ids": np.arange(2)}, "is missing"),
        ({"x": np.ones((2, 16), "U3"), "ids": np.arange(2)}, "dtype"),
    ],
)
def test_inputs_that_do_not_fit(project: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    found = run(
        project, "--weights", str(project / "weights.bin"), *save(tmp_path, **arrays), "--output", str(tmp_path)
    )
    assert found.returncode == 2
    assert message in found.stderr


@pytest.mark.parametrize("keep", [0, 5, 9, 40, 127, 128, 150])
def test_truncated_npy(project: Path, tmp_path: Path, keep: int) -> None:
    words = save(tmp_path, x=np.ones((5, 16), np.float32), ids=np.arange(5))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:keep])
    assert run(project, "--weights", str(project / "weights.bin"), *words).returncode == 2


def test_misuse_of_the_interface(project: Path) -> None:
    found = run_main(project / "misuse", str(project / "weights.bin"))
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_wrong_golden_vector_is_found(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    shutil.copytree(project / "golden", folder)
    path = next(folder.glob("*call2_output0.npy"))
    array = np.load(path)
    array[7, 3] += 100
    np.save(path, array)
    found = run(project, "--weights", str(project / "weights.bin"), "--golden", str(folder))
    assert found.returncode == 1
    assert f"element {7 * 16 + 3}" in found.stderr
