"""Integer kernels: codes, scales and products equal numpy's to the last bit on every instruction set."""

import math
from pathlib import Path

import numpy as np
import pytest

from qcc.backends.cpu import pack
from qcc.errors import ShapeError
from tests.unit import cpu_kernels_abi as abi

F32 = np.float32


def groups_of(k: int, group: int) -> list[slice]:
    return [slice(start, min(k, start + group)) for start in range(0, k, group)]


def quantize_reference(x, group, scale_group, qmax, narrow, static=None):
    """The definition, in numpy float32: codes [m, k], scales, sums per weight group."""
    low = F32(-qmax - (not narrow))
    codes = np.zeros(x.shape, np.int8)
    scales = []
    for part in groups_of(x.shape[1], scale_group):
        amax = np.abs(x[:, part]).max(axis=1) if x.shape[1] else np.zeros(len(x), F32)
        scale = amax / F32(qmax) if static is None else np.where(np.isnan(amax), amax, F32(static))
        usable = np.isfinite(scale) & (scale > 0)
        with np.errstate(all="ignore"):
            value = np.clip(np.rint(x[:, part] / scale[:, None]), low, F32(qmax))
        codes[:, part] = np.where(usable[:, None], np.nan_to_num(value), 0).astype(np.int8)
        scales.append(scale)
    sums = np.stack([codes[:, part].sum(axis=1, dtype=np.int32) for part in groups_of(x.shape[1], group)], 1)
    return codes, np.stack(scales, 1).astype(F32), sums


def quantize(kernels, x, group, *, group_scales, qmax=127, narrow=True, static=None, pieces=1):
    """Run the kernel; codes come back without the padding, which must be zero."""
    m, k = x.shape
    padded, groups = pack.padded_k(k, group), len(groups_of(k, group))
    rows = {
        "codes": np.full((m, padded), 77, np.int8),
        "scales": np.full((m, groups if group_scales else 1), 7, F32),
        "sums": np.full((m, groups), 7, np.int32),
    }
    out = abi.fill(abi.QRows, **rows, group_scales=int(group_scales))
    kernels.run(
        "quantize",
        pieces,
        x=x,
        x_stride=x.strides[0] // 4,
        m=m,
        k=k,
        group=group,
        qmax=qmax,
        narrow=int(narrow),
        static_scale=None if static is None else np.array([static], F32),
        out=out,
    )
    return rows, out


