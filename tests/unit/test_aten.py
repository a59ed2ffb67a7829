"""Every ATen operator that the front end takes, against torch: as traced and decomposed, at several sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from qcc.frontend.aten_table import IN_PLACE, TABLE
from qcc.frontend.export import import_program
from qcc.frontend.views import ALIASES
from qcc.interpreter import Interpreter

aten = torch.ops.aten


class Body(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape) * 7 + len(shape))
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.4
    if not dtype.is_floating_point:
        return torch.randint(0, 3, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(lead: int, *tails: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    made: list[torch.Tensor] = []
    for tail in tails:
        dtype = tail[-1] if tail and isinstance(tail[-1], torch.dtype) else torch.float64
        made.append(draw(lead, *[one for one in tail if isinstance(one, int)], dtype=dtype))
    return tuple(made)


# twice the spacing of each type's numbers near one, or what a few roundings amount to
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def check(
    function: Callable[..., Any],
    *tails: tuple[Any, ...],
    dynamic: bool = True,
    exact: bool = False,
    tolerance: float | None = None,
) -> None:
    """Compare a function of tensors [n, *tail] with torch's result, for n of 5 (traced), 1 and 8."""
    example = inputs(5, *tails)
    shapes = (tuple({0: Dim.DYNAMIC} for _ in tails),) if dynamic else None
    with torch.no_grad():
        program = torch.export.export(Body(function), example, dynamic_shapes=shapes)
    for one in (program, program.run_decompositions()):
        imported = import_program(one)
        runner = Interpreter(imported.module, imported.store)
        for lead in (5, 1, 8) if dynamic else (5,):
            given = inputs(lead, *tails)
            names = [leaf.name for leaf in imported.inputs if leaf.name is not None]
            found = list(runner.run(dict(zip(names, given, strict=True))).values())
            wanted = function(*given)
            wanted = list(wanted) if isinstance(wanted, tuple | list) else [wanted]
            for mine, theirs in zip(found, wanted, strict=True):
                assert mine.dtype == theirs.dtype
                assert mine.shape == theirs.shape
                allowed = TOLERANCE.get(theirs.dtype, 0.0) if tolerance is None else tolerance
                bound = 0.0 if exact else allowed
                torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound, equal_nan=True)


ONE = [(3,)]
TWO = [(4, 3), (4, 3)]
I64, I32, BOOL, F32, F16, BF16 = torch.int64, torch.int32, torch.bool, torch.float32, torch.float16, torch.bfloat16

Case = tuple[Callable[..., Any], list[tuple[Any, ...]]]

