"""Execute a module, operation by operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from qcc.errors import CheckpointError, Problem, QccError, ShapeError, UnsupportedOp
from qcc.interpreter.table import MEANING, TAKES_QUANTIZED
from qcc.interpreter.values import Frame, HeldWeights, Weights, convert_weight, dtype_of, entry_of, fail
from qcc.ir.base import location_of
from qcc.ir.binding import bind_symbols
from qcc.ir.kernel import KernelOp, YieldOp
from qcc.ir.on_disk import OnDisk, Weight
from qcc.ir.program import ProgramOp, ReturnOp, StateOp, WeightOp, program_of
from qcc.ir.types import type_of
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES

Step = tuple[Operation, tuple[torch.Tensor | QuantizedTensor, ...]]
Inside = Generator[Step, None, list[torch.Tensor]]
Steps = Generator[Step, None, dict[str, torch.Tensor]]
"""One call under way: operations with their results, in the order of execution; in the end the outputs by name."""

Observer = Callable[[Operation, tuple[torch.Tensor | QuantizedTensor, ...]], None]
"""Called after every operation with its result values, in kernels too: after their operations, then for themselves."""


class Interpreter:
    """Runs the program of a module. State (mutable buffers) is kept between calls.

    With `dtype="f64"` every float operation is evaluated in float64 and float inputs may be given in float64:
    the oracle. Otherwise each operation has the dtype of its type, and float16 and bfloat16 operations are
    computed in float32 with one rounding at their result. Integers are exact.

    Raises:
        QccError: the module has not exactly one program.
        UnsupportedOp: listing all operations that have no meaning here.
        CheckpointError: listing weights that are missing or are not what the program declares.
    """

    def __init__(self, module: ModuleOp, store: Weights, dtype: str | None = None) -> None:
        if dtype not in (None, "f32", "f64"):
            raise QccError(f"cannot evaluate in '{dtype}'", fix="give f64, f32 or nothing")
        self._program = program_of(module)
        self._dtype = dtype
        self._store = store
        _check_operations(self._program)
        self._weights = HeldWeights(dict(_read(self._program, store, dtype, WeightOp)), dtype)
        self.state: dict[str, torch.Tensor | QuantizedTensor] = {}
        self.reset()

    def reset(self) -> None:
        """Give every mutable buffer its first value again."""
        found = HeldWeights(dict(_read(self._program, self._store, self._dtype, StateOp)), self._dtype)
        self.state = {key: found[key] for key in found}

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Execute one call; see `run_with`."""
        return self.run_with(inputs, None)

    def run_with(self, inputs: Mapping[str, torch.Tensor], observe: Observer | None) -> dict[str, torch.Tensor]:
        """Execute one call; `observe` sees every operation. See `steps`, which says what is raised."""
        steps = self.steps(inputs)
        while True:
            try:
                op, results = next(steps)
            except StopIteration as end:
                return end.value
            if observe is not None:
                observe(op, results)
            del results  # memory of large models: nothing outlives its last use

    @torch.no_grad()
    def steps(self, inputs: Mapping[str, torch.Tensor], *, keep_state: bool = True) -> Steps:
        """Execute one call step by step: input name -> tensor gives, in the end, output name -> tensor.

        Yields every operation with its results once it is done, a weight right before what first reads it; holds no
        value that is not read any more. Without `keep_state`, what buffers become is forgotten.

        Raises:
            ShapeError: inputs are missing, unknown, or of a wrong shape or dtype (all are listed), or an
                operation cannot be computed (it says where it comes from).
        """
        program = self._program
        frame = Frame(self._bind(inputs), self._dtype, self._weights, self.state, {} if keep_state else None)
        values: dict[SSAValue, torch.Tensor] = {
            argument: inputs[name].to(frame.torch_dtype(type_of(argument)))
            for name, argument in zip(program.input_names, program.body.block.args, strict=True)
        }
        outputs = yield from _execute(program.body.block, values, frame)
        if frame.next_state is not None:
            self.state = {**self.state, **frame.next_state}
        return dict(zip(program.output_names, outputs, strict=True))

    def replace_weight(self, key: str, weight: torch.Tensor | QuantizedTensor) -> None:
        """Use another value for a weight from here on, in calls under way too where they have not read it yet."""
        self._weights[key] = weight

    def drop_weight(self, key: str) -> None:
        """Forget a weight that no call reads any more."""
        del self._weights[key]

    def _bind(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Check names and dtypes, then read the symbols' values off the shapes."""
        program = self._program
        known = dict(zip(program.input_names, program.body.block.args, strict=True))
        problems: list[Problem] = []
        for name, tensor in inputs.items():
            if name not in known:
                problems.append(Problem(f"input '{name}'", "is unknown", f"inputs are: {', '.join(known)}"))
                continue
            scalar = type_of(known[name]).scalar
            if tensor.dtype not in (TORCH_DTYPES[scalar], dtype_of(scalar, self._dtype)):
                what = f"has dtype {tensor.dtype}, expected {TORCH_DTYPES[scalar]}"
                problems.append(Problem(f"input '{name}'", what, f"pass it as {TORCH_DTYPES[scalar]}"))
        if problems:
            raise ShapeError("the inputs do not fit the compiled program", problems)
        return bind_symbols(program, {name: tuple(one.shape) for name, one in inputs.items()})


def _check_operations(program: ProgramOp) -> None:
    known = {*MEANING, ReturnOp, KernelOp, YieldOp}
    unknown = [op for op in program.body.walk() if type(op) not in known]
    if unknown:
        problems = [Problem(location_of(op), f"{op.name} has no meaning here") for op in unknown]
        raise UnsupportedOp("the interpreter cannot execute this module", problems)


def _read(
    program: ProgramOp, store: Weights, dtype: str | None, kind: type[WeightOp] | type[StateOp]
) -> Iterator[tuple[str, Weight | OnDisk]]:
    problems: list[Problem] = []
    for op in program.body.walk():
        if not isinstance(op, kind):
            continue
        key = op.key.data
        if key not in store:
            problems.append(Problem(location_of(op) or op.name, f"the weight store has no '{key}'"))
            continue
        try:
            yield key, convert_weight(key, type_of(op.result), entry_of(store, key), dtype)
        except CheckpointError as error:
            problems.append(Problem(location_of(op) or op.name, error.message))
    if problems:
        raise CheckpointError("the weights do not fit the program", problems)


def _execute(block: Block, values: dict[SSAValue, torch.Tensor], frame: Frame) -> Inside:
    """Execute a block on the values of its arguments and return what its last operation ends it with."""
    remaining = Counter(operand for op in block.ops for operand in op.operands)
    for op in block.ops:
        if isinstance(op, WeightOp):
            continue  # read when the first operation needs it
        for weight in dict.fromkeys(one.owner for one in op.operands if one not in values):
            if isinstance(weight, WeightOp):
                (values[weight.result],) = yield from _evaluate(weight, [], frame)
                yield weight, (values[weight.result],)
        operands = [values[operand] for operand in op.operands]
        if isinstance(op, ReturnOp | YieldOp):
            return operands
        results = yield from _evaluate(op, operands, frame)
        for result, value in zip(op.results, results, strict=True):
            if remaining[result]:
                values[result] = value
        yield op, results
        for operand in op.operands:
            remaining[operand] -= 1
            if not remaining[operand]:
                values.pop(operand, None)  # memory of large models: nothing outlives its last use
        del operands, results
    raise QccError("the program has no qcc.return")


def _evaluate(
    op: Operation, operands: list[torch.Tensor], frame: Frame
) -> Generator[Step, None, tuple[torch.Tensor, ...]]:
    """Return the results of one operation; a kernel's region is executed on values of its own."""
    if isinstance(op, KernelOp):
        inside: dict[SSAValue, torch.Tensor] = dict(zip(op.body.block.args, operands, strict=True))
        return tuple((yield from _execute(op.body.block, inside, frame)))
    if type(op) not in TAKES_QUANTIZED and any(isinstance(one, QuantizedTensor) for one in operands):
        raise fail(op, "takes no quantized tensor", fix="put a qcc.dequantize in front of it")
    found = MEANING[type(op)](op, operands, frame)
    return found if isinstance(found, tuple) else (found,)
