"""Cut a matrix into tiles, so that what a step computes on the side stays small beside a large tensor."""

from __future__ import annotations

from collections.abc import Iterator

# A few temporaries of this many float64 fit the caches of a CPU and still fill an accelerator.
TILE_ELEMENTS = 1 << 20


def tiles(
    rows: int, columns: int, *, width: int = 0, multiple: int = 1, budget: int = TILE_ELEMENTS
) -> Iterator[tuple[slice, slice]]:
    """Yield slices of rows and of columns that cover a matrix, each tile of at most about `budget` elements.

    Rows are cut before columns. `width` is what a step holds a row beside its columns (a table, say), and
    pieces of a row start at a `multiple` of columns.
    """
    if not rows or not columns:
        return
    per_row = max(1, budget // max(columns, width, 1))
    per_column = columns if columns <= budget else max(multiple, budget // multiple * multiple)
    for top in range(0, rows, per_row):
        for left in range(0, columns, per_column):
            yield slice(top, min(top + per_row, rows)), slice(left, min(left + per_column, columns))