ELEMENTWISE: dict[str, Case] = {
    "abs": (torch.abs, ONE),
    "neg_int": (torch.neg, [(3, I64)]),
    "exp": (torch.exp, ONE),
    "log": (lambda x: torch.log(x), ONE),
    "sqrt_of_int": (torch.sqrt, [(3, I64)]),
    "rsqrt": (lambda x: torch.rsqrt(x.abs()), ONE),
    "reciprocal": (torch.reciprocal, ONE),
    "sin_cos_tanh": (lambda x: torch.sin(x) + torch.cos(x) * torch.tanh(x), ONE),
    "erf": (torch.erf, ONE),
    "sigmoid": (torch.sigmoid, ONE),
    "relu": (torch.relu, ONE),
    "silu": (F.silu, ONE),
    "gelu": (F.gelu, ONE),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), ONE),
    "hardswish": (lambda x: F.hardswish(4 * x), ONE),
    "hardsigmoid": (lambda x: F.hardsigmoid(4 * x), ONE),
    "relu6": (lambda x: F.relu6(6 * x), ONE),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), ONE),
    "elu": (lambda x: F.elu(x, 1.3), ONE),
    "selu": (F.selu, ONE),
    "softplus": (lambda x: F.softplus(30 * x), ONE),
    "floor_ceil_trunc": (lambda x: (torch.floor(3 * x), torch.ceil(3 * x), torch.trunc(3 * x)), ONE),
    "sign": (lambda x: torch.sign(x), ONE),
    "square": (torch.square, ONE),
    "isnan_isinf": (lambda x: (torch.isnan(x / 0), torch.isinf(x / 0)), [(3, I64)]),
    "logical_not": (torch.logical_not, [(3, I64)]),
    "bitwise_not": (lambda x, y: (~x, ~y), [(3, I64), (3, BOOL)]),
    "add_alpha": (lambda x, y: torch.add(x, y, alpha=2.5), TWO),
    "sub_alpha": (lambda x, y: torch.sub(x, y, alpha=-2), TWO),
    "rsub": (lambda x: 3 - x, ONE),
    "rsub_alpha": (lambda x, y: torch.rsub(x, y, alpha=2), TWO),
    "int_plus_float": (lambda x: x + 1.5, [(3, I64)]),
    "int_times_size": (lambda x: x * x.shape[0], [(3, I64)]),
    "float_plus_size": (lambda x: x + x.shape[0] * 2, ONE),
    "bool_plus_bool": (lambda x, y: x + y, [(3, BOOL), (3, BOOL)]),
    "bool_times_int": (lambda x: x * 3, [(3, BOOL)]),
    "int_div_int": (lambda x, y: x / (y + 1), [(3, I64), (3, I64)]),
    "int_div_float": (lambda x: x / 2.0, [(3, I32)]),
    "f16_times_number": (lambda x: x * 0.5, [(3, F16)]),
    "bf16_plus_f32": (lambda x, y: x + y, [(3, BF16), (3, F32)]),
    "f32_plus_rank0_f64": (lambda x, y: x + y.sum(), [(3, F32), (3,)]),
    "i32_plus_i64": (lambda x, y: x + y, [(3, I32), (3, I64)]),
    "floor_division": (lambda x, y: (torch.div(x, y, rounding_mode="floor"), x // 0.7), TWO),
    "int_floor_division": (lambda x: (x - 1) // 2, [(3, I64)]),
    "trunc_division": (lambda x, y: torch.div(3 * x, y, rounding_mode="trunc"), TWO),
    "int_trunc_division": (lambda x, y: torch.div(3 * x - 4, 2 * y - 3, rounding_mode="trunc"), [(3, I64), (3, I64)]),
    "fmod": (lambda x, y: (torch.fmod(x, y), torch.fmod(-3 * x, 0.7)), TWO),
    "log1p_expm1": (lambda x: (torch.log1p(x.abs() * 1e-9), torch.expm1(x * 1e-9), torch.expm1(9 * x)), ONE),
    "remainder": (lambda x, y: (torch.remainder(x, y), x % 0.7), TWO),
    "int_remainder": (lambda x: (x - 1) % 2, [(3, I64)]),
    "extrema": (lambda x, y: (torch.maximum(x, y), torch.minimum(x, y), torch.max(x, y)), TWO),
    "bitwise": (lambda x, y: (x & y, x | y, x ^ y, x & 1), [(3, I64), (3, I64)]),
    "logical": (lambda x, y: (torch.logical_and(x, y), torch.logical_or(x, y), torch.logical_xor(x, y)), TWO),
    "compare_int_float": (lambda x: (x > 0.5, x == 1, x <= 1.5, x != 2), [(3, I64)]),
    "compare_tensors": (lambda x, y: (x < y, x >= y, x == y), [(3,), (3, I64)]),
    "compare_f16_f32": (lambda x, y: x.lt(y), [(3, F16), (3, F32)]),
    "powers": (lambda x: (x**2, x**3, x**4, x.abs() ** 0.5, x.abs() ** -0.5, x**-1, x**1), ONE),
    "power_of_tensor": (lambda x, y: (x.abs() ** y, 2.0**x), TWO),
    "where": (lambda x, y: (torch.where(x > y, x, y), torch.where(x > 0, x, 1), torch.where(x > 0, 0.0, y)), TWO),
    "where_numbers": (lambda x: torch.where(x > 0, 1.0, 2.0), ONE),
    "masked_fill": (lambda x: (x.masked_fill(x > 0, -1e9), x.masked_fill(x > 0, x.sum())), ONE),
    "clamp": (lambda x: (x.clamp(-0.5, 0.7), x.clamp(min=0), x.clamp_max(0.2), x.clamp_min(0.1)), ONE),
    "clamp_tensor": (lambda x, y: torch.clamp(x, max=y), TWO),
    "hardtanh": (lambda x: F.hardtanh(x, -0.3, 0.4), ONE),
    "addcmul": (lambda x, y: (torch.addcmul(x, y, y, value=0.5), torch.addcdiv(x, x, y, value=2)), TWO),
    "type_changes": (lambda x: (x.float(), x.half().double(), x.to(torch.int64), x.bool(), x.to(x.dtype)), ONE),
    "type_as": (lambda x, y: (x.type_as(y), x.to(y)), [(3,), (3, F32)]),
}

SHAPES: dict[str, Case] = {
    "view": (lambda x: (x.view(-1, 6), x.view(x.shape[0], 12), x.view(x.shape[0] * 2, 6)), [(4, 3)]),
    "reshape_transposed": (lambda x: x.transpose(1, 2).reshape(x.shape[0], -1), [(4, 3)]),
    "flatten": (lambda x: (x.flatten(), x.flatten(1), x.unflatten(1, (2, 2))), [(4, 3)]),
    "squeeze": (lambda x: (x[:, :1].squeeze(1), x[:, None].squeeze((1,)), x.unsqueeze(-1)), [(4, 3)]),
    "permute": (lambda x: (x.permute(2, 0, 1), x.mT, x[0].t(), x.swapaxes(0, -1), x.movedim(0, -1)), [(4, 3)]),
    "expand": (lambda x: (x.expand(2, -1, 4), x[:, :1].expand(-1, 5), x.expand_as(x)), [(4,)]),
    "broadcast_to": (lambda x: torch.broadcast_to(x, (3, x.shape[0], 4)), [(4,)]),
    "repeat": (lambda x: (x.repeat(2, 3), x.repeat(3, 1, 2), x.tile(2)), [(4,)]),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, dim=1), [(4,)]),
    "slice": (lambda x: (x[:, 1:3], x[:, ::2], x[:, -2:], x[:, :-1], x[:, 1:100]), [(4,)]),
    "slice_dynamic": (lambda x: (x[:1], x[: x.shape[0] // 2], x[-1:]), [(4,)]),
    "select": (lambda x: (x[:, 2], x[:, -1], x[-1], x[0]), [(4,)]),
    "narrow": (lambda x: x.narrow(1, 1, 2), [(4,)]),
    "split": (lambda x: (*x.split(2, 1), *x.split([1, 4], dim=1), *x.chunk(2, 1), *x.unbind(1)), [(5,)]),
    "cat": (lambda x, y: (torch.cat([x, y], 0), torch.cat([x, y.float()], 1), torch.stack([x, y], 1)), TWO),
    "cat_empty": (lambda x: torch.cat([torch.zeros(0, dtype=x.dtype), x], 1), [(4,)]),
    "pad": (lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=3.5), F.pad(x, (-1, 2))), [(4, 3)]),
    "roll": (lambda x: (x.roll(1, 1), x.roll(-1, 0), x.roll((1, 1), (1, 2))), [(4, 3)]),
    "flip": (lambda x: x.flip([0, 2]), [(4, 3)]),
    "diff": (lambda x: (x.diff(dim=1), x.diff(n=2, dim=-1), x.diff(dim=1, prepend=x[:, :1])), [(4,)]),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), [(8, 3, 5)]),
    "scatters": (
        lambda x, y: (torch.slice_scatter(x, y[:, :2], 1, 1, 3), torch.select_scatter(x, y[:, 0], 1, 2)),
        [(4,), (4,)],
    ),
    "contiguous": (lambda x: (x.transpose(1, 2).contiguous(), x.clone(), x.detach()), [(4, 3)]),
}