def unpad(codes, k, group):
    step = -(-group // 32) * 32
    keep = np.concatenate([np.arange(part.stop - part.start) + i * step for i, part in enumerate(groups_of(k, group))])
    assert not np.delete(codes, keep, axis=1).any()
    return codes[:, keep]


def hard_rows(rng, m, k):
    """Rows with ties, zeros, outliers, denormals, huge values, NaN and infinity."""
    x = rng.standard_normal((m, k)).astype(F32)
    specials = [0.0, 1e-44, 3e38, np.nan, np.inf, -np.inf, 1e-39]
    for row, value in enumerate(specials[: max(0, m - 1)]):
        x[row, rng.integers(k)] = value
        if value in (0.0, 1e-44):
            x[row] = value
    if m > 8:
        x[8] = rng.integers(-254, 255, k) / 2  # ties at scale 1
        x[8, 0] = 127
    return x


@pytest.mark.parametrize("group_scales", [False, True])
@pytest.mark.parametrize(("k", "group"), [(384, 32), (96, 96), (77, 32), (65, 48), (31, 8), (1, 1), (200, 128)])
def test_quantize_is_bit_identical_to_numpy(kernels, k, group, group_scales):
    x = hard_rows(np.random.default_rng(k), 11, k)
    for qmax, narrow in ((127, True), (127, False), (7, True), (1, False)):
        rows, _ = quantize(kernels, x, group, group_scales=group_scales, qmax=qmax, narrow=narrow, pieces=3)
        codes, scales, sums = quantize_reference(x, group, group if group_scales else k, qmax, narrow)
        np.testing.assert_array_equal(unpad(rows["codes"], k, group), codes)
        np.testing.assert_array_equal(rows["scales"], scales)
        np.testing.assert_array_equal(rows["sums"], sums)


def test_static_quantize_clamps_and_marks_nan(kernels):
    x = hard_rows(np.random.default_rng(0), 11, 50)
    for narrow in (True, False):
        rows, _ = quantize(kernels, x, 50, group_scales=False, narrow=narrow, static=0.01)
        codes, scales, sums = quantize_reference(x, 50, 50, 127, narrow, static=0.01)
        np.testing.assert_array_equal(unpad(rows["codes"], 50, 50), codes)
        np.testing.assert_array_equal(rows["scales"], scales)
        np.testing.assert_array_equal(rows["sums"], sums)


def test_quantize_reads_strided_rows(kernels):
    wide = np.random.default_rng(1).standard_normal((4, 100)).astype(F32)
    rows, _ = quantize(kernels, wide[:, 10:50], 40, group_scales=False)
    codes, _, _ = quantize_reference(wide[:, 10:50], 40, 40, 127, True)
    np.testing.assert_array_equal(unpad(rows["codes"], 40, 40), codes)


def qlinear_reference(codes, scales, sums, group_scales, wq, zeros, sw, group, bias):
    """Exact integers, then the float32 steps in the order the header states."""
    m, n = len(codes), len(wq)
    total = np.zeros((m, n), F32)
    for g, part in enumerate(groups_of(codes.shape[1], group)):
        z = zeros[:, g].astype(np.int64) if isinstance(zeros, np.ndarray) else np.int64(zeros)
        exact = codes[:, part].astype(np.int64) @ (wq[:, part].astype(np.int64) - np.reshape(z, (-1, 1))).T
        assert abs(exact).max(initial=0) < 2**31
        scale = sw[None, :, g] * (scales[:, g : g + 1] if group_scales else F32(1))
        total = total + scale * exact.astype(np.int32).astype(F32)
    total = total * (F32(1) if group_scales else scales)
    return total if bias is None else total + bias


def random_weight(rng, n, k, bits, group, *, constant_zero, scale_f16):
    count = len(groups_of(k, group))
    codes = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
    scales = rng.uniform(1e-3, 2e-3, (n, count)).astype(np.float16 if scale_f16 else F32).astype(F32)
    zeros = 2 ** (bits - 1) if constant_zero else rng.integers(0, 2**bits, (n, count)).astype(np.uint8)
    return codes, scales, zeros, pack.pack_weights(codes, bits, group, scales, zeros, scale_f16=scale_f16)


def check_qlinear(kernels, rng, m, n, k, bits, group, *, group_scales, constant_zero, scale_f16, pieces=1):
    wq, sw, zeros, packed = random_weight(rng, n, k, bits, group, constant_zero=constant_zero, scale_f16=scale_f16)
    x = rng.standard_normal((m, k)).astype(F32)
    x[0] = -np.abs(x[0]).max()
    rows, struct = quantize(kernels, x, group, group_scales=group_scales, narrow=False)
    codes = unpad(rows["codes"], k, group)
    bias = rng.standard_normal(n).astype(F32)
    y = np.full((m, n), 7, F32)
    placed = kernels.place(packed)
    kernels.run("qlinear", pieces, x=struct, w=placed.struct, y=y, y_stride=n, m=m, epilogue=abi.epilogue(bias))
    expected = qlinear_reference(codes, rows["scales"], rows["sums"], group_scales, wq, zeros, sw, group, bias)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group", [8, 32, 48, 64, 128, 0])
def test_qlinear_is_exact(kernels, bits, group):
    rng = np.random.default_rng(bits * 1000 + group)
    shapes = [(1, 17, 200), (4, 33, 96), (5, 1, 31), (29, 50, 257), (3, 16, 64)]
    for i, (m, n, k) in enumerate(shapes):
        check_qlinear(
            kernels,
            rng,
            m,
            n,
            k,
            bits,
            min(group, k) or k,
            group_scales=i % 2 == 0,
            constant_zero=(i + bits) % 2 == 0,
            scale_f16=i % 3 == 0,
            pieces=1 + i % 3,
        )


@pytest.mark.parametrize("m", [1, 2, 3, 4, 6, 12, 13, 24, 193, 400])
def test_qlinear_is_exact_for_every_number_of_rows(kernels, m):
    rng = np.random.default_rng(m)
    for bits, group in ((8, 64), (4, 32)):
        check_qlinear(
            kernels,
            rng,
            m,
            40,
            64,
            bits,
            group,
            group_scales=False,
            constant_zero=True,
            scale_f16=False,
            pieces=2,
        )


def test_qlinear_at_the_int32_bound(kernels):
    """All operands extreme, over the longest group that fits."""
    k = pack.MAX_GROUP
    codes = np.full((16, k), 255, np.uint8)
    codes[1] = 0
    packed = pack.pack_weights(codes, 8, k, np.ones((16, 1), F32), np.array([[0], [255]] * 8, np.uint8))
    x = np.full((2, k), -1, F32)
    x[1] = 1
    rows, struct = quantize(kernels, x, k, group_scales=False, qmax=1, narrow=True)
    rows["codes"][:, :k] *= 127
    rows["sums"] *= 127
    rows["codes"][0, :k] -= 1
    rows["sums"][0] -= k
    y = np.empty((2, 16), F32)
    placed = kernels.place(packed)
    kernels.run("qlinear", x=struct, w=placed.struct, y=y, y_stride=16, m=2, epilogue=abi.epilogue())
    exact = np.array([[-128 * 255 * k, 128 * 255 * k], [127 * 255 * k, -127 * 255 * k]])
    np.testing.assert_array_equal(y[:, :2], exact.astype(F32))


def test_non_finite_rows_become_nan_and_others_do_not(kernels):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 64)).astype(F32)
    x[1, 3], x[4, 60] = np.nan, np.inf
    packed = pack.pack_weights(rng.integers(0, 16, (20, 64)).astype(np.uint8), 4, 32, np.ones((20, 2), F32), 8)
    for group_scales in (False, True):
        _, struct = quantize(kernels, x, 32, group_scales=group_scales)
        y = np.empty((6, 20), F32)
        placed = kernels.place(packed)
        kernels.run("qlinear", x=struct, w=placed.struct, y=y, y_stride=20, m=6, epilogue=abi.epilogue())
        assert np.isnan(y[[1, 4]]).all()
        assert np.isfinite(y[[0, 2, 3, 5]]).all()


