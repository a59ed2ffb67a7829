"""Host programs of HLS projects, with the simulated design in the place of the board."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from xdsl.ir import SSAValue

from qcc.backends.hls.runtime import build_simulation
from qcc.ir.types import tensor
from tests.hls_programs import Net, emit, simulate
from tests.modules import Made, make

STANDIN = Path(__file__).parents[1] / "xrt"


def two_inputs(net: Net, x: SSAValue, y: SSAValue) -> list[Made]:
    """Two products, one with weights in memory: floats and integers come in and go out, some three at a time."""
    wide = net.requant(net.contract(net.codes(x), 300, "int4 | row f32"), channels=300)
    return [net.floats(wide), net.contract(y, 3)]


def project(folder: Path, interface: str) -> Path:
    net = Net()

    def build(x: SSAValue, y: SSAValue) -> list[Made]:
        return two_inputs(net, x, y)

    module = make({"x": tensor([1, 128], "f32"), "y": tensor([2, 6], "i8")}, build)
    _, written = emit(module, net.store, folder, 3, {"interface": interface, "part": "xcu55c", "target_fps": "1e5"})
    assert list((written / "weights").glob("*.bin"))
    return written


def glue(top: str) -> str:
    """Write what calls the design with the buffers of the stand-in, by the types of its parameters."""
    found = re.search(r"\nvoid net\(([^)]*)\);", top)
    assert found is not None
    types = [one.strip().rpartition("*")[0] + "*" for one in found[1].replace("\n", " ").split(", ")]
    calls = ", ".join(f"({kind})arguments.at({index})->data()" for index, kind in enumerate(types))
    return f"""
