"""Write docs/ir.md from the dialect: every attribute, type and operation with its docstring and syntax."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from pages import write_or_check
from xdsl.ir import Attribute, Operation
from xdsl.irdl import IRDLOperation, OpDef
from xdsl.irdl.operations import AttrOrPropDef

from qcc.ir.dialect import ATTRIBUTES, OPERATIONS

HERE = Path(__file__).parent
TARGET = HERE / "ir.md"

HEAD = """# IR reference

Generated from the dialect by `python docs/make_ir_reference.py`; do not edit.

A module is text (`program.mlir`) and a weight store beside it (`weights.safetensors`). Its one dialect is `qcc`. Shapes
are symbolic: a dimension is an integer or an expression over the program's shape symbols, compared in canonical form.
A quantized tensor is one value whose element type is a format in quotes; see [formats](formats.md).
"""


def document() -> str:
    """Return the page."""
    parts = [HEAD, "## Types and attributes\n"]
    parts.extend(_attribute(one) for one in ATTRIBUTES)
    groups: dict[str, list[type[Operation]]] = {}
    for op in OPERATIONS:
        groups.setdefault(op.__module__, []).append(op)
    for module, ops in groups.items():
        title = (inspect.getdoc(sys.modules[module]) or "").splitlines()[0].rstrip(".")
        parts.append(f"## {title}\n")
        parts.extend(_operation(op) for op in ops)
    return "\n".join(parts)


def _attribute(one: type[Attribute]) -> str:
    text = f"### `{one.name}`\n\n{inspect.getdoc(one)}\n"
    values = getattr(one, "enum_type", None)
    if values is not None:
        text += f"\nValues: {', '.join(f'`{value.value}`' for value in values)}.\n"
    return text


def _operation(op: type[Operation]) -> str:
    assert issubclass(op, IRDLOperation)
    definition: OpDef = op.get_irdl_definition()
    lines = [f"### `{op.name}`\n", f"{inspect.getdoc(op)}\n"]
    rows = [("operand", name) for name, _ in definition.operands]
    rows += [("property", _optional(name, one)) for name, one in definition.properties.items()]
    rows += [("result", name) for name, _ in definition.results]
    shown = [row for row in rows if "operandSegmentSizes" not in row[1]]
    if shown:
        kinds: dict[str, list[str]] = {}
        for kind, name in shown:
            kinds.setdefault(kind, []).append(f"`{name}`")
        lines.append("; ".join(f"{kind}s: {', '.join(names)}" for kind, names in kinds.items()) + ".\n")
    if definition.assembly_format is not None:
        lines.append(f"Syntax: ``{op.name} {definition.assembly_format}``\n")
    return "\n".join(lines)


def _optional(name: str, definition: AttrOrPropDef) -> str:
    return f"{name}?" if "Opt" in type(definition).__name__ else name


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, document()))
