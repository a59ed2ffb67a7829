"""Which function gives each operation of the dialect its meaning."""

from __future__ import annotations

from qcc.interpreter import elementwise, nn, shape, structure
from qcc.interpreter.values import Evaluate

MEANING: dict[type, Evaluate] = {
    **structure.TABLE,
    **elementwise.TABLE,
    **shape.TABLE,
    **nn.TABLE,
}
"""Operation class -> evaluation; `qcc.program` and `qcc.return` are the interpreter's own."""