#include "../src/net.cpp"
#include <stdexcept>
#include <string>
#include <vector>
void simulate(const std::string &kernel, std::vector<std::vector<char> *> arguments) {{
  if (kernel != "net" || arguments.size() != {len(types)}) throw std::runtime_error("another kernel");
  net({calls});
}}
"""


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_xrt_host_moves_every_byte(tmp_path: Path) -> None:
    folder = project(tmp_path, "memory")
    status, said = simulate(folder)
    assert status == 0, said
    (folder / "host" / "glue.cpp").write_text(glue((folder / "src" / "net.h").read_text("utf-8")), "utf-8")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-label", f"-I{STANDIN}"]
    flags += ["-Isim", "-Isrc", "-isystem", "ap_types"]
    line = ["g++", *flags, "host/xrt_host.cpp", "host/glue.cpp", "-o", "host/program"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"xrt_host\.cpp.*warning", done.stderr), done.stderr

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(["host/program", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    status, said = run("net.xclbin")
    assert (status, "of 3 frames, wrong bytes 0" in said) == (0, True), said
    assert run("net.xclbin", "--run", "tb/tb_in.dat", "out.dat")[0] == 0
    assert (folder / "out.dat").read_bytes() == (folder / "tb" / "tb_gold.dat").read_bytes()
    flip(folder / "tb" / "tb_gold.dat")
    status, said = run("net.xclbin")
    assert (status, "wrong bytes 1" in said) == (1, True), said
    assert run("net.bit")[0] == 2
    next((folder / "weights").glob("*.bin")).write_bytes(b"short")
    status, said = run("net.xclbin")
    assert (status, "wrong size" in said) == (2, True), said


class Buffer(np.ndarray):
    """A buffer that the board sees as it was when the host last flushed it."""

    flushed: bytes | None = None

    def flush(self) -> None:
        self.flushed = self.tobytes()

    def invalidate(self) -> None:
        if self.flushed is not None:
            self[...] = np.frombuffer(self.flushed, self.dtype).reshape(self.shape)


class Board:
    """The simulated design behind the names that an overlay has; DMA engines keep what they are given."""

    def __init__(self, folder: Path, inputs: list[str], outputs: list[str]) -> None:
        self.folder, self.inputs, self.outputs = folder, inputs, outputs
        self.program = build_simulation(folder)
        self.sent: dict[str, Buffer] = {}
        self.wanted: dict[str, Buffer] = {}
        self.weights: list[bytes] = []
        self.net_0 = self

    def __getattr__(self, name: str) -> Dma:
        if not name.startswith("dma_"):
            raise AttributeError(name)
        return Dma(self, name.removeprefix("dma_"))

    def start(self, *buffers: Buffer) -> Board:
        """Take the arguments of the kernel: buffers of ports, where there are no DMA engines, then weights."""
        ports = len(self.inputs) + len(self.outputs)
        memories = sorted((self.folder / "weights").glob("*.bin"))
        if len(buffers) > len(memories):
            names = [*self.inputs, *self.outputs]
            given = dict(zip(names, buffers[:ports], strict=True))
            self.sent = {name: given[name] for name in self.inputs}
            self.wanted = {name: given[name] for name in self.outputs}
            buffers = buffers[ports:]
        self.weights = [one.flushed or b"" for one in buffers]
        return self

    def compute(self) -> None:
        """Run the simulation on what was sent."""
        assert sorted(self.weights) == sorted(one.read_bytes() for one in (self.folder / "weights").glob("*.bin"))
        source, target = self.folder / "board_in.dat", self.folder / "board_out.dat"
        source.write_bytes(b"".join(self.sent[name].flushed or b"" for name in self.inputs))
        line = [str(self.program.resolve()), "--run", str(source), str(target)]
        subprocess.run(line, cwd=self.folder, check=True)
        data, at = target.read_bytes(), 0
        for name in self.outputs:
            buffer = self.wanted[name]
            buffer.flushed = data[at : at + buffer.nbytes]
            at += buffer.nbytes
        assert at == len(data)
        self.sent, self.wanted = {}, {}

    def wait(self) -> None:
        """Compute, unless the DMA engines had it computed."""
        if self.sent:
            self.compute()


class Dma:
    """One engine: what a channel is given, the board has."""

    def __init__(self, board: Board, name: str) -> None:
        self.sendchannel = Channel(board, name, board.sent, board.inputs)
        self.recvchannel = Channel(board, name, board.wanted, board.outputs)


class Channel:
    def __init__(self, board: Board, name: str, held: dict[str, Buffer], names: list[str]) -> None:
        self.board, self.name, self.held, self.names = board, name, held, names

    def transfer(self, buffer: Buffer) -> None:
        assert self.name in self.names
        assert buffer.flushed is not None or self.names is self.board.outputs, "the host did not flush what it sends"
        self.held[self.name] = buffer

    def wait(self) -> None:
        if len(self.board.sent) == len(self.board.inputs) and len(self.board.wanted) == len(self.board.outputs):
            self.board.compute()


def allocate(shape: list[int], dtype: np.dtype) -> Buffer:
    return np.full(shape, 85).astype(dtype).view(Buffer)


def driver_of(folder: Path) -> ModuleType:
    """Import the driver with a module `pynq` whose overlay is the simulation."""
    module = ModuleType("driver")
    fake = ModuleType("pynq")
    fake.allocate = allocate  # type: ignore[attr-defined]

    def overlay(bitfile: str) -> Board:
        assert bitfile == "design.bit"
        return Board(folder, list(module.INPUTS), list(module.OUTPUTS))

    fake.Overlay = overlay  # type: ignore[attr-defined]
    kept = sys.modules.get("pynq")
    sys.modules["pynq"] = fake
    try:
        exec(
            compile((folder / "host" / "pynq_driver.py").read_text("utf-8"), "pynq_driver.py", "exec"), module.__dict__
        )
    finally:
        if kept is None:
            del sys.modules["pynq"]
        else:
            sys.modules["pynq"] = kept
    return module


@pytest.mark.parametrize("interface", ["stream", pytest.param("memory", marks=pytest.mark.slow)])
def test_pynq_driver_moves_every_byte(interface: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path, interface)
    monkeypatch.chdir(folder)
    main: Callable[..., int] = driver_of(folder).main
    assert main("design.bit") == 0
    flip(folder / "tb" / "tb_gold.dat")
    assert main("design.bit") == 1
    (folder / "tb" / "tb_in.dat").write_bytes((folder / "tb" / "tb_in.dat").read_bytes() * 2)
    assert main("design.bit") == 2


def test_projects_say_how_their_ports_are_connected(tmp_path: Path) -> None:
    memory, stream = project(tmp_path / "memory", "memory"), project(tmp_path / "stream", "stream")
    linking = (memory / "connectivity.cfg").read_text("utf-8")
    assert "sp=net_1.in_x:HBM[0]" in linking
    assert re.search(r"sp=net_1\.weights_\w+:HBM\[\d\]", linking)
    assert "flow_target=vitis" in (memory / "hls_config.cfg").read_text("utf-8")
    assert "flow_target=vivado" in (stream / "hls_config.cfg").read_text("utf-8")
    assert not (stream / "host" / "xrt_host.cpp").exists()
    assert "axis port=in_x" in (stream / "src" / "net.cpp").read_text("utf-8")
    assert "m_axi port=in_x" in (memory / "src" / "net.cpp").read_text("utf-8")
    assert "`in_x` | x: f32 [1, 128] | 512 |" in (memory / "README.md").read_text("utf-8")