def test_epilogue_adds_bias_then_activates_then_multiplies_the_gate_then_adds_the_residual(kernels):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((7, 64)).astype(F32)
    packed = pack.pack_weights(rng.integers(0, 256, (37, 64)).astype(np.uint8), 8, 64, np.full((37, 1), 0.01, F32), 128)
    placed = kernels.place(packed)
    _, struct = quantize(kernels, x, 64, group_scales=False)
    bias, residual = rng.standard_normal(37).astype(F32), rng.standard_normal((7, 37)).astype(F32)
    plain, full = np.empty((7, 37), F32), np.empty((7, 37), F32)
    common = {"x": struct, "w": placed.struct, "y_stride": 37, "m": 7}
    kernels.run("qlinear", **common, y=plain, epilogue=abi.epilogue(bias))
    kernels.run("qlinear", **common, y=full, epilogue=abi.epilogue(bias, residual, "gelu"))
    erf = np.vectorize(math.erf)(plain.astype(np.float64) / math.sqrt(2))
    np.testing.assert_allclose(full, 0.5 * plain * (1 + erf) + residual, rtol=2e-6, atol=2e-6)
    gate, gated = rng.standard_normal((7, 37)).astype(F32), np.empty((7, 37), F32)
    kernels.run("qlinear", **common, y=gated, epilogue=abi.epilogue(bias, gate=gate))
    np.testing.assert_array_equal(gated, plain * gate)
    kernels.run("qlinear", **common, y=gated, epilogue=abi.epilogue(bias, residual, gate=gate))
    np.testing.assert_array_equal(gated, plain * gate + residual)


