"""Measure what quantization did: every layer against the float model, on samples, through the interpreter.

Two runs a sample. The first executes the twin (`qcc.report.twin`): the float model, and beside each of its layers the
quantized one on the same float input, for the local error. The second executes the quantized program, for the
cumulative one. Memory: the layers' float inputs and outputs of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.interpreter import Interpreter
from qcc.ir.binding import bind_symbols
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.report.model import Values
from qcc.report.tally import Noise, Tally
from qcc.report.twin import Originals, Twin, end_of, flattened, layers_of, twin_module

Tensors = Mapping[str, torch.Tensor]
Results = tuple[torch.Tensor | QuantizedTensor, ...]

CHEAP_MACS = 2_000_000_000
"""Multiply-adds of all layers on all samples that a compilation measures without being asked: some seconds."""


@dataclass(frozen=True)
class LayerMeasure:
    """Errors of one layer, and what its weights and inputs are like; None where its float original is not known."""

    name: str
    where: str
    is_known: bool
    sqnr_db: float | None
    cumulative_sqnr_db: float | None
    mse: float
    weights: Values | None
    input: Values | None


@dataclass(frozen=True)
class Measurement:
    """All layers in program order, outputs by name (SQNR in dB, None without error), perplexities, samples run."""

    layers: tuple[LayerMeasure, ...]
    outputs: dict[str, float | None]
    output_sqnr_db: float | None
    perplexity: dict[str, float] | None
    samples: int


@dataclass(frozen=True, eq=False)
class Models:
    """The quantized program with its weights, and the float program and weights that it was made from.

    `floats` are the float weights under the names and in the shapes that codes were chosen for.
    """

    module: ModuleOp
    store: WeightStore
    floats: Mapping[str, torch.Tensor]
    float_module: ModuleOp
    float_store: WeightStore


def macs_of(module: ModuleOp, sample: Tensors) -> int:
    """Count the multiply-adds of all layers of a program on one sample."""
    sizes = bind_symbols(program_of(module), {name: tuple(value.shape) for name, value in sample.items()})
    total = 0
    for layer in layers_of(module):
        rows = math.prod(dim.evaluate(sizes) for dim in type_of(layer.result).shape)
        total += rows * math.prod((type_of(layer.weight).static_shape or (1,))[1:])
    return total


@dataclass(eq=False)
class _Sums:
    """What is summed over samples for one layer."""

    local: Noise = field(default_factory=Noise)
    cumulative: Noise = field(default_factory=Noise)


def measure(models: Models, samples: Sequence[Tensors]) -> Measurement:
    """Run the samples, each from the program's first state, and return what was found.

    Raises:
        ShapeError: if a sample does not fit the program.
    """
    weights = Originals(models.store, models.floats)
    twin, twins = twin_module(models.module, weights)
    flat = flattened(models.module)
    ends = [end_of(layer) for layer in layers_of(flat)]
    exact_runs, found_runs = Interpreter(twin, weights), Interpreter(flat, models.store)
    float_runs = Interpreter(models.float_module, models.float_store)
    look = _Look(twin, twins)
    outputs = {name: Noise() for name in program_of(flat).output_names}
    text = _Perplexity(program_of(models.float_module).input_names)
    count = 0
    for sample in samples:
        for run in (exact_runs, found_runs, float_runs):
            run.reset()
        exact = look.run_exact(exact_runs, sample)
        found = look.run_found(found_runs, sample, ends, exact)
        wanted = float_runs.run(sample)
        for name, noise in outputs.items():
            if wanted[name].is_floating_point():
                noise.add(wanted[name], found[name])
        text.add(sample, wanted, found, float_runs)
        count += 1
    total = _total(outputs.values())
    found_outputs = {name: noise.sqnr_db for name, noise in outputs.items() if noise.count}
    layers = tuple(look.measures(models))
    return Measurement(layers, found_outputs, total.sqnr_db, text.result(), count)


def _total(parts: Iterable[Noise]) -> Noise:
    total = Noise()
    for one in parts:
        total.signal += one.signal
        total.noise += one.noise
        total.count += one.count
    return total


class _Look:
    """Watches both runs and sums what it sees."""

    def __init__(self, twin: ModuleOp, twins: Sequence[Twin]) -> None:
        program = program_of(twin)
        self._arguments = dict(zip(program.input_names, program.body.block.args, strict=True))
        self._twins = twins
        self._sums = [_Sums() for _ in twins]
        self._inputs = {twin.input: Tally() for twin in twins}

    def run_exact(self, interpreter: Interpreter, sample: Tensors) -> dict[int, torch.Tensor]:
        """Run the twin on a sample; returns the float output of every layer, by index."""
        ends = {value: i for i, twin in enumerate(self._twins) for value in (twin.quantized, twin.exact)}
        codes = {twin.codes: twin.input for twin in self._twins if twin.codes is not None}
        held: dict[SSAValue, torch.Tensor] = {}
        exact: dict[int, torch.Tensor] = {}
        quantized: dict[int, torch.Tensor] = {}
        for name, argument in self._arguments.items():
            self._see_input(argument, sample[name], held)

        def see(op: Operation, results: Results) -> None:
            for value, result in zip(op.results, results, strict=True):
                if isinstance(result, QuantizedTensor):
                    if value in codes and codes[value] in held:
                        seen = held[codes[value]]
                        self._inputs[codes[value]].add_codes(seen, dequantize(result, torch.float32))
                    continue
                self._see_input(value, result, held)
                if (index := ends.get(value)) is None:
                    continue
                if value is self._twins[index].quantized:
                    quantized[index] = result
                if value is self._twins[index].exact:
                    exact[index] = result
                    self._sums[index].local.add(result, quantized.pop(index, result))

        interpreter.run_with(sample, see)
        return exact

    def _see_input(self, value: SSAValue, result: torch.Tensor, held: dict[SSAValue, torch.Tensor]) -> None:
        if value in self._inputs and result.is_floating_point():
            self._inputs[value].add(result)
            held[value] = result

    def run_found(
        self, interpreter: Interpreter, sample: Tensors, ends: Sequence[SSAValue], exact: dict[int, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Run the quantized program and hold every layer to its float output."""
        places = {value: index for index, value in enumerate(ends)}

        def see(op: Operation, results: Results) -> None:
            for value, result in zip(op.results, results, strict=True):
                if (index := places.get(value)) is not None and isinstance(result, torch.Tensor):
                    self._sums[index].cumulative.add(exact.pop(index), result)

        return interpreter.run_with(sample, see)

    def measures(self, models: Models) -> Iterator[LayerMeasure]:
        """Return what was found of every layer."""
        inputs = {value: tally.values() for value, tally in self._inputs.items()}
        for twin, sums in zip(self._twins, self._sums, strict=True):
            known = twin.original is not None or twin.weight is None
            yield LayerMeasure(
                name=twin.name,
                where=twin.where,
                is_known=known,
                sqnr_db=sums.local.sqnr_db,
                cumulative_sqnr_db=sums.cumulative.sqnr_db,
                mse=sums.local.mse,
                weights=_weight_values(twin, models),
                input=inputs[twin.input],
            )


