"""Write docs/accuracy.md: what each recipe costs trained models, from the rows of the accuracy benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import write_or_check

HERE = Path(__file__).parent
TARGET = HERE / "accuracy.md"
MEASURED = HERE / "benchmarks" / "accuracy.json"

LLAMA, OUTLIERS, MINILM = "tiny Llama", "tiny Llama with outliers", "all-MiniLM-L6-v2"
PERPLEXITY, COSINE = "perplexity per byte", "mean cosine to float"
SPEARMAN, NEAREST = "Spearman of similarities to float", "nearest neighbour agrees"

HEAD = """# Accuracy

Generated from [the measured rows](benchmarks/accuracy.json) by `python docs/make_accuracy.py`; do not edit.
`python tests/benchmarks/accuracy.py --json docs/benchmarks/accuracy.json` measures them again.

Bits count codes, scales and zero points of the layers that are quantized.

- **tiny Llama**: a byte-level Llama of 4.5 million parameters that `examples/train_tiny_llama.py` trained on the source
  text of Python's standard library. Perplexity per byte of 32 windows of 256 bytes from files that training did not
  see, read from an empty cache, through the interpreter. Samples: 32 windows of files that it saw.
- **with outliers**: the same function with four channels behind every norm made 30 to 100 times larger, and the columns
  that read them smaller by as much; large language models have such channels.
- **all-MiniLM-L6-v2**: 300 paragraphs of Python's language reference, through the compiled C where it takes the recipe.
  Mean cosine of the pooled embedding to the float model's; Spearman correlation of the cosines of all pairs of texts;
  share of texts whose nearest other text is the same. Samples: 32 other paragraphs.
"""

ABOUT_EXPECTATIONS = """\
What is missed is listed as what is met. Losses are what perplexity is above that of float. A difference of 0.2 %
between two recipes says little here: rounding done another way, with more error in the weights, can move perplexity as
much either way. Papers leave the head of a decoder in float; recipes here quantize it, unless a row says otherwise.
"""

ABOUT_ROTATIONS = """\
`mrgptq-mxfp4` and `mrgptq-nvfp4` rotate in blocks as wide as the groups of a scale, 32 and 16 columns, as their paper
does (arXiv 2509.23202). A channel that is 100 times larger stays within its block: rotated, it fills all columns of it,
and what the other channels of the block say is lost below the step of their shared scale. Rotations across all
channels, as in `quarot-w4a4`, and a second code for the largest channels, as in `arcquant-nvfp4`, are what such
outliers need.
"""

PEER_HEAD = (
    "| model | recipe | bits | qcc | other tool | bits | its value | at most that |",
    "|---|---|---|---|---|---|---|---|",
)

ABOUT_PEERS = """\
The same model, the same samples and the same text; perplexity per byte. Scales of torchao are as wide as the weights
were, here float32, and its tables of embeddings stay in float, as in the recipes beside it; those take no more bits,
but for the ones of 8 bits: scales of torchao are not counted there.
"""

Rows = list[dict[str, Any]]


class Figures:
    """The measured rows, by model, recipe and metric."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._own = {(one["model"], one["recipe"], one["metric"]): one for one in rows if one["peer"] is None}

    def get(self, model: str, recipe: str, metric: str = PERPLEXITY) -> dict[str, Any] | None:
        """Return a row, None where it was not measured."""
        return self._own.get((model, recipe, metric))

    def value(self, model: str, recipe: str, metric: str = PERPLEXITY) -> float:
        """Return what was measured.

        Raises:
            KeyError: if it was not.
        """
        return self._own[model, recipe, metric]["value"]

    def bits(self, model: str, recipe: str) -> float:
        """Return the bits per weight of a decoder's layers; KeyError if it was not measured."""
        return self._own[model, recipe, PERPLEXITY]["bits_per_weight"]

    def loss(self, model: str, recipe: str) -> float:
        """Return by how much of the float perplexity a recipe is above it; KeyError if it was not measured."""
        row = self._own[model, recipe, PERPLEXITY]
        return row["value"] / row["float"] - 1

    def recipes(self, *models: str) -> list[str]:
        """List the recipes measured on any of the models."""
        return sorted({recipe for model, recipe, _ in self._own if model in models})


@dataclass(frozen=True)
class Expectation:
    """What a recipe is expected to reach: in words, what was found, and whether that is enough."""

    words: str
    found: Callable[[Figures], str]
    holds: Callable[[Figures], bool]


def _share(value: float) -> str:
    return f"{round(100 * value, 2) + 0.0:+.2f} %"


def _within(recipe: str, model: str, most: float) -> Expectation:
    return Expectation(
        f"`{recipe}` within {100 * most:g} % of float, {model}",
        lambda figures: _share(figures.loss(model, recipe)),
        lambda figures: figures.loss(model, recipe) <= most,
    )


def _beside(better: str, other: str, model: str, words: str, share: float = 1.0) -> Expectation:
    """Expect one recipe's loss to be at most a share of another's."""
    return Expectation(
        f"`{better}` {words} `{other}`, {model}",
        lambda figures: f"{_share(figures.loss(model, better))} and {_share(figures.loss(model, other))}",
        lambda figures: figures.loss(model, better) <= share * figures.loss(model, other),
    )


def _cosine(recipe: str, least: float) -> Expectation:
    return Expectation(
        f"`{recipe}` at least {least:g} mean cosine, {MINILM}",
        lambda figures: f"{figures.value(MINILM, recipe, COSINE):.5f}",
        lambda figures: figures.value(MINILM, recipe, COSINE) >= least,
    )


