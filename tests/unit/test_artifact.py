from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from qcc.artifact import (
    Coverage,
    Manifest,
    manifest_text,
    read_manifest,
    unzip,
    write_manifest,
    written_aside,
    zip_folder,
)
from qcc.calling import Signature
from qcc.errors import CheckpointError, QccError
from qcc.ir.store import WeightStore
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from qcc.recipes.load import load_recipe


def manifest() -> Manifest:
    coverage = Coverage(layers=(), bytes_before=8, bytes_after=4)
    signature = Signature(inputs=(), outputs=(), in_spec="", out_spec="")
    return Manifest(qcc="0", target="cpu", recipe=load_recipe("w8"), signature=signature, coverage=coverage)


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.json"
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def make(folder: Path) -> Path:
    with written_aside(folder) as aside:
        (aside / "c").mkdir()
        (aside / "c" / "model.c").write_text("int x;\n")
        (aside / "weights.bin").write_bytes(bytes(range(256)))
        write_manifest(aside, manifest())
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read_manifest(make(tmp_path / "m.qcc"))
    assert set(found.files) == {"c/model.c", "weights.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["m.qcc"]


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"short"), "weights.bin: has 5 bytes, should have 256"),
        (lambda folder: (folder / "weights.bin").write_bytes(bytes(256)), "weights.bin: does not have the checksum"),
        (lambda folder: (folder / "c" / "model.c").unlink(), "c/model.c: is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "the manifest is damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": "other"}'), "of another kind"),
        (lambda folder: (folder / "manifest.json").unlink(), "not a qcc artifact"),
        (lambda folder: change(folder, '"bytes_after": 4', '"bytes_after": 5'), "the manifest is damaged (checksum)"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, part: str) -> None:
    folder = make(tmp_path / "m.qcc")
    assert callable(damage)
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    assert part in str(caught.value)


def test_a_newer_version_and_a_path_outside_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m.qcc")
    data = json.loads((folder / "manifest.json").read_text())
    del data["digest"]
    (folder / "manifest.json").write_text(json.dumps({**data, "version": 2}))
    with pytest.raises(CheckpointError, match="artifact version 2"):
        read_manifest(folder)
    outside = {**data, "files": {"../secret": {"bytes": 1, "sha256": ""}}}
    (folder / "manifest.json").write_text(manifest_text(outside))
    with pytest.raises(CheckpointError, match="lies outside"):
        read_manifest(folder)


def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    folder = make(tmp_path / "m.qcc")

    def fail() -> None:
        with written_aside(folder) as aside:
            (aside / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["m.qcc"]
    read_manifest(folder)
    make(folder)  # an artifact may be replaced
    read_manifest(folder)


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(QccError, match="no qcc artifact"), written_aside(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_zip_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    folder = make(tmp_path / "m.qcc")
    zip_folder(folder, tmp_path / "a.zip")
    zip_folder(folder, tmp_path / "b.zip")
    blob = (tmp_path / "a.zip").read_bytes()
    assert blob == (tmp_path / "b.zip").read_bytes()
    (tmp_path / "out").mkdir()
    unzip(blob, tmp_path / "out")
    assert read_manifest(tmp_path / "out") == read_manifest(folder)
    with pytest.raises(CheckpointError):
        unzip(blob[: len(blob) // 2], tmp_path / "half")


def test_stored_weights_repeat_byte_for_byte(tmp_path: Path) -> None:
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    store = WeightStore({"b": rows, "a": quantize(rows, int_qtype(4, symmetric=False, group=32))})
    written: set[bytes] = set()
    for _ in range(8):  # an order drawn by chance is the same once in two, not eight times
        store.save(tmp_path / "weights.safetensors")
        written.add((tmp_path / "weights.safetensors").read_bytes())
    assert len(written) == 1
    again = WeightStore.load(tmp_path / "weights.safetensors")
    assert torch.equal(again.quantized("a").codes, store.quantized("a").codes)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, str(tmp_path / "other.safetensors"), metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not weights of format 'qcc-weights-1' .*: format"):
        WeightStore.load(tmp_path / "other.safetensors")


def zipped(folder: Path) -> bytes:
    zip_folder(make(folder / "m.qcc"), folder / "m.zip")
    return (folder / "m.zip").read_bytes()


def opened(blob: bytes) -> Manifest:
    with tempfile.TemporaryDirectory() as scratch:
        unzip(blob, Path(scratch))
        return read_manifest(Path(scratch))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Manifest]:
    blob = zipped(tmp_path_factory.mktemp("zip"))
    return blob, opened(blob)


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_zip_is_refused_or_means_the_same(archive: tuple[bytes, Manifest], data: st.DataObject) -> None:
    blob, wanted = archive
    where = data.draw(st.integers(0, len(blob) - 1))
    flipped = blob[:where] + bytes([blob[where] ^ data.draw(st.integers(1, 255))]) + blob[where + 1 :]
    try:
        # a byte of no meaning, such as one of a date
        assert opened(flipped) == wanted
    except CheckpointError:
        pass
    with pytest.raises(CheckpointError):
        opened(blob[:where])


def foreign(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_foreign_archives_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a qcc artifact"):
        opened(foreign(data=b"x"))
    with pytest.raises(CheckpointError, match="leads outside"):
        opened(foreign(**{"../evil": b"x"}))
    with pytest.raises(CheckpointError, match="not a readable artifact"):
        opened(b"GGUF" + bytes(100))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(10**6))
    with pytest.raises(CheckpointError, match="is compressed"):
        opened(stream.getvalue())