def _weight_values(twin: Twin, models: Models) -> Values | None:
    if twin.original is None or twin.weight is None:
        return None
    tally, exact = Tally(), models.floats[twin.original]
    tally.add(exact)
    tally.add_codes(exact.float(), dequantize(models.store.quantized(twin.weight), torch.float32))
    return tally.values()


class _Perplexity:
    """Perplexity of both programs on the samples' own next tokens, where the program predicts them.

    A program does if one of its inputs is a row of tokens, one output has a float for each token of a vocabulary at
    every position, and no output changes with a later token.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = inputs
        self._losses = {"float": 0.0, "quantized": 0.0}
        self._count = 0
        self._causal: bool | None = None

    def add(self, sample: Tensors, wanted: Tensors, found: Tensors, floats: Interpreter) -> None:
        """Add one sample and what both programs gave for it."""
        match = next(_logits(sample, wanted), None)
        if match is None or self._causal is False:
            return
        tokens, name = match
        if self._causal is None:
            self._causal = _is_causal(sample, tokens, name, wanted[name], floats)
        if not self._causal:
            return
        targets = sample[tokens][:, 1:].reshape(-1)
        for kind, outputs in (("float", wanted), ("quantized", found)):
            logits = outputs[name][:, :-1].reshape(targets.numel(), -1).float()
            self._losses[kind] += float(torch.nn.functional.cross_entropy(logits, targets.long(), reduction="sum"))
        self._count += targets.numel()

    def result(self) -> dict[str, float] | None:
        """Return both perplexities, or None where the programs predict no tokens."""
        if not self._count:
            return None
        return {kind: float(f"{math.exp(min(loss / self._count, 700.0)):.6g}") for kind, loss in self._losses.items()}


def _logits(sample: Tensors, outputs: Tensors) -> Iterator[tuple[str, str]]:
    for tokens, ids in sample.items():
        if ids.is_floating_point() or ids.dim() != 2 or ids.shape[1] < 2:
            continue
        for name, value in outputs.items():
            if value.is_floating_point() and value.dim() == 3 and value.shape[:2] == ids.shape:
                if value.shape[2] > int(ids.max()) and value.shape[2] > 1:
                    yield tokens, name


def _is_causal(sample: Tensors, tokens: str, name: str, wanted: torch.Tensor, floats: Interpreter) -> bool:
    """Run with another last token, and see whether that changes what comes before it."""
    ids = sample[tokens].clone()
    ids[:, -1] = torch.where(ids[:, -1] == 0, 1, 0)
    floats.reset()
    changed = floats.run({**sample, tokens: ids})[name]
    return torch.equal(changed[:, :-1], wanted[:, :-1]) and not torch.equal(changed, wanted)
