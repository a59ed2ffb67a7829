"""Write docs/gallery.md: every recipe that comes with qcc, what it costs, what takes it and what was measured of it."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from pages import write_or_check
from torch import nn

from qcc.coverage import bits_text
from qcc.driver import Options, plan_source
from qcc.errors import QccError
from qcc.numerics.qtype_bits import bits_per_weight
from qcc.passes.solvers.table import SOLVERS
from qcc.recipes.load import load_recipe, recipe_names, recipe_text
from qcc.recipes.model import Recipe, split_type

HERE = Path(__file__).parent
TARGET = HERE / "gallery.md"
MEASURED = HERE / "benchmarks" / "accuracy.json"

WIDTH = 1024
# of the layers that are planned: small enough for an FPGA
PLANNED, SAMPLES = 128, 2
# Kernels of weights alone take 16-bit floats on GPUs.
TARGETS = {"cpu": torch.float32, "triton": torch.float16, "hls": torch.float32}

HEAD = f"""# Recipe gallery

Generated from the recipes by `python docs/make_gallery.py`; do not edit.

`qcc recipes NAME > mine.yaml` prints any of these to start from; [Recipes](recipes.md) explains every key.

- **bits** per weight count codes, scales, zero points and what is kept apart of a layer of {WIDTH} x {WIDTH} weights.
- **samples**: whether a compilation needs calibration samples (`--calib`, `calibration=`).
- **targets** that take a network of two such layers by this recipe (float16 for `triton`, float32 otherwise), as
  `qcc compile --dry-run` says. What no target computes is encoded, stored, interpreted and
  [exported](exports.md) all the same.
- **accuracy** stands where `python tests/benchmarks/accuracy.py` measured it; [Accuracy](accuracy.md) has all of it
  side by side, and says on what.
"""

SECTIONS = {
    "Weights and activations": "Integer products. Activations are quantized where a layer reads them.",
    "Weights only": "Activations stay in float. Less memory is read, which is what decoding token by token waits for.",
    "After folds and rotations": "The model is rewritten into the same function with values that are easier to round.",
    "Without floats": "Every format is static, so that targets that compute with integers alone take them.",
    "Float": "Nothing is rounded: what the compiler alone does.",
}

# Transforms that look at activations whatever their settings.
ON_SAMPLES = {"smooth", "awq", "smooth_attention", "qsm", "diagonal", "residual_channels"}


@dataclass(frozen=True)
class Entry:
    """A recipe and the targets that take it."""

    name: str
    recipe: Recipe
    targets: tuple[str, ...]

    @property
    def section(self) -> str:
        """Name the part of the page it belongs to."""
        if self.recipe.transforms:
            return "After folds and rotations"
        if self.recipe.weights.is_float:
            return "Float"
        if "hls" in self.targets:
            return "Without floats"
        return "Weights only" if self.recipe.activations.is_float else "Weights and activations"

    @property
    def samples(self) -> bool:
        """Whether a compilation reads calibration samples."""
        recipe = self.recipe
        static = not recipe.activations.is_float and recipe.activations.qtype().when != "dynamic"
        sorting = "permute" in recipe.transforms and recipe.permute.by == "activations"
        dropping = "expand_k" in recipe.transforms and recipe.expand_k.drop
        splitting = recipe.outliers.by == "sensitivity" or recipe.low_rank.weighted
        solving = SOLVERS[recipe.weights.solver].reads_samples or splitting
        allocating = recipe.allocate is not None
        return static or solving or sorting or dropping or allocating or bool(ON_SAMPLES & set(recipe.transforms))

    @property
    def bits(self) -> str:
        """Count the bits of a weight, everything beside the codes included."""
        if self.recipe.weights.is_float:
            return "as in the model"
        qtype = split_type(self.recipe.weights.qtype(), self.recipe.outliers, self.recipe.low_rank)
        return bits_text(round(bits_per_weight(qtype, (WIDTH, WIDTH)), 3))


def entries() -> list[Entry]:
    """Plan the two layers by every recipe for every target."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = {target: _save(dtype, Path(scratch) / f"{target}.pt2") for target, dtype in TARGETS.items()}
        found: list[Entry] = []
        for name in recipe_names():
            taken = tuple(target for target, source in sources.items() if _takes(target, name, source))
            found.append(Entry(name, load_recipe(name), taken))
        return found


def _save(dtype: torch.dtype, path: Path) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(PLANNED, PLANNED), nn.ReLU(), nn.Linear(PLANNED, PLANNED)).eval().to(dtype)
    torch.export.save(torch.export.export(model, (torch.zeros(1, PLANNED, dtype=dtype),)), path)
    values = torch.randn(SAMPLES, 1, PLANNED, generator=torch.Generator().manual_seed(0))
    numpy.savez(path.with_suffix(".npz"), input=values.to(dtype).numpy())
    return str(path)


def _takes(target: str, recipe: str, source: str) -> bool:
    try:
        plan_source(source, Options(recipe, target, calib=Path(source).with_suffix(".npz")))
    except QccError:
        return False
    return True


def measured() -> dict[str, list[dict[str, Any]]]:
    """Read the rows of the accuracy benchmark, by recipe."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(MEASURED.read_text("utf-8")):
        if row["peer"] is not None:
            continue
        rows.setdefault(row["recipe"], []).append(row)
    return rows


def document() -> str:
    """Return the page."""
    parts, rows, found = [HEAD], measured(), entries()
    for title, about in SECTIONS.items():
        members = [one for one in found if one.section == title]
        table = ["| recipe | bits | samples | targets |", "|---|---|---|---|"]
        for one in members:
            samples, targets = "yes" if one.samples else "no", ", ".join(one.targets) or "none"
            table.append(f"| [`{one.name}`](#{one.name}) | {one.bits} | {samples} | {targets} |")
        parts += [f"## {title}\n\n{about}\n", "\n".join(table) + "\n"]
        parts += [_section(one, rows.get(one.name, [])) for one in members]
    return "\n".join(parts)


def _section(one: Entry, rows: list[dict[str, Any]]) -> str:
    lines = [f"### {one.name}\n", f"{one.recipe.description}\n"]
    lines += ["```yaml", _without_description(recipe_text(one.name)), "```\n"]
    if rows:
        lines += ["| model | measured | float | by this recipe |", "|---|---|---|---|"]
        lines += [f"| {r['model']} | {r['metric']} | {r['float']:.4g} | {r['value']:.4g} |" for r in rows]
        lines.append("")
    return "\n".join(lines)


def _without_description(text: str) -> str:
    kept: list[str] = []
    inside = False
    for line in text.strip().splitlines():
        inside = line.startswith("description:") or (inside and line.startswith(" "))
        if not inside:
            kept.append(line)
    return "\n".join(kept)


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, document()))
