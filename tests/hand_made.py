"""Small float64 models by hand whose folds are refused or forced, for tests of legality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold
from qcc.interpreter import Interpreter
from qcc.ir.base import set_location
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp
from qcc.ir.store import WeightStore
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.annotate_groups import annotate_groups
from qcc.passes.pipeline import run_passes
from tests.folding import relative
from tests.modules import Made, kind_of, make

Model = tuple[ModuleOp, WeightStore, dict[str, Tensor]]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(
    stored: Mapping[str, Tensor | QuantizedTensor], build: Callable[..., Made | Sequence[Made]], **inputs: Tensor
) -> Model:
    """Build a module whose `build` gets the inputs, then the weights by name."""

    def with_weights(*arguments: SSAValue) -> Made | Sequence[Made]:
        return build(*arguments, **{name: WeightOp(name, kind_of(value)) for name, value in stored.items()})

    module = make({name: kind_of(value) for name, value in inputs.items()}, with_weights)
    return module, WeightStore(dict(stored)), inputs


def forced(model: Model, **changed: Tensor | QuantizedTensor) -> float:
    """Return what changing stored tensors, against the proof, does to the outputs."""
    module, store, inputs = model
    before = Interpreter(module, store, "f64").run(inputs)
    after = Interpreter(module, WeightStore({**{k: store[k] for k in store}, **changed}), "f64").run(inputs)
    return relative(after, before)


def located(op: Operation, text: str) -> Operation:
    set_location(op, text)
    return op


def refusal(model: Model, one: ModulePass) -> str:
    """Run a pass that must refuse, and return what they say; nothing may be changed by then."""
    module, store, inputs = model
    annotate_groups(module)
    text, tensors = str(module), {key: _plain(store[key]) for key in store}
    with pytest.raises(IllegalFold) as caught:
        run_passes([one], QccContext(store, SampleRun([inputs])), module)
    assert str(module) == text
    assert all(torch.equal(_plain(store[key]), value) for key, value in tensors.items())
    return str(caught.value)


def _plain(value: Tensor | QuantizedTensor) -> Tensor:
    return dequantize(value, torch.float64) if isinstance(value, QuantizedTensor) else value


@dataclass(frozen=True)
class Row:
    """A fold that is refused: what the refusal says, and stored tensors that carry the fold out all the same.

    `breaks` is what the forced fold changes at least, relative to the largest output.
    """

    fold: str
    model: Callable[[], Model]
    attempt: Callable[[Model], str]
    says: tuple[str, ...]
    force: Callable[[dict[str, Tensor]], Mapping[str, Tensor | QuantizedTensor]]
    breaks: float

    def check(self) -> None:
        """See that the fold is refused, saying a way out, and that it would have broken the output."""
        said = self.attempt(self.model())
        for words in (*self.says, "fix: "):
            assert words in said
        model = self.model()
        assert forced(model, **self.force(plain_of(model[1]))) > self.breaks


def plain_of(store: WeightStore) -> dict[str, Tensor]:
    """Return the tensors of a store that are no codes."""
    return {key: one for key in store if isinstance(one := store[key], Tensor)}


def by(one: ModulePass) -> Callable[[Model], str]:
    """Attempt a fold by its pass."""
    return lambda model: refusal(model, one)
