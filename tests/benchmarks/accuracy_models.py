"""The models that recipes are measured on: how each is quantized, run and judged.

A row is a metric of a model under a recipe: `float` is the float model's value, `value` that of what the recipe leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from accuracy_rows import COSINE, NEAREST, PERPLEXITY, SPEARMAN, Row

import qcc
from qcc.errors import UnsupportedOp
from qcc.recipes.load import RecipeSource, load_recipe
from tests import interpreting, minilm, texts, tiny_llama

Run = Callable[[dict[str, torch.Tensor]], torch.Tensor]

ALLOCATION_SAMPLES = 2
"""Samples of a recipe that chooses bits: each is run once for every layer and candidate."""

SPARE = 20
"""Paragraphs read beyond those asked for: some are the same."""


class Subject(Protocol):
    """A model to measure recipes on."""

    @property
    def name(self) -> str:
        """What rows call it."""
        ...

    def measure(self, label: str, recipe: RecipeSource) -> list[Row]:
        """Quantize by a recipe, which rows call `label`, and return its rows."""
        ...


@dataclass(frozen=True, eq=False)
class Decoder:
    """The small Llama through the interpreter; perplexity of held-out text."""

    outliers: bool
    windows: int
    samples: int = 32

    @property
    def name(self) -> str:
        """What rows call it."""
        return "tiny Llama with outliers" if self.outliers else "tiny Llama"

    @cached_property
    def module(self) -> Any:
        """The float model."""
        return tiny_llama.loaded(outliers=self.outliers)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The exported model."""
        return tiny_llama.exported(self.module)

    @cached_property
    def text(self) -> torch.Tensor:
        """What it is measured on, i64[windows, 256]."""
        return tiny_llama.windows("held_out", self.windows)

    def judge(self, run: Run) -> float:
        """Return the perplexity of anything that gives logits for named inputs."""
        return tiny_llama.perplexity(run, self.text)

    @cached_property
    def in_float(self) -> float:
        """The perplexity of the float model, by torch."""
        with torch.no_grad():
            return self.judge(lambda inputs: self.module(input_ids=inputs["input_ids"]).logits)

    def quantized(self, recipe: RecipeSource) -> interpreting.Quantized:
        """Quantize by a recipe."""
        count = ALLOCATION_SAMPLES if load_recipe(recipe).allocate is not None else self.samples
        samples = [tiny_llama.inputs(one) for one in tiny_llama.windows("calibration", count)]
        return interpreting.quantize(self.program, recipe, samples)

    def measure(self, label: str, recipe: RecipeSource) -> list[Row]:
        """Quantize by a recipe, which rows call `label`, and return its rows."""
        found = self.quantized(recipe)
        bits = found.coverage.bits_per_weight or 32.0
        return [Row(self.name, label, bits, PERPLEXITY, self.in_float, self.judge(found.run))]


@dataclass(frozen=True, eq=False)
class Encoder:
    """All-MiniLM-L6-v2, compiled to C where that target takes the recipe, else interpreted; pooled embeddings.

    Texts are paragraphs of Python's language reference; samples are paragraphs that are not among them.
    """

    texts: int
    samples: int = 32
    name: str = field(default="all-MiniLM-L6-v2", init=False)

    def split(self) -> tuple[list[str], list[str]]:
        """Return the samples, and as many texts to judge by as were asked for."""
        # some paragraphs stand in several places
        every = list(dict.fromkeys(texts.paragraphs(self.texts + self.samples + SPARE)))
        step = len(every) // self.samples
        seen = every[::step][: self.samples]
        return seen, [one for one in every if one not in set(seen)][: self.texts]

    @cached_property
    def _texts(self) -> tuple[list[str], list[str]]:
        return self.split()

    @cached_property
    def reference(self) -> torch.Tensor:
        """Embeddings of the float model, [texts, 384]."""
        return minilm.encode_float(self._texts[1])

    def calls(self) -> list[dict[str, torch.Tensor]]:
        """Return the samples."""
        return list(_tokenized(self._texts[0]))

    def embed(self, run: Run) -> torch.Tensor:
        """Return the embeddings by anything that gives hidden states for named inputs, [texts, 384]."""
        return minilm.encode(run, self._texts[1])

    def _quantized(self, recipe: RecipeSource) -> tuple[float, Run]:
        calls = self.calls()
        if load_recipe(recipe).allocate is not None:
            calls = calls[:: len(calls) // ALLOCATION_SAMPLES][:ALLOCATION_SAMPLES]
        try:
            compiled = qcc.compile(minilm.exported(), recipe=recipe, calibration=calls)
        except UnsupportedOp:
            found = interpreting.quantize(minilm.exported(), recipe, calls)
            return found.coverage.bits_per_weight, found.run
        return compiled.coverage.bits_per_weight, lambda inputs: compiled.run(inputs)[compiled.output_names[0]]

    def measure(self, label: str, recipe: RecipeSource) -> list[Row]:
        """Quantize by a recipe, which rows call `label`, and return its rows."""
        bits, run = self._quantized(recipe)
        found = self.embed(run)
        values = {
            COSINE: float((found * self.reference).sum(-1).double().mean()),
            SPEARMAN: spearman(similarities(found), similarities(self.reference)),
            NEAREST: float((minilm.nearest(found) == minilm.nearest(self.reference)).double().mean()),
        }
        return [Row(self.name, label, bits or 32.0, metric, 1.0, value) for metric, value in values.items()]


def _tokenized(found: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    tokenizer = minilm.model_and_tokenizer()[1]
    for text in found:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        yield {name: batch[name] for name in ("input_ids", "attention_mask")}


def similarities(embeddings: torch.Tensor) -> torch.Tensor:
    """Return the cosine of every pair of rows, f64[N (N - 1) / 2]."""
    rows = embeddings.double()
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (rows @ rows.T)[first, second]


def spearman(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the rank correlation of two vectors; ties, which floats hardly have, go by position."""
    ranks = torch.stack([one.argsort(stable=True).argsort(stable=True).double() for one in (left, right)])
    return float(torch.corrcoef(ranks)[0, 1])
