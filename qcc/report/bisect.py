"""Find the layer where the error of a quantized program enters.

Three questions, each answered by running mixtures of the float and the quantized program on the same samples:

1. Which layers lose most by themselves (local SQNR)? They are the candidates.
2. What does the output gain when one of them alone is made float again?
3. With the first k layers quantized and the rest float, at which k has half of the output's noise power entered? A
   binary search, log2(layers) runs; what enters before any layer does so in tables of embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.interpreter import Interpreter
from qcc.report.advice import local_sqnr, protecting
from qcc.report.measure import Models, Tensors
from qcc.report.model import LayerReport, Report
from qcc.report.tally import Noise
from qcc.report.twin import Originals, twin_module

CANDIDATES = 6
CLEAR_GAIN_DB = 1.0
"""A layer is blamed if the output gains this much when it alone is float, and this much more than with any other."""

EXACT_DB = 120.0
"""Stands for no error where differences of decibels are taken: below the rounding of float32."""


@dataclass(frozen=True)
class Candidate:
    """A layer and the output's SQNR in dB with this layer alone in float."""

    layer: LayerReport
    restored_db: float
    gain_db: float


@dataclass(frozen=True)
class Finding:
    """Where the error enters. `culprit` is None where no single layer is to blame; `enters` where half of it is in.

    `prefixes` are the pairs of layers quantized, in program order, and output SQNR in dB that were tried.
    """

    output_db: float
    culprit: Candidate | None
    candidates: tuple[Candidate, ...]
    enters: LayerReport | None
    prefixes: tuple[tuple[int, float], ...]
    snippet: str

    def json_object(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {
            "output_sqnr_db": self.output_db,
            "culprit": None if self.culprit is None else _candidate_json(self.culprit),
            "enters": None if self.enters is None else self.enters.name,
            "candidates": [_candidate_json(one) for one in self.candidates],
            "prefixes": [{"layers": count, "output_sqnr_db": value} for count, value in self.prefixes],
            "protect": self.snippet,
        }


def _candidate_json(one: Candidate) -> dict[str, Any]:
    layer = one.layer
    facts = {
        role: None if values is None else values.model_dump(mode="json", exclude={"histogram"})
        for role, values in (("weights", layer.weights), ("input", layer.input))
    }
    return {
        "name": layer.name,
        "where": layer.where,
        "scheme": layer.scheme,
        "sqnr_db": layer.sqnr_db,
        "cumulative_sqnr_db": layer.cumulative_sqnr_db,
        "output_sqnr_db_with_it_float": one.restored_db,
        "gain_db": one.gain_db,
        **facts,
    }


def bisect(models: Models, report: Report, samples: Sequence[Tensors], say: Callable[[str], None]) -> Finding:
    """Find the layer where the error enters; `report` is what was measured of the same models on the same samples."""
    mixtures = _Mixtures(models, samples)
    total = len(report.layers)
    output = mixtures.output_db(frozenset(range(total)))
    quantized = [(i, one) for i, one in enumerate(report.layers) if one.measured and not one.left_in_float]
    worst = sorted(quantized, key=lambda pair: local_sqnr(pair[1]))[:CANDIDATES]
    candidates: list[Candidate] = []
    for index, layer in worst:
        say(f"running with {layer.name} in float")
        restored = mixtures.output_db(frozenset(range(total)) - {index})
        candidates.append(Candidate(layer, restored, round(restored - output, 2)))
    candidates.sort(key=lambda one: -one.gain_db)
    enters, prefixes = _entering(mixtures, report.layers, output, say)
    culprit = _standing_out(candidates)
    blamed = [culprit.layer] if culprit else [one.layer for one in candidates[:3]]
    snippet = protecting(report.layers, blamed) if output < EXACT_DB else ""
    return Finding(output, culprit, tuple(candidates), enters, tuple(prefixes), snippet)


def _standing_out(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the first candidate if it is clearly ahead of the second."""
    gains = [one.gain_db for one in candidates] + [0.0, 0.0]
    return candidates[0] if gains[0] - max(gains[1], 0.0) >= CLEAR_GAIN_DB else None


def _entering(
    mixtures: _Mixtures, layers: Sequence[LayerReport], output: float, say: Callable[[str], None]
) -> tuple[LayerReport | None, list[tuple[int, float]]]:
    """Return the last layer of the shortest quantized prefix that has half of the noise power, and what was tried."""
    tried: dict[int, float] = {len(layers): output}
    if output >= EXACT_DB or not layers:
        return None, sorted(tried.items())
    limit = output + 10 * math.log10(2)
    low, high = -1, len(layers)
    while high - low > 1:
        middle = (low + high) // 2
        say(f"running with {middle} of {len(layers)} layers quantized")
        tried[middle] = mixtures.output_db(frozenset(range(middle)))
        low, high = (low, middle) if tried[middle] <= limit else (middle, high)
    return (layers[high - 1] if high else None), sorted(tried.items())


class _Mixtures:
    """Runs the program with some layers quantized and the others float, and holds its outputs to the float model's."""

    def __init__(self, models: Models, samples: Sequence[Tensors]) -> None:
        self._models, self._samples = models, samples
        self._weights = Originals(models.store, models.floats)
        self._wanted = list(self._run(models.float_module, models.float_store))

    def _run(self, module: ModuleOp, weights: Any) -> list[dict[str, torch.Tensor]]:
        interpreter = Interpreter(module, weights)
        found: list[dict[str, torch.Tensor]] = []
        for index in range(len(self._samples)):
            interpreter.reset()
            found.append(interpreter.run(self._samples[index]))
        return found

    def output_db(self, quantized: frozenset[int]) -> float:
        """Return the SQNR in dB of all outputs together; `EXACT_DB` at most."""
        module, _ = twin_module(self._models.module, self._weights, quantized, float_rest=False)
        noise = Noise()
        for wanted, found in zip(self._wanted, self._run(module, self._weights), strict=True):
            for name, value in wanted.items():
                if value.is_floating_point():
                    noise.add(value, found[name])
        return EXACT_DB if noise.sqnr_db is None else min(noise.sqnr_db, EXACT_DB)
