"""Contractions, convolutions, norms and attention against torch, as traced and decomposed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qcc.errors import UnsupportedOp
from qcc.frontend.export import import_program
from tests.unit.test_aten import BF16, BOOL, F16, F32, I64, Body, Case, check, draw

aten = torch.ops.aten
# made here, as randomness inside a traced function would be a part of the graph
W = draw(6, 3)
B = draw(6)
T_16_BF16 = draw(16, dtype=BF16)
T_3_2_2_3_1 = draw(3, 2, 2, 3, 1)
T_4 = draw(4)
T_4_2_3_3 = draw(4, 2, 3, 3)
T_4_3 = draw(4, 3)
T_6 = draw(6)
T_6_4_3 = draw(6, 4, 3)
T_6_4_3_2 = draw(6, 4, 3, 2)
T_6_4_3_3 = draw(6, 4, 3, 3)
T_6_4_4_3 = draw(6, 4, 4, 3)
T_8_1_3_3 = draw(8, 1, 3, 3)

CONTRACTIONS: dict[str, Case] = {
    "linear": (lambda x: (F.linear(x, W, B), F.linear(x, W), F.linear(x[0], W)), [(3,)]),
    "linear_rank4": (lambda x: F.linear(x, W, B), [(2, 4, 3)]),
    "matmul_2d": (lambda x: x @ W.t(), [(3,)]),
    "matmul_batched": (lambda x, y: (x @ y.mT, x @ y[0].mT, x[0] @ y.mT), [(4, 3), (4, 3)]),
    "matmul_broadcast": (lambda x, y: x[:, None] @ y[:, None].mT.expand(-1, 2, -1, -1), [(4, 3), (4, 3)]),
    "matmul_vectors": (lambda x: (x @ x[0, 0], x[0, 0] @ x.mT, x[0, 0] @ x[0, 1]), [(4, 3)]),
    "mm_mv_dot": (lambda x: (torch.mm(x, W.t()), torch.mv(W, x[0]), torch.dot(x[0], x[0])), [(3,)]),
    "bmm": (lambda x, y: torch.bmm(x, y.mT), [(4, 3), (4, 3)]),
    "addmm": (lambda x: (torch.addmm(B, x, W.t()), torch.addmm(B, x, W.t(), beta=0.5, alpha=2)), [(3,)]),
    "addmm_without_bias": (lambda x: torch.addmm(B, x, W.t(), beta=0), [(3,)]),
    "baddbmm": (lambda x, y: torch.baddbmm(x[:, :1, :1], x, y.mT, alpha=0.25), [(4, 3), (4, 3)]),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), [(4, 3), (4, 3)]),
}

NORMS: dict[str, Case] = {
    "layer_norm": (lambda x: (F.layer_norm(x, (3,), W[0], W[1], 1e-3), F.layer_norm(x, (3,))), [(4, 3)]),
    "layer_norm_two_axes": (lambda x: F.layer_norm(x, (4, 3), T_4_3, T_4_3 + 1), [(4, 3)]),
    "layer_norm_half": (lambda x: F.layer_norm(x, (16,), T_16_BF16), [(16, BF16)]),
    "rms_norm": (lambda x: (F.rms_norm(x, (3,), W[0], 1e-3), F.rms_norm(x, (3,))), [(4, 3)]),
    "group_norm": (lambda x: (F.group_norm(x, 2, T_4, T_4), F.group_norm(x, 4)), [(4, 3, 5)]),
    "batch_norm": (
        lambda x: (
            F.batch_norm(x, T_4, T_4.abs(), T_4, T_4),
            F.batch_norm(x[:, :, 0], T_4, T_4.abs()),
        ),
        [(4, 3)],
    ),
    "dropout": (lambda x: (F.dropout(x, 0.5, False), F.dropout2d(x, 0.5, False)), [(4, 3, 2)]),
}

SPATIAL: dict[str, Case] = {
    "conv1d": (lambda x: F.conv1d(x, T_6_4_3, T_6, stride=2, padding=1), [(4, 9)]),
    "conv2d": (lambda x: F.conv2d(x, T_6_4_3_2, T_6, stride=(2, 1), padding=(1, 0)), [(4, 9, 8)]),
    "conv2d_dilated": (lambda x: F.conv2d(x, T_6_4_3_3, dilation=2, padding=2), [(4, 9, 8)]),
    "conv2d_groups": (lambda x: F.conv2d(x, T_8_1_3_3, groups=4), [(4, 9, 8)]),
    "conv2d_same": (lambda x: F.conv2d(x, T_6_4_4_3, padding="same"), [(4, 9, 8)]),
    "conv2d_valid": (lambda x: F.conv2d(x, T_6_4_4_3, padding="valid"), [(4, 9, 8)]),
    "conv2d_unbatched": (lambda x: F.conv2d(x[0], T_6_4_3_3), [(4, 9, 8)]),
    "conv3d": (lambda x: F.conv3d(x, T_3_2_2_3_1), [(2, 4, 5, 3)]),
    "max_pool": (lambda x: (F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, (2, 3))), [(4, 9, 8)]),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2), [(4, 9)]),
    "avg_pool": (lambda x: (F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2, count_include_pad=False)), [(4, 9, 8)]),
    "avg_pool_valid": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), [(4, 9, 8)]),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2), [(4, 9)]),
    "pool_ceil": (lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), [(4, 8, 8)]),
    "adaptive": (lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (3, 4))), [(4, 9, 8)]),
    "adaptive_max": (lambda x: F.adaptive_max_pool2d(x, 1), [(4, 9, 8)]),
    "adaptive_1d": (lambda x: F.adaptive_avg_pool1d(x, 3), [(4, 9)]),
    "upsample": (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), [(4, 3, 5)]),
}

ATTENTION: dict[str, Case] = {
    "plain": (lambda q, k: F.scaled_dot_product_attention(q, k, k + 1), [(2, 4, 8), (2, 6, 8)]),
    "causal": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), [(2, 4, 8)]),
    "scale": (lambda q: F.scaled_dot_product_attention(q, q, q, scale=0.3), [(2, 4, 8)]),
    "bool_mask": (
        lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m[:, None]),
        [(2, 4, 8), (4, 4, BOOL)],
    ),
    "row_without_keys": (
        lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(4, 4, dtype=torch.bool)),
        [(2, 4, 8)],
    ),
    "float_mask": (lambda q, m: F.scaled_dot_product_attention(q, q, q, m[:, None]), [(2, 4, 8), (4, 4)]),
    "rank3": (lambda q, m: F.scaled_dot_product_attention(q, q, q, m), [(4, 8), (4, 4)]),
    "rank3_mask_rank2": (lambda q, m: F.scaled_dot_product_attention(q, q, q, m[0]), [(4, 8), (4, 4)]),
    "rank5": (lambda q: F.scaled_dot_product_attention(q, q, q), [(2, 3, 4, 8)]),
    "grouped": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
        [(6, 4, 8), (2, 5, 8)],
    ),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contraction(name: str) -> None:
    function, tails = CONTRACTIONS[name]
    check(function, *tails)


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str) -> None:
    function, tails = NORMS[name]
    check(function, *tails)


@pytest.mark.parametrize("name", SPATIAL)
def test_spatial(name: str) -> None:
    function, tails = SPATIAL[name]
    check(function, *tails)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str) -> None:
    function, tails = ATTENTION[name]
    check(function, *tails)


def test_autocast_casts_the_operands_of_contractions() -> None:
    weight, bias = draw(6, 3, dtype=F32), draw(6, dtype=F32)

    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = F.linear(x, weight, bias)
            return F.layer_norm(y @ y.mT, (4,)) if y.shape[-2] == 4 else y

    # products rounded to bfloat16 differ by its last bit, which the norm scales up
    check(function, (4, 3, F32), tolerance=0.05)


REFUSED: dict[str, tuple[Callable[..., Any], tuple[int, ...], str]] = {
    "transposed": (lambda x: F.conv_transpose2d(x, T_4_2_3_3), (1, 4, 5, 5), "transposed"),
    "pool_dilation": (lambda x: F.max_pool2d(x, 2, 1, 0, 2), (1, 4, 5, 5), "dilation"),
    "ceil_mode": (lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), (1, 4, 5, 5), "ceil_mode"),
    "training": (lambda x: F.batch_norm(x, None, None, training=True), (2, 4, 5, 5), "model.eval()"),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 3), (1, 4, 5, 5), "adaptive pooling of 5"),
    "reflect": (lambda x: F.pad(x, (1, 1), mode="reflect"), (1, 4, 5), "reflect"),
    "sort": (lambda x: x.sort(-1).values, (4,), "aten.sort.default"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_reason_and_the_line(name: str) -> None:
    function, shape, reason = REFUSED[name]
    program = torch.export.export(Body(function), (draw(*shape),))
    with pytest.raises(UnsupportedOp) as caught:
        import_program(program)
    assert reason in str(caught.value)
    assert "test_aten" in caught.value.problems[0].where


def test_half_precision_linear_keeps_its_element_type() -> None:
    module = nn.Linear(8, 4).to(F16)
    check(lambda x: module(x) + module(x[:1]), (8, F16), dynamic=False)


def test_integer_inputs_of_embedding_may_be_narrow() -> None:
    table = draw(5, 3)
    check(lambda i: F.embedding(i, table), (4, torch.int32))
    check(lambda i: F.embedding(i + 1, table, padding_idx=0), (4, I64))
