"""Measure what each candidate format of a layer's weights harms, on samples, by the float program.

Harm is the relative error of the outputs, summed over outputs: |y - y'|^2 / |y|^2, where y' has the weights of one
choice alone rounded. Weights are rounded as their solver does where it reads no samples, and to nearest where it does.

    output    the harm itself
    hessian   c times the sum over layers of tr(D H D^T) / tr(W H W^T), where D is what W loses, H the sum of x x^T over
              its inputs x, and c such that the middle one of the candidates does the harm that it does

The first runs every sample once for each choice and candidate and once more, the second once for each choice and twice
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import OpResult, SSAValue

from qcc.calibrate.statistics import Hessian
from qcc.errors import Problem, QccError, ShapeError
from qcc.ir.context import Calibration
from qcc.ir.nn import LinearOp
from qcc.ir.program import ReturnOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.quantize import dequantize
from qcc.passes.float_view import FloatView, float_view
from qcc.passes.layer_schemes import layer_name
from qcc.passes.solvers.hessian import output_loss
from qcc.passes.solvers.table import SOLVERS
from qcc.recipes.model import WeightScheme

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """Layers that get one format together, and the formats to choose from."""

    layers: Sequence[LinearOp]
    options: Sequence[WeightScheme]

    @property
    def where(self) -> str:
        """The names of the layers."""
        return ", ".join(dict.fromkeys(map(layer_name, self.layers)))

    @property
    def keys(self) -> list[str]:
        """The names of the stored weights, each once."""
        return list(dict.fromkeys(map(_key, self.layers)))


def harms(
    module: ModuleOp,
    store: WeightStore,
    calibration: Calibration,
    choices: Sequence[Choice],
    by: Literal["output", "hessian"],
    say: Say | None = None,
) -> list[list[float]]:
    """Return the harm of every option of every choice; nothing of the module or the store changes.

    Raises:
        ShapeError: if samples do not fit the program, or listing the layers whose harm is not finite.
        QccError: if outputs are to be compared and no output is a float.
    """
    view = float_view(module)
    measure = _by_output if by == "output" else _by_hessian
    found = measure(view, store, calibration, choices, say or _silent)
    problems = [
        Problem(choice.where, "the error that quantizing it leaves on the samples is not finite", "leave it in float")
        for choice, row in zip(choices, found, strict=True)
        if not bool(torch.isfinite(torch.tensor(row, dtype=torch.float64)).all())
    ]
    if problems:
        raise ShapeError("bits cannot be allocated by these samples", problems, fix="look at the samples")
    return found


def _silent(text: str) -> None:
    return None


def _key(layer: LinearOp) -> str:
    weight = layer.weight.owner
    assert isinstance(weight, WeightOp)  # the pass chooses for stored weights only
    return weight.key.data


def _rounded(weight: Tensor, scheme: WeightScheme, where: str) -> Tensor:
    """Return a weight as its codes stand for it."""
    named = SOLVERS[scheme.solver]
    solver = SOLVERS["rtn"] if named.reads_samples else named
    return dequantize(solver.load()(weight, scheme.qtype(), None, where), weight.dtype)


def _by_output(
    view: FloatView, store: WeightStore, calibration: Calibration, choices: Sequence[Choice], say: Say
) -> list[list[float]]:
    error = _output_error(view, store, calibration)
    table: list[list[float]] = []
    for number, choice in enumerate(choices, 1):
        say(f"measuring {choice.where}, {number} of {len(choices)}")
        table.append([error(choice, one) for one in choice.options])
    return table


def _output_error(
    view: FloatView, store: WeightStore, calibration: Calibration
) -> Callable[[Choice, WeightScheme], float]:
    """Run the float program, and return what says how far the outputs are from it when one choice is rounded."""
    measure = output_error(view.module, store, calibration, "bit allocation by output", "write by: hessian")

    def error(choice: Choice, scheme: WeightScheme) -> float:
        return measure({key: _rounded(store.tensor(key), scheme, key) for key in choice.keys})

    return error


def output_error(
    module: ModuleOp, store: WeightStore, calibration: Calibration, user: str, fix: str
) -> Callable[[Mapping[str, Tensor]], float]:
    """Run a float program, and return what says how far its outputs are from that when some weights are replaced.

    Raises:
        QccError: if no output is a float; `user` needs one, and `fix` is what else could be done.
        ShapeError: if samples do not fit the program.
    """
    outputs = Outputs.of(module, user, fix)
    calibration.observe(module, store, outputs.watch(outputs.keep))

    def error(replaced: Mapping[str, Tensor]) -> float:
        weights = store.copy()
        for key, weight in replaced.items():
            weights[key] = weight
        outputs.start()
        calibration.observe(module, weights, outputs.watch(outputs.compare))
        return outputs.error()

    return error


@dataclass(eq=False)
class Outputs:
    """The float outputs of a program on all samples, and how far another run is from them."""

    values: list[SSAValue]
    kept: dict[SSAValue, list[Tensor]] = field(default_factory=dict[SSAValue, list[Tensor]])
    signal: dict[SSAValue, float] = field(default_factory=dict[SSAValue, float])
    noise: dict[SSAValue, float] = field(default_factory=dict[SSAValue, float])
    seen: dict[SSAValue, int] = field(default_factory=dict[SSAValue, int])

    @staticmethod
    def of(module: ModuleOp, user: str, fix: str) -> Outputs:
        """Take the float outputs that are computed, each once."""
        ends = [value for op in module.walk() if isinstance(op, ReturnOp) for value in op.operands]
        floats = [one for one in dict.fromkeys(ends) if isinstance(one, OpResult) and type_of(one).is_float]
        if not floats:
            raise QccError(f"{user} needs an output of floats", fix=fix)
        return Outputs(list(floats))

    def watch(
        self, see: Callable[[SSAValue, Tensor], None], copies: Mapping[SSAValue, SSAValue] | None = None
    ) -> dict[SSAValue, Callable[[Tensor], None]]:
        """Return what to observe: the outputs, or those of a copy of the program where values have other names."""

        def seen_at(value: SSAValue) -> Callable[[Tensor], None]:
            return lambda tensor: see(value, tensor)

        return {value if copies is None else copies[value]: seen_at(value) for value in self.values}

    def keep(self, value: SSAValue, tensor: Tensor) -> None:
        self.kept.setdefault(value, []).append(tensor.detach().clone())
        self.signal[value] = self.signal.get(value, 0.0) + _square(tensor)

    def start(self) -> None:
        self.noise = dict.fromkeys(self.values, 0.0)
        self.seen = dict.fromkeys(self.values, 0)

    def compare(self, value: SSAValue, tensor: Tensor) -> None:
        self.noise[value] += _square(tensor.double() - self.kept[value][self.seen[value]].double())
        self.seen[value] += 1

    def error(self) -> float:
        return sum(_relative(self.noise[one], self.signal.get(one, 0.0)) for one in self.values)


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _relative(noise: float, signal: float) -> float:
    """Return noise as a share of the signal; of no signal, any noise is as large as it."""
    return noise / signal if signal > 0.0 or noise != noise else float(noise > 0.0)


def _by_hessian(
    view: FloatView, store: WeightStore, calibration: Calibration, choices: Sequence[Choice], say: Say
) -> list[list[float]]:
    error = _output_error(view, store, calibration)
    table: list[list[float]] = []
    for number, (choice, losses) in enumerate(zip(choices, _lost(view, store, calibration, choices), strict=True), 1):
        say(f"measuring {choice.where}, {number} of {len(choices)}")
        middle = sorted(range(len(losses)), key=lambda place, row=losses: row[place])[len(losses) // 2]
        harm = error(choice, choice.options[middle])
        table.append([one * harm / losses[middle] if losses[middle] else one for one in losses])
    return table


def _lost(
    view: FloatView, store: WeightStore, calibration: Calibration, choices: Sequence[Choice]
) -> list[list[float]]:
    """Return what the layers of every choice lose of their own outputs, one Hessian held at a time."""
    table = [[0.0] * len(choice.options) for choice in choices]
    readers: dict[SSAValue, list[tuple[int, LinearOp]]] = {}
    for index, choice in enumerate(choices):
        for layer in choice.layers:
            readers.setdefault(view.of(layer.input), []).append((index, layer))
    place: dict[object, int] = {one: index for index, one in enumerate(view.module.walk())}
    walk = calibration.walk(view.module, store)
    for value, layers in sorted(readers.items(), key=lambda item: place.get(item[0].owner, -1)):
        hessian = Hessian(_columns(layers[0][1]))
        walk.advance(value, hessian.add)
        for index, layer in layers:
            losses = _losses(layer, store, hessian, choices[index].options)
            table[index] = [one + other for one, other in zip(table[index], losses, strict=True)]
    return table


def _columns(layer: LinearOp) -> int:
    columns = type_of(layer.weight).shape[-1].constant
    assert columns is not None  # stored weights have a static shape
    return columns


def _losses(layer: LinearOp, store: WeightStore, hessian: Hessian, options: Sequence[WeightScheme]) -> list[float]:
    if hessian.not_finite or not hessian.count:
        return [float("nan")] * len(options)
    key = _key(layer)
    weight = store.tensor(key)
    signal = output_loss(weight, hessian.matrix)
    return [_relative(output_loss(weight - _rounded(weight, one, key), hessian.matrix), signal) for one in options]
