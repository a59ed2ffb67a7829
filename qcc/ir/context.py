"""What a pass may reach besides the module: the weight store and the calibration, when the caller has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.ir import SSAValue

from qcc.errors import QccError
from qcc.ir.dialect import QCC

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.on_disk import Weight
    from qcc.ir.plans import ContractCost
    from qcc.ir.store import WeightStore
    from qcc.numerics.tensor import QuantizedTensor

Watch = Mapping[SSAValue, "Callable[[Tensor], None]"]
"""What to call with a value, by value; a value is a tensor `[..., K]` in the dtype of its type."""


class Walk(Protocol):
    """All samples on their way through a program, side by side."""

    def advance(self, value: SSAValue, see: Callable[[Tensor], None]) -> None:
        """Go on to where a value is computed and show it, once a sample; values are asked for in program order."""
        ...

    def replace_weight(self, key: str, weight: Weight) -> None:
        """Go on with another value of a weight, wherever it is read from here on."""
        ...


class Calibration(Protocol):
    """Runs a module on samples. Passes ask for values; who runs what, and on which samples, is the caller's affair."""

    def observe(self, module: ModuleOp, store: WeightStore, watch: Watch) -> None:
        """Run every sample once, in order, and show the watched values of each.

        Raises:
            ShapeError: naming the samples that do not fit the program.
        """
        ...

    def walk(self, module: ModuleOp, store: WeightStore) -> Walk:
        """Start every sample; see `Walk`."""
        ...


class Kept(Protocol):
    """Solved weights of a compilation that was stopped, by a digest of what they were solved from."""

    def get(self, digest: str) -> QuantizedTensor | None:
        """Return a solved weight, None if there is none."""
        ...

    def put(self, digest: str, weight: QuantizedTensor) -> None:
        """Keep a solved weight."""
        ...


class Choices(Protocol):
    """What transforms choose by the values they see: recorded, or given as an earlier compilation recorded it."""

    def choose(self, user: str, count: int, make: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
        """Give what a transform chooses for each of `count` places, by `make` or as recorded."""
        ...


def _silent(text: str) -> None:
    return None


def _no_share(done: float | None) -> None:
    return None


class QccContext(Context):
    """An xDSL context that knows the dialect and carries the weights beside the text, and what runs samples.

    Passes that take long `say` what they do and `share` how much of it is done (None: nobody knows), and keep what they
    have in `kept`, where there is such a thing. What they choose by values goes through `choices`, if there are any.
    `costs` are what the target predicts for a contraction, by name.
    """

    def __init__(
        self,
        store: WeightStore | None = None,
        calibration: Calibration | None = None,
        say: Callable[[str], None] = _silent,
        kept: Kept | None = None,
        share: Callable[[float | None], None] = _no_share,
        choices: Choices | None = None,
        costs: Mapping[str, ContractCost] | None = None,
    ) -> None:
        super().__init__()
        self.load_dialect(Builtin)
        self.load_dialect(QCC)
        self.store = store
        self.calibration = calibration
        self.say = say
        self.kept = kept
        self.share = share
        self.choices = choices
        self.costs = costs or {}


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


def chosen(context: Context, user: str, count: int, make: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    """Give what a transform chooses for each of `count` places, in order: by `make`, unless the context has it.

    Whatever looks at values of weights or samples is in `make`, which goes on after each place was rewritten.
    """
    choices = context.choices if isinstance(context, QccContext) else None
    return make() if choices is None else choices.choose(user, count, make)


def calibration_of(context: Context, user: str, fix: str) -> Calibration:
    """Return what runs samples for a pass that needs statistics; `fix` is the way out without any.

    Raises:
        QccError: if the compilation was given no samples.
    """
    calibration = context.calibration if isinstance(context, QccContext) else None
    if calibration is None:
        raise QccError(
            f"{user} needs calibration, and no samples were given",
            fix=f"give samples (calibration=... in Python, --calib FILE on the command line), or {fix}",
        )
    return calibration
