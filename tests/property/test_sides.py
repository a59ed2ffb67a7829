"""Side tensors together: split and joined, saved and loaded, and as many bits as the type counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from qcc.errors import CheckpointError, ShapeError, UnsupportedOp
from qcc.numerics.kaxis import KAxisIndex
from qcc.numerics.lowrank import LowRankFactors, low_rank
from qcc.numerics.masks import BlockIndex, NMIndex
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.qtype_parts import IntDecode, KAxis, Level, LowRank, Side
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.sides import StoredSides, from_named, join_sides, named_tensors, split_sides, with_side

SHAPES = st.sampled_from([(1, 1), (1, 37), (6, 64), (33, 3), (2, 3, 40), (7,)])
SIDES = st.lists(
    st.sampled_from(
        [
            "sparse(csr, f16, 0.05)",
            "sparse(coo, bf16, 0.5)",
            "sparse(columns, f32, 0.25)",
            "sparse(csr, e4m3, 0)",
            "sparse(coo, f32, 1)",
            "lowrank(3, f16)",
            "lowrank(2, i8)",
            "lowrank(5, i4)",
            "mask(2:4)",
            "mask(3:7)",
            "mask(bsr(1,16), 0.5)",
            "mask(bsr(2,4), 0.3)",
            "kaxis(perm)",
            "kaxis(perm, g_idx)",
            "fuse_group(qkv)",
            "rotate(8)",
        ]
    ),
    max_size=5,
    unique_by=lambda text: text.split("(")[0] + ("bsr" if "bsr" in text else ""),
)


def sides_of(*texts: str) -> tuple[Side, ...]:
    return parse_qtype(" | ".join(("int4 | tensor f32", *texts))).sides


def split(x: Tensor, sides: tuple[Side, ...], seed: int = 0) -> tuple[Tensor, Tensor, StoredSides]:
    """Split, quantize crudely, and fill in what only a caller can: factors and orders."""
    rest, stored = split_sides(x, sides)
    values = (rest * 2).round() / 2
    order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    for side in sides:
        if isinstance(side, LowRank):
            stored = with_side(sides, stored, low_rank(rest - values, side))
        elif isinstance(side, KAxis):
            stored = with_side(sides, stored, KAxisIndex(order, order // 4 if side.group_index else None))
    return rest, values, stored


def equal(left: object, right: object) -> bool:
    """Compare two side tensors field by field."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left.float(), right.float())
    if hasattr(left, "__dataclass_fields__"):
        return type(left) is type(right) and all(
            equal(getattr(left, name), getattr(right, name)) for name in left.__dataclass_fields__
        )
    return left == right


@given(SHAPES, SIDES, st.integers(0, 999))
@settings(max_examples=100)
def test_sides_are_joined_saved_and_loaded(shape: tuple[int, ...], texts: list[str], seed: int) -> None:
    x, sides = torch.randn(shape, generator=torch.Generator().manual_seed(seed)), sides_of(*texts)
    rest, values, stored = split(x, sides, seed)
    assert len(stored) == len(sides)
    mask = torch.ones(shape, dtype=torch.bool)
    expected = torch.zeros(shape)
    for side in stored:
        if isinstance(side, NMIndex | BlockIndex):
            mask &= side.mask()
        elif isinstance(side, LowRankFactors):
            expected = expected + side.product().reshape(shape)
        elif side is not None and not isinstance(side, KAxisIndex):
            expected = expected + side.to_dense()
    assert not rest[~mask].any()
    joined = join_sides(values + 1, stored)
    torch.testing.assert_close(joined, torch.where(mask, values + 1, 0) + expected, rtol=1e-5, atol=1e-5)
    loaded = from_named(sides, shape, load(save(named_tensors(stored))))
    assert all(map(equal, stored, loaded))
    torch.testing.assert_close(join_sides(values + 1, loaded), joined, rtol=1e-6, atol=1e-6)


def test_masks_come_before_outliers() -> None:
    x = torch.tensor([[9.0, 8, 1, 2], [7, 1, 2, 6]])
    sides = sides_of("sparse(csr, f32, 0.25)", "mask(1:2)")
    rest, stored = split_sides(x, sides)
    assert rest.tolist() == [[0, 0, 0, 2], [0, 0, 0, 6]]
    assert join_sides(rest, stored).tolist() == [[9, 0, 0, 2], [7, 0, 0, 6]]
    assert torch.equal(split_sides(x, ())[0], x)
    double = join_sides(x.double() + 1e-12, (), torch.float64)
    assert torch.equal(double, x.double() + 1e-12)
    assert join_sides(x, stored, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(10, 104), (1, 70000), (3, 2, 64), (64,), (70000, 1)])
