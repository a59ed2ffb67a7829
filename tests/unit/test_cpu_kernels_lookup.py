"""The lookup linear: bits of qlinear where its tables are exact, the stated bound where they are rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcc.backends.cpu import pack
from tests.unit import cpu_kernels_abi as abi

F32 = np.float32
Codes = NDArray[np.int8]


@dataclass(frozen=True)
class Rows:
    """Quantized rows as a kernel reads them; `arrays` owns the memory that `struct` points to."""

    codes: Codes
    scales: NDArray[np.float32]
    group: int
    struct: Any
    arrays: dict[str, NDArray[Any]]


def parts_of(k: int, group: int) -> list[slice]:
    return [slice(start, min(k, start + group)) for start in range(0, k, group)]


def padded(codes: Codes, group: int) -> Codes:
    out = np.zeros((len(codes), pack.padded_k(codes.shape[1], group)), np.int8)
    step = -(-group // 32) * 32
    for g, part in enumerate(parts_of(codes.shape[1], group)):
        out[:, g * step : g * step + part.stop - part.start] = codes[:, part]
    return out


def make_rows(rng: np.random.Generator, codes: Codes, group: int, group_scales: bool) -> Rows:
    m, k = codes.shape
    parts = parts_of(k, group)
    arrays = {
        "codes": padded(codes, group),
        "scales": rng.uniform(0.01, 0.02, (m, len(parts) if group_scales else 1)).astype(F32),
        "sums": np.stack([codes[:, part].sum(axis=1, dtype=np.int32) for part in parts], 1),
    }
    struct = abi.fill(abi.QRows, **arrays, group_scales=int(group_scales))
    return Rows(codes, arrays["scales"], group, struct, arrays)


def make_tables(kernels: abi.Kernels, rows: Rows, exact: bool, pieces: int = 1) -> tuple[dict[str, Any], Any]:
    m, k = rows.codes.shape
    length, groups = pack.padded_k(k, rows.group), len(parts_of(k, rows.group))
    arrays: dict[str, Any] = {
        "entries": np.full((m, length * 4), 99, np.int8),
        "rest": np.full((m, length * 4), 99, np.int8) if exact else None,
        "lines": np.full((m, length // 16), 99, np.int32) if exact else None,
        "centers": np.full((m, groups), 7, np.int32),
        "wide": np.full((m, groups), 7, np.int32),
    }
    struct = abi.fill(abi.TableRows, **arrays)
    kernels.run("tables", pieces, x=rows.struct, m=m, k=k, group=rows.group, out=struct)
    return arrays, struct


def hard_codes(rng: np.random.Generator, m: int, k: int) -> Codes:
    """Rows of every width of sums: small, normal, uniform, and both extremes throughout."""
    codes = np.clip(np.rint(rng.standard_normal((m, k)) * 34), -128, 127).astype(np.int8)
    kinds = [np.full(k, -128), np.full(k, 127), rng.integers(-128, 128, k), rng.integers(-32, 32, k), np.zeros(k)]
    kinds += [np.where(np.arange(k) % 3, 127, -128), np.where(np.arange(k) < 20, -128, 1)]
    for row in range(m):
        if row % 2:
            codes[row] = kinds[row // 2 % len(kinds)]
    return codes


@dataclass(frozen=True)
class Case:
    """One product: `zero` is constant or varies, scales of activations per row or per group."""

    m: int
    n: int
    k: int
    bits: int
    group: int
    constant_zero: bool = True
    group_scales: bool = False
    scale_f16: bool = False
    all_max: bool = False
    mid_rise: bool = False
    pieces: int = 1


class Product:
    """The operands of a case, its exact integers, and the kernel's result."""

    def __init__(self, rng: np.random.Generator, case: Case) -> None:
        self.case = case
        self.parts = parts_of(case.k, case.group)
        shape = (case.n, case.k)
        top = 2**case.bits
        self.wq = np.full(shape, top - 1, np.uint8) if case.all_max else rng.integers(0, top, shape).astype(np.uint8)
        self.sw = rng.uniform(1e-3, 2e-3, (case.n, len(self.parts))).astype(np.float16).astype(F32)
        varying = rng.integers(0, top, (case.n, len(self.parts))).astype(np.uint8)
        self.zeros: NDArray[np.uint8] | int = top // 2 if case.constant_zero else varying
        self.rows = make_rows(rng, hard_codes(rng, case.m, case.k), case.group, case.group_scales)
        self.bias = rng.standard_normal(case.n).astype(F32)

    def packed(self, lookup: bool) -> pack.PackedWeight:
        case = self.case
        return pack.pack_weights(
            self.wq,
            case.bits,
            case.group,
            self.sw,
            self.zeros,
            scale_f16=case.scale_f16,
            mid_rise=case.mid_rise,
            lookup=lookup,
        )

    def sums(self) -> NDArray[np.int64]:
        """Exact integer sums [M, N, G], zero points taken off."""
        x, w = self.rows.codes.astype(np.int64), self.wq.astype(np.int64)
        out: list[NDArray[np.int64]] = []
        for g, part in enumerate(self.parts):
            zero = self.zeros[:, g] if isinstance(self.zeros, np.ndarray) else np.full(self.case.n, self.zeros)
            value = w[:, part] - zero.astype(np.int64)[:, None]
            out.append(x[:, part] @ (2 * value + 1 if self.case.mid_rise else value).T)
        return np.stack(out, -1)

    def scaled(self, sums: NDArray[np.int64]) -> NDArray[np.float32]:
        """The float steps of the header, in their order."""
        total = np.zeros(sums.shape[:2], F32)
        for g in range(sums.shape[2]):
            step = self.sw[None, :, g] * F32(0.5 if self.case.mid_rise else 1)
            scale = step * (self.rows.scales[:, g : g + 1] if self.case.group_scales else F32(1))
            total = total + scale * sums[:, :, g].astype(np.int32).astype(F32)
        return total * (F32(1) if self.case.group_scales else self.rows.scales) + self.bias

    def lookup(self, kernels: abi.Kernels, exact: bool) -> tuple[NDArray[np.float32], dict[str, Any]]:
        case = self.case
        arrays, tables = make_tables(kernels, self.rows, exact, case.pieces)
        y, placed = np.full((case.m, case.n), 7, F32), kernels.place(self.packed(lookup=True))
        fields = {"t": tables, "x": self.rows.struct, "w": placed.struct, "y": y, "y_stride": case.n, "m": case.m}
        kernels.run("tlinear", case.pieces, **fields, epilogue=abi.epilogue(self.bias))
        return y, arrays

    def dot(self, kernels: abi.Kernels) -> NDArray[np.float32]:
        case = self.case
        y, placed = np.full((case.m, case.n), 7, F32), kernels.place(self.packed(lookup=False))
        fields = {"x": self.rows.struct, "w": placed.struct, "y": y, "y_stride": case.n, "m": case.m}
        kernels.run("qlinear", case.pieces, **fields, epilogue=abi.epilogue(self.bias))
        return y


