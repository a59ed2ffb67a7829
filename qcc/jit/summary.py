"""What became of a graph, in one line."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.compiled import Compiled
from qcc.errors import Problem

SHOWN = 3
"""Operations that the line names; the log has them all."""


@dataclass(frozen=True)
class GraphSummary:
    """The programs of a graph, what was left to Inductor and why, and how many operations that was.

    `lost` counts layers in groups that the target refused.
    """

    compiled: tuple[Compiled, ...]
    refused: tuple[Problem, ...]
    operations: int
    on_inductor: int
    lost: int

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return self.lost + sum(one.coverage.total for one in self.compiled)

    @property
    def quantized(self) -> int:
        """Number of layers that are quantized."""
        return sum(one.coverage.quantized for one in self.compiled)

    def line(self) -> str:
        """Say in one line what runs where, and what is not quantized."""
        target = next((f" for {one.manifest.target}" for one in self.compiled), "")
        text = f"quantized {self.quantized} of {self.layers} layers{target}"
        reasons: dict[str, list[str]] = {}
        for layer in (layer for one in self.compiled for layer in one.coverage.layers if layer.left_in_float):
            reasons.setdefault(layer.left_in_float, []).append(layer.name)
        for reason, names in reasons.items():
            text += f"; in float, since {reason}: {_listed(names, ', ')}"
        if self.on_inductor:
            text += f"; {self.on_inductor} of {self.operations} operations run by Inductor"
            if self.refused:
                text += f", refused: {_listed([f'{one.where}: {one.what}' for one in self.refused])}"
        return text


def _listed(texts: list[str], between: str = "; ") -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return between.join(texts[:SHOWN]) + more
