"""Pack weights into the layouts that the C kernels read in place.

    codes [N, K]  ->  blocks of 16 rows, chunks of 32 k, bit planes   (see `qcc_qweight` in qcc_kernels.h)
    for lookup    ->  the same, every plane one bit wide               (see `qcc_tlinear` in qcc_kernels_tables.h)

The same bytes serve every instruction set, so that a mapped file needs no work at load time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import Problem, ShapeError

T = TypeVar("T", bound=np.generic)

ALIGNMENT = 64
ROWS = 16
CHUNK = 32
MAX_GROUP = (2**31 - 1) // (255 * 128)
"""Longest group whose sum of products surely fits int32: |x| <= 128, code <= 255."""


@dataclass(frozen=True)
class PackedWeight:
    """A packed weight: one blob with 64-byte aligned sections, and the fields of `qcc_qweight`.

    Offsets are in bytes from the start of `blob`, which itself must be placed at a multiple of 64.
    """

    blob: bytes
    n: int
    k: int
    group: int
    bits: int
    scale_f16: bool
    mid_rise: bool
    codes_offset: int
    scales_offset: int
    zeros_offset: int | None
    zero: int

    @property
    def groups(self) -> int:
        """Number of groups along K."""
        return -(-self.k // self.group)


def padded_k(k: int, group: int) -> int:
    """Return the length of a K axis whose groups are each padded to whole chunks of 32."""
    full, rest = divmod(k, group)
    return full * _round_up(group, CHUNK) + _round_up(rest, CHUNK)


def pack_weights(
    codes: NDArray[np.uint8],
    bits: int,
    group: int,
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8] | int,
    *,
    scale_f16: bool = False,
    mid_rise: bool = False,
    lookup: bool = False,
    where: str = "",
) -> PackedWeight:
    """Pack unsigned codes [N, K] of 1..8 bits with scales [N, G] and zero points [N, G] or one for all.

    G = ceil(K / group); the last group may be short. `group` is any positive number up to 65792 (the
    int32 bound); a group that is not a multiple of 32 is stored padded to one. With `scale_f16` the
    scales are stored in two bytes and must already be float16 values. A symmetric format passes the
    constant zero point 2^(bits-1). With `mid_rise` codes of up to 7 bits stand for code + 1/2. With
    `lookup` the planes are one bit wide each, as `tlinear` reads them; all sections keep their sizes.
    Raises ShapeError with every fault found, located by `where`.
    """
    _check(codes, bits, group, scales, zeros, scale_f16, where)
    if mid_rise and bits > 7:
        raise ShapeError(f"{where or 'weight'}: {bits} bits on a mid-rise grid; its doubled sums take 7")
    n, k = codes.shape
    stored_scales = scales.astype(np.float16 if scale_f16 else np.float32)
    planes = _pack_codes(codes, bits, group, plane_widths(bits, lookup))
    sections = [planes.tobytes(), _interleave(stored_scales).tobytes()]
    if not isinstance(zeros, int):
        sections.append(_interleave(zeros).tobytes())
    blob, offsets = _join(sections)
    return PackedWeight(
        blob=blob,
        n=n,
        k=k,
        group=group,
        bits=bits,
        scale_f16=scale_f16,
        mid_rise=mid_rise,
        codes_offset=offsets[0],
        scales_offset=offsets[1],
        zeros_offset=offsets[2] if len(offsets) > 2 else None,
        zero=zeros if isinstance(zeros, int) else 0,
    )


def pack_float_weights(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pack a float weight [N, K] into panels [ceil(N/16), K, 16]; rows beyond N are zero."""
    if weight.ndim != 2:
        raise ShapeError(f"a linear weight has 2 dimensions, got {weight.ndim}")
    return np.ascontiguousarray(_blocks(weight.astype(np.float32, copy=False)).transpose(0, 2, 1))