@pytest.mark.parametrize(
    "text",
    [
        "sparse(csr, f16, 0.013)",
        "sparse(csr, f32, 0)",
        "sparse(coo, e4m3, 0.013)",
        "sparse(columns, bf16, 0.1)",
        "lowrank(8, f16)",
        "lowrank(8, i8)",
        "lowrank(8, i4)",
        "kaxis(perm)",
        "kaxis(perm, g_idx)",
    ],
)
def test_bits_counted_are_bits_saved(shape: tuple[int, ...], text: str) -> None:
    plain = QType(IntDecode(4), (Level((1, -1), "f16"),))
    sides = sides_of(text)
    _, _, stored = split(torch.randn(shape), sides)
    counted = storage_bits(QType(plain.decode, plain.levels, sides=sides), shape) - storage_bits(plain, shape)
    saved = sum(8 * tensor.nbytes for tensor in named_tensors(stored).values())
    ragged = shape[-1] % 2 if text == "lowrank(8, i4)" else 0
    assert saved == counted + ragged * 4 * 8


@pytest.mark.parametrize("shape", [(10, 104), (10, 100), (1, 70000), (3, 2, 64), (33, 37)])
@pytest.mark.parametrize("text", ["mask(2:4)", "mask(3:7)", "mask(1:2)", "mask(bsr(1,16), 0.5)", "mask(bsr(4,4), 0.3)"])
def test_bits_counted_are_bits_of_compact_codes(shape: tuple[int, ...], text: str) -> None:
    qtype = parse_qtype(f"int4 | row f16 | {text}")
    rows = torch.Size(shape[:-1]).numel()
    _, (index,) = split_sides(torch.randn(shape), qtype.sides)
    assert isinstance(index, NMIndex | BlockIndex)
    codes = index.compact(torch.ones(shape, dtype=torch.int8))
    saved = sum(8 * tensor.nbytes for tensor in named_tensors((index,)).values())
    if isinstance(index, NMIndex):
        # Rows of positions end at a byte.
        saved -= rows * (-index.row_length * index.bits % 8)
    assert storage_bits(qtype, shape) == 4 * codes.numel() + 16 * rows + saved


def test_a_damaged_file_is_told_in_full() -> None:
    sides = sides_of("sparse(csr, f16, 0.1)", "lowrank(2, i8)", "mask(2:4)", "kaxis(perm)")
    _, _, stored = split(torch.randn(5, 8), sides)
    named = named_tensors(stored)
    assert sorted(named) == [
        "kaxis.order",
        "lowrank.down",
        "lowrank.down_scale",
        "lowrank.up",
        "lowrank.up_scale",
        "mask.index",
        "sparse.columns",
        "sparse.offsets",
        "sparse.values",
    ]
    broken = {name: tensor for name, tensor in named.items() if name != "sparse.offsets"}
    broken["lowrank.up"] = named["lowrank.up"][:4]
    broken["mask.index"] = named["mask.index"].to(torch.int16)
    broken["kaxis.order"] = torch.zeros(8, dtype=torch.uint16)
    with pytest.raises(CheckpointError) as caught:
        from_named(sides, (5, 8), broken, "layer.w")
    told = sorted(str(problem) for problem in caught.value.problems)
    assert told == [
        "layer.w: kaxis(perm): 7 of 8 channels are missing from the order",
        "layer.w: lowrank.up: is torch.int8 of shape (4, 2), not torch.int8 of shape (5, 2)",
        "layer.w: mask.index: is torch.int16 of shape (5, 1), not torch.uint8 of shape (5, 1)",
        "layer.w: sparse.offsets: is missing; it should be torch.int32 of shape (6,)",
    ]


@pytest.mark.parametrize(
    "text",
    ["sparse(coo, f16, 0.1)", "sparse(columns, f16, 0.1)", "mask(bsr(1,4), 0.5)", "lowrank(2, i4)", "lowrank(2, bf16)"],
)
def test_every_missing_tensor_is_named(text: str) -> None:
    sides = sides_of(text)
    _, _, stored = split(torch.randn(5, 8), sides)
    named = named_tensors(stored)
    with pytest.raises(CheckpointError) as caught:
        from_named(sides, (5, 8), {})
    assert {problem.where for problem in caught.value.problems} == set(named)


def test_sides_that_do_not_fit_are_refused() -> None:
    x = torch.randn(4, 8)
    _, stored = split_sides(x, sides := sides_of("mask(2:4)"))
    with pytest.raises(ShapeError, match=r"a mask of shape \(4, 8\) does not fit values of shape \(8, 4\)"):
        join_sides(x.T, stored)
    with pytest.raises(ShapeError, match=r"the sides mask\(2:4\) has no LowRankFactors"):
        with_side(sides, stored, low_rank(x, LowRank(1, "f16")))
    with pytest.raises(UnsupportedOp, match=r"outliers of layer\.w cannot be stored in i8"):
        from_named(sides_of("sparse(csr, i8, 0.1)"), (4, 8), {}, "layer.w")
    x[2, 3] = float("nan")
    with pytest.raises(ShapeError, match=r"layer\.w: 1 of 32 values"):
        split_sides(x, sides, "layer.w")