INDEX: dict[str, Case] = {
    "embedding": (lambda i: F.embedding(i, torch.arange(12.0).view(3, 4)), [(6, I64)]),
    "index_one": (lambda x, i: x[:, i[0]], [(5,), (4, I64)]),
    "index_adjacent": (lambda x, i: x[:, i[0], i[0]], [(5, 4), (4, I64)]),
    "index_apart": (lambda x, i: x[i[0] * 0, :, i[0]], [(4, 3), (4, I64)]),
    "index_broadcast": (lambda x, i: x[i[0].view(-1, 1) * 0, i[0].view(1, -1)], [(5, 2), (4, I64)]),
    "index_negative": (lambda x, i: x[:, -1 - i[0]], [(5,), (4, I64)]),
    "index_select": (lambda x, i: x.index_select(1, i[0]), [(5,), (4, I64)]),
    "gather": (lambda x, i: x.gather(1, i), [(5,), (2, I64)]),
    "one_hot": (lambda i: F.one_hot(i, 4), [(2, I64)]),
    "index_put": (lambda x, i: x.index_put((i[:, 0] * 0, i[:, 1]), x[0, 0]), [(5,), (2, I64)]),
    "mask_put": (lambda x: (x.index_put((x > 0,), torch.tensor(7.0, dtype=x.dtype)),), [(5,)]),
    "index_copy": (lambda x: x.index_copy(1, torch.tensor([2, 0]), x[:, 1:3]), [(5,)]),
    "index_fill": (lambda x: x.index_fill(1, torch.tensor([2, 0]), 4.0), [(5,)]),
}

