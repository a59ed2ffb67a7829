"""Weights in memory: mapped by default, on pages of 2 MB only for those who ask, never both without being asked."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
import torch

from qcc.errors import CheckpointError
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from tests.cpu_programs import BACKEND, emit
from tests.modules import kind_of, make

MAPPED, HUGE = 0, 1
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GRANTED = THP.is_file() and "[never]" not in THP.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of one layer with 4 MB of weights."""
    store = WeightStore()
    store["w"] = quantize(torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0)), int_qtype(8, group=64))
    token = int_qtype(8, group="token", scale="f32", when="dynamic")
    module = make(
        {"x": tensor(["s0", 2048], "f32")},
        lambda x: ContractOp(QuantizeOp(x, token), WeightOp("w", kind_of(store["w"]))),
        [SymbolAttr.make("s0", 1, 64)],
    )
    return emit(module, store, tmp_path_factory.mktemp("pages")).folder


def huge_bytes(path: Path) -> tuple[int, int]:
    """Bytes of this process on 2 MB pages of its own, and bytes of it that map a file."""
    words = {
        line.split(":")[0]: line.split()[1] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    }
    mapped = sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())
    return int(words["AnonHugePages"]) * 1024, mapped


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads what Linux says of memory")
@pytest.mark.parametrize("wanted", [None, "huge", "sometimes"])
def test_where_weights_are(folder: Path, wanted: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCC_PAGES", raising=False)
    x = torch.randn(3, 2048, generator=torch.Generator().manual_seed(1))
    expected = BACKEND.load(folder, threads=1).run({"x": x})
    if wanted is not None:
        monkeypatch.setenv("QCC_PAGES", wanted)
    library, model = ctypes.CDLL(str(folder / "libmodel.so")), ctypes.c_void_p()
    before, _ = huge_bytes(folder)
    path = os.fsencode(folder / "weights.bin")
    assert library.model_open(path, ctypes.byref(model), None, ctypes.c_size_t(0)) == 0
    after, mapped = huge_bytes(folder / "weights.bin")
    huge = wanted == "huge" and GRANTED
    assert library.model_pages(model) == (HUGE if huge else MAPPED)
    assert mapped == (0 if huge else 1)
    assert huge or after - before < 4 << 20
    library.model_close(model)
    found = BACKEND.load(folder, threads=1).run({"x": x})
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_copies_are_checked_like_mapped_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCC_PAGES", "huge")
    for name in ("libmodel.so", "interface.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    data = (folder / "weights.bin").read_bytes()
    broken = bytearray(data)
    broken[len(data) // 2] ^= 4
    for content, message in ((data[:-64], "truncated"), (data + bytes(64), "truncated"), (bytes(broken), "checksum")):
        (tmp_path / "weights.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            BACKEND.load(tmp_path)
