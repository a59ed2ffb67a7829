"""Write docs/formats.md: how the text of a format reads, and what formats cost and keep."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from formats_text import HEAD
from pages import write_or_check

from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_bits import bits_per_weight

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # samples, encodings and figures live with the tests that hold them

from tests.format_samples import Figures, measure, spread  # noqa: E402
from tests.reference_figures import REFERENCES, TOLERANCE, Reference  # noqa: E402
from tests.unit.format_rows import ROWS  # noqa: E402

TARGET = HERE / "formats.md"
# Decimals of dB that may differ from machine to machine.
FIGURE_TOLERANCE = 0.05

FAMILY_MEMBERS = ("fixed<8,3>", "fp<4,3>", "bipolar<2>")
SEEDS = range(1, 11)
SPREAD_OVER_SEEDS = ("mxint8", "mxfp8_e4m3", "nvint4", "nvfp4", "int4-g128", "int4 | tensor f32")
LARGE = (4096, 4096)
SAMPLES = ("N(0,1)", "t3", "t3 rotated")

_TABLE = re.compile(r"(table (?:nf4|bitmod3|bitmod4|olive4))\([^)]*\)")

FIGURES = """## Presets

A preset is a name for a text. `fixed<W,I>` (W bits, I of them, sign included, left of the point), `fp<E,M>` (a scale
per row) and `bipolar<k>` (k planes of digits -1 and +1, a scale per row) are families: any numbers may stand in
theirs.

Bits per weight count codes, scales, zero points, selectors and offsets of a matrix large along both axes, where what
there is once a row or a tensor costs nothing. *Entropy* is given where codes would take fewer bits if packed ideally:
three values are log2(3) = 1.58 bits, stored in 2 unless the layout is `radix`.

Figures are the signal to quantization noise ratio, 10 log10(sum x² / sum (x - decoded)²) in dB, of three matrices of
256 x 1024 elements:

- **N(0,1)** is `numpy.random.default_rng(1).standard_normal((256, 1024))`;
- **t3** is `numpy.random.default_rng(1).standard_t(3, (256, 1024))`, with the heavy tails of weights with outliers;
- **t3 rotated** is t3 with every run of 128 columns multiplied by Sylvester's Hadamard matrix over sqrt(128).

All are drawn and rotated in float64 and rounded to float32. Continuous integration measures every figure anew.

"""

ENCODINGS = f"""## Published encodings

The formats of published systems as types. All of them parse, print, encode and decode, and the tests say how well.
Bits per weight are those of an endless matrix, where masks and sparse outliers count, and those of one of
{LARGE[0]} x {LARGE[1]}, where low-rank factors, permutations and what there is once a row or a tensor count too. Tables
with a name have the values that they have in the presets.

"""

REFERENCE = f"""## Beside independent figures

The same samples in implementations of their own: numpy in float64, each format written down from its paper or
specification. A difference above {TOLERANCE} dB has its reason in the last column, and a test that shows it.

"""

SPREAD = f"""## From sample to sample

The least and the largest figure over the seeds {SEEDS[0]} to {SEEDS[-1]}. With a scale for every group Gaussian
figures hold for any sample. Under one scale a tensor they follow its largest element, and heavy tails do so anywhere.
In every sample integers are better than floats of the same width on Gaussian and on rotated data, and 4-bit floats
better on heavy tails.

"""


def document() -> str:
    """Return the page."""
    return "\n".join(
        [
            HEAD,
            FIGURES + _presets(),
            ENCODINGS + _encodings(),
            REFERENCE + _references(),
            SPREAD + _spreads(),
        ]
    )


def _presets() -> str:
    rows = [
        (f"`{name}`", _code(qtype), *_bits(qtype), *_decibels(measure(name)))
        for name, qtype in ((name, format_of(name)) for name in (*PRESETS, *FAMILY_MEMBERS))
    ]
    return _table(("name", "type", "bits per weight", "entropy", *(f"{sample}, dB" for sample in SAMPLES)), rows)


def _encodings() -> str:
    rows: list[tuple[str, ...]] = []
    for row in ROWS:
        qtype = format_of(row.text)
        bits = (bits_per_weight(qtype), bits_per_weight(qtype, LARGE))
        rows.append((row.name, _code(_TABLE.sub(r"\1(...)", str(qtype))), *map(_number, bits)))
    return _table(("encoding", "type", "bits per weight", f"of {LARGE[0]} x {LARGE[1]}"), rows)


def _references() -> str:
    heads = [f"{sample}: {who} dB" for sample in SAMPLES for who in ("reference", "qcc")]
    return _table(
        ("format", "bits per weight", *heads, "largest difference, dB", "reason"), map(_reference, REFERENCES)
    )


def _reference(reference: Reference) -> tuple[str, ...]:
    ours = measure(reference.text)
    pairs = [figure for pair in zip(reference.figures, ours, strict=True) for figure in pair]
    largest = max((a - b for a, b in zip(ours, reference.figures, strict=True)), key=abs)
    bits = _number(bits_per_weight(format_of(reference.text)))
    return (reference.name, bits, *_decibels(pairs), f"{round(largest, 2) + 0.0:+.2f}", reference.reason)


def _spreads() -> str:
    rows: list[tuple[str, ...]] = []
    for text in SPREAD_OVER_SEEDS:
        low, high = spread(text, SEEDS)
        rows.append((_code(text), *_decibels(figure for pair in zip(low, high, strict=True) for figure in pair)))
    heads = [f"{sample}: {which} dB" for sample in SAMPLES for which in ("least", "largest")]
    return _table(("format", *heads), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(heads)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _code(qtype: QType | str) -> str:
    return f"`{str(qtype).replace('|', chr(92) + '|')}`"


def _bits(qtype: QType) -> tuple[str, str]:
    dense, entropy = bits_per_weight(qtype), bits_per_weight(qtype, entropy=True)
    return _number(dense), _number(entropy) if dense - entropy > 0.05 else ""


def _number(value: float) -> str:
    return f"{value:.4g}"


def _decibels(figures: Iterable[float] | Figures) -> list[str]:
    return [f"{round(figure, 2) + 0.0:.2f}" for figure in figures]


if __name__ == "__main__":
    # sums in one order, whatever the number of processors
    torch.set_num_threads(1)
    sys.exit(write_or_check(TARGET, document(), FIGURE_TOLERANCE))