@pytest.mark.parametrize("bits", [1, 3, 4, 7, 8])
@pytest.mark.parametrize(("k", "group"), [(300, 32), (520, 48), (77, 77), (256, 128)])
def test_weight_only_linear_and_embedding_decode_the_packed_codes(kernels, bits, k, group):
    rng = np.random.default_rng(bits + k)
    wq, sw, zeros, packed = random_weight(rng, 35, k, bits, group, constant_zero=bits == 3, scale_f16=bits == 4)
    placed = kernels.place(packed)
    z = np.broadcast_to(np.asarray(zeros), sw.shape).astype(np.float64)
    per_k = np.repeat(np.arange(sw.shape[1]), group)[:k]
    value = ((wq - z[:, per_k]) * sw[:, per_k]).astype(F32)
    for m in (1, 5, 14):
        x = rng.standard_normal((m, k)).astype(F32)
        y = np.empty((m, 35), F32)
        common = {
            "x": x,
            "x_stride": k,
            "w": placed.struct,
            "y_stride": 35,
            "m": m,
            "epilogue": abi.epilogue(),
        }
        kernels.run("wlinear", 2, **common, y=y)
        expected = x.astype(np.float64) @ value.astype(np.float64).T
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    ids, out, status = np.array([34, 0, 35, -1, 16]), np.full((5, k), 7, F32), np.zeros(1, np.int32)
    table = np.frombuffer(placed.struct, np.uint8)
    kernels.run("embedding", 2, ids=ids, qtable=table, y=out, count=5, rows=35, k=k, status=status)
    np.testing.assert_array_equal(out[[0, 1, 4]], value[[34, 0, 16]])
    assert status[0] == 1
    assert not out[2:4].any()


def test_packing_refuses_what_the_kernels_cannot_hold():
    codes, scales = np.full((2, 8), 9, np.uint8), np.ones((2, 2), F32)
    with pytest.raises(
        ShapeError, match=r"(?s)layer\.3.*code 9 does not fit 3 bits.*scales \(2, 2\), expected \(2, 1\)"
    ):
        pack.pack_weights(codes, 3, 8, scales, 4, where="layer.3")
    with pytest.raises(ShapeError, match="not a float16 value"):
        pack.pack_weights(codes, 4, 4, scales * F32(1.0001), 8, scale_f16=True)
    with pytest.raises(ShapeError, match="uint8"):
        pack.pack_weights(codes.astype(np.int64), 4, 4, scales, 8)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match=r"outside 0\.\.255"):
        pack.pack_weights(codes, 4, 4, scales, 256)
    with pytest.raises(ShapeError, match="int32"):
        pack.pack_weights(codes, 4, 0, scales, 8)


def test_packed_size_counts_every_byte():
    packed = pack.pack_weights(np.zeros((32, 64), np.uint8), 3, 32, np.ones((32, 2), F32), np.zeros((32, 2), np.uint8))
    assert len(packed.blob) == 32 * 64 * 3 // 8 + 32 * 2 * 4 + 32 * 2
    assert (packed.codes_offset, packed.scales_offset, packed.zeros_offset) == (0, 768, 1024)


def test_the_environment_cannot_select_what_is_unknown(kernel_library, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QCC_ISA", "quantum")
    assert kernel_library.t_isa().decode() == abi.isas()[-1]
    assert Path(abi.TEMPLATES, "qcc_kernels.h").exists()
