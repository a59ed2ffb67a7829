"""Which layer reads what another one computed, through whatever stands between them."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.ir.program import program_of
from qcc.report.twin import flattened, layers_of

Edge = tuple[int, int]


def layer_edges(module: ModuleOp) -> tuple[Edge, ...]:
    """Return pairs of layers by index, in order: the second reads the first, and no path over others says so too."""
    flat = flattened(module)
    index: dict[Operation, int] = {layer: place for place, layer in enumerate(layers_of(flat))}
    reads: dict[SSAValue, frozenset[int]] = {}
    sources: list[frozenset[int]] = [frozenset()] * len(index)
    for op in program_of(flat).body.block.ops:
        found = frozenset[int]().union(*(reads.get(value, frozenset()) for value in op.operands))
        if op in index:
            sources[index[op]] = found
            found = frozenset((index[op],))
        for result in op.results:
            reads[result] = found
    return tuple(_reduced(sources))


def _reduced(sources: list[frozenset[int]]) -> list[Edge]:
    """Drop every edge that a longer path makes superfluous; layers stand in order, so the graph has no circle."""
    behind: list[frozenset[int]] = []
    edges: list[Edge] = []
    for target, direct in enumerate(sources):
        far = frozenset[int]().union(*(behind[one] for one in direct))
        edges += [(one, target) for one in sorted(direct - far)]
        behind.append(direct | far)
    return edges


def depths(count: int, edges: tuple[Edge, ...]) -> list[int]:
    """Return for each layer the length of the longest path that leads to it."""
    depth = [0] * count
    for source, target in edges:
        depth[target] = max(depth[target], depth[source] + 1)
    return depth
