"""How much of a real model survives each recipe, through the compiled C.

all-MiniLM-L6-v2 on 200 paragraphs of Python's language reference: mean cosine of the pooled embedding to the float
model's, and how often the nearest neighbour is the same. `--quick` takes 40 paragraphs; `--json FILE` keeps the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import minilm
import texts as real_texts

import qcc

RECIPES = ("float", "w8", "w8a8", "w4", "w4a8")


def measure(recipe: str, texts: list[str], reference: torch.Tensor) -> list[dict[str, Any]]:
    """Compile with a recipe and compare; one row per metric."""
    compiled = qcc.compile(minilm.exported(), recipe=recipe)
    output = compiled.output_names[0]
    found = minilm.encode(lambda inputs: compiled.run(inputs)[output], texts)
    cosine = float((found * reference).sum(-1).mean())
    same = float((minilm.nearest(found) == minilm.nearest(reference)).double().mean())
    bits = round(compiled.coverage.bits_per_weight, 4) or 32.0
    common = {"model": "all-MiniLM-L6-v2", "recipe": recipe, "bits_per_weight": bits, "float": 1.0}
    common |= {"peer": None, "peer_value": None}
    return [
        {**common, "metric": "mean cosine to float", "value": cosine},
        {**common, "metric": "nearest neighbour agrees", "value": same},
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    texts = real_texts.paragraphs(40 if arguments.quick else 200)
    reference = minilm.encode_float(texts)
    rows: list[dict[str, Any]] = []
    table = Table("recipe", "bits per weight", "metric", "value", box=None)
    for recipe in ("w8a8", "w4a8") if arguments.quick else RECIPES:
        for row in measure(recipe, texts, reference):
            rows.append(row)
            table.add_row(recipe, f"{row['bits_per_weight']:.3f}", row["metric"], f"{row['value']:.5f}")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
