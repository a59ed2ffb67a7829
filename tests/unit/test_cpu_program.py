"""Whole programs in C: state, threads, outputs, determinism, text, errors of loading and building."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.base import BackendOptions
from qcc.backends.cpu import build as cpu_build
from qcc.backends.cpu.runtime import CpuProgram
from qcc.backends.targets import backend_of
from qcc.errors import BuildError, CheckpointError, QccError, ShapeError, UnsupportedOp
from qcc.ir.base import set_location
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import IndexUpdateOp, ReduceOp, SliceUpdateOp
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import StateOp, UpdateStateOp, WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.shape import ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transform import RotateOp
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from tests.cpu_programs import BACKEND, compare, emit, load
from tests.modules import kind_of, make

S0 = [SymbolAttr.make("s0", 1, 16)]


def cache_program(x: SSAValue, place: SSAValue) -> list[object]:
    """Attention over a static cache: keys and values are written at `place`, then read."""
    key, value = (StateOp(name, tensor([1, 2, 16, 4], "f32")) for name in ("key", "value"))
    rows = TransposeOp(ReshapeOp(x, [1, "s0", 2, 4]), (0, 2, 1, 3))
    keys = IndexUpdateOp(key, [place], rows, 2)
    values = IndexUpdateOp(value, [place], UnaryOp("neg", rows), 2)
    UpdateStateOp("key", keys)
    UpdateStateOp("value", values)
    return [AttentionOp(rows, keys, values, scale=0.5), keys]


def cache_store() -> WeightStore:
    return WeightStore({"key": torch.zeros(1, 2, 16, 4), "value": torch.full((1, 2, 16, 4), 0.25)})


def test_a_cache_is_updated_in_place(tmp_path: Path) -> None:
    kinds = {"x": tensor(["s0", 8], "f32"), "place": tensor(["s0"], "i64")}
    module, store = make(kinds, cache_program, S0), cache_store()  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    calls = [{"x": torch.randn(5, 8), "place": torch.arange(5)}]
    calls += [{"x": torch.randn(1, 8), "place": torch.tensor([i])} for i in range(5, 16)]
    compare(program, module, store, calls)
    program.reset()
    compare(program, module, store, calls[:3])
    text = (tmp_path / "c" / "model.c").read_text()
    body = text[text.index("static int part_0") :]
    assert body.count("run_index(") == 2
    assert "    .y = (float *)c->state" not in body, "nothing is copied into the cache"
    with pytest.raises(ShapeError, match="outside its axis"):
        program.run({"x": torch.randn(1, 8), "place": torch.tensor([16])})
    with pytest.raises(QccError, match="reset the session"):
        program.run(calls[0])
    program.reset()
    compare(program, module, store, calls[:2])


def test_state_that_cannot_be_updated_in_place(tmp_path: Path) -> None:
    """Old values are read after the update, states are exchanged, views of state are returned."""

    def build(x: SSAValue) -> list[object]:
        a, b, c, d = (StateOp(name, tensor([4, 4], "f32")) for name in "abcd")
        new = SliceUpdateOp(a, x, 0, 1)
        UpdateStateOp("a", BinaryOp("add", new, a))
        UpdateStateOp("b", TransposeOp(c, (1, 0)))
        UpdateStateOp("c", b)
        twice = SliceUpdateOp(SliceUpdateOp(d, x, 0, 0), SliceOp(d, 0, 0, 1), 0, 3)
        UpdateStateOp("d", twice)
        unsaved = SliceUpdateOp(b, x, 0, 2)
        return [a, TransposeOp(b, (1, 0)), c, d, unsaved, new]

    store = WeightStore({name: torch.randn(4, 4) for name in "abcd"})
    module = make({"x": tensor([1, 4], "f32")}, build)  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    compare(program, module, store, [{"x": torch.randn(1, 4)} for _ in range(4)], 0)


def test_outputs_of_every_kind(tmp_path: Path) -> None:
    """Inputs, weights, views, constants and one value twice may all be outputs."""

    def build(x: SSAValue) -> list[object]:
        twice = UnaryOp("exp", x)
        return [
            x,
            twice,
            twice,
            TransposeOp(twice, (1, 0)),
            WeightOp("w", tensor([3], "f32")),
            ReshapeOp(twice, ["s0*4"]),
        ]

    store = WeightStore({"w": torch.tensor([1.0, float("nan"), float("inf")])})
    module = make({"x": tensor(["s0", 4], "f32")}, build, S0)  # type: ignore[arg-type]
    compare(load(module, store, tmp_path), module, store, [{"x": torch.randn(m, 4)} for m in (3, 1)], 1e-6)


def test_half_floats_at_the_boundary(tmp_path: Path) -> None:
    def build(x: SSAValue, y: SSAValue) -> list[object]:
        half = LinearOp(x, WeightOp("w", tensor([6, 8], "f16")))
        state = StateOp("s", tensor([1, 8], "bf16"))
        total = BinaryOp("add", state, ReduceOp("sum", y, [0], True))
        UpdateStateOp("s", total)
        return [half, total]

    store = WeightStore({"w": torch.randn(6, 8).half(), "s": torch.zeros(1, 8, dtype=torch.bfloat16)})
    module = make({"x": tensor(["s0", 8], "f16"), "y": tensor(["s0", 8], "bf16")}, build, S0)  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    compare(
        program,
        module,
        store,
        [{"x": torch.randn(m, 8).half(), "y": torch.randn(m, 8).bfloat16()} for m in (2, 5)],
        2e-2,
    )


def mlp() -> tuple[object, WeightStore]:
    store = WeightStore({"w": torch.linspace(-1, 1, 96).reshape(8, 12), "b": torch.linspace(0, 1, 8)})
    store["q"] = quantize(torch.linspace(-1, 1, 40).reshape(5, 8), int_qtype(4, symmetric=False, group=4))

    def build(x: SSAValue) -> LinearOp | ContractOp:
        hidden = LinearOp(x, WeightOp("w", tensor([8, 12], "f32")), WeightOp("b", tensor([8], "f32")))
        set_location(hidden, "first (mlp.py:7)")
        active = UnaryOp("gelu", hidden)
        codes = QuantizeOp(active, int_qtype(8, group="token", scale="f32", when="dynamic"))
        return ContractOp(codes, WeightOp("q", kind_of(store["q"])))

    return make({"x": tensor(["s0", 12], "f32")}, build, S0), store


def test_two_threads_with_their_own_sessions(tmp_path: Path) -> None:
    module, store = mlp()
    program = load(module, store, tmp_path)  # type: ignore[arg-type]
    inputs = [torch.randn(m, 12) for m in (3, 16, 1, 7)]
    wanted = [program.run({"x": x})["y"] for x in inputs]
    faults: list[str] = []

    def work(shift: int) -> None:
        for i in range(300):
            at = (i + shift) % len(inputs)
            if not torch.equal(program.run({"x": inputs[at]})["y"], wanted[at]):
                faults.append(f"call {i} of thread {shift}")

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not faults


def test_results_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    store = WeightStore({"w": torch.randn(300, 200), "c": torch.randn(16, 8, 3, 3)})

    def build(x: SSAValue, y: SSAValue) -> list[object]:
        codes = QuantizeOp(x, int_qtype(8, group="token", scale="f32", when="dynamic"))
        convolved = ConvOp(
            y, WeightOp("c", tensor([16, 8, 3, 3], "f32")), stride=[1, 1], padding=[1, 1], dilation=[1, 1]
        )
        weight = QuantizeOp(WeightOp("w", tensor([300, 200], "f32")), int_qtype(8))
        return [LinearOp(x, WeightOp("w", tensor([300, 200], "f32"))), ContractOp(codes, weight), convolved]

    module = make({"x": tensor([150, 200], "f32"), "y": tensor([2, 8, 40, 40], "f32")}, build)  # type: ignore[arg-type]
    emit(module, store, tmp_path)
    inputs = {"x": torch.randn(150, 200), "y": torch.randn(2, 8, 40, 40)}
    runs = [BACKEND.load(tmp_path, threads=n).run(inputs) for n in (1, 2, 5)]
    for one in runs[1:]:
        assert all(torch.equal(one[name], runs[0][name]) for name in one)


def test_emitted_bytes_repeat(tmp_path: Path) -> None:
    names: list[dict[str, bytes]] = []
    for attempt in ("one", "two"):
        module, store = mlp()
        folder = emit(module, store, tmp_path / attempt, build=False).folder  # type: ignore[arg-type]
        names.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert names[0] == names[1]


@pytest.mark.parametrize("file", ["model.c", "model.h"])
def test_text_of_a_small_model(tmp_path: Path, golden: object, file: str) -> None:
    module, store = mlp()
    folder = emit(module, store, tmp_path, build=False).folder  # type: ignore[arg-type]
    golden(f"cpu_mlp_{file}", (folder / file).read_text())  # type: ignore[operator]


def test_names_that_are_no_c_identifiers(tmp_path: Path) -> None:
    module = make(
        {'x.0 */ "%s\\n': tensor(["s0", 2], "f32"), "int": tensor([2], "f32")}, lambda x, y: BinaryOp("add", x, y), S0
    )
    options = BackendOptions(name="a-b 3")
    BACKEND.emit(module, WeightStore(), None, options, tmp_path)
    program = BACKEND.load(tmp_path)
    found = program.run({'x.0 */ "%s\\n': torch.ones(3, 2), "int": torch.ones(2)})
    assert torch.equal(found["y"], torch.full((3, 2), 2.0))
    with pytest.raises(ShapeError, match="expected 2"):
        program.run({'x.0 */ "%s\\n': torch.ones(3, 5), "int": torch.ones(2)})


def test_inputs_at_fault_are_listed_together(tmp_path: Path) -> None:
    module = make({"x": tensor(["s0", 2], "f32"), "y": tensor(["s0"], "f32")}, lambda x, y: [x, y], S0)
    program = load(module, WeightStore(), tmp_path)
    with pytest.raises(ShapeError) as caught:
        program.run({"x": torch.ones(3, 2, dtype=torch.float64), "z": torch.ones(1)})
    assert len(caught.value.problems) == 3
    with pytest.raises(ShapeError, match="dimension s0 is 17"):
        program.run({"x": torch.ones(17, 2), "y": torch.ones(17)})
    strided = torch.randn(2, 6).T[::2]
    assert torch.equal(program.run({"x": strided, "y": torch.ones(3)})["y"], strided)
    program.close()
    with pytest.raises(QccError, match="closed"):
        program.run({"x": torch.ones(1, 2), "y": torch.ones(1)})


def test_operations_without_kernels_are_listed_with_their_places(tmp_path: Path) -> None:
    def build(x: SSAValue, v: SSAValue) -> list[object]:
        rotated = RotateOp("hadamard", x, 1, block=8)
        set_location(rotated, "layers.0 (a.py:3)")
        cube = ConvOp(v, v, stride=[1] * 3, padding=[0] * 3, dilation=[1] * 3)
        return [UnaryOp("exp", rotated), UnaryOp("floor", cube)]

    module = make({"x": tensor(["s0", 8], "f32"), "v": tensor([1, 1, 2, 2, 2], "f32")}, build, S0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOp) as caught:
        emit(module, WeightStore(), tmp_path / "out")
    assert caught.value.problems[0].where == "qcc.rotate at layers.0 (a.py:3)"
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_programs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a compiled CPU program"):
        BACKEND.load(tmp_path)
    module, store = mlp()
    folder = emit(module, store, tmp_path).folder  # type: ignore[arg-type]
    weights = folder / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="truncated"):
        CpuProgram(folder)
    (folder / "libmodel.so").unlink()  # it is mapped by the program above
    (folder / "libmodel.so").write_bytes(b"no library")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        CpuProgram(folder)
    (folder / "interface.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a compiled CPU program"):
        CpuProgram(folder)


def test_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BuildError, match="apt install gcc"):
        cpu_build.find_compiler()
    assert cpu_build.find_compiler("cc") == ["cc"]
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no C compiler found"):
        cpu_build.find_compiler()


def test_a_compile_error_shows_the_command(tmp_path: Path) -> None:
    module, store = mlp()
    folder = emit(module, store, tmp_path, build=False).folder  # type: ignore[arg-type]
    path = folder / "model.c"
    path.write_text(path.read_text().replace("return error;", "return errr;"))
    with pytest.raises(BuildError, match=r"errr(.|\n)*-std=c11"):
        cpu_build.build_library(folder, "model")


def test_a_compiler_without_openmp(tmp_path: Path) -> None:
    wrapper = tmp_path / "plain-cc"
    wrapper.write_text('#!/bin/sh\nfor word in "$@"; do [ "$word" = -fopenmp ] && exit 1; done\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    module, store = mlp()
    emitted = BACKEND.emit(module, store, None, BackendOptions(cc=str(wrapper)), tmp_path)  # type: ignore[arg-type]
    assert "one thread" in emitted.messages[0]
    assert BACKEND.load(tmp_path, threads=2).run({"x": torch.ones(2, 12)})["y"].shape == (2, 5)


def test_targets() -> None:
    assert backend_of("cpu").capabilities.name == "cpu"
    with pytest.raises(QccError, match="did you mean 'cpu'"):
        backend_of("cpuu")
