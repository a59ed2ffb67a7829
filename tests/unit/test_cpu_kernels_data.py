"""Data movement, conversions and reductions against numpy and torch."""

import numpy as np
import pytest
import torch

from tests.unit import cpu_kernels_abi as abi

F32 = np.float32


def dtype_of(array):
    return abi.DTYPES[array.dtype.name]


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, F32, np.int64])
def test_where_and_copy_move_every_element_size(kernels, dtype):
    rng = np.random.default_rng(3)
    condition, a = rng.random((4, 1, 9)) > 0.5, rng.integers(0, 99, (5, 9)).astype(dtype)
    b = np.array(7, dtype)
    y = np.empty((4, 5, 9), dtype)
    kernels.run(
        "where",
        3,
        condition=condition,
        a=a,
        b=b,
        y=y,
        shape=abi.shape(y.shape),
        condition_stride=abi.strides(condition, y.shape),
        a_stride=abi.strides(a, y.shape),
        b_stride=abi.strides(b, y.shape),
        y_stride=abi.strides(y),
        element_size=a.itemsize,
    )
    np.testing.assert_array_equal(y, np.where(condition, a, b))
    for source in (y.transpose(2, 0, 1), y[:, ::-2, 3:], np.broadcast_to(b, (3, 4)), y):
        target = np.zeros(source.shape, dtype)
        kernels.run(
            "copy",
            4,
            x=source,
            y=target,
            shape=abi.shape(source.shape),
            x_stride=abi.strides(source),
            y_stride=abi.strides(target),
            element_size=a.itemsize,
        )
        np.testing.assert_array_equal(target, source)


CASTS = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float64,
]


@pytest.mark.parametrize("source", range(9))
@pytest.mark.parametrize("target", range(9))
def test_cast_matches_torch_within_range(kernels, source, target):
    x = torch.tensor(
        [0.0, 1, 2.5, 3.5, 100.25, 7.9, 0.1, 65519.0, 1e-8, 5e-8] if source in (0, 8) else [0.0, 1, 2, 64, 100]
    )
    if target in (5, 6):
        x = x.clamp(max=100)
    x = x.to(CASTS[source])
    raw, y = x.view(torch.uint8).numpy(), torch.empty(len(x), dtype=CASTS[target])
    kernels.run(
        "cast",
        2,
        x=raw,
        y=y.view(torch.uint8).numpy(),
        shape=abi.shape((len(x),)),
        x_stride=(1,),
        y_stride=(1,),
        x_dtype=source,
        y_dtype=target,
    )
    np.testing.assert_array_equal(y.double().numpy(), x.to(CASTS[target]).double().numpy())


def cast(kernels, x, y, x_dtype, y_dtype):
    shape = abi.shape(x.shape)
    kernels.run(
        "cast",
        x=x,
        y=y,
        shape=shape,
        x_stride=abi.strides(x),
        y_stride=(1,),
        x_dtype=x_dtype,
        y_dtype=y_dtype,
    )
    return y


def test_half_conversions_are_exact_on_all_patterns(kernels):
    patterns = np.arange(65536, dtype=np.uint16)
    as_float = cast(kernels, patterns, np.empty(65536, F32), abi.F16, abi.F32)
    np.testing.assert_array_equal(as_float, patterns.view(np.float16).astype(F32))
    numbers = np.concatenate([as_float, np.nextafter(as_float, F32(np.inf)), np.nextafter(as_float, F32(-np.inf))])
    numbers = np.concatenate([numbers, (as_float[:-1] + as_float[1:]) / 2])
    for code, dtype in ((abi.F16, torch.float16), (abi.BF16, torch.bfloat16)):
        back = cast(kernels, numbers, np.empty(len(numbers), np.uint16), abi.F32, code)
        expected = torch.from_numpy(numbers).to(dtype)
        actual = torch.from_numpy(back.view(np.int16)).view(dtype)
        np.testing.assert_array_equal(actual.float().numpy(), expected.float().numpy())


