"""Strided elementwise kernels, reductions and data movement against numpy and torch."""

import itertools

import numpy as np
import pytest
import torch

from tests.unit import cpu_kernels_abi as abi

F32 = np.float32
HARD = np.array(
    [0, -0.0, 1, -1, 0.5, 2.5, -2.5, 88.8, -88.8, 104, -104, 1e-30, -1e30, 1e-44, np.inf, -np.inf, np.nan],
    F32,
)


def dtype_of(array):
    return abi.DTYPES[array.dtype.name]


def unary(kernels, op, x, y=None, p0=0.0, p1=0.0, pieces=3):
    y = np.empty(x.shape, x.dtype) if y is None else y
    kernels.run(
        "unary",
        pieces,
        x=x,
        y=y,
        shape=abi.shape(x.shape),
        x_stride=abi.strides(x),
        y_stride=abi.strides(y),
        op=abi.UNARY.index(op),
        dtype=dtype_of(x),
        p0=p0,
        p1=p1,
    )
    return y


def binary(kernels, op, a, b, pieces=3):
    dims = np.broadcast_shapes(a.shape, b.shape)
    y = np.empty(dims, bool if abi.BINARY.index(op) >= abi.BINARY.index("eq") else a.dtype)
    kernels.run(
        "binary",
        pieces,
        a=a,
        b=b,
        y=y,
        shape=abi.shape(dims),
        a_stride=abi.strides(a, dims),
        b_stride=abi.strides(b, dims),
        y_stride=abi.strides(y),
        op=abi.BINARY.index(op),
        dtype=dtype_of(a),
    )
    return y


FUNCTIONS = {
    "copy": lambda x: x,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "square": torch.square,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "hard_sigmoid": torch.nn.functional.hardsigmoid,
    "hard_swish": torch.nn.functional.hardswish,
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_unary_functions_are_accurate_and_keep_special_values(kernels, op):
    x = np.concatenate([HARD, np.linspace(-100, 100, 4001), np.linspace(-2, 2, 2001)]).astype(F32)
    expected = FUNCTIONS[op](torch.from_numpy(x).double()).float().numpy()
    if op == "sign":
        expected[np.isnan(x)] = np.nan  # torch gives 0; a NaN should not vanish
    smallest = {"exp": 3e-45, "sigmoid": 3e-39}  # sigmoid meets the overflow of exp(-x)
    tiny = smallest.get(op, 1e-37)
    np.testing.assert_allclose(unary(kernels, op, x), expected, rtol=1e-6, atol=tiny)


@pytest.mark.parametrize("op", ["silu", "gelu", "gelu_tanh"])
def test_activations(kernels, op):
    x = np.concatenate([np.linspace(-30, 30, 4001), np.linspace(-3, 3, 999), [np.nan, np.inf, 0]]).astype(F32)
    wide = torch.from_numpy(x).double()
    functional = torch.nn.functional
    expected = (
        functional.silu(wide)
        if op == "silu"
        else functional.gelu(wide, approximate="tanh" if op == "gelu_tanh" else "none")
    )
    np.testing.assert_allclose(unary(kernels, op, x), expected.numpy(), rtol=1e-6, atol=6e-7)


@pytest.mark.parametrize(
    ("op", "p0", "p1", "function"),
    [
        ("clamp", -1.5, 2.0, lambda x: torch.clamp(x, -1.5, 2.0)),
        ("clamp", -np.inf, 6.0, lambda x: torch.clamp(x, max=6.0)),
        ("leaky_relu", 0.1, 0, lambda x: torch.nn.functional.leaky_relu(x, 0.1)),
        ("elu", 1.5, 0, lambda x: torch.nn.functional.elu(x, 1.5)),
        ("softplus", 2.0, 20.0, lambda x: torch.nn.functional.softplus(x, 2.0, 20.0)),
        ("add_scalar", 0.3, 0, lambda x: x + F32(0.3).item()),
        ("mul_scalar", 0.3, 0, lambda x: x * F32(0.3).item()),
        ("pow_scalar", 3.0, 0, lambda x: x**3),
    ],
)
def test_parametric_unary(kernels, op, p0, p1, function):
    x = np.concatenate([np.linspace(-30, 30, 501), [np.nan]]).astype(F32)
    np.testing.assert_allclose(
        unary(kernels, op, x, p0=p0, p1=p1),
        function(torch.from_numpy(x).double()).numpy(),
        rtol=2e-6,
        atol=1e-6,
    )


def test_unary_takes_any_strides_and_any_range(kernels):
    base = np.random.default_rng(0).standard_normal((5, 6, 7, 8)).astype(F32)
    views = [
        base.transpose(3, 1, 0, 2),
        base[::2, ::-1, 1:3],
        base[:, :1, :, ::3],
        base[0, 0, 0, :1],
        base[1:1],
    ]
    for view, pieces in itertools.product(views, (1, 7)):
        np.testing.assert_array_equal(unary(kernels, "neg", view, pieces=pieces), -view)
        wide = np.full((*view.shape, 2), 7, F32)
        unary(kernels, "neg", view, wide[..., 1], pieces=pieces)
        np.testing.assert_array_equal(wide[..., 1], -view)
        assert (wide[..., 0] == 7).all()
    scalar = np.array(3, F32)
    assert unary(kernels, "neg", scalar) == -3


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_integer_unary(kernels, dtype):
    info = np.iinfo(dtype)
    x = np.array([0, 1, -1, 5, -7, info.max, info.min + 1], dtype)
    for op, expected in [
        ("neg", -x),
        ("abs", np.abs(x)),
        ("sign", np.sign(x)),
        ("not", ~x),
        ("relu", np.maximum(x, 0)),
    ]:
        np.testing.assert_array_equal(unary(kernels, op, x), expected)
    np.testing.assert_array_equal(unary(kernels, "clamp", x, p0=-3, p1=4), np.clip(x, -3, 4))
    np.testing.assert_array_equal(unary(kernels, "not", x > 0), x <= 0)


PYTHON_BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "mod": torch.remainder,
    "floor_div": torch.floor_divide,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
}


