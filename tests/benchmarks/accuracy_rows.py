"""Rows of the accuracy benchmark, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PERPLEXITY, COSINE = "perplexity per byte", "mean cosine to float"
SPEARMAN, NEAREST = "Spearman of similarities to float", "nearest neighbour agrees"


@dataclass(frozen=True)
class Row:
    """One figure; a peer's stands beside the recipe that stores the same formats."""

    model: str
    recipe: str
    bits_per_weight: float
    metric: str
    in_float: float
    value: float
    peer: str | None = None
    peer_value: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        """What a later measurement of the same figure replaces."""
        return self.model, self.recipe, self.metric, self.peer

    def as_json(self) -> dict[str, Any]:
        """Return the object that is kept."""
        return {
            "model": self.model,
            "recipe": self.recipe,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "metric": self.metric,
            "float": self.in_float,
            "value": self.value,
            "peer": self.peer,
            "peer_value": self.peer_value,
        }

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Row:
        """Read what `as_json` wrote."""
        return cls(
            *(kept[name] for name in ("model", "recipe", "bits_per_weight", "metric", "float", "value")),
            *(kept[name] for name in ("peer", "peer_value")),
        )


def kept_rows(path: Path) -> list[Row]:
    """Read the rows of a file; none where there is no file."""
    return [Row.of(one) for one in json.loads(path.read_text("utf-8"))] if path.is_file() else []


def keep(path: Path, rows: Iterable[Row]) -> None:
    """Put rows into a file in place of those of the same figures."""
    merged = {row.key: row for row in kept_rows(path)} | {row.key: row for row in rows}
    path.write_text(json.dumps([row.as_json() for row in merged.values()], indent=1) + "\n", "utf-8")
