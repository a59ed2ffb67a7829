"""Golden vectors: what the interpreter gives, for backends to be held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, OpResult, SSAValue

from qcc.backends.base import ContractCase, Golden, ModelCall, ModelCase, Tolerance
from qcc.interpreter import Interpreter
from qcc.interpreter.contraction import corrected_sums
from qcc.ir.binding import bind_symbols
from qcc.ir.cache import CacheAppendOp, CacheRoundOp
from qcc.ir.integer import CodesOp
from qcc.ir.kernel import contracts_of, origin_of
from qcc.ir.program import ProgramOp, StateOp, WeightOp, program_of
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.integer_sums import sums_integers
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.sample import golden_sizes, overruns_cache, resized_inputs, varied_inputs

Tensors = Mapping[str, torch.Tensor]
Seen = dict[Operation, tuple[torch.Tensor | QuantizedTensor, ...]]

FLOAT_TOLERANCE = Tolerance(relative=2e-5, absolute=1e-6)
"""Float programs differ from the interpreter by the rounding of reordered sums."""

HALF_TOLERANCE = Tolerance(relative=3e-2, absolute=1e-6)
"""Programs in float16 or bfloat16 are computed in float32: they differ by the rounding they leave out."""

EXACT = Tolerance(relative=0.0)
"""Integer-only programs are the same everywhere: between input and output quantizer nothing is rounded in floats."""

VARIATIONS = 4
"""Inputs besides the example that an integer-only program is run on."""

LEAST_NOISE = 1e-3
"""Quantized programs may differ by this much even where quantization itself changed less."""

CONTRACT_ROWS = 3
"""Rows of each contraction that are compared bit for bit."""


def golden_of(
    module: ModuleOp, store: WeightStore, float_module: ModuleOp, float_store: WeightStore, example: Tensors
) -> Golden:
    """Run the interpreter on the example and on other sizes; keep the integers inside every contraction.

    `float_module` is the program before quantization: how far the two are apart is the tolerance of the whole program.
    """
    program = program_of(module)
    shapes = {name: tuple(value.shape) for name, value in example.items()}
    sizes = golden_sizes(program, bind_symbols(program, shapes))
    times = 2 if any(isinstance(op, StateOp) for op in program.body.walk()) else 1
    seen: Seen = dict.fromkeys(_wanted(program), ())
    cases: list[ModelCase] = []
    for index, symbols in enumerate(sizes):
        inputs = resized_inputs(program, example, symbols)
        if index and overruns_cache(program, inputs):
            continue
        calls = [inputs] * times
        name = "example" if not index else ", ".join(f"{key} = {value}" for key, value in symbols.items())
        cases.append(_model_case(module, store, name, calls, seen if not index else None))
    if _is_exact(program):
        cases += [
            _model_case(module, store, f"variation {index + 1}", [inputs], None)
            for index, inputs in enumerate(varied_inputs(example, VARIATIONS))
        ]
    tolerance = _tolerance(program, cases, float_module, float_store)
    models = tuple(replace(case, tolerance=tolerance) for case in cases)
    values = (example[name] for name in program.input_names)
    given: dict[SSAValue, torch.Tensor] = dict(zip(program.body.block.args, values, strict=True))
    return Golden(models, tuple(_contract_cases(program, store, seen, given)))


def _is_exact(program: ProgramOp) -> bool:
    """Say whether a program computes with integers alone between its quantizers."""
    return any(isinstance(op, CodesOp) for op in program.body.walk())


def _tolerance(
    program: ProgramOp, cases: list[ModelCase], float_module: ModuleOp, float_store: WeightStore
) -> Tolerance:
    """Return how far a backend's outputs may be from the interpreter's.

    In a program that quantizes activations, or keys and values, a difference in the last bit of a float can move a
    value over a rounding boundary; that changes a code by one step, as quantization itself did, and spreads through
    the layers that follow. Two exact executions may so differ by up to the noise of quantization, which is measured
    here. What is bit for bit is compared bit for bit, contraction by contraction.
    """
    if _is_exact(program):
        return EXACT
    if not any(isinstance(op, QuantizeOp | CacheAppendOp | CacheRoundOp) for op in program.body.walk()):
        half = any(type_of(value).scalar in ("f16", "bf16") for value in program.terminator.values)
        return HALF_TOLERANCE if half else FLOAT_TOLERANCE
    noise = LEAST_NOISE
    for case in cases:
        interpreter = Interpreter(float_module, float_store)
        for call in case.calls:
            exact = interpreter.run(call.inputs)
            for name, value in call.outputs.items():
                if value.is_floating_point() and value.numel():
                    peak = value.abs().max().item()
                    apart = (value - exact[name]).abs().max().item()
                    noise = max(noise, apart / peak) if peak > 0 else noise
    return Tolerance(relative=float(f"{noise:.3g}"), absolute=1e-6)


def _model_case(
    module: ModuleOp, store: WeightStore, name: str, calls: Sequence[Tensors], seen: Seen | None
) -> ModelCase:
    interpreter = Interpreter(module, store)

    def observe(op: Operation, results: tuple[torch.Tensor | QuantizedTensor, ...]) -> None:
        if seen is not None and seen.get(op) == ():
            seen[op] = results

    done = [ModelCall(inputs, interpreter.run_with(inputs, observe)) for inputs in calls]
    return ModelCase(name, tuple(done), FLOAT_TOLERANCE)


def _wanted(program: ProgramOp) -> list[Operation]:
    """Return the operations whose results contract cases are made of; stored weights are read when they are needed."""
    found: dict[Operation, None] = {}
    for op in _quantized(program):
        source, weight = origin_of(op.input).owner, origin_of(op.weight).owner
        if isinstance(source, QuantizeOp):
            owners = (source, weight, origin_of(source.input).owner)
            found |= dict.fromkeys(
                one for one in owners if isinstance(one, Operation) and not isinstance(one, WeightOp)
            )
    return list(found)


def _quantized(program: ProgramOp) -> list[ContractOp]:
    return [op for op in contracts_of(program) if type_of(op.input).qtype is not None]


def _contract_cases(
    program: ProgramOp, store: WeightStore, seen: Seen, given: Mapping[SSAValue, torch.Tensor]
) -> list[ContractCase]:
    cases: list[ContractCase] = []
    for index, op in enumerate(_quantized(program)):
        source, weight = origin_of(op.input).owner, origin_of(op.weight).owner
        if not isinstance(source, QuantizeOp) or not isinstance(weight, Operation):
            continue
        codes = seen[source][0]
        weights = store[weight.key.data] if isinstance(weight, WeightOp) else seen[weight][0]
        rows = _rows_of(source, seen, given)
        if not isinstance(codes, QuantizedTensor) or not isinstance(weights, QuantizedTensor) or rows is None:
            continue
        if not _sums_are_golden(codes.qtype, weights.qtype):
            continue
        flat = _first_rows(codes)
        cases.append(
            ContractCase(
                index=index,
                rows=rows.reshape(-1, rows.shape[-1])[:CONTRACT_ROWS].to(torch.float32),
                codes=flat.codes.to(torch.int8),
                scales=flat.scales[0].to(torch.float32).expand(len(flat.codes), -1).contiguous(),
                sums=corrected_sums(flat, weights).to(torch.int32),
            )
        )
    return cases


def _sums_are_golden(activation: QType, weight: QType) -> bool:
    """Say whether a case can hold the sums: int8 codes without zero point, under one level of scales."""
    decode = activation.decode
    plain = isinstance(decode, IntDecode) and decode.signed and decode.bits <= 8
    return plain and activation.zero is None and len(activation.levels) == 1 and sums_integers(activation, weight)


def _rows_of(op: QuantizeOp, seen: Seen, given: Mapping[SSAValue, torch.Tensor]) -> torch.Tensor | None:
    """Return the float tensor that was quantized: the result of an operation, or an input of the program."""
    source = origin_of(op.input)
    if isinstance(source, OpResult):
        value = seen[source.op][source.index] if source.op in seen else None
    else:
        value = given.get(source)
    return value if isinstance(value, torch.Tensor) else None


def _first_rows(tensor: QuantizedTensor) -> QuantizedTensor:
    """Return the first rows of a tensor whose scales go by rows."""
    codes = tensor.codes.reshape(-1, tensor.shape[-1])[:CONTRACT_ROWS]
    scales = tuple(scale.reshape(-1, scale.shape[-1])[:CONTRACT_ROWS] for scale in tensor.scales)
    return QuantizedTensor(tensor.qtype, tuple(codes.shape), codes, Parameters.of(scales))
