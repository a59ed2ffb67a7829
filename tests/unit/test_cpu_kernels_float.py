"""Float kernels against torch in float64, on every instruction set and for ranges cut anywhere."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qcc.backends.cpu import pack
from tests.unit import cpu_kernels_abi as abi

F32 = np.float32


def draw(seed, *dims):
    return np.random.default_rng(seed).standard_normal(dims).astype(F32)


def double(x):
    return torch.from_numpy(np.asarray(x)).double()


def close(actual, expected, tolerance=1e-5):
    """Relative to the largest expected value: sums cancel."""
    expected = np.asarray(expected)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-30))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 100, 65), (13, 33, 7), (200, 48, 64), (5, 16, 0), (0, 8, 8)])
def test_linear(kernels, m, n, k):
    x, w, bias, residual = draw(1, m, k + 3)[:, :k], draw(2, n, k), draw(3, n), draw(4, m, n)
    y = np.full((m, n), 7, F32)
    packed = pack.pack_float_weights(w)
    epilogue = abi.epilogue(bias, residual, "silu")
    kernels.run("linear", 3, x=x, x_stride=k + 3, w=packed, y=y, y_stride=n, m=m, n=n, k=k, epilogue=epilogue)
    close(y, F.silu(F.linear(double(x), double(w), double(bias))) + double(residual))


def test_linear_does_not_depend_on_the_number_of_rows(kernels):
    x, w = draw(1, 31, 300), draw(2, 40, 300)
    packed = pack.pack_float_weights(w)
    whole, single = np.empty((31, 40), F32), np.empty((31, 40), F32)
    common = {"w": packed, "x_stride": 300, "y_stride": 40, "n": 40, "k": 300, "epilogue": abi.epilogue()}
    kernels.run("linear", x=x, y=whole, m=31, **common)
    for row in range(31):
        kernels.run("linear", x=x[row:], y=single[row:], m=1, **common)
    np.testing.assert_array_equal(whole, single)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 70, 33), (14, 32, 20), (25, 17, 64), (3, 5, 1)])
def test_matmul_broadcasts_batches_and_takes_any_strides(kernels, m, n, k, transpose_a, transpose_b):
    a = draw(1, 2, 1, *((k, m) if transpose_a else (m, k)))
    b = draw(2, 1, 3, *((n, k) if transpose_b else (k, n)))
    a, b = (a.swapaxes(2, 3) if transpose_a else a), (b.swapaxes(2, 3) if transpose_b else b)
    out = np.full((2, 3, m, n), 7, F32)
    sa, sb = abi.strides(a, (2, 3, m, k)), abi.strides(b, (2, 3, k, n))
    kernels.run(
        "matmul",
        4,
        a=a,
        b=b,
        c=out,
        batch=(1, 1, 2, 3),
        a_batch_stride=(0, 0, *sa[:2]),
        b_batch_stride=(0, 0, *sb[:2]),
        c_batch_stride=(0, 0, *abi.strides(out)[:2]),
        m=m,
        n=n,
        k=k,
        a_stride_m=sa[2],
        a_stride_k=sa[3],
        b_stride_k=sb[2],
        b_stride_n=sb[3],
        c_stride_m=n,
        alpha=0.5,
    )
    close(out, 0.5 * (double(a.copy()) @ double(b.copy())))


def attend(kernels, q, k, v, *, mask=None, causal=None, scale=0.3):
    """Run fused attention on [B, H, S, D] views with any outer strides."""
    batch, heads, queries, dim = q.shape
    out = np.full((batch, queries, heads, v.shape[3]), 7, F32).swapaxes(1, 2)
    full = (batch, heads, queries, k.shape[2])
    kernels.run(
        "attention",
        3,
        q=q,
        k=k,
        v=v,
        out=out,
        mask=mask,
        mask_is_bool=int(mask is not None and mask.dtype == bool),
        causal=int(causal is not None),
        causal_offset=causal or 0,
        batch=batch,
        heads=heads,
        kv_heads=k.shape[1],
        queries=queries,
        keys=k.shape[2],
        dim=dim,
        v_dim=v.shape[3],
        q_stride=abi.strides(q)[:3],
        k_stride=abi.strides(k)[:3],
        v_stride=abi.strides(v)[:3],
        out_stride=abi.strides(out)[:3],
        mask_stride=(0, 0, 0, 0) if mask is None else abi.strides(mask, full),
        scale=scale,
    )
    return out


def sdpa(q, k, v, mask=None, scale=0.3):
    repeat = q.shape[1] // k.shape[1]
    k, v = double(k.copy()).repeat_interleave(repeat, 1), double(v.copy()).repeat_interleave(repeat, 1)
    if mask is not None:
        mask = torch.from_numpy(mask) if mask.dtype == bool else double(mask)
    return F.scaled_dot_product_attention(double(q.copy()), k, v, attn_mask=mask, scale=scale)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 67), (5, 40), (8, 33), (128, 128), (150, 150), (13, 200)])
@pytest.mark.parametrize(("dim", "v_dim"), [(32, 32), (64, 80), (7, 3), (40, 48)])
def test_attention(kernels, queries, keys, dim, v_dim):
    q, k, v = (
        draw(i, 2, length, heads, width).swapaxes(1, 2)
        for i, (length, heads, width) in enumerate(((queries, 4, dim), (keys, 2, dim), (keys, 2, v_dim)))
    )
    close(attend(kernels, q, k, v), sdpa(q, k, v))
    offset = keys - queries
    seen = np.arange(keys) <= np.arange(queries)[:, None] + offset
    close(attend(kernels, q, k, v, causal=offset), sdpa(q, k, v, seen[None, None]))


@pytest.mark.parametrize("mask_shape", [(2, 1, 1, 37), (1, 4, 9, 37), (2, 4, 9, 1), (1, 1, 9, 37)])
@pytest.mark.parametrize("boolean", [False, True])
def test_attention_masks_broadcast_and_masked_rows_are_zero(kernels, mask_shape, boolean):
    q, k, v = draw(1, 2, 4, 9, 16), draw(2, 2, 4, 37, 16), draw(3, 2, 4, 37, 16)
    mask = draw(4, *mask_shape)
    mask = mask > -0.5 if boolean else np.where(mask > -0.5, mask, -np.inf).astype(F32)
    mask[0, 0, 0] = False if boolean else -np.inf
    actual, expected = attend(kernels, q, k, v, mask=mask), sdpa(q, k, v, mask)
    close(actual, expected)
    assert not actual[0, 0, 0].any()


def test_attention_keeps_nan_and_survives_large_scores(kernels):
    q, k, v = draw(1, 1, 1, 9, 16) * 1e4, draw(2, 1, 1, 20, 16) * 1e4, draw(3, 1, 1, 20, 16)
    close(attend(kernels, q, k, v), sdpa(q, k, v))
    q[0, 0, 3, 0] = np.nan
    out = attend(kernels, q, k, v)
    assert np.isnan(out[0, 0, 3]).all()
    assert np.isfinite(np.delete(out[0, 0], 3, axis=0)).all()


CONVS = [
    # in, out, groups, size, kernel, stride, pad, dilation
    (3, 8, 1, (9, 11), (3, 3), (1, 1), (1, 1), (1, 1)),
    (3, 20, 1, (32, 32), (8, 8), (8, 8), (0, 0), (1, 1)),
    (6, 9, 3, (10, 7), (3, 2), (2, 1), (2, 1), (2, 2)),
    (16, 40, 1, (8, 8), (1, 1), (1, 1), (0, 0), (1, 1)),
    (5, 5, 5, (12, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    (7, 7, 7, (12, 13), (5, 3), (2, 2), (2, 1), (1, 2)),
    (4, 4, 4, (3, 2), (3, 5), (1, 3), (1, 4), (1, 1)),
    (4, 8, 4, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
]


def conv_fields(case, out):
    inputs, outputs, groups, size, kernel, stride, pad, dilation = case
    pairs = {"in": size, "out": out.shape[2:], "kernel": kernel, "stride": stride, "dilation": dilation}
    fields = {f"{name}_{axis}": pair[i] for name, pair in pairs.items() for i, axis in enumerate("hw")}
    return fields | {
        "pad_top": pad[0],
        "pad_left": pad[1],
        "batch": 2,
        "in_channels": inputs,
        "out_channels": outputs,
        "groups": groups,
    }


@pytest.mark.parametrize("case", CONVS)
def test_conv2d_and_unfold(kernels, case):
    inputs, outputs, groups, size, kernel, stride, pad, dilation = case
    x, w, bias = draw(1, 2, inputs, *size), draw(2, outputs, inputs // groups, *kernel), draw(3, outputs)
    expected = F.conv2d(double(x), double(w), double(bias), stride, pad, dilation, groups)
    y = np.full(expected.shape, 7, F32)
    fields = conv_fields(case, y)
    kernels.run("conv2d", 3, x=x, w=w, bias=bias, y=y, activation=abi.UNARY.index("relu"), **fields)
    close(y, F.relu(expected))
    per_group = inputs // groups
    k = per_group * kernel[0] * kernel[1]
    unfolded = F.unfold(torch.from_numpy(x), kernel, dilation, pad, stride).reshape(2, groups, k, -1)
    conv = abi.fill(abi.Conv2d, x=x, **fields)
    for group in range(groups):
        rows = np.full((2 * expected.shape[2] * expected.shape[3], k), 7, F32)
        kernels.run("unfold", 2, conv=conv, group_index=group, rows=rows, row_stride=k)
        np.testing.assert_array_equal(rows, unfolded[:, group].transpose(1, 2).reshape(rows.shape))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("count_pad", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"),
    [((3, 2), (2, 1), (1, 1)), ((4, 4), (4, 4), (0, 0)), ((3, 3), (2, 2), (1, 0))],
)
def test_pool2d(kernels, average, count_pad, kernel, stride, pad):
    x = draw(1, 2, 3, 13, 9)
    for ceil in (False, True):
        if average:
            expected = F.avg_pool2d(double(x), kernel, stride, pad, ceil, count_pad)
        else:
            expected = F.max_pool2d(double(x), kernel, stride, pad, 1, ceil)
        y = np.full(expected.shape, 7, F32)
        kernels.run(
            "pool2d",
            2,
            x=x,
            y=y,
            batch=2,
            channels=3,
            in_h=13,
            in_w=9,
            out_h=y.shape[2],
            out_w=y.shape[3],
            kernel_h=kernel[0],
            kernel_w=kernel[1],
            stride_h=stride[0],
            stride_w=stride[1],
            pad_top=pad[0],
            pad_left=pad[1],
            pad_bottom=pad[0],
            pad_right=pad[1],
            dilation_h=1,
            dilation_w=1,
            average=int(average),
            count_pad=int(count_pad),
        )
        close(y, expected)


@pytest.mark.parametrize("k", [1, 17, 384, 1000])
def test_norms_match_torch_in_place_and_out(kernels, k):
    x, gamma, beta = draw(1, 6, k) * 3 + 1, draw(2, k), draw(3, k)
    x[2] = 0
    wide, mean = double(x), (double(x) ** 2).mean(1, keepdim=True)
    rms = wide / (mean + 1e-5).sqrt()
    expected = [
        F.layer_norm(wide, (k,), double(gamma), double(beta), 1e-5),
        rms * double(gamma),
        rms * (1 + double(gamma)),
    ]
    for kind, wanted in enumerate(expected):
        y = x.copy()
        fields = {"x_stride": k, "y_stride": k, "rows": 6, "k": k, "eps": 1e-5, "kind": kind}
        kernels.run("norm", 4, x=y, gamma=gamma, beta=beta if kind == 0 else None, y=y, **fields)
        if kind == 0 and k == 1:
            np.testing.assert_allclose(y, np.tile(beta, (6, 1)), atol=1e-5)
        else:
            close(y, wanted)


@pytest.mark.parametrize("k", [1, 5, 16, 333, 700])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(kernels, k, log):
    x = draw(1, 6, k) * 10
    x[1] = 1e4 * np.arange(k)
    x[2, 0] = np.nan
    x[3, k // 2 :] = -np.inf
    x[4] = -np.inf
    y = x.copy()
    kernels.run("softmax", 2, x=y, y=y, x_stride=k, y_stride=k, rows=6, k=k, log=int(log))
    expected = (torch.log_softmax if log else torch.softmax)(double(x), 1).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-7 if not log else 1e-5)


@pytest.mark.parametrize(("interleaved", "half"), list(itertools.product([0, 1], [0, 1])))
@pytest.mark.parametrize("rotary", [8, 12])
def test_rope(kernels, interleaved, half, rotary):
    x = draw(1, 2, 5, 3, 12).swapaxes(1, 2)
    angle = draw(2, 2, 5, rotary // 2)
    full = np.repeat(angle, 2, 2) if interleaved else np.concatenate([angle, angle], 2)
    table = np.ascontiguousarray(angle if half else full)
    cos, sin = np.cos(table), np.sin(table)
    y = np.full((2, 3, 5, 12), 7, F32)
    kernels.run(
        "rope",
        3,
        x=x,
        cos=cos,
        sin=sin,
        y=y,
        batch=2,
        heads=3,
        positions=5,
        dim=12,
        rotary_dim=rotary,
        x_stride=abi.strides(x)[:3],
        y_stride=abi.strides(y)[:3],
        table_stride=abi.strides(cos)[:2],
        interleaved=interleaved,
        half_table=half,
    )
    rot = x[..., :rotary].astype(np.float64)
    pairs = rot.reshape(2, 3, 5, -1, 2) if interleaved else np.stack(np.split(rot, 2, axis=3), 4)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle[:, None])
    parts = np.stack([turned.real, turned.imag], 4)
    expected = parts.reshape(rot.shape) if interleaved else np.concatenate([parts[..., 0], parts[..., 1]], 3)
    close(y[..., :rotary], expected)
    np.testing.assert_array_equal(y[..., rotary:], x[..., rotary:])


def test_channel_affine_and_embedding(kernels):
    x, scale, shift = draw(1, 2, 3, 5), draw(2, 3), draw(3, 3)
    y = np.empty_like(x)
    kernels.run("channel_affine", 2, x=x, scale=scale, shift=shift, y=y, rows=6, channels=3, k=5)
    close(y, x * scale[:, None] + shift[:, None], 1e-6)
    table = torch.randn(9, 33)
    ids, status = np.array([8, 0, 9, 3]), np.zeros(1, np.int32)
    for code, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16)):
        stored = table.to(dtype).view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()
        out = np.full((4, 33), 7, F32)
        kernels.run(
            "embedding",
            2,
            ids=ids,
            table=stored,
            y=out,
            count=4,
            rows=9,
            k=33,
            table_dtype=code,
            status=status,
        )
        np.testing.assert_array_equal(out[[0, 1, 3]], table.to(dtype).float()[[8, 0, 3]])
        assert not out[2].any()
    assert status[0] == 1
