"""Small float64 models by hand whose folds are refused or forced, for tests of legality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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


def forced(model: Model, **changed: Tensor) -> float:
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
    text, tensors = str(module), {key: store.tensor(key) for key in store}
    with pytest.raises(IllegalFold) as caught:
        run_passes([one], QccContext(store, SampleRun([inputs])), module)
    assert str(module) == text
    assert all(torch.equal(store.tensor(key), value) for key, value in tensors.items())
    return str(caught.value)