def test_float_to_integer_saturates(kernels):
    x = np.array([np.nan, 1e30, -1e30, np.inf, 300, -2.9], F32)
    shape = {abi.I32: np.int32, abi.I64: np.int64, abi.I8: np.int8, abi.U8: np.uint8}
    for code, dtype in shape.items():
        info = np.iinfo(dtype)
        y = cast(kernels, x, np.empty(6, dtype), abi.F32, code)
        expected = [0, info.max, info.min, info.max, min(300, info.max), max(-2, info.min)]
        np.testing.assert_array_equal(y, np.array(expected, dtype))


def reduce(kernels, op, x, axis, out_dtype, pieces=2):
    rest = np.moveaxis(x, axis, -1)
    y = np.full(rest.shape[:-1], 7, out_dtype)
    steps = abi.strides(rest)
    kernels.run(
        "reduce",
        pieces,
        x=x,
        y=y,
        shape=abi.shape(y.shape),
        x_stride=steps[:-1],
        y_stride=abi.strides(y),
        length=rest.shape[-1],
        axis_stride=steps[-1],
        op=abi.REDUCE.index(op),
        dtype=dtype_of(x),
    )
    return y


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("length", [1, 3, 100])
def test_float_reductions(kernels, axis, length):
    dims = [4, 5, 6]
    dims[axis] = length
    x = np.random.default_rng(4).standard_normal(dims).astype(F32)
    wide = x.astype(np.float64)
    for op, function in (
        ("sum", np.sum),
        ("mean", np.mean),
        ("prod", np.prod),
        ("max", np.max),
        ("min", np.min),
    ):
        np.testing.assert_allclose(reduce(kernels, op, x, axis, F32), function(wide, axis), rtol=1e-5, atol=1e-5)
    x[0, 0, 0] = np.nan
    index = tuple(0 for a in range(3) if a != axis)
    for op in ("max", "min", "sum"):
        assert np.isnan(reduce(kernels, op, x, axis, F32)[index])
    for op, function in (("argmax", torch.argmax), ("argmin", torch.argmin)):
        np.testing.assert_array_equal(
            reduce(kernels, op, x, axis, np.int64), function(torch.from_numpy(x), axis).numpy()
        )
    mask = (x > 0.5).astype(F32)
    np.testing.assert_array_equal(reduce(kernels, "any", mask, axis, bool), mask.any(axis))
    np.testing.assert_array_equal(reduce(kernels, "all", mask, axis, bool), mask.all(axis))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, bool])
def test_integer_reductions_and_empty_ones(kernels, dtype):
    low, high = (0, 2) if dtype is bool else (-3, 4)
    x = np.random.default_rng(5).integers(low, high, (4, 9)).astype(dtype)
    for op, function in (("sum", np.sum), ("prod", np.prod)):
        np.testing.assert_array_equal(reduce(kernels, op, x, 1, np.int64), function(x.astype(np.int64), 1))
    for op, function in (("max", np.max), ("min", np.min)):
        np.testing.assert_array_equal(reduce(kernels, op, x, 1, dtype), function(x, 1))
    for op, function in (("any", np.any), ("all", np.all)):
        np.testing.assert_array_equal(reduce(kernels, op, x, 0, bool), function(x, 0))
    np.testing.assert_array_equal(reduce(kernels, "argmax", x, 1, np.int64), np.argmax(x, 1))
    np.testing.assert_array_equal(reduce(kernels, "sum", x[:, :0], 1, np.int64), np.zeros(4))


