"""Weights in files: the same weights, gone when nobody refers to them, in files that other readers take."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from qcc.errors import CheckpointError
from qcc.ir import on_disk
from qcc.ir.on_disk import OnDisk, Spool, spool_beside
from qcc.ir.store import Plain, WeightStore
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.safetensors_file import write_safetensors

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e8m0fnu,
]  # fmt: skip


def test_every_dtype_is_read_again_by_the_library(tmp_path: Path) -> None:
    raw = torch.randint(0, 256, (3, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensors = {str(dtype): (raw > 127) if dtype is torch.bool else raw.view(dtype) for dtype in DTYPES}
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(2.5), "turned": torch.arange(6.0).view(2, 3).T}
    given = dict(tensors)
    write_safetensors(tmp_path / "a", given, {"who": "qcc"})
    assert not given
    with safe_open(str(tmp_path / "a"), framework="pt") as file:
        assert file.metadata() == {"who": "qcc"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            found = file.get_tensor(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert found.flatten().view(torch.uint8).equal(tensor.contiguous().flatten().view(torch.uint8)), name
            assert not found.numel() or found.data_ptr() % found.element_size() == 0
    write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"who": "qcc"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "name", ["int4-g128", "uint4-g32", "nvfp4", "spqr3-g16", "bitmod4-g128", "olive4", "trit2-g128"]
)
def test_a_spooled_weight_is_the_same_and_its_file_goes_with_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_disk, "LEAST_BYTES", 2000)
    weight = torch.randn(32, 512, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    store = WeightStore()
    store.spool = Spool(tmp_path)
    store["plain"], store["codes"], store["small"] = weight, quantize(weight, format_of(name)), weight[:1]
    assert [isinstance(store.entry(key), OnDisk) for key in store] == [True, True, False]
    assert torch.equal(store.tensor("plain"), weight)
    assert torch.equal(dequantize(store.quantized("codes")), dequantize(quantize(weight, format_of(name))))
    assert len(list(tmp_path.iterdir())) == 2
    other, floats = store.copy(), Plain(WeightStore({"plain": store.entry("plain")}))
    del store["plain"], store["codes"]
    assert torch.equal(floats["plain"], weight)
    store.save(tmp_path / "out.safetensors")
    other.save(tmp_path / "all.safetensors")
    again = WeightStore.load(tmp_path / "all.safetensors")
    assert torch.equal(dequantize(again.quantized("codes")), dequantize(other.quantized("codes")))
    del other
    assert len(list(tmp_path.glob("[0-9]*"))) == 1
    del floats
    assert not list(tmp_path.glob("[0-9]*"))
    assert name in PRESETS


def test_a_lost_file_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "LEAST_BYTES", 0)
    found = Spool(tmp_path).put(torch.ones(4))
    assert isinstance(found, OnDisk)
    found.path.unlink()
    with pytest.raises(CheckpointError, match="was lost or changed"):
        found.read()


def test_a_spool_takes_away_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    left, used = tmp_path / ".out.x.spool", tmp_path / ".out.y.spool"
    for folder in (left, used):
        folder.mkdir()
        (folder / "0.safetensors").write_bytes(b"x")
    with (used / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with spool_beside(tmp_path / "out") as spool:
            assert isinstance(spool, Spool)
            assert not left.exists()
            assert (used / "0.safetensors").exists()
    assert [one.name for one in tmp_path.iterdir()] == [used.name]
