"""Put a quantizer on every float value between operations, as targets without floats need them.

    y = f(x)                  ->  y = dequantize(quantize(f(x)) : int8, static)
    contract(quantize(x), w)  ->  contract(x, w)                  x is quantized where it is made
    conv(x, w)                ->  conv(x, dequantize(quantize(w)))   grouped convolutions, which no contraction takes

Formats are static and one scale a tensor: those of the recipe's activations where products are taken (an override of a
layer means its input), with `TABLE_BITS` more where a function is tabulated, and `ROW_BITS` wide in front of norms. A
value is rounded once, at the widest format that is asked for, and again where something asks for a narrower one.

A value stays as it is where nothing is lost by it: sums that one operation reads which takes sums (an activation, a
residual, a constant factor), and codes that are only moved, selected or clamped.

Nothing about the function changes but the rounding that the formats name. Parameters come from `calibrate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import Problem, RecipeError, UnsupportedOp
from qcc.ir.base import LAYER, LEFT_IN_FLOAT, location_of, set_location
from qcc.ir.dims import product
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import ConstantOp, ProgramOp, WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import ReshapeOp
from qcc.ir.types import type_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, is_whole
from qcc.passes.integer_roles import Role, hands_on_codes, is_constant, is_known, is_made_whole, role_of
from qcc.passes.layer_schemes import layer_name
from qcc.recipes.load import load_recipe
from qcc.recipes.model import ActivationScheme, Recipe, WeightScheme

TABLE_BITS = 2
"""Bits that the input of a tabulated function has more than a product's."""

ROW_BITS = 16
"""Bits of the input of a norm."""