def test_cumsum_and_iota(kernels):
    x = np.random.default_rng(6).standard_normal((3, 50, 4)).astype(F32)
    y = np.empty_like(x)
    for source, target, wide in ((x, y, np.float64), ((x > 0), np.empty(x.shape, np.int64), np.int64)):
        kernels.run(
            "cumsum",
            5,
            x=source,
            y=target,
            shape=abi.shape((3, 4)),
            x_stride=(200, 1),
            y_stride=(200, 1),
            length=50,
            x_axis_stride=4,
            y_axis_stride=4,
            dtype=dtype_of(source),
        )
        np.testing.assert_allclose(
            target,
            np.cumsum(source, 1, dtype=wide),
            rtol=1e-6,
            atol=1e-6,
        )
    for dtype in (F32, np.int64, np.int32):
        z = np.empty(11, dtype)
        kernels.run("iota", 2, y=z, count=11, start=-4, step=3, dtype=abi.DTYPES[z.dtype.name])
        np.testing.assert_array_equal(z, np.arange(11) * 3 - 4)


def index(kernels, x, indices, dims, y_dtype=None, *, y=None, write=False, axes=(0,), rest=(), status=None):
    """Index `axes` of x by arrays broadcast over the leading iteration dimensions; `rest` axes follow."""
    lead = np.broadcast_shapes(*(i.shape for i in indices))
    x_stride = (0,) * len(lead) + tuple(abi.strides(x)[axis] for axis in rest)
    y = np.full(dims, 7, x.dtype) if y is None else y
    kernels.run(
        "index",
        1 if write else 3,
        x=x,
        y=y,
        shape=abi.shape(dims),
        x_stride=x_stride,
        y_stride=abi.strides(y),
        indices=len(indices),
        index=tuple(indices),
        index_stride=tuple((*abi.strides(i, lead), *(0,) * len(rest)) for i in indices),
        axis_size=tuple(x.shape[a] for a in axes),
        axis_stride=tuple(abi.strides(x)[a] for a in axes),
        element_size=x.itemsize,
        write=int(write),
        status=status,
    )
    return y


def test_index_reads_writes_wraps_and_reports(kernels):
    x = np.random.default_rng(7).standard_normal((6, 5, 4)).astype(F32)
    rows, columns, status = np.array([[5], [-1], [0]]), np.array([0, 4, -5, 2]), np.zeros(1, np.int32)
    out = index(kernels, x, [rows, columns], (3, 4, 4), axes=(0, 1), rest=(2,), status=status)
    np.testing.assert_array_equal(out, x[rows, columns])
    scattered = index(kernels, x, [rows, columns], (3, 4), axes=(0, 1), status=status)
    np.testing.assert_array_equal(scattered, x[rows, columns, 0])
    assert status[0] == 0
    cache, positions = x.copy(), np.array([4, 1])
    new = np.random.default_rng(8).standard_normal((2, 5, 4)).astype(F32)
    index(kernels, cache, [positions], new.shape, y=new, write=True, rest=(1, 2), status=status)
    expected = x.copy()
    expected[positions] = new
    np.testing.assert_array_equal(cache, expected)
    bad = index(kernels, x, [np.array([1, 6, -7])], (3, 5, 4), rest=(1, 2), status=status)
    assert status[0] == 1
    assert not bad[1:].any()
    np.testing.assert_array_equal(bad[0], x[1])
    before = cache.copy()
    index(kernels, cache, [np.array([6, -7])], new.shape, y=new, write=True, rest=(1, 2), status=status)
    np.testing.assert_array_equal(cache, before)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(kernels, axis):
    x = torch.randn(4, 5, 6)
    at = torch.randint(0, x.shape[axis], (3, 4, 5))
    y, status = np.empty((3, 4, 5), F32), np.zeros(1, np.int32)
    kernels.run(
        "gather",
        2,
        x=x.numpy(),
        index=at.numpy(),
        y=y,
        shape=abi.shape((3, 4, 5)),
        x_stride=x.stride(),
        index_stride=at.stride(),
        y_stride=abi.strides(y),
        axis=axis,
        element_size=4,
        axis_size=x.shape[axis],
        status=status,
    )
    np.testing.assert_array_equal(y, torch.gather(x, axis, at))
