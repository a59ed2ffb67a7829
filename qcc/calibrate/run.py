"""Run samples through a module and show values to whoever asked for them: what the driver hands to passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue

from qcc.errors import Problem, QccError, ShapeError
from qcc.interpreter import Interpreter
from qcc.interpreter.interpreter import Steps
from qcc.interpreter.values import Weights
from qcc.ir.context import Watch
from qcc.ir.program import WeightOp, program_of
from qcc.numerics.tensor import QuantizedTensor

Sample = Mapping[str, Tensor]
"""The inputs of one call, by name."""


@dataclass(frozen=True, eq=False)
class SampleRun:
    """Samples, and how passes look at values under them; `samples` may read each when it is asked for."""

    samples: Sequence[Sample]

    def observe(self, module: ModuleOp, store: Weights, watch: Watch) -> None:
        """Run every sample once, in order, and show the watched values of each.

        Buffers of the program start anew with every sample.

        Raises:
            ShapeError: listing the samples that do not fit the program.
        """
        interpreter = Interpreter(module, store)
        wanted = {value for value in watch if isinstance(value, OpResult)}
        inputs = _watched_inputs(module, watch)
        problems: list[Problem] = []

        def see(op: Operation, results: tuple[Tensor | QuantizedTensor, ...]) -> None:
            for value, result in zip(op.results, results, strict=True):
                if value in wanted and isinstance(result, Tensor):
                    watch[value](result)

        for number, sample in self._numbered():
            interpreter.reset()
            try:
                interpreter.run_with(sample, see)
            except ShapeError as error:
                problems.append(_misfit(number, error))
                continue
            for name, value in inputs.items():
                watch[value](sample[name])
        if problems:
            raise ShapeError("the calibration samples do not fit the program", problems)

    def walk(self, module: ModuleOp, store: Weights) -> SampleWalk:
        """Start every sample, with buffers as they are at first; nothing is executed yet."""
        return SampleWalk(module, store, self.samples)

    def _numbered(self) -> Iterator[tuple[int, Sample]]:
        for index in range(len(self.samples)):
            yield index + 1, self.samples[index]


class SampleWalk:
    """All samples on their way through a program, side by side.

    Of each sample the values that are still to be read are kept: the width of the program at that place. A weight that
    was replaced is kept until every sample has read it.
    """

    def __init__(self, module: ModuleOp, store: Weights, samples: Sequence[Sample]) -> None:
        self._module = module
        self._samples = samples
        self._interpreter = Interpreter(module, store)
        weights = (op for op in module.walk() if isinstance(op, WeightOp))
        self._readers = Counter(op.key.data for op in weights)
        self._replaced: dict[str, int] = {}
        self._calls: list[Steps] = [
            self._interpreter.steps(samples[index], keep_state=False) for index in range(len(samples))
        ]

    def advance(self, value: SSAValue, see: Callable[[Tensor], None]) -> None:
        """Go on to where a value is computed and show it, once a sample; values are asked for in program order.

        Raises:
            ShapeError: naming the sample that does not fit the program.
            QccError: if the value was passed already.
        """
        if isinstance(value, BlockArgument):
            (name,) = _watched_inputs(self._module, {value: see})
            for index in range(len(self._samples)):
                see(self._samples[index][name])
            return
        for number, call in enumerate(self._calls, 1):
            try:
                see(self._advance(call, value))
            except ShapeError as error:
                raise ShapeError("a calibration sample does not fit the program", [_misfit(number, error)]) from error

    def replace_weight(self, key: str, weight: Tensor | QuantizedTensor) -> None:
        """Go on with another value of a weight, wherever it is read from here on."""
        self._interpreter.replace_weight(key, weight)
        self._replaced[key] = self._readers.get(key, 0) * len(self._samples)

    def _advance(self, call: Steps, value: SSAValue) -> Tensor:
        for op, results in call:
            if isinstance(op, WeightOp):
                self._note_read(op.key.data)
            for one, result in zip(op.results, results, strict=True):
                if one is value and isinstance(result, Tensor):
                    return result
        raise QccError("a value was asked for that samples have passed")

    def _note_read(self, key: str) -> None:
        if key in self._replaced:
            self._replaced[key] -= 1
            if not self._replaced[key]:
                self._interpreter.drop_weight(key)


def _watched_inputs(module: ModuleOp, watch: Watch) -> dict[str, SSAValue]:
    program = program_of(module)
    pairs = zip(program.input_names, program.body.block.args, strict=True)
    return {name: argument for name, argument in pairs if argument in watch}


def _misfit(number: int, error: ShapeError) -> Problem:
    what = "; ".join(f"{one.where}: {one.what}" for one in error.problems) or error.message
    fix = next((one.fix for one in error.problems if one.fix), error.fix)
    return Problem(f"sample {number}", what, fix)
