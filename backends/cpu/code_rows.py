"""Quantized activations as the integer kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.cpu.fields import write
from qcc.backends.cpu.qformat import Activation
from qcc.backends.cpu.statements import Struct
from qcc.backends.cpu.views import View


@dataclass(frozen=True)
class CodeRows:
    """Quantized rows in the layout of `qcc_qrows`, for weights with groups of `group` along K."""

    format: Activation
    codes: View
    scales: View
    sums: View
    group: int

    @property
    def group_scales(self) -> bool:
        """Whether there is one scale per row and group."""
        return self.format.group != 0

    def struct(self) -> Struct:
        """Write the `qcc_qrows`; its members are not const."""
        return Struct(
            {
                "codes": write(self.codes),
                "scales": write(self.scales),
                "sums": write(self.sums),
                "group_scales": int(self.group_scales),
            }
        )
