"""Lower single operations between quantizers of given scales, and compare with the real function of the codes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp
from qcc.ir.quant import DequantizeOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import FLOATS, tensor, type_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.lower_integer import LowerInteger
from tests.modules import Made, kind_of, make

Build = Callable[..., Made]


@dataclass(frozen=True)
class Outcome:
    """Codes of a lowered operation, and the real results in steps of their scale, within the range of codes."""

    codes: torch.Tensor
    real: torch.Tensor
    module: ModuleOp

    @property
    def worst(self) -> float:
        """The largest distance, in steps."""
        return float((self.codes - self.real).abs().max()) if self.codes.numel() else 0.0


def quantized(value: Made, scale: float, bits: int, store: WeightStore) -> Operation:
    """Round a value to signed codes of `bits` bits, and decode."""
    key, rank = store.fresh_key("scale"), type_of(SSAValue.get(value)).rank
    store[key] = torch.full((1,) * rank, scale, dtype=torch.float32)
    qtype = parse_qtype(f"int{bits}n | tensor f32")
    return DequantizeOp(QuantizeOp(value, qtype, [WeightOp(key, tensor((1,) * rank, "f32"))]))


def lower(
    build: Build,
    inputs: Sequence[tuple[torch.Tensor, float, int]],
    out: tuple[float, int],
    plain: Sequence[torch.Tensor] = (),
    **stored: torch.Tensor | QuantizedTensor,
) -> Outcome:
    """Lower `build`, which gets the decoded inputs, plain inputs as they are, and weights by name.

    An input is its values, the scale of its quantizer and the bits of its codes.
    """
    values = [*(one for one, _, _ in inputs), *plain]
    kinds = {f"x{index}": kind_of(one) for index, one in enumerate(values)}
    scale, bits = out

    def program(store: WeightStore, *, rounded: bool) -> ModuleOp:
        def body(*arguments: SSAValue) -> Made:
            decoded = [
                quantized(one, own, width, store) for one, (_, own, width) in zip(arguments, inputs, strict=False)
            ]
            weights = {name: WeightOp(name, kind_of(one)) for name, one in stored.items()}
            made = build(*decoded, *arguments[len(inputs) :], **weights)
            return quantized(made, scale, bits, store) if rounded else made

        return make(kinds, body)

    named = {f"x{index}": one for index, one in enumerate(values)}
    exact_store, store = WeightStore(stored), WeightStore(stored)
    exact = Interpreter(program(exact_store, rounded=False), exact_store, dtype="f64").run(named)["y"]
    module = program(store, rounded=True)
    LowerInteger().apply(QccContext(store), module)
    module.verify()
    expect_integers(module)
    found = Interpreter(module, store).run(named)["y"].double()
    step, most = float(torch.tensor(scale)), 2 ** (bits - 1) - 1
    real = (exact / step).clamp(-most, most) if step else torch.zeros_like(exact)
    return Outcome(found / step if step else found, real, module)


def expect_integers(module: ModuleOp) -> None:
    """Hold a module to floats at its quantizers and decoders alone."""
    float_results = [
        op
        for op in module.walk()
        for one in op.results
        if type_of(one).qtype is None and type_of(one).scalar in FLOATS and not isinstance(op, WeightOp | DequantizeOp)
    ]
    assert not float_results, [op.name for op in float_results]
    scales = [op.results[0] for op in module.walk() if isinstance(op, WeightOp) and type_of(op.result).qtype is None]
    users = itertools.chain.from_iterable(one.uses for one in scales if type_of(one).scalar in FLOATS)
    assert {use.operation.name for use in users} <= {"qcc.quantize", "qcc.of_codes"}
