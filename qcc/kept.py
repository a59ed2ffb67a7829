"""Solved weights, kept beside an artifact until it is done: a compilation that was stopped goes on from there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from qcc.errors import QccError
from qcc.ir.store import WeightStore
from qcc.numerics.tensor import QuantizedTensor

_KEY = "weight"


@dataclass(frozen=True)
class KeptWeights:
    """A folder with a file for each solved weight, named by a digest of everything that it was solved from."""

    folder: Path

    def get(self, digest: str) -> QuantizedTensor | None:
        """Return what was solved from the same weight, format, solver and inputs; None where that is not to be had."""
        path = self._path(digest)
        try:
            return WeightStore.load(path).quantized(_KEY) if path.is_file() else None
        except QccError:
            return None  # solved again, and written over

    def put(self, digest: str, weight: QuantizedTensor) -> None:
        """Keep a solved weight; a file appears only when it is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self._path(f".{digest}.{os.getpid()}")
        WeightStore({_KEY: weight}).save(aside)
        aside.replace(self._path(digest))

    def discard(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"


def kept_beside(output: Path) -> KeptWeights:
    """Return the weights kept for an artifact."""
    return KeptWeights(output.parent / f".{output.name}.solved")
