"""Read the side sections of the text of a quantization type, and the pieces all sections share."""

from __future__ import annotations

from collections.abc import Callable

from qcc.numerics.qtype_lexer import TokenStream
from qcc.numerics.qtype_parts import (
    EXPANSIONS,
    SPARSE_KINDS,
    Block,
    BlockMask,
    Expansion,
    FuseGroup,
    KAxis,
    LowRank,
    NMMask,
    Rotate,
    Side,
    Slice,
    Sparse,
    is_stored_dtype,
)

BLOCK_STARTS = ("(", "tensor", "row", "token")


def read_block(tokens: TokenStream) -> Block:
    """Read a block: `tensor`, `row`, `token` or extents in parentheses."""
    if tokens.accept("tensor"):
        return (-1, -1)
    if tokens.accept("row") or tokens.accept("token"):
        return (1, -1)
    if tokens.peek() != "(":
        tokens.fail("a block: tensor, row, token or extents such as (1,128)")
    tokens.take()
    extents = [tokens.integer()]
    while tokens.accept(","):
        extents.append(tokens.integer())
    tokens.expect(")")
    block = tuple(extents)
    return (-1, -1) if set(block) == {-1} else block


def read_dtype(tokens: TokenStream) -> str:
    """Read a stored dtype."""
    if not is_stored_dtype(tokens.peek()):
        tokens.fail("a dtype: f32, f16, bf16, e8m0, e4m3, e5m2, pow2, i1..i8 or u1..u8")
    return tokens.take().text


def _sparse(tokens: TokenStream) -> Sparse:
    tokens.expect("(")
    kind = tokens.choice(SPARSE_KINDS)
    tokens.expect(",")
    dtype = read_dtype(tokens)
    tokens.expect(",")
    fraction = tokens.number()
    tokens.expect(")")
    return Sparse(kind, dtype, fraction)


def _lowrank(tokens: TokenStream) -> LowRank:
    tokens.expect("(")
    rank = tokens.integer()
    tokens.expect(",")
    dtype = read_dtype(tokens)
    tokens.expect(")")
    return LowRank(rank, dtype)


def _mask(tokens: TokenStream) -> NMMask | BlockMask:
    tokens.expect("(")
    if tokens.accept("bsr"):
        block = read_block(tokens)
        tokens.expect(",")
        mask = BlockMask(block, tokens.number())
    else:
        kept = tokens.integer()
        tokens.expect(":")
        mask = NMMask(kept, tokens.integer())
    tokens.expect(")")
    return mask


def _kaxis(tokens: TokenStream) -> KAxis:
    tokens.expect("(")
    permuted = tokens.accept("perm")
    if permuted:
        tokens.accept(",")
    group_index = tokens.accept("g_idx")
    if group_index:
        tokens.accept(",")
    expand: Expansion = "none"
    count = 0
    if tokens.peek() in EXPANSIONS:
        expand = tokens.choice(EXPANSIONS)
        tokens.expect("(")
        count = tokens.integer()
        tokens.expect(")")
    tokens.expect(")")
    return KAxis(permuted, group_index, expand, count)


def _slice(tokens: TokenStream) -> Slice:
    tokens.expect("(")
    master_bits = tokens.integer()
    tokens.expect(",")
    bits = tokens.integer()
    tokens.expect(")")
    return Slice(master_bits, bits)


def _fuse_group(tokens: TokenStream) -> FuseGroup:
    tokens.expect("(")
    name = tokens.name("the name of a fuse group")
    tokens.expect(")")
    return FuseGroup(name)


def _rotate(tokens: TokenStream) -> Rotate:
    tokens.expect("(")
    block = tokens.integer()
    tokens.expect(")")
    return Rotate(block)


SIDE_READERS: dict[str, Callable[[TokenStream], Side]] = {
    "sparse": _sparse,
    "lowrank": _lowrank,
    "mask": _mask,
    "kaxis": _kaxis,
    "slice": _slice,
    "fuse_group": _fuse_group,
    "rotate": _rotate,
}
