"""FIFOs that are deep for speed: a unit that reads a row, then works on it, must not stop whoever makes the next one.

With FIFOs of two, such a unit and the one before it take turns, and a frame takes the sum of their cycles. With room
for what it reads at once they overlap, and a frame takes the cycles of the slower one. The same holds of a branch and
the skip beside it from one frame to the next.
"""

from __future__ import annotations

from dataclasses import replace

from qcc.backends.hls.design import Built, Design, Stream
from qcc.backends.hls.units_flow import ReorderUnit
from qcc.backends.hls.units_matvec import MatmulUnit, MatvecUnit
from qcc.backends.hls.units_rows import NormUnit, SoftmaxUnit
from qcc.backends.hls.units_window import WindowUnit

MOST_BITS = 1 << 20
"""Bits that a FIFO is given for speed at most."""


def burst(built: Built, port: int) -> int:
    """Return the tokens that a unit reads at once from an input before it works on them."""
    unit, fold = built.node.unit, built.fold
    match unit:
        case MatvecUnit():
            return 2 if port else (unit.tile if unit.streamed else 1) * (unit.k // fold.simd)
        case MatmulUnit():
            return unit.k * (unit.n // fold.pe if port else 1)
        case SoftmaxUnit() | NormUnit():
            return unit.channels // fold.pe
        case WindowUnit():
            return unit.width.size * unit.height.stride * (unit.channels // fold.pe)
        case ReorderUnit():
            return unit.write.count // fold.pe
        case _:
            return 2


def deepened(design: Design) -> Design:
    """Return the design with FIFOs that hold what their readers read at once."""
    readers = {one.node.name: one for one in design.nodes}
    streams: dict[str, Stream] = dict(design.streams)
    for name, stream in design.streams.items():
        if not stream.depth or stream.element is None:
            continue
        built = readers[stream.reader]
        depth = burst(built, built.node.inputs.index(name))
        if depth > stream.depth and depth * stream.bits <= MOST_BITS:
            streams[name] = replace(stream, depth=depth)
    return replace(design, streams=streams)


def roomier(design: Design, frames: int) -> Design:
    """Return the design whose skips hold some frames more, so that the next frame enters while one is under way.

    A skip that is just deep enough not to stop holds one frame, and whoever writes it waits for the branch beside it.
    """
    streams: dict[str, Stream] = dict(design.streams)
    for name, stream in design.streams.items():
        depth = stream.depth + frames * stream.tokens
        if stream.needed and depth * stream.bits <= MOST_BITS:
            streams[name] = replace(stream, depth=depth, needed=False)
    return replace(design, streams=streams)
