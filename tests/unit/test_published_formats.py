"""Every published encoding encodes and decodes, and reaches the figures that others compute for it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from qcc.numerics.presets import format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_bits import bits_per_weight
from qcc.numerics.qtype_parts import BlockMask, KAxis, LowRank, NMMask, Slice, Sparse, TableDecode
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize, signal_to_quantization_noise_db
from tests.format_samples import Figures, measure, samples, spread
from tests.reference_figures import REFERENCES, TOLERANCE, Reference
from tests.unit.format_rows import ROWS, Row

# What `quantize` leaves to its callers: here the codes of these rows are tested without it.
NOT_IN_QUANTIZE = (Sparse, LowRank, NMMask, BlockMask, Slice, KAxis)
# The rows that are concerned, by name; to become empty.
STRIPPED = {
    "gptq act-order",
    "spqr w3 with 1 % outliers",
    "mergequant activations",
    "lq-lora",
    "zeroquant-fp m2",
    "arcquant",
    "comet",
    "gqsa",
    "2:4 sparse",
    "matgptq",
}


def without_sides(text: str) -> QType:
    """Read a type and take off the side tensors that `quantize` does not make."""
    qtype = parse_qtype(text)
    return replace(qtype, sides=tuple(side for side in qtype.sides if not isinstance(side, NOT_IN_QUANTIZE)))


def fitting_shape(qtype: QType) -> tuple[int, int]:
    """Give a shape with whole blocks at every level, of two blocks or more where these are not long."""
    blocks = [level.block for level in qtype.levels]
    columns = max([block[-1] for block in blocks] + [512])
    rows = max([block[0] for block in blocks if len(block) > 1] + [32])
    return (max(2 * rows, 128), columns) if columns <= 1024 else (4, columns)


def gaussian(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_stripped_rows_are_named() -> None:
    found = {row.name for row in ROWS if any(isinstance(side, NOT_IN_QUANTIZE) for side in parse_qtype(row.text).sides)}
    assert found == STRIPPED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_published_formats_encode_and_decode(row: Row) -> None:
    qtype = without_sides(row.text)
    x = gaussian(fitting_shape(qtype))
    coded = quantize(x, qtype)
    values = dequantize(coded)
    assert torch.equal(quantize(x, qtype, coded.parameters).codes, coded.codes)
    assert torch.equal(quantize(values, qtype, coded.parameters).codes, coded.codes)
    reached = signal_to_quantization_noise_db(x, values)
    assert row.decibels <= reached <= row.decibels + 2
    # No code of b bits per element brings a Gaussian closer than b·20·log10(2) dB (rate-distortion theory).
    assert reached < bits_per_weight(qtype, entropy=True) * 20 * math.log10(2)


@pytest.mark.parametrize("shape", [(7, 83), (1, 130), (2, 3, 5)])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_published_formats_take_hard_inputs(row: Row, shape: tuple[int, ...]) -> None:
    qtype = without_sides(row.text)
    x = gaussian(shape)
    outlier = x.clone()
    outlier.view(-1)[0] = 3e3
    for values in (x, outlier, -x.abs(), x.abs() + 5, torch.full(shape, 1e-30)):
        coded = quantize(values, qtype)
        decoded = dequantize(coded)
        assert decoded.shape == values.shape
        assert bool(torch.isfinite(decoded).all())
        assert torch.equal(quantize(values, qtype, coded.parameters).codes, coded.codes)
    # Powers of two cannot be zero; digits of -1 and +1 under the smallest stay that small.
    assert float(dequantize(quantize(torch.zeros(shape), qtype)).abs().max()) <= 2.0**-124


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference.name)
def test_figures_agree_with_independent_ones(reference: Reference) -> None:
    assert bits_per_weight(format_of(reference.text)) == pytest.approx(reference.bits, abs=0.01)
    differences = [ours - other for ours, other in zip(measure(reference.text), reference.figures, strict=True)]
    if not reference.reason:
        assert max(map(abs, differences)) <= TOLERANCE
        return
    assert min(differences) >= -0.02
    assert TOLERANCE < max(differences) <= reference.gain


def test_one_scale_a_tensor_depends_on_the_sample() -> None:
    """Heavy tails under one scale follow their largest element: no figure for them holds beyond its sample."""
    low, high = spread("int4 | tensor f32", range(1, 11))
    assert high.rotated - low.rotated > 5
    low, high = spread("int4-g128", range(1, 11))
    assert high.rotated - low.rotated < 1.2
    assert high.gaussian - low.gaussian < TOLERANCE


# ---- Why some figures are better than those of plain implementations --------------------------------


def alternate(x: Tensor, matrix: Tensor, coefficients: Tensor, rounds: int) -> Tensor:
    """Take nearest codes and least squares by turns in rows `x [B, g]`, digits `matrix [S, k]`; gives the values."""
    for turn in range(rounds + 1):
        levels, order = (coefficients @ matrix.T).sort(1)
        place = torch.searchsorted((levels[:, 1:] + levels[:, :-1]) / 2, x)
        if turn == rounds:
            return levels.gather(1, place)
        nearest = order.gather(1, place)
        digits = matrix[nearest]
        normal = digits.mT @ digits
        coefficients = (torch.linalg.pinv(normal, hermitian=True) @ (digits.mT @ x[:, :, None])).squeeze(2)
    raise AssertionError


def alternated_figures(digits: list[tuple[float, ...]], start: str, rounds: int) -> Figures:
    found: list[float] = []
    matrix = torch.tensor(digits, dtype=torch.float64)
    for sample in samples():
        x = sample.double().reshape(-1, 128)
        if start == "uniform":
            low, states = x.amin(1), 2 ** (matrix.shape[1] - 1)
            step = (x.amax(1) - low) / (states - 1)
            first = torch.stack([*(step * 2**plane for plane in range(matrix.shape[1] - 1)), low], 1)
        else:
            first = x.abs().mean(1, keepdim=True) * torch.tensor([1, 1 / 3])
        found.append(signal_to_quantization_noise_db(x, alternate(x, matrix, first, rounds)))
    return Figures(*found)


def reference_of(name: str) -> Reference:
    return next(reference for reference in REFERENCES if reference.name == name)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_free_planes_gain_over_alternation_from_the_uniform_grid(count: int) -> None:
    reference = reference_of(f"HLQ{count} g128")
    plain = alternated_figures([(*digits, 1) for digits in product((0, 1), repeat=count)], "uniform", 10)
    assert plain == pytest.approx(reference.figures, abs=0.03)
    assert min(ours - other for ours, other in zip(measure(reference.text), plain, strict=True)) > 0


def test_trit_planes_gain_over_alternation_from_one_start() -> None:
    reference = reference_of("2 trit planes g128")
    plain = alternated_figures(list(product((-1, 0, 1), repeat=2)), "mean", 30)
    assert plain == pytest.approx(reference.figures, abs=0.1)
    assert min(ours - other for ours, other in zip(measure(reference.text), plain, strict=True)) > 0.3


def olive_values(x: Tensor, scale: float, normal: Tensor, joined: Tensor) -> Tensor:
    """Round all elements to the nearest value, then zero the neighbours of outliers, as OliVe's code does."""
    edges = (joined[1:] + joined[:-1]) / 2
    pairs = joined[torch.bucketize(x / scale, edges)].reshape(-1, 2)
    outlier = pairs.abs() > normal.max()
    victims = torch.stack([outlier[:, 1] & ~outlier[:, 0], outlier[:, 0]], 1)
    return torch.where(victims, 0.0, pairs).reshape(x.shape) * scale


def test_pairs_gain_over_the_published_procedure() -> None:
    reference, decode = reference_of("OliVe 4 per tensor"), format_of("olive4").decode
    assert isinstance(decode, TableDecode)
    normal, outliers = (torch.tensor(table, dtype=torch.float64) for table in decode.tables)
    joined = torch.cat([normal, outliers]).sort().values
    found: list[float] = []
    for sample in samples():
        x = sample.double()
        three_sigma = 3 * float(x.std()) / float(normal.max())
        scales = [three_sigma * percent / 100 for percent in range(75, 150, 2)]
        found.append(max(signal_to_quantization_noise_db(x, olive_values(x, s, normal, joined)) for s in scales))
    assert found == pytest.approx(reference.figures, abs=0.03)
    assert min(ours - other for ours, other in zip(measure(reference.text), found, strict=True)) > 0
