"""Large models are compiled with one block of them in memory, from the shards of a folder to the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qcc import driver
from qcc.driver import Compiled, Options, compile_source
from qcc.frontend.export import import_program
from qcc.frontend.source import load_source
from qcc.ir import on_disk
from qcc.ir.on_disk import OnDisk
from qcc.memory import Estimate, estimate_compile
from tests.counting import LiveBytes
from tests.llamas import Size, write_llama, write_samples

pytest.importorskip("transformers")

DEEP = Size(hidden=256, layers=10, ffn=512, kv_heads=2, vocabulary=256)
RECIPE = {
    "weights": {"format": "uint4", "group": 64},
    "overrides": [{"match": "*down_proj", "weights": {"format": "uint4", "group": 64, "solver": "gptq"}}],
}


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take small models for large ones."""
    monkeypatch.setattr(driver, "LARGE_BYTES", 1 << 20)
    monkeypatch.setattr(on_disk, "LEAST_BYTES", 1 << 14)


def compile_llama(folder: Path, size: Size, name: str = "out.qcc") -> None:
    if not (folder / "model").is_dir():
        write_llama(folder / "model", size, shard_bytes=1 << 22)
        write_samples(folder / "calib.safetensors", size, count=2, tokens=16)
    options = Options(recipe=RECIPE, calib=folder / "calib.safetensors")
    compile_source(str(folder / "model"), options, folder / name)


@pytest.mark.usefixtures("small_files")
def test_no_more_than_a_few_blocks_are_alive_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, count, built, told = 2 * DEEP.block, LiveBytes(), driver._built, list[Estimate]()

    def estimated(*arguments: Any) -> Estimate:
        told.append(estimate_compile(*arguments))
        return told[-1]

    def counted(*arguments: Any) -> Compiled:
        with count:
            return built(*arguments)

    monkeypatch.setattr(driver, "_built", counted)  # what comes before is torch.export's
    monkeypatch.setattr(driver, "estimate_compile", estimated)
    compile_llama(tmp_path, DEEP)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) >= 3
    # the float weights of all layers alone are 10 blocks, their codes unpacked another 5
    assert count.peak < 6.5 * block, f"{count.peak / block:.1f} blocks"
    # what the factorization holds by itself is not counted here, so the estimate is the larger
    assert told[0].held == 0
    assert count.peak <= told[0].step.bytes <= 2.5 * count.peak, f"{told[0].step.bytes / block:.1f} blocks"


SMALL = Size(hidden=64, layers=1, ffn=128, kv_heads=1, vocabulary=96, tied=True)


def test_a_model_in_files_gives_the_same_bytes_as_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_llama(tmp_path, SMALL, "plain.qcc")
    monkeypatch.setattr(driver, "LARGE_BYTES", 0)
    monkeypatch.setattr(on_disk, "LEAST_BYTES", 0)
    compile_llama(tmp_path, SMALL, "files.qcc")
    for name in ("weights.safetensors", "c/weights.bin", "program.mlir"):
        plain, files = ((tmp_path / out / name).read_bytes() for out in ("plain.qcc", "files.qcc"))
        assert plain == files, name
    assert sorted(one.name for one in tmp_path.iterdir()) == ["calib.safetensors", "files.qcc", "model", "plain.qcc"]


def test_the_weights_of_a_folder_stay_in_its_files(tmp_path: Path) -> None:
    write_llama(tmp_path / "model", SMALL, shard_bytes=1 << 14)
    program = load_source(tmp_path / "model")
    plain, mapped = import_program(program).store, import_program(program, folder=tmp_path / "model").store
    assert list(plain) == list(mapped)
    for key in plain:
        entry = mapped.entry(key)
        assert isinstance(entry, OnDisk) == key.endswith(".weight"), key  # tables and the cache are computed
        assert torch.equal(mapped.tensor(key), plain.tensor(key)), key


def test_weights_that_were_changed_after_loading_are_not_taken_from_the_files(tmp_path: Path) -> None:
    write_llama(tmp_path / "model", SMALL)
    program = load_source(tmp_path / "model")
    name = next(one for one in program.state_dict if one.endswith("q_proj.weight"))
    with torch.no_grad():
        program.state_dict[name].mul_(2)
    found = import_program(program, folder=tmp_path / "model").store
    assert torch.equal(found.tensor(name), program.state_dict[name])