EXPECTATIONS = (
    _within("mergequant-w4a4", OUTLIERS, 0.02),
    _within("mergequant-w4a4, head in float", OUTLIERS, 0.02),
    Expectation(
        f"`mergequant-w4a4` within 1 % of `quarot-w4a4`, {OUTLIERS}",
        lambda figures: _share(figures.value(OUTLIERS, "mergequant-w4a4") / figures.value(OUTLIERS, "quarot-w4a4") - 1),
        lambda figures: figures.value(OUTLIERS, "mergequant-w4a4") <= 1.01 * figures.value(OUTLIERS, "quarot-w4a4"),
    ),
    _within("smoothquant-w8a8", OUTLIERS, 0.005),
    _within("qoq-w4a8kv4, groups of 64", OUTLIERS, 0.02),
    _beside("gptq-w3", "rtn-w3", LLAMA, "costs at most half of", 0.5),
    _beside("hlq-w2", "rtn-w2", LLAMA, "costs less than"),
    _beside("decoupleq-w2", "rtn-w2", LLAMA, "costs less than"),
    _beside("spqr-w3", "gptq-w3", LLAMA, "costs less than"),
    Expectation(
        f"`spqr-w3` at most 4 bits per weight, {LLAMA}",
        lambda figures: f"{figures.bits(LLAMA, 'spqr-w3'):.3f}",
        lambda figures: figures.bits(LLAMA, "spqr-w3") <= 4,
    ),
    _beside("mixed-auto", "rtn-w4", LLAMA, "costs less than"),
    _beside("arcquant-nvfp4", "nvfp4", LLAMA, "costs less than"),
    _beside("arcquant-nvfp4", "nvfp4", OUTLIERS, "costs less than"),
    _beside(
        "comet-w4a4, blocks of 32", "comet-w4a4, blocks of 32, all of 4 bits", OUTLIERS, "costs at most a fifth of", 0.2
    ),
    _cosine("gptq-w4a8", 0.987),
    _cosine("w8a8 by GPTQ, activations in groups of 32", 0.9993),
    _cosine("w8a8, all in groups of 32", 0.9993),
)


def _llama_table(figures: Figures) -> str:
    lines = ["| recipe | bits | perplexity | above float | with outliers | above float |", "|---|---|---|---|---|---|"]
    names = [one for one in figures.recipes(LLAMA, OUTLIERS) if one != "float"]
    for name in ["float", *sorted(names, key=lambda one: _order(figures, one))]:
        rows = [figures.get(model, name) for model in (LLAMA, OUTLIERS)]
        bits = next(one["bits_per_weight"] for one in rows if one is not None)
        cells = [cell for row in rows for cell in _perplexity(row)]
        lines.append(f"| {_name(name)} | {bits:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _order(figures: Figures, recipe: str) -> float:
    row = figures.get(LLAMA, recipe) or figures.get(OUTLIERS, recipe)
    return 0.0 if row is None else row["value"]


def _perplexity(row: dict[str, Any] | None) -> tuple[str, str]:
    return ("", "") if row is None else (f"{row['value']:.4f}", _share(row["value"] / row["float"] - 1))


def _name(recipe: str) -> str:
    return recipe if " " in recipe else f"[`{recipe}`](gallery.md#{recipe})"


def _minilm_table(figures: Figures) -> str:
    metrics = (COSINE, SPEARMAN, NEAREST)
    lines = [f"| recipe | bits | {' | '.join(metrics)} |", "|---|---|---|---|---|"]
    found = sorted(figures.recipes(MINILM), key=lambda one: -figures.value(MINILM, one, COSINE))
    for name in found:
        rows = [figures.get(MINILM, name, metric) for metric in metrics]
        bits = next(one["bits_per_weight"] for one in rows if one is not None)
        cells = ["" if row is None else f"{row['value']:.5f}" for row in rows]
        lines.append(f"| {_name(name)} | {bits:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _peer_table(figures: Figures) -> str:
    lines = [*PEER_HEAD]
    for row in figures.rows:
        if row["peer"] is not None:
            name, _, bits = row["peer"].rpartition(", ")
            cells = (row["model"], _name(row["recipe"]), f"{row['bits_per_weight']:.3f}", f"{row['value']:.4f}", name)
            holds = "yes" if row["value"] <= row["peer_value"] else "**no**"
            theirs = (bits.removesuffix(" bits"), f"{row['peer_value']:.4f}", holds)
            lines.append(f"| {' | '.join((*cells, *theirs))} |")
    return "\n".join(lines)


def _expectations(figures: Figures) -> str:
    lines = ["| expected | measured | holds |", "|---|---|---|"]
    for one in EXPECTATIONS:
        try:
            lines.append(f"| {one.words} | {one.found(figures)} | {'yes' if one.holds(figures) else '**no**'} |")
        except KeyError:
            continue
    return "\n".join(lines)


def document() -> str:
    """Return the page."""
    figures = Figures(json.loads(MEASURED.read_text("utf-8")))
    parts = [HEAD]
    parts += ["## What papers and this project expect\n", ABOUT_EXPECTATIONS, _expectations(figures) + "\n"]
    parts += ["## A decoder\n", _llama_table(figures) + "\n", ABOUT_ROTATIONS]
    parts += ["## Beside other tools\n", ABOUT_PEERS]
    parts += [_peer_table(figures) + "\n", "## An encoder\n", _minilm_table(figures) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, document()))
