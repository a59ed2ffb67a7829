"""qcc compiles quantized neural networks.

`import qcc` stays light: torch is imported only when a name that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcc.driver import Compiled, compile, load

__version__ = "0.1.0"
__all__ = ["Compiled", "__version__", "compile", "load", "numerics"]

_LAZY = {"Compiled": "qcc.driver", "compile": "qcc.driver", "load": "qcc.driver"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "numerics":
        return import_module("qcc.numerics")
    raise AttributeError(f"module 'qcc' has no attribute {name!r}")
