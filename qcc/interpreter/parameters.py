"""Parameters of formats as the plain tensors that the IR hands around, and as what a format stores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.ir import Operation

from qcc.interpreter.values import Frame, fail
from qcc.ir.base import location_of
from qcc.ir.parameters import part_type
from qcc.ir.types import TensorType
from qcc.numerics.levels import round_level, stored_dtype
from qcc.numerics.named_tensors import named_parameters, parameters_from
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, is_integer_dtype
from qcc.numerics.quantize import compute_qparams, quantize
from qcc.numerics.sides import split_sides
from qcc.numerics.stored_parts import SELECTOR, StoredPart, choices, parameter_parts, root_parts, static_parts
from qcc.numerics.tensor import Parameters, QuantizedTensor


def plain_parameters(kind: TensorType, qtype: QType, parameters: Parameters, frame: Frame) -> tuple[torch.Tensor, ...]:
    """Give the parameters of a tensor of type `kind` as plain tensors, in the format's order."""
    named = named_parameters(qtype, parameters)
    parts = parameter_parts(qtype)
    return tuple(named[part.name].to(frame.torch_dtype(part_type(kind.shape, part))) for part in parts)


def stored_parameters(op: Operation, qtype: QType, values: Sequence[torch.Tensor]) -> Parameters:
    """Round plain tensors to the dtypes that the format stores; undoes `plain_parameters`.

    Raises:
        ShapeError: if an integer zero point or selector does not fit.
    """
    return parameters_from(qtype, _stored(op, qtype, parameter_parts(qtype), values))


def stored_roots(op: Operation, qtype: QType, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Round scales above the leaf to their stored dtypes; none may be given."""
    if not given:
        return ()
    return tuple(_stored(op, qtype, root_parts(qtype), given).values())


def computed_parameters(op: Operation, value: torch.Tensor, qtype: QType, roots: Sequence[torch.Tensor]) -> Parameters:
    """Compute the parameters that a tensor is quantized with, under the given scales above the leaf if there are any.

    What the format keeps in side tensors has no say.
    """
    where = location_of(op) or op.name
    rest = split_sides(value, qtype.sides, where)[0] if qtype.sides else value
    return compute_qparams(rest, qtype, where, roots=stored_roots(op, qtype, roots))


def _local_parameters(op: Operation, value: torch.Tensor, qtype: QType, given: Sequence[torch.Tensor]) -> Parameters:
    """Compute what a `dynamic_local` format leaves to the values, under what is given."""
    held = _stored(op, qtype, static_parts(qtype), given)
    selector, where = held.pop(SELECTOR, None), location_of(op) or op.name
    rest = split_sides(value, qtype.sides, where)[0] if qtype.sides else value
    return compute_qparams(rest, qtype, where, roots=tuple(held.values()), selector=selector)


def quantize_given(op: Operation, value: torch.Tensor, qtype: QType, given: Sequence[torch.Tensor]) -> QuantizedTensor:
    """Encode a tensor under the parameters that are given, computing those that are not.

    Raises:
        ShapeError: if parameters do not fit, or a static format meets values that are not finite.
    """
    where = location_of(op) or op.name
    if not given:
        return quantize(value, qtype, where=where)
    if qtype.when == "dynamic_local":
        return quantize(value, qtype, _local_parameters(op, value, qtype, given), where=where)
    return quantize(value, qtype, stored_parameters(op, qtype, given), where=where)


def _stored(
    op: Operation, qtype: QType, parts: Sequence[StoredPart], values: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {part.name: _rounded(op, qtype, part, value) for part, value in zip(parts, values, strict=True)}


def _rounded(op: Operation, qtype: QType, part: StoredPart, value: torch.Tensor) -> torch.Tensor:
    if part.level is not None:
        may_vanish = part.role == "zero" or part.level.offset != "none"
        return round_level(value, part.level, value, 1.0, may_vanish=may_vanish)
    if part.role == "selector":
        _check_range(op, part, value, 0, choices(qtype.decode) - 1)
    elif part.role == "zero" and is_integer_dtype(part.dtype):
        limits = IntDecode(int(part.dtype[1:]), part.dtype[0] == "i")
        _check_range(op, part, value, limits.minimum, limits.maximum)
    return value.to(stored_dtype(part.dtype))


def _check_range(op: Operation, part: StoredPart, value: torch.Tensor, low: int, high: int) -> None:
    least, most = int(value.min()), int(value.max())
    if least < low or most > high:
        raise fail(op, f"{part.name} has values from {least} to {most}, outside {low} to {high}")
