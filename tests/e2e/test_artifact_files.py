"""A real artifact as folder, zip and bytes: the same twice, mapped, and refused when it is not what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcc
from qcc.cache import Cache
from qcc.errors import CheckpointError
from tests.e2e.tiny import mlp


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCC_CACHE_DIR", str(tmp_path / "cache"))


def compiled(output: Path) -> qcc.Compiled:
    module, args, kwargs, shapes = mlp()
    return qcc.compile(module, args, kwargs, dynamic_shapes=shapes, recipe="w4a8", output=output, threads=1)


def test_twice_the_same_bytes_and_the_same_function(tmp_path: Path) -> None:
    x = torch.randn(3, 64)
    wanted = compiled(tmp_path / "one.qcc")(x)
    compiled(tmp_path / "two.qcc").save(tmp_path / "two.zip")
    qcc.load(tmp_path / "one.qcc").save(tmp_path / "one.zip")
    blob = (tmp_path / "one.zip").read_bytes()
    assert blob == (tmp_path / "two.zip").read_bytes()
    for source in (tmp_path / "one.qcc", tmp_path / "one.zip", str(tmp_path / "one.zip"), blob):
        assert torch.equal(qcc.load(source, threads=1)(x), wanted)
    # saved again from where it was unpacked
    qcc.load(blob).save(tmp_path / "three.zip")
    assert (tmp_path / "three.zip").read_bytes() == blob


def mapped_files() -> set[str]:
    return {line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}


def test_weights_are_mapped_and_a_zip_is_unpacked_once(tmp_path: Path) -> None:
    compiled(tmp_path / "one.qcc").save(tmp_path / "one.zip")
    first, second = qcc.load(tmp_path / "one.zip"), qcc.load((tmp_path / "one.zip").read_bytes())
    assert first.folder == second.folder
    assert [one.kind for one in Cache().entries()].count("artifact") == 1
    assert str(first.folder / "c" / "weights.bin") in mapped_files()


def test_damage_is_refused_and_a_good_copy_loads_again(tmp_path: Path) -> None:
    compiled(tmp_path / "one.qcc").save(tmp_path / "one.zip")
    blob = (tmp_path / "one.zip").read_bytes()
    size = len(blob)
    for where in (0, 10, size // 3, size // 2, size - 30):
        with pytest.raises(CheckpointError):
            qcc.load(blob[:where])
    # inside of a member: the archive's own checksum finds it
    where = blob.index(b"qcc.program")
    with pytest.raises(CheckpointError):
        qcc.load(blob[:where] + b"Q" + blob[where + 1 :])
    assert qcc.load(blob)(torch.randn(2, 64)).shape == (2, 32)
    unpacked = qcc.load(blob).folder / "program.mlir"
    text = unpacked.read_text("utf-8")
    unpacked.write_text(text.replace("gelu", "relu"), "utf-8")
    assert qcc.load(blob)(torch.randn(2, 64)).shape == (2, 32)
    assert unpacked.read_text("utf-8") == text