def check_exact(kernels: abi.Kernels, case: Case, seed: int = 0) -> None:
    product = Product(np.random.default_rng([seed, case.bits, case.group, case.k]), case)
    found, _ = product.lookup(kernels, exact=True)
    np.testing.assert_array_equal(found, product.scaled(product.sums()))
    np.testing.assert_array_equal(found, product.dot(kernels))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group", [8, 32, 48, 64, 128, 0])
def test_exact_tables_give_the_bits_of_the_integer_dot(kernels: abi.Kernels, bits: int, group: int) -> None:
    shapes = [(1, 17, 200), (4, 33, 96), (15, 1, 31), (29, 50, 257), (3, 16, 64), (40, 32, 16)]
    for i, (m, n, k) in enumerate(shapes):
        case = Case(
            m,
            n,
            k,
            bits,
            min(group, k) or k,
            constant_zero=(i + bits) % 2 == 0,
            group_scales=i % 2 == 0,
            scale_f16=i % 3 == 0,
            all_max=i == 4,
            mid_rise=i % 3 == 1 and bits < 8,
            pieces=1 + i % 3,
        )
        check_exact(kernels, case)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    bits=st.integers(1, 8),
    group=st.sampled_from([1, 7, 16, 32, 40, 64, 128, 1000]),
    flags=st.tuples(*[st.booleans()] * 5),
    pieces=st.integers(1, 4),
    seed=st.integers(0, 2**20),
)
def test_any_shape(
    kernel_library: Any,
    m: int,
    n: int,
    k: int,
    bits: int,
    group: int,
    flags: tuple[bool, ...],
    pieces: int,
    seed: int,
) -> None:
    flags = (*flags[:4], flags[4] and bits < 8)
    case = Case(m, n, k, bits, min(group, k), *flags, pieces)
    for isa in abi.isas():
        check_exact(abi.Kernels(kernel_library, isa), case, seed)