@dataclass(frozen=True)
class QuantizeValues(ModulePass):
    """The pass; `recipe` is a name, a path, or JSON text."""

    name: ClassVar[str] = "quantize-values"

    recipe: str = "fixed8"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module.

        Raises:
            RecipeError: if activations have no static symmetric integer format of one scale a tensor.
            UnsupportedOp: listing every operation on floats that has no integer form.
        """
        recipe = load_recipe(self.recipe)
        _refuse_formats(recipe)
        for conv in [one for one in op.walk() if isinstance(one, ConvOp)]:
            _quantize_filters(conv, recipe)
        _refuse_floats(op)
        for contract in [one for one in op.walk() if isinstance(one, ContractOp)]:
            _take_input_as_it_is(contract)
        for program in [one for one in op.walk() if isinstance(one, ProgramOp)]:
            _Quantizers(recipe).rewrite(program)


def _refuse_formats(recipe: Recipe) -> None:
    schemes = [("activations", recipe.activations)]
    schemes += [(f"overrides: {one.match}", one.activations) for one in recipe.overrides if one.activations]
    fix = "write activations: {format: int8, granularity: tensor, when: static}"
    problems = [Problem(where, what, fix) for where, one in schemes if (what := _misfit(one))]
    if problems:
        raise RecipeError("an integer-only target cannot take the formats of the recipe", problems)


def _misfit(scheme: ActivationScheme) -> str:
    """Say why a format is none that integer-only programs compute with; empty if it is one."""
    if scheme.is_float:
        return f"are {scheme.format}, which a target without floats cannot compute"
    qtype = scheme.qtype()
    if qtype.when != "static":
        return f"'{qtype}' is {qtype.when}: scales computed at run time need floats"
    if not isinstance(qtype.decode, IntDecode) or qtype.grid != "mid_tread":
        return f"'{qtype}' has no integer codes"
    if qtype.zero is not None or qtype.sides:
        return f"'{qtype}' has more than a scale"
    if any(not is_whole(level.block) for level in qtype.levels) or not qtype.levels:
        return f"'{qtype}' has not one scale a tensor"
    return ""


def _refuse_floats(module: ModuleOp) -> None:
    """Refuse what no target without floats can compute, before samples are run for anything."""
    problems: list[Problem] = []
    for op in module.walk():
        reason = op.attributes.get(LEFT_IN_FLOAT)
        if isinstance(op, LinearOp | ConvOp) and isinstance(reason, StringAttr):
            fix = "give it an integer format (overrides)"
            problems.append(Problem(_place(op), f"{op.name} is left in float: {reason.data}", fix))
        elif _computes_on_floats(op) and not is_known(op):
            what = f"{op.function.data} of floats" if isinstance(op, BinaryOp | UnaryOp) else op.name
            problems.append(Problem(_place(op), f"{what} has no integer form", "leave it out of the program"))
    if problems:
        raise UnsupportedOp(f"{len(problems)} operations cannot be computed in integers", problems)


def _computes_on_floats(op: Operation) -> bool:
    """Say whether an operation reads or makes floats that are computed at run time."""
    if isinstance(op, ProgramOp | ModuleOp | QuantizeOp | DequantizeOp | WeightOp | ConstantOp):
        return False
    values = [*op.operands, *op.results]
    floats = [one for one in values if type_of(one).qtype is None and type_of(one).is_float and not is_constant(one)]
    return bool(floats)


def _place(op: Operation) -> str:
    layer = op.attributes.get(LAYER)
    return " ".join(filter(None, [layer.data if isinstance(layer, StringAttr) else "", location_of(op)])) or op.name


def _take_input_as_it_is(op: ContractOp) -> None:
    """Leave the quantizer of an input to where the input is made; how sums are computed is not a choice any more."""
    coded = op.input.owner
    if isinstance(coded, QuantizeOp) and not coded.parameters:
        op.operands[0] = coded.input
        if not coded.result.uses:
            Rewriter.erase_op(coded)
    op.properties.pop("plan", None)


def _quantize_filters(conv: ConvOp, recipe: Recipe) -> None:
    """Quantize the weights of a convolution as rows [O, C / groups * window]."""
    scheme = _weights_of(recipe, conv)
    if scheme.is_float or not isinstance(conv.weight.owner, WeightOp):
        return
    kind = type_of(conv.weight)
    rows = ReshapeOp(conv.weight, (kind.shape[0], product(kind.shape[1:])))
    coded = QuantizeOp(rows, scheme.qtype())
    decoded = DequantizeOp(coded, kind.scalar)
    shaped = ReshapeOp(decoded, kind.shape)
    for one in (rows, coded, decoded, shaped):
        set_location(one, location_of(conv))
    Rewriter.insert_op([rows, coded, decoded, shaped], InsertPoint.before(conv))
    conv.operands[1] = shaped.result
    conv.attributes.pop(LEFT_IN_FLOAT, None)


def _weights_of(recipe: Recipe, conv: ConvOp) -> WeightScheme:
    name, scheme = layer_name(conv), recipe.weights
    for override in recipe.overrides:
        if override.matches(name):
            scheme = override.weights or scheme
    return scheme


class _Quantizers:
    """Rewrites one program, from top to bottom; `_codes` holds the format of every value that is codes already."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._base = recipe.activations.qtype()
        self._codes: dict[SSAValue, QType] = {}
        self._narrowed: dict[tuple[SSAValue, QType], SSAValue] = {}

    def rewrite(self, program: ProgramOp) -> None:
        """Quantize what the program is given, then every result in order."""
        operations = list(program.body.block.ops)
        for argument in program.body.block.args:
            if type_of(argument).is_float and argument.uses:
                self._quantize(argument, self._format(argument))
        for op in operations:
            self._narrow_operands(op)
            for result in op.results:
                if type_of(result).qtype is None and type_of(result).is_float and not is_constant(result):
                    self._settle(op, result)

    def _settle(self, op: Operation, result: SSAValue) -> None:
        """Note the format of a result that is codes, leave sums that may stay sums, and quantize all else."""
        if hands_on_codes(op) and (found := self._codes.get(op.operands[0])) is not None:
            self._codes[result] = found
        elif is_known(op) and result.uses and (is_made_whole(op) or not _read_once_as_sum(result)):
            self._quantize(result, self._format(result))

    def _quantize(self, value: SSAValue, qtype: QType) -> SSAValue:
        coded = QuantizeOp(value, qtype)
        decoded = DequantizeOp(coded, type_of(value).scalar)
        owner = value.owner
        for one in (coded, decoded):
            set_location(one, location_of(owner) if isinstance(owner, Operation) else "")
        point = InsertPoint.after(owner) if isinstance(owner, Operation) else InsertPoint.at_start(owner)
        Rewriter.insert_op([coded, decoded], point)
        value.replace_uses_with_if(decoded.result, lambda use: use.operation is not coded)
        self._codes[decoded.result] = qtype
        return decoded.result

    def _narrow_operands(self, op: Operation) -> None:
        """Round operands again that are wider than an operation takes."""
        for index, value in enumerate(op.operands):
            found, wanted = self._codes.get(value), self._asked(op, index)
            if found is None or wanted is None or wanted.decode.bits >= found.decode.bits:
                continue
            if (value, wanted) not in self._narrowed:
                coded = QuantizeOp(value, wanted)
                decoded = DequantizeOp(coded, type_of(value).scalar)
                for one in (coded, decoded):
                    set_location(one, location_of(op))
                Rewriter.insert_op([coded, decoded], InsertPoint.before(op))
                self._codes[decoded.result] = wanted
                self._narrowed[value, wanted] = decoded.result
            op.operands[index] = self._narrowed[value, wanted]

    def _format(self, value: SSAValue) -> QType:
        """Return the widest format that readers of a value ask for, else the recipe's."""
        asked = [one for use in value.uses if (one := self._asked(use.operation, use.index)) is not None]
        return max(asked, key=lambda one: one.decode.bits, default=self._base)

    def _asked(self, op: Operation, index: int) -> QType | None:
        """Return the format that an operation asks for, for itself or for those that read what it hands on."""
        role = role_of(op, index)
        if role is Role.PRODUCT:
            return self._layer_format(op)
        if role is Role.TABLE:
            return _with_bits(self._base, min(self._base.decode.bits + TABLE_BITS, ROW_BITS))
        if role is Role.ROWS:
            return _with_bits(self._base, ROW_BITS)
        if role is Role.NONE or not hands_on_codes(op):
            return None
        asked = [one for use in op.results[0].uses if (one := self._asked(use.operation, use.index)) is not None]
        return max(asked, key=lambda one: one.decode.bits, default=None)

    def _layer_format(self, op: Operation) -> QType:
        if not isinstance(op, ContractOp | ConvOp):
            return self._base
        name, scheme = layer_name(op), self._recipe.activations
        for override in self._recipe.overrides:
            if override.matches(name):
                scheme = override.activations or scheme
        return scheme.qtype()


def _with_bits(qtype: QType, bits: int) -> QType:
    decode = qtype.decode
    assert isinstance(decode, IntDecode)  # other formats are refused first
    if bits <= decode.bits:
        return qtype
    return replace(qtype, decode=IntDecode(bits, decode.signed, decode.narrow))


def _read_once_as_sum(value: SSAValue) -> bool:
    """Say whether one operation alone reads a value, and takes sums for it."""
    uses: Iterator[bool] = (role_of(use.operation, use.index) is Role.ANY for use in value.uses)
    return value.has_one_use() and next(uses)
