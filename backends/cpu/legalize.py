"""Make a module computable by the float32 kernels.

    x : f16, bf16, f64   ->   x : f32,   with casts where values enter or leave the program

Integers and truth values stay, and so do the scales and zero points of quantized caches. Weights and state of other
float types are converted when they are written; quantized formats keep their scales. Rounding between operations then
happens in float32 instead of the model's own type.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.ir.cache import CacheAppendOp, CacheReadOp
from qcc.ir.elementwise import CastOp
from qcc.ir.kernel import KernelOp
from qcc.ir.program import ProgramOp
from qcc.ir.types import FLOATS, TensorType, type_of


def legalize(module: ModuleOp) -> ModuleOp:
    """Return a copy of a module in which every computed float is float32."""
    copy = module.clone()
    for op in copy.ops:
        if isinstance(op, ProgramOp):
            _legalize_program(op)
    copy.verify()
    return copy


def _narrow(kind: TensorType) -> bool:
    return kind.qtype is None and kind.scalar in FLOATS and kind.scalar != "f32"


def _cache_steps(program: ProgramOp) -> set[SSAValue]:
    """Return the scales and zero points of quantized caches, which stay as they are stored."""
    found: set[SSAValue] = set()
    for op in program.body.walk():
        if isinstance(op, CacheAppendOp | CacheReadOp):
            groups = (op.parts, op.outputs) if isinstance(op, CacheAppendOp) else (op.parts,)
            for values in groups:
                found |= {one for name, one in zip(op.part_names, values, strict=True) if name in ("scale", "zero")}
    return found


def _legalize_program(program: ProgramOp) -> None:
    terminator = program.terminator
    wanted = [type_of(value) for value in terminator.values]
    kept = _cache_steps(program)
    for op in list(program.body.walk()):
        for value in (*op.results, *(op.body.block.args if isinstance(op, KernelOp) else ())):
            kind = type_of(value)
            if _narrow(kind) and value not in kept:
                Rewriter.replace_value_with_new_type(value, kind.with_element("f32"))
    for argument in program.body.block.args:
        if _narrow(type_of(argument)) and argument.uses:
            cast = CastOp(argument, "f32")
            argument.replace_uses_with_if(cast.result, lambda use, cast=cast: use.operation is not cast)
            Rewriter.insert_op(cast, InsertPoint.at_start(program.body.block))
    for op in list(program.body.block.ops):
        if isinstance(op, CastOp) and op.input.type == op.result.type:
            op.result.replace_all_uses_with(op.input)
            Rewriter.erase_op(op)
    values: list[SSAValue] = []
    for value, kind in zip(terminator.values, wanted, strict=True):
        if type_of(value) != kind:
            cast = CastOp(value, kind.scalar)
            Rewriter.insert_op(cast, InsertPoint.before(terminator))
            value = cast.result
        values.append(value)
    terminator.operands = values
