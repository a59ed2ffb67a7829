"""Formats that no other library has, against exhaustive search and straightforward arithmetic on small cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qcc.numerics.blocks import spread_blocks
from qcc.numerics.codebook import code_values
from qcc.numerics.ovp import decode_pairs, encode_pairs
from qcc.numerics.parameters import member_types
from qcc.numerics.presets import format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import PlanesDecode, TableDecode
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import compute_qparams, dequantize, quantize
from qcc.numerics.tensor import Parameters

Array = NDArray[np.float32]


@st.composite
def matrices(draw: st.DrawFn, width: int = 64) -> Tensor:
    """Draw a matrix: Gaussian or heavy-tailed, blocks of different magnitude, now and then zeros and outliers."""
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 4)), width * draw(st.integers(1, 3)))
    x = generator.standard_normal(shape) if draw(st.booleans()) else generator.standard_t(3, shape)
    if draw(st.booleans()):
        x *= np.repeat(np.exp(generator.normal(0, 1.5, (shape[0], shape[1] // 16))), 16, 1)
    if draw(st.booleans()):
        x[:, :width] = 0
    return torch.from_numpy(x.astype(np.float32))


def squared_errors(x: Tensor, found: Tensor, columns: int) -> Tensor:
    """Sum the squared error of every block of a row, in float64."""
    return (found.double() - x.double()).square().unflatten(-1, (-1, columns)).sum(-1)


def coded(x: Tensor, qtype: QType, parameters: Parameters | None = None) -> Tensor:
    return dequantize(quantize(x, qtype, parameters), torch.float64)


# Tables with a selector


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from(["bitmod3-g128", "bitmod4-g128"]))
def test_every_block_takes_the_table_of_least_error(x: Tensor, name: str) -> None:
    decode = str(format_of(name).decode).replace("(1,128)", "(1,32)")
    qtype = parse_qtype(f"{decode} | (1,32) f16 | half_down")
    found = squared_errors(x, coded(x, qtype), 32)
    members = torch.stack([squared_errors(x, coded(x, member), 32) for member in member_types(qtype)])
    best = members.amin(0)
    assert bool((found <= best * (1 + 1e-6)).all())
    assert torch.equal(found, members.gather(0, compute_qparams(x, qtype).selector[None].long())[0])


@settings(max_examples=40, deadline=None)
@given(matrices(128), st.sampled_from(["bitmod3-g128", "bitmod4-g128"]))
def test_integer_scales_under_a_common_root_cost_a_choice_little(x: Tensor, name: str) -> None:
    """Tables are chosen under the root that each would have alone; the root of all rounds their scales otherwise.

    The best table alone can so be better, where blocks differ much in magnitude: by less than 5 %.
    """
    qtype, columns = format_of(name), x.shape[-1]
    found = squared_errors(x, coded(x, qtype), columns)
    members = torch.stack([squared_errors(x, coded(x, member), columns) for member in member_types(qtype)])
    assert bool((found <= members.amin(0) * 1.05).all())


def nearest_by_search(values: Array, table: tuple[float, ...]) -> NDArray[np.intp]:
    """Find the nearest entry of a table, the first of two equally near."""
    return np.abs(values[..., None].astype(np.float64) - np.array(table)).argmin(-1)


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from(["nf4-g64", "bitmod4-g128"]))
def test_table_codes_are_the_first_of_the_nearest(x: Tensor, name: str) -> None:
    decode = format_of(name).decode
    assert isinstance(decode, TableDecode)
    qtype = QType(TableDecode(decode.tables[:1]), format_of("nf4-g64").levels, rounding="half_down")
    quantized = quantize(x, qtype)
    scale = spread_blocks(quantized.scales[0].float(), (1, 64), quantized.shape)
    steps = torch.where(scale == 0, 0.0, x / scale).numpy()
    assert np.array_equal(quantized.codes.numpy(), nearest_by_search(steps, decode.tables[0]))


# Outlier-victim pairs

OLIVE = format_of("olive4").decode
assert isinstance(OLIVE, TableDecode)
NORMAL, OUTLIER = OLIVE.tables
VICTIM = len(NORMAL)


def valid_pairs() -> list[tuple[int, int]]:
    """List all pairs of codes: two normal values, or an outlier beside a victim."""
    outliers = range(len(OUTLIER))
    pairs = list(itertools.product(range(VICTIM), repeat=2))
    return [*pairs, *((code, VICTIM) for code in outliers), *((VICTIM, code) for code in outliers)]


def pair_values(pair: tuple[int, int]) -> tuple[float, float]:
    """Give what a pair of codes means."""
    left, right = pair
    if right == VICTIM:
        return OUTLIER[left], 0.0
    if left == VICTIM:
        return 0.0, OUTLIER[right]
    return NORMAL[left], NORMAL[right]


def test_every_pair_of_codes_survives_the_round_trip() -> None:
    assert isinstance(OLIVE, TableDecode)
    pairs = torch.tensor(valid_pairs(), dtype=torch.uint8)
    values = decode_pairs(pairs, OLIVE, torch.float64)
    assert torch.equal(values, torch.tensor([pair_values(pair) for pair in valid_pairs()], dtype=torch.float64))
    assert torch.equal(encode_pairs(values, OLIVE), pairs)


def test_pairs_are_coded_at_least_cost_on_a_grid() -> None:
    assert isinstance(OLIVE, TableDecode)
    axis = np.concatenate([np.linspace(-13, 13, 53), [-500, -300, -90, -30, -19.5, 15.9, 16.1, 33, 47.9, 95, 110, 1e4]])
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    codes = encode_pairs(torch.from_numpy(grid), OLIVE)
    found = (decode_pairs(codes, OLIVE, torch.float64).numpy() - grid) ** 2
    every = np.array([pair_values(pair) for pair in valid_pairs()])
    best = ((grid[:, None] - every[None]) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(found.sum(-1), best, rtol=1e-12)
    assert set(map(tuple, codes.tolist())) <= set(valid_pairs())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.5, 5.0, 60.0]))
def test_a_row_never_holds_two_outliers_in_a_pair(seed: int, length: int, spread: float) -> None:
    assert isinstance(OLIVE, TableDecode)
    values = torch.from_numpy(np.random.default_rng(seed).standard_t(1, (5, length)) * spread)
    codes = encode_pairs(values, OLIVE)
    last = codes[:, -1:] if length % 2 else codes[:, :0]
    assert bool((last < VICTIM).all())
    pairs = codes[:, : length - length % 2].unflatten(-1, (-1, 2))
    assert not bool((pairs == VICTIM).all(-1).any())
    decoded = decode_pairs(codes, OLIVE, torch.float64)[:, : length - length % 2].unflatten(-1, (-1, 2))
    beyond = decoded.abs() > max(NORMAL)
    assert not bool(beyond.all(-1).any())
    assert bool((decoded[beyond.flip(-1)] == 0).all())


# Searched scales


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from([1.0, 2.0**-20, 3.7e7]))
def test_mxfp4_searches_the_exponent_and_its_neighbours(x: Tensor, size: float) -> None:
    x = x * size
    found = squared_errors(x, coded(x, parse_qtype("fp2_1 | (1,32) e8m0 mse floor")), 32)
    peaks = x.unflatten(-1, (-1, 32)).abs().amax(-1).double()
    exponents = torch.where(peaks > 0, peaks.log2().floor() - 2, 0)
    plain = parse_qtype("fp2_1 | (1,32) e8m0")
    candidates: list[Tensor] = []
    for shift in (0, 1, -1):
        scales = torch.exp2(exponents + shift).to(torch.float8_e8m0fnu)
        candidates.append(squared_errors(x, coded(x, plain, Parameters.of((scales,))), 32))
    assert bool((found <= torch.stack(candidates).amin(0) * (1 + 1e-6)).all())


@settings(max_examples=15, deadline=None)
@given(matrices(), st.sampled_from([2, 3, 4]))
def test_an_integer_scale_is_searched_over_all_its_candidates(x: Tensor, bits: int) -> None:
    top = np.float32(2 ** (bits - 1) - 1)
    blocks = x.unflatten(-1, (-1, 32)).numpy()
    peaks = np.abs(blocks).max(-1, keepdims=True)
    best = np.full(peaks.shape[:-1], np.inf)
    for percent in range(100, 19, -1):
        scale = (peaks * np.float32(percent / 100) / top).astype(np.float16).astype(np.float32)
        steps = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0)
        values = np.clip(np.rint(steps), -top - 1, top) * scale
        best = np.minimum(best, ((values - blocks).astype(np.float64) ** 2).sum(-1))
    found = squared_errors(x, coded(x, parse_qtype(f"int{bits} | (1,32) f16 mse")), 32)
    np.testing.assert_allclose(found, best, rtol=1e-5, atol=1e-12)


# Scales stored relative to an offset


def root_and_integers(wanted: Array, top: int) -> tuple[Array, Array, Array]:
    """Store numbers `[..., n]` as u<k>: give them as decoded, and the offset and the root of every row, both f16."""
    offset = wanted.min(-1, keepdims=True).astype(np.float16).astype(np.float32)
    root = ((wanted - offset).max(-1, keepdims=True) / np.float32(top)).astype(np.float16).astype(np.float32)
    steps = np.divide(wanted - offset, root, out=np.zeros_like(wanted), where=root != 0)
    integers = np.clip(np.rint(steps), 0, top)
    return root * integers + offset, offset, root


def blocks_of_sixteen(x: Array) -> Array:
    """Give `[rows / 16, K / 16, 16 rows, 16 columns]`, which share one root."""
    rows, columns = x.shape
    return x.reshape(rows // 16, 16, columns // 16, 16).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("seed", range(4))
def test_spqr_scales_and_zero_points_by_straightforward_arithmetic(seed: int) -> None:
    x = np.random.default_rng(seed).standard_t(4, (32, 48)).astype(np.float32)
    blocks = blocks_of_sixteen(x)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale, _, _ = root_and_integers((high - low) / np.float32(7), 7)
    zero, _, _ = root_and_integers(-low / scale, 7)
    codes = np.clip(np.rint(blocks / scale[..., None] + zero[..., None]), 0, 7)
    wanted = scale[..., None] * (codes - zero[..., None])
    quantized = quantize(torch.from_numpy(x), format_of("spqr3-g16"))
    assert np.array_equal(blocks_of_sixteen(quantized.codes.numpy().astype(np.float32)), codes)
    assert np.array_equal(blocks_of_sixteen(dequantize(quantized).numpy()), wanted)


@pytest.mark.parametrize("block", ["(1,16384)", "(4,64)", "(1,128)"])
def test_qlora_scales_by_straightforward_arithmetic(block: str) -> None:
    x = np.random.default_rng(9).standard_normal((8, 256)).astype(np.float32)
    decode = format_of("nf4-g64").decode
    assert isinstance(decode, TableDecode)
    qtype = parse_qtype(f"{decode} | (1,64) u8 offset(tensor), {block} f32 | half_down")
    quantized = quantize(torch.from_numpy(x), qtype)
    wanted = np.abs(x.reshape(8, 4, 64)).max(-1)
    offset = wanted.min()
    groups = {"(1,16384)": (1, 4), "(4,64)": (4, 1), "(1,128)": (1, 2)}[block]
    above = (wanted - offset).reshape(8 // groups[0], groups[0], 4 // groups[1], groups[1])
    root = above.max((1, 3), keepdims=True) / np.float32(255)
    integers = np.rint(above / root)
    scale = (root * integers).reshape(8, 4) + offset
    assert np.array_equal(quantized.scales[0].numpy(), integers.reshape(8, 4).astype(np.uint8))
    codes = nearest_by_search((x.reshape(8, 4, 64) / scale[..., None]).astype(np.float32), decode.tables[0])
    assert np.array_equal(quantized.codes.numpy(), codes.reshape(8, 256))
    table = np.array(decode.tables[0], np.float32)
    assert np.array_equal(dequantize(quantized).numpy(), (table[codes] * scale[..., None]).reshape(8, 256))


def test_signed_scales_are_relative_to_their_middle() -> None:
    x = torch.tensor([[1.0] * 16 + [2.0] * 16 + [9.0] * 16 + [5.0] * 16])
    quantized = quantize(x, parse_qtype("int4 | (1,16) i8 offset(parent), (1,64) f32"))
    assert quantized.parameters.scales.offsets[0] == torch.tensor([[5 / 7]])
    assert quantized.scales[0].tolist() == [[-127, -95, 127, 0]]


# Digit planes


@pytest.mark.parametrize("bits", range(1, 9))
def test_planes_with_fixed_weights_are_integers(bits: int) -> None:
    codes = np.arange(2**bits)
    digits = (codes[:, None] >> np.arange(bits)) & 1
    weights = 2 ** np.arange(bits)
    wrapped = weights.copy()
    wrapped[-1] *= -1
    assert code_values(PlanesDecode(bits, "01", "pow2")) == tuple(codes)
    assert code_values(PlanesDecode(bits, "01", "twos")) == tuple(digits @ wrapped)
    assert code_values(PlanesDecode(bits, "pm1", "pow2")) == tuple(2 * codes - (2**bits - 1))
    assert code_values(PlanesDecode(bits, "pm1", "pow2")) == tuple((2 * digits - 1) @ weights)


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(2, 8))
def test_twos_complement_planes_code_as_integers_do(x: Tensor, bits: int) -> None:
    planes = quantize(x, parse_qtype(f"planes({bits}, 01, twos) | (1,32) f16"))
    integers = quantize(x, parse_qtype(f"int{bits} | (1,32) f16"), Parameters.of(planes.scales))
    assert torch.equal(planes.codes.int(), integers.codes.int() % 2**bits)
    assert torch.equal(dequantize(planes), dequantize(integers))


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(1, 8))
def test_bipolar_planes_are_mid_rise_integers_of_twice_the_scale(x: Tensor, bits: int) -> None:
    planes = quantize(x, parse_qtype(f"planes({bits}, pm1, pow2) mid_rise | row f32"))
    steps = x / planes.scales[0]
    # On a boundary planes take the even code, mid-rise integers the one above.
    tie = steps.remainder(2) == 0
    integers = quantize(x, parse_qtype(f"int{bits} mid_rise | row f32"), Parameters.of((planes.scales[0] * 2,)))
    assert torch.equal(dequantize(planes)[~tie], dequantize(integers)[~tie])
    odd = 2 * planes.codes.double() + 1 - 2**bits
    assert torch.equal(dequantize(planes, torch.float64), planes.scales[0].double() * odd)


def test_ternary_planes_are_digits_of_balanced_ternary_weights() -> None:
    values = code_values(PlanesDecode(2, "-101", "pow2"))
    for low, high in itertools.product(range(3), repeat=2):
        assert values[low + (high << 2)] == (low - 1) + 2 * (high - 1)
    assert all(np.isnan(values[code]) for code in range(16) if 3 in (code & 3, code >> 2))
