"""Rows of tables."""

from __future__ import annotations

from dataclasses import replace

from xdsl.ir import Operation

from qcc.backends.hls.lower_contract import ROM_BITS
from qcc.backends.hls.lowering import Flow, Known, Lowering, Refusal, Table
from qcc.backends.hls.order import row_major
from qcc.backends.hls.units_embedding import EmbeddingUnit
from qcc.ir.nn import EmbeddingOp


def _embedding(low: Lowering, op: Operation) -> None:
    """Pick rows by ids; a large table is read from memory. The ids of an input are held to the table by the host."""
    assert isinstance(op, EmbeddingOp)
    table, found = low.numbers(op.table), low.value(op.ids)
    if isinstance(found, Known):
        ids = low.numbers(op.ids)
        low.values[op.result] = Known(table[ids])
        return
    if found.element.raw:
        raise Refusal("reads a table at floats", "give it integers")
    found = low.plain(found)
    low.graph.inputs = [
        replace(port, below=min(len(table), port.below or len(table))) if port.edge == found.edge else port
        for port in low.graph.inputs
    ]
    unit = EmbeddingUnit(found.count, table, found.element, False)
    unit = replace(unit, in_memory=table.size * unit.codes.bits > ROM_BITS)
    count = found.count * unit.columns
    edge = low.emit("rows", op, unit, (found.edge,), unit.result, count)
    low.set(op, Flow(edge, (*found.shape, unit.columns), row_major(count), unit.result, op))


LOWERINGS: Table = {EmbeddingOp: _embedding}
