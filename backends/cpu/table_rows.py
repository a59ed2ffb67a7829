"""Tables of partial sums of quantized activations, as the lookup linear reads them."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.cpu.fields import write
from qcc.backends.cpu.statements import Struct, Value
from qcc.backends.cpu.views import View


@dataclass(frozen=True)
class TableRows:
    """Tables in the layout of `qcc_table_rows`; rounded ones have neither `rest` nor `lines`."""

    entries: View
    rest: View | None
    lines: View | None
    centers: View
    wide: View

    def struct(self) -> Struct:
        """Write the `qcc_table_rows`."""
        fields: dict[str, Value] = {"entries": write(self.entries)}
        if self.rest is not None and self.lines is not None:
            fields |= {"rest": write(self.rest), "lines": write(self.lines)}
        return Struct({**fields, "centers": write(self.centers), "wide": write(self.wide)})
