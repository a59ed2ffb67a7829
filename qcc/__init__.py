"""qcc compiles quantized neural networks.

`import qcc` stays light: torch is imported only when a name that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qcc.version import __version__

if TYPE_CHECKING:
    from qcc import numerics
    from qcc.driver import Compiled, compile, load

__all__ = ["Compiled", "__version__", "compile", "load", "numerics"]

_LAZY = {"Compiled": "qcc.driver", "compile": "qcc.driver", "load": "qcc.driver"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "numerics":
        return import_module("qcc.numerics")
    raise AttributeError(f"module 'qcc' has no attribute {name!r}")