REDUCE: dict[str, Case] = {
    "sum": (lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.sum(-1, dtype=torch.float32)), [(4, 3)]),
    "sum_bool": (lambda x: (x.sum(1), x.sum()), [(4, BOOL)]),
    "mean": (lambda x: (x.mean(), x.mean(-1, keepdim=True), x.mean((1, 2))), [(4, 3)]),
    "extrema": (lambda x: (x.max(), x.min(), x.amax(1), x.amin((0, 1)), *x.max(1), *x.min(-1, True)), [(4, 3)]),
    "argmax": (lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True)), [(4, 3)]),
    "any_all": (lambda x: (x.any(), x.all(), x.any(1), x.all(-1, keepdim=True), (x > 0).any(1)), [(4, I64)]),
    "var": (lambda x: (x.var(1), x.var(1, unbiased=False), x.std((1, 2)), x.var(correction=2)), [(4, 3)]),
    "var_dynamic": (lambda x: (x.var(0, correction=0), x.std(correction=0)), [(4, 3)]),
    "vector_norm": (lambda x: (torch.linalg.vector_norm(x, dim=1), x.norm(dim=-1)), [(4, 3)]),
    "cumsum": (lambda x: (x.cumsum(1), (x > 0).cumsum(0)), [(4,)]),
    "softmax": (lambda x: (x.softmax(-1), x.softmax(0), F.softmax(x, 1, dtype=torch.float32)), [(4, 3)]),
    "log_softmax": (lambda x: (x.log_softmax(1), torch.logsumexp(x, 1)), [(4, 3)]),
}

CREATE: dict[str, Case] = {
    "arange": (lambda x: (torch.arange(x.shape[0]), torch.arange(1, 9, 2), torch.arange(3, dtype=torch.float32)), ONE),
    "arange_float": (lambda x: torch.arange(0.5, 3.0, 0.25), ONE),
    "filled": (lambda x: (torch.zeros(x.shape[0], 2), torch.ones_like(x), torch.full((2, 3), 7), x.new_ones(2)), ONE),
    "full_of_size": (lambda x: torch.full((2,), x.shape[0]), ONE),
    "scalar": (lambda x: (torch.scalar_tensor(2.5), torch.full_like(x, -torch.inf), x.new_zeros(3)), ONE),
    "linspace": (lambda x: torch.linspace(0, 1, 5, dtype=torch.float64), ONE),
    "eye": (lambda x: torch.eye(3, 4, dtype=torch.float64), ONE),
    "triangles": (lambda x: (x.tril(), x.triu(1), x.tril(-1), (x > 0).triu(), torch.ones(3, 5).tril(1)), [(4, 3)]),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    function, tails = ELEMENTWISE[name]
    check(function, *tails)


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str) -> None:
    function, tails = SHAPES[name]
    check(function, *tails, exact=True)


@pytest.mark.parametrize("name", INDEX)
def test_index(name: str) -> None:
    function, tails = INDEX[name]
    check(function, *tails, exact=True)


@pytest.mark.parametrize("name", REDUCE)
def test_reduce(name: str) -> None:
    function, tails = REDUCE[name]
    check(function, *tails)


@pytest.mark.parametrize("name", CREATE)
def test_create(name: str) -> None:
    function, tails = CREATE[name]
    check(function, *tails)


def test_every_operator_that_shares_memory_is_known_to_the_views() -> None:
    missing: list[str] = []
    for target in TABLE:
        schema = target._schema  # type: ignore[attr-defined]
        shares = any(one.alias_info is not None for one in schema.returns)
        if shares and target not in ALIASES:
            missing.append(str(target))
    assert not missing


def test_in_place_operators_compute_with_operators_of_the_table() -> None:
    for target, functional in IN_PLACE.items():
        first = target._schema.arguments[0]  # type: ignore[attr-defined]
        assert first.alias_info.is_write
        assert functional in TABLE
