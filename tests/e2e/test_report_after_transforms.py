"""Errors by layer behind transforms that chose by samples: `qcc report --data` finds what the compilation measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qcc.artifact import read_manifest, write_manifest
from qcc.choices import CHOICES
from qcc.driver import Options, compile_source
from qcc.errors import QccError
from qcc.report.build import read_report
from qcc.report.command import bisect_artifact, report_of
from tests import tiny_llama

RECIPES = ("mergequant-w4a4", "smoothquant-w8a8", "awq-w4", "quarot-w4a4")
LAYERS = 2 * 7 + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of the trained Llama as a `.pt2`, with outliers in their channels, and two samples of its text."""
    found = tmp_path_factory.mktemp("report")
    model = tiny_llama.loaded(outliers=True)
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    torch.export.save(tiny_llama.exported(model), str(found / "model.pt2"))
    calls = [tiny_llama.inputs(one[:16]) for one in tiny_llama.windows("calibration", 2)]
    save_file(
        {name: torch.stack([one[name] for one in calls]) for name in calls[0]}, str(found / "samples.safetensors")
    )
    return found


def artifact(folder: Path, recipe: str) -> Path:
    """Compile once for all tests."""
    found = folder / f"{recipe}.qcc"
    if not found.exists():
        options = Options(recipe=recipe, calib=folder / "samples.safetensors", threads=1)
        compile_source(str(folder / "model.pt2"), options, found)
    return found


def silent(text: str) -> None:
    return None


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_report_measures_what_the_compilation_measured(folder: Path, recipe: str) -> None:
    compiled = read_report(artifact(folder, recipe))
    assert compiled is not None
    assert compiled.samples == 2
    again = report_of(artifact(folder, recipe), folder / "samples.safetensors", silent)
    assert again.layers == compiled.layers
    assert len(again.layers) == LAYERS
    assert all(one.measured and one.sqnr_db is not None and one.cumulative_sqnr_db is not None for one in again.layers)
    assert again.outputs == compiled.outputs
    assert again.perplexity == compiled.perplexity
    assert not [note for note in again.notes if "not measured" in note]
    assert (artifact(folder, recipe) / CHOICES).exists() == (recipe != "quarot-w4a4")


def test_bisect_looks_at_layers_behind_searched_scales(folder: Path) -> None:
    found = bisect_artifact(artifact(folder, "awq-w4"), folder / "samples.safetensors", silent)
    assert len(found.candidates) == 6
    assert all(one.gain_db == one.gain_db and one.layer.measured for one in found.candidates)
    assert found.prefixes


def test_a_model_that_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied.qcc"
    shutil.copytree(artifact(folder, "smoothquant-w8a8"), copied)
    program = torch.export.load(str(folder / "model.pt2"))
    with torch.no_grad():
        program.state_dict["model.lm_head.weight"][3, 4] += 1
    torch.export.save(program, str(tmp_path / "other.pt2"))
    manifest = read_manifest(copied)
    write_manifest(copied, manifest.model_copy(update={"source": str(tmp_path / "other.pt2")}))
    with pytest.raises(QccError, match="other weights than when the artifact was compiled"):
        report_of(copied, folder / "samples.safetensors", silent)


def test_an_artifact_without_the_file_is_measured_at_its_outputs(folder: Path, tmp_path: Path) -> None:
    """So were artifacts before choices were kept; a manifest lists its files, so one less is no other version."""
    copied = tmp_path / "copied.qcc"
    shutil.copytree(artifact(folder, "smoothquant-w8a8"), copied)
    (copied / CHOICES).unlink()
    write_manifest(copied, read_manifest(copied, check=False))
    found = report_of(copied, folder / "samples.safetensors", silent)
    known = json.loads((copied / "report.json").read_text("utf-8"))
    assert found.output_sqnr_db == known["output_sqnr_db"]
    assert any("not measured" in note for note in found.notes)
    assert not any(one.measured for one in found.layers)