def test_long_sums_do_not_overflow(kernels: abi.Kernels) -> None:
    """All codes extreme: over the longest group, and over more chunks than a 16-bit counter holds."""
    for k in (pack.MAX_GROUP, 65 * 32):
        for bits, code in ((8, 255), (8, 0), (1, 1)):
            product = Product(np.random.default_rng(k), Case(4, 3, k, bits, k, constant_zero=False))
            product.wq[:] = code
            product.zeros = np.full((3, 1), 255 - code if bits == 8 else 1 - code, np.uint8)
            found, arrays = product.lookup(kernels, exact=True)
            np.testing.assert_array_equal(found, product.scaled(product.sums()))
            assert arrays["wide"].max() == k // 16  # every whole line


def table_reference(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Entries less their centres [M, lines, 4, 16], centres [M, lines, 4], widths [M, lines, 4]."""
    quads = padded(rows.codes, rows.group).astype(np.int64).reshape(len(rows.codes), -1, 4, 4).swapaxes(2, 3)
    bit = np.arange(16)[:, None] >> np.arange(4) & 1
    centers = -(-quads.sum(-1) // 2)
    return quads @ bit.T - centers[..., None], centers, np.abs(quads).sum(-1)


@pytest.mark.parametrize(("k", "group"), [(256, 32), (100, 100), (77, 16), (130, 64)])
def test_tables_hold_what_the_header_says(kernels: abi.Kernels, k: int, group: int) -> None:
    rng = np.random.default_rng(k)
    rows = make_rows(rng, hard_codes(rng, 17, k), group, False)
    entries, centers, widths = table_reference(rows)
    groups = len(parts_of(k, group))
    rounded, _ = make_tables(kernels, rows, exact=False, pieces=2)
    exact, _ = make_tables(kernels, rows, exact=True, pieces=2)
    for g, start in enumerate(range(0, entries.shape[1], -(-group // 32) * 2)):
        mine = slice(start, start + -(-(min(k, (g + 1) * group) - g * group) // 32) * 2)
        widest = widths[:, mine].max((1, 2))
        shift = np.where(widest <= 255, 0, np.where(widest <= 511, 1, 2))
        stored = rounded["entries"].reshape(entries.shape)[:, mine].astype(np.int64) << shift[:, None, None, None]
        np.testing.assert_array_equal(rounded["wide"][:, g], shift)
        assert (abs(stored - entries[:, mine]) <= (1 << shift >> 1)[:, None, None, None]).all()
        stored = exact["entries"].reshape(entries.shape)[:, mine].astype(np.int64)
        for row, count in enumerate(exact["wide"][:, g]):
            numbers = exact["lines"][row, mine][:count]
            assert (np.diff(numbers) > 0).all()
            stored[row, numbers] += 2 * exact["rest"].reshape(entries.shape)[row, mine][:count].astype(np.int64)
            assert count == (widths[row, mine] > 255).any(-1).sum()
        np.testing.assert_array_equal(stored, entries[:, mine])
        for made in (rounded, exact):
            np.testing.assert_array_equal(made["centers"][:, g], centers[:, mine].sum((1, 2)))
    assert groups == rounded["wide"].shape[1]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 64, 0])
def test_rounded_tables_keep_their_bound(kernels: abi.Kernels, bits: int, group: int) -> None:
    """Each integer sum is off by no more than the header states, whatever the sign of the errors."""
    k = 160
    case = Case(25, 18, k, bits, group or k, constant_zero=False)
    product = Product(np.random.default_rng(bits), case)
    product.rows.arrays["scales"][:] = 1
    product.sw[:] = 0
    bound_met = 0.0
    for g, part in enumerate(product.parts):
        product.sw[:] = 0
        product.sw[:, g] = 1  # so that y is the sum of one group
        product.bias[:] = 0
        found, arrays = product.lookup(kernels, exact=False)
        error = np.abs(found.astype(np.int64) - product.sums()[:, :, g])
        quads = -(-(part.stop - part.start) // 16) * 4
        bound = quads * (2**bits - 1) * (1 << arrays["wide"][:, g] >> 1)
        assert (error <= bound[:, None]).all()
        bound_met = max(bound_met, float((error / np.maximum(bound, 1)[:, None]).max()))
    assert bound_met > 0.05  # some rows are too wide for exact tables


def test_rounded_tables_are_exact_for_narrow_activations(kernels: abi.Kernels) -> None:
    """Codes of up to 6 bits, or 7 without the lowest, never need more than 8 bits for their partial sums."""
    rng = np.random.default_rng(9)
    for low, high in ((-32, 31), (-63, 63)):
        product = Product(rng, Case(9, 40, 200, 3, 64, constant_zero=False))
        codes = rng.integers(low, high + 1, (9, 200)).astype(np.int8)
        codes[0], codes[1] = low, high
        product.rows = make_rows(rng, codes, 64, False)
        found, arrays = product.lookup(kernels, exact=False)
        assert not arrays["wide"].any()
        np.testing.assert_array_equal(found, product.dot(kernels))


def test_rounded_tables_give_the_same_bits_on_every_instruction_set(kernel_library: Any) -> None:
    product = Product(np.random.default_rng(11), Case(33, 50, 300, 2, 64, group_scales=True))
    results = [product.lookup(abi.Kernels(kernel_library, isa), exact=False)[0] for isa in abi.isas()]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_epilogue_and_rows_that_are_not_finite(kernels: abi.Kernels) -> None:
    rng = np.random.default_rng(12)
    product = Product(rng, Case(6, 37, 64, 2, 32))
    product.rows.arrays["scales"][1], product.rows.arrays["scales"][4] = np.nan, np.inf
    residual = rng.standard_normal((6, 37)).astype(F32)
    results: list[NDArray[np.float32]] = []
    _, tables = make_tables(kernels, product.rows, exact=True)
    for lookup in (True, False):
        y, placed = np.empty((6, 37), F32), kernels.place(product.packed(lookup))
        fields = {"x": product.rows.struct, "w": placed.struct, "y": y, "y_stride": 37, "m": 6}
        fields |= {"t": tables} if lookup else {}
        finish = abi.epilogue(product.bias, residual, "gelu")
        kernels.run("tlinear" if lookup else "qlinear", 2, **fields, epilogue=finish)
        results.append(y)
    np.testing.assert_array_equal(results[0], results[1])
    assert np.isnan(results[0][1]).all()
    assert np.isfinite(results[0][[0, 2, 3, 5]]).all()


def test_lookup_planes_take_the_bytes_of_the_codes() -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(2, 32) % 8
    packed = pack.pack_weights(codes, 3, 32, np.ones((2, 1), F32), 4, lookup=True)
    lines = np.frombuffer(packed.blob, np.uint8, 3 * 64).reshape(3, 64)
    for plane, bit in enumerate((2, 1, 0)):
        for r in range(2):
            for k in range(32):
                found = lines[plane, 4 * r + k % 4] >> (k // 4) & 1
                assert found == codes[r, k] >> bit & 1
    assert len(packed.blob) == len(pack.pack_weights(codes, 3, 32, np.ones((2, 1), F32), 4).blob)
    for bits in (1, 8):  # one bit: the layouts are the same
        blobs = [
            pack.pack_weights(codes & 1, bits, 32, np.ones((2, 1), F32), 4, lookup=lk).blob for lk in (True, False)
        ]
        assert (blobs[0] == blobs[1]) == (bits == 1)