@pytest.mark.parametrize("op", [*PYTHON_BINARY, "div", "pow"])
def test_float_binary_broadcasts(kernels, op):
    rng = np.random.default_rng(1)
    a = rng.standard_normal((4, 1, 6, 300)).astype(F32)
    b = (rng.standard_normal((5, 1, 300)) + 3).astype(F32)
    a[0, 0, 0, :3], b[0, 0, 1:4] = [np.nan, np.inf, 1], [np.nan, 1, -np.inf]
    if op in ("mod", "floor_div"):
        a, b = np.nan_to_num(a, posinf=2, neginf=2), np.nan_to_num(b, posinf=2, neginf=2)
    function = PYTHON_BINARY.get(op) or getattr(torch, op)
    expected = function(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(binary(kernels, op, a, b), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("op", PYTHON_BINARY)
def test_integer_binary(kernels, op, dtype):
    rng = np.random.default_rng(2)
    a, b = rng.integers(-50, 50, (3, 7, 5)).astype(dtype), rng.integers(-9, 9, (7, 1)).astype(dtype)
    b[b == 0] = 3
    expected = PYTHON_BINARY[op](torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(binary(kernels, op, a, b), expected)


def test_integer_division_never_traps(kernels):
    low = np.array([np.iinfo(np.int64).min, 7, -7, -7], np.int64)
    by = np.array([-1, 0, 0, 2], np.int64)
    np.testing.assert_array_equal(binary(kernels, "floor_div", low, by), [low[0], 0, 0, -4])
    np.testing.assert_array_equal(binary(kernels, "mod", low, by), [0, 0, 0, 1])
    np.testing.assert_array_equal(binary(kernels, "div", low, by), [low[0], 0, 0, -3])
    np.testing.assert_array_equal(
        binary(kernels, "pow", np.array([2, -3, 2, 1]), np.array([10, 3, -1, -5])), [1024, -27, 0, 1]
    )


def test_boolean_logic(kernels):
    a, b = np.array([[True], [False]]), np.array([True, False])
    for op, function in (
        ("and", np.logical_and),
        ("or", np.logical_or),
        ("xor", np.logical_xor),
        ("eq", np.equal),
    ):
        np.testing.assert_array_equal(binary(kernels, op, a, b), function(a, b))