def _check(
    codes: NDArray[np.uint8],
    bits: int,
    group: int,
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8] | int,
    scale_f16: bool,
    where: str,
) -> None:
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise ShapeError(f"{where or 'weight'}: codes must be uint8 [N, K], got {codes.dtype} {codes.shape}")
    n, k = codes.shape
    faults: list[str] = []
    if not 1 <= bits <= 8:
        faults.append(f"{bits} bits; the kernels take 1 to 8")
    elif codes.size and int(codes.max()) >= 1 << bits:
        faults.append(f"code {int(codes.max())} does not fit {bits} bits")
    if not 1 <= group <= MAX_GROUP:
        faults.append(f"group {group}; int32 accumulation is exact for 1 to {MAX_GROUP}")
    elif scales.shape != (n, -(-k // group)):
        faults.append(f"scales {scales.shape}, expected {(n, -(-k // group))}")
    if isinstance(zeros, int):
        if not 0 <= zeros <= 255:
            faults.append(f"zero point {zeros} outside 0..255")
    elif zeros.shape != scales.shape or zeros.dtype != np.uint8:
        faults.append(f"zero points {zeros.dtype} {zeros.shape}, expected uint8 {scales.shape}")
    with np.errstate(over="ignore"):
        if scale_f16 and not np.array_equal(scales.astype(np.float16).astype(np.float32), scales, equal_nan=True):
            faults.append("a scale is not a float16 value; round the scales before quantizing with them")
    if faults:
        raise ShapeError("a weight cannot be packed", [Problem(where or "weight", fault) for fault in faults])


def plane_widths(bits: int, lookup: bool) -> tuple[int, ...]:
    """Return the widths of the planes of a code, most significant bits first."""
    if lookup:
        return (1,) * bits
    return (8,) if bits == 8 else tuple(width for width in (4, 2, 1) if bits & width)


def _pack_codes(codes: NDArray[np.uint8], bits: int, group: int, widths: tuple[int, ...]) -> NDArray[np.uint8]:
    """Codes [N, K] -> [blocks, chunks, bits, 64]."""
    padded = _blocks(_pad_groups(codes, group))
    blocks, _, k = padded.shape
    quads = padded.reshape(blocks, ROWS, k // CHUNK, 8, 4).transpose(0, 2, 3, 1, 4)
    lines = quads.reshape(blocks, k // CHUNK, 8, 64)
    planes: list[NDArray[np.uint8]] = []
    low = bits
    for width in widths:
        low -= width
        planes.append(_pack_plane(lines >> np.uint8(low) & np.uint8((1 << width) - 1), width))
    return np.concatenate(planes, axis=2)


def _pack_plane(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Lines [blocks, chunks, 8, 64] of `width`-bit values -> [blocks, chunks, width, 64]."""
    blocks, chunks = values.shape[:2]
    per_byte = 8 // width
    parts = values.reshape(blocks, chunks, width, per_byte, 64)
    out = np.zeros((blocks, chunks, width, 64), np.uint8)
    for position in range(per_byte):
        out |= parts[:, :, :, position] << (width * position)
    return out


def _pad_groups(codes: NDArray[np.uint8], group: int) -> NDArray[np.uint8]:
    n, k = codes.shape
    out = np.zeros((n, padded_k(k, group)), np.uint8)
    full, rest = divmod(k, group)
    step = _round_up(group, CHUNK)
    whole = out[:, : full * step].reshape(n, full, step)
    whole[:, :, :group] = codes[:, : full * group].reshape(n, full, group)
    out[:, full * step : full * step + rest] = codes[:, full * group :]
    return out


def _blocks(rows: NDArray[T]) -> NDArray[T]:
    """Rows [N, C] -> [ceil(N/16), 16, C], padded with zeros."""
    n, columns = rows.shape
    out = np.zeros((_round_up(n, ROWS), columns), rows.dtype)
    out[:n] = rows
    return out.reshape(len(out) // ROWS, ROWS, columns)


def _interleave(values: NDArray[T]) -> NDArray[T]:
    """Per-group values [N, G] -> [ceil(N/16), G, 16]."""
    return np.ascontiguousarray(_blocks(values).transpose(0, 2, 1))


def _join(sections: list[bytes]) -> tuple[bytes, list[int]]:
    blob = bytearray()
    offsets: list[int] = []
    for section in sections:
        offsets.append(len(blob))
        blob += section
        blob += bytes(-len(blob) % ALIGNMENT)
    return bytes(blob), offsets


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
