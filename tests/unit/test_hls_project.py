"""Projects on disk: what is written, what is refused before anything is, rules of the emitted text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.base import BackendOptions
from qcc.backends.hls.aptypes import HEADERS, VARIABLE, find_headers
from qcc.backends.hls.backend import HlsBackend
from qcc.backends.hls.lint import lint
from qcc.backends.hls.parts import PARTS, part_of
from qcc.backends.hls.project import plan_project
from qcc.backends.hls.report import read_report, summary_lines, table_lines
from qcc.backends.hls.settings import HlsSettings, read_hls_settings
from qcc.errors import BuildError, CheckpointError, QccError, ShapeError, UnsupportedOp
from qcc.ir.elementwise import UnaryOp
from qcc.ir.program import ConstantOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.report.build import read_sections
from tests.hls_programs import Net, emit, random_frames, simulate
from tests.modules import make


def small(net: Net, x: SSAValue) -> object:
    return net.floats(net.requant(net.contract(net.codes(x), 6), channels=6))


def module_of(net: Net, shape: list[int]):
    return make({"x": tensor(shape, "f32")}, lambda x: small(net, x))


def test_project_has_what_a_user_of_the_vendors_tool_expects(tmp_path: Path) -> None:
    net = Net()
    settings = {"part": "xczu7ev", "clock_ns": "3.3", "target_fps": "1e6"}
    _, folder = emit(module_of(net, [1, 8]), net.store, tmp_path, settings=settings)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = "hls_config.cfg run_hls.tcl Makefile README.md report.json src/net.cpp src/net.h tb/tb.cpp tb/tb_in.dat"
    assert {*wanted.split(), "tb/tb_gold.dat", "src/qcc_hls/matvec.h", "ap_types/ap_int.h", "ap_types/NOTICE"} <= files
    config = (folder / "hls_config.cfg").read_text("utf-8")
    assert "part=xczu7ev-ffvc1156-2-e" in config
    assert "clock=3.3ns" in config
    assert "syn.top=net" in config
    readme = (folder / "README.md").read_text("utf-8")
    assert "Neither Vitis nor Vivado has seen this" in readme
    (units, fifos, design) = read_sections(folder.parent)
    assert any("matvec" in row for row in units.rows)
    assert len(fifos.columns) == 6
    assert "xczu7ev" in design.note
    report = read_report(folder)
    assert report["fits"]
    assert report["predicted"]["interval_cycles"] <= 1e9 / (3.3 * 1e6)
    text = "\n".join((*summary_lines(report), *table_lines(report)))
    assert "matvec" in text
    assert "xczu7ev" in text


def test_testbench_fails_on_one_wrong_bit(tmp_path: Path) -> None:
    net = Net()
    _, folder = emit(module_of(net, [1, 8]), net.store, tmp_path)
    gold = folder / "tb" / "tb_gold.dat"
    data = bytearray(gold.read_bytes())
    data[-4] ^= 1
    gold.write_bytes(bytes(data))
    status, said = simulate(folder)
    assert status == 1
    assert "mismatches 1" in said
    gold.write_bytes(bytes(data[:-1]))
    assert simulate(folder)[0] == 2


def test_program_runs_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    net = Net()
    module = module_of(net, [1, 8])
    backend = HlsBackend()
    emitted = backend.emit(backend.legalize(module, net.store), net.store, None, BackendOptions("my net"), tmp_path)
    assert (emitted.folder / "src" / "my_net.cpp").is_file()
    program = backend.load(tmp_path)
    frames = random_frames(module, 5)
    from qcc.interpreter import Interpreter

    for frame, found in zip(frames, program.run_frames(frames), strict=True):
        wanted = Interpreter(module, net.store).run(frame)["y"]
        assert torch.equal(found["y"].view(torch.int32), wanted.view(torch.int32))
    with pytest.raises(ShapeError, match="input 'x'"):
        program.run({})
    with pytest.raises(ShapeError, match=r"\(2, 8\)"):
        program.run({"x": torch.zeros(2, 8)})
    program.close()
    with pytest.raises(CheckpointError):
        backend.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "xck27"}, "xck26"),
        ({"clock_ns": "-1"}, "clock_ns"),
        ({"target_fps": "many"}, "target_fps"),
        ({"target_fps": "1e9"}, "less than one cycle"),
        ({"folding": "fc1=4"}, "folding"),
        ({"interface": "pcie"}, "interface=stream"),
    ],
)
def test_settings_that_cannot_be_taken(settings: dict[str, str], message: str) -> None:
    with pytest.raises(QccError, match=message):
        read_hls_settings(settings)


def test_all_bad_settings_are_said_at_once() -> None:
    with pytest.raises(QccError) as caught:
        read_hls_settings({"part": "x", "clock_ns": "0", "folding": "="})
    assert len(caught.value.problems) == 3


def test_refusals_name_layer_and_way_out(tmp_path: Path) -> None:
    net = Net()

    def wrong(x: SSAValue) -> list[object]:
        value = net.codes(x)
        return [net.floats(UnaryOp("abs", value)), UnaryOp("exp", x), ConstantOp(1.0, tensor([1], "f32"))]

    module = make({"x": tensor([1, 8], "f32")}, wrong)
    with pytest.raises(UnsupportedOp) as caught:
        plan_project(module, net.store, HlsSettings())
    text = str(caught.value)
    assert "abs" in text
    assert "exp" in text
    assert all(one.fix for one in caught.value.problems[:2])
    assert not list(tmp_path.iterdir())


def test_dynamic_shapes_are_refused() -> None:
    net = Net()
    symbols = [SymbolAttr.make("s0", 1, 8)]
    module = make({"x": tensor(["s0", 8], "f32")}, lambda x: small(net, x), symbols)
    with pytest.raises(UnsupportedOp, match="dynamic shape"):
        plan_project(module, net.store, HlsSettings())


def test_sums_over_64_bits_are_refused() -> None:
    net = Net()
    module = make({"x": tensor([1, 8], "i64")}, lambda x: [net.requant(x), net.contract(x, 3)])
    with pytest.raises(UnsupportedOp, match="64 is the limit") as caught:
        plan_project(module, net.store, HlsSettings())
    assert len(caught.value.problems) == 2


def test_part_that_cannot_hold_the_design() -> None:
    net = Net()

    def wide(x: SSAValue) -> object:
        value = net.requant(net.contract(net.codes(x), 64), channels=64)
        return net.floats(net.requant(net.contract(value, 64), channels=64))

    module = make({"x": tensor([1, 64], "f32")}, wide)
    settings = read_hls_settings({"part": "xc7z020", "target_fps": "5e6"})
    with pytest.raises(UnsupportedOp, match="cannot hold") as caught:
        plan_project(module, net.store, settings)
    assert "use part" in str(caught.value)


def test_rate_that_cannot_be_reached() -> None:
    net = Net()
    with pytest.raises(UnsupportedOp, match="cycles a frame at its widest"):
        plan_project(module_of(net, [400, 8]), net.store, read_hls_settings({"target_fps": "1e8"}))


@pytest.mark.parametrize("folding", ["*=4x1", "*=1x3", "nothing=1x1"])
def test_foldings_that_do_not_divide(folding: str) -> None:
    net = Net()
    with pytest.raises(QccError, match="folding"):
        plan_project(module_of(net, [1, 8]), net.store, read_hls_settings({"folding": folding}))


def test_folding_by_hand_is_kept(tmp_path: Path) -> None:
    net = Net()
    project, folder = emit(module_of(net, [3, 8]), net.store, tmp_path, settings={"folding": "*=3x4"})
    (matvec,) = [one for one in project.design.nodes if one.node.unit.template == "matvec"]
    assert (matvec.fold.pe, matvec.fold.simd, matvec.cycles) == (3, 4, 3 * 2 * 2)
    assert simulate(folder)[0] == 0


def test_text_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    sizes: list[int] = []
    for n in (256, 2048):
        net = Net()

        def build(x: SSAValue, net: Net = net, n: int = n) -> object:
            sums = net.contract(net.codes(x), n, "int4 | row f32")
            return net.floats(net.requant(sums, channels=n, shift=17))

        module = make({"x": tensor([1, n], "f32")}, build)
        project, folder = emit(module, net.store, tmp_path / str(n), 2, {"part": "xcu55c", "target_fps": "5e3"})
        assert len(list((folder / "weights").glob("*.bin"))) >= 1
        assert any(one.node.unit.template == "load" for one in project.design.nodes)
        status, said = simulate(folder)
        assert status == 0, said
        texts = [path for path in folder.rglob("*") if path.suffix in (".h", ".cpp") and "ap_types" not in path.parts]
        sizes.append(sum(path.stat().st_size for path in texts))
    assert sizes[1] < 1.2 * sizes[0]


def texts_of(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.suffix in (".h", ".cpp") and "ap_types" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def test_lint_finds_planted_faults(tmp_path: Path) -> None:
    net = Net()
    _, folder = emit(module_of(net, [1, 8]), net.store, tmp_path)
    texts = texts_of(folder)
    assert lint(texts) == []
    top = "src/net.cpp"
    name = re.search(r"hls::stream<[^;]*> (\w+)\(\"", texts[top])
    assert name is not None
    faults = {
        "a depth that differs": re.sub(r"depth=(\d+)\n", "depth=77\n", texts[top], count=1),
        "a second reader": texts[top].replace("  QCC_JOIN", f'  QCC_PROCESS("x", do_x({name[1]}))\n  QCC_JOIN'),
        "no pragma": re.sub(r"#pragma HLS STREAM.*\n", "", texts[top], count=1),
        "no region": texts[top].replace("#pragma HLS DATAFLOW", ""),
        "a float": texts[top] + "\nstatic float x;\n",
        "a loop without end": texts[top] + "\nvoid f() { while (true) {} }\n",
        "a loop with a moving bound": texts[top] + "\nvoid f() { for (int i = 0; g(i); i++) {} }\n",
    }
    for fault, text in faults.items():
        assert lint({**texts, top: text}), fault
    header = "src/qcc_hls/matvec.h"
    assert lint({**texts, header: texts[header].replace("part +=", "if (p) break; part +=")})


def test_memory_ports_say_their_depth(tmp_path: Path) -> None:
    net = Net()
    module = make({"x": tensor([1, 512], "f32")}, lambda x: net.floats(net.requant(net.contract(net.codes(x), 300))))
    project, folder = emit(module, net.store, tmp_path, 2)
    texts = texts_of(folder)
    top = texts["src/net.cpp"]
    assert "m_axi" in top
    assert lint({**texts, "src/net.cpp": re.sub(r" depth=\d+ offset", " offset", top)})
    words = int(re.search(r"m_axi .* depth=(\d+)", top)[1])  # type: ignore[index]
    lanes = int(re.search(r"qcc::lanes<(\d+)> \*", top)[1])  # type: ignore[index]
    sizes = [memory.stat().st_size for memory in (folder / "weights").glob("*.bin")]
    assert len(sizes) == 2, "weights, and the tables of 300 outputs"
    assert words * lanes * 8 in sizes
    assert project.design.stored()


def test_parts_are_found_by_both_names() -> None:
    for part in PARTS:
        assert part_of(part.name) is part_of(part.full_name.upper()) is part
        assert part.full_name.startswith(part.name)


def test_headers_are_found_or_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_headers()
    assert all((found / name).is_file() for name in HEADERS)
    monkeypatch.setattr("qcc.backends.hls.aptypes.PACKAGES", ())
    with pytest.raises(BuildError, match=r"qcc\[hls\]"):
        find_headers()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(BuildError, match="lacks"):
        find_headers()
    for name in HEADERS:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("/* confidential and proprietary */\n", "utf-8")
    with pytest.raises(BuildError, match="not under the Apache License"):
        find_headers()


def test_damaged_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps([1]), "utf-8")
    with pytest.raises(CheckpointError):
        read_report(tmp_path)
