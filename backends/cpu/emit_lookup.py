"""Lower contractions by lookup: the tables of their inputs, built once for all weights that read them."""

from __future__ import annotations

from xdsl.ir import SSAValue

from qcc.backends.cpu.code_rows import CodeRows
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.table_rows import TableRows
from qcc.ir.dims import Dim
from qcc.ir.quant import ContractOp, Exactness, Plan

LINE_COLUMNS = 16
"""Columns of K in one line of tables (QCC_TABLE_K)."""


def by_lookup(op: ContractOp) -> bool:
    """Say whether the plan of a contraction is lookup."""
    return op.plan is not None and op.plan.data is Plan.LOOKUP


def has_exact_tables(op: ContractOp) -> bool:
    """Say whether a contraction's integer sums are to be exact; class E2 allows rounded tables."""
    return op.exactness.data is not Exactness.E2


def table_rows(low: Lowering, value: SSAValue, codes: CodeRows, columns: int, exact: bool) -> TableRows:
    """Return the tables of rows of codes, built by a call the first time they are asked for."""
    key = (value, codes.group, exact)
    if key in low.table_rows:
        return low.table_rows[key]
    count, length = codes.codes.shape
    tables = TableRows(
        low.temp("i8", (count, length * 4)),
        low.temp("i8", (count, length * 4)) if exact else None,
        low.temp("i32", (count, length // LINE_COLUMNS)) if exact else None,
        low.temp("i32", codes.sums.shape),
        low.temp("i32", codes.sums.shape),
    )
    low.table_rows[key] = tables
    low.call(
        "tables",
        {"x": codes.struct(), "m": count, "k": columns, "group": codes.group, "out": tables.struct()},
        count * Dim.of(columns),
    )
    return tables
