"""What a pass may reach besides the module: the weight store, when the caller has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin

from qcc.errors import QccError
from qcc.ir.dialect import QCC

if TYPE_CHECKING:
    from qcc.ir.store import WeightStore


class QccContext(Context):
    """An xDSL context that knows the dialect and carries the weights beside the text."""

    def __init__(self, store: WeightStore | None = None) -> None:
        super().__init__()
        self.load_dialect(Builtin)
        self.load_dialect(QCC)
        self.store = store


def store_of(context: Context, user: str) -> WeightStore:
    """Return the weights of a context for a pass that reads their values.

    Raises:
        QccError: if the module was given as text without its weights.
    """
    store = context.store if isinstance(context, QccContext) else None
    if store is None:
        raise QccError(
            f"{user} reads the values of weights, and the module has none beside it",
            fix="put the weights next to the text as NAME.safetensors, or give --weights FILE",
        )
    return store
