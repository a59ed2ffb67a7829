"""C text of dimensions, numbers and names."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from qcc.ir.dims import Atom, Call, Dim

C_TYPES = {
    "f64": "double",
    "f32": "float",
    "f16": "uint16_t",
    "bf16": "uint16_t",
    "i64": "int64_t",
    "i32": "int32_t",
    "i8": "int8_t",
    "u8": "uint8_t",
    "i1": "uint8_t",
}
"""C type that stores an element."""

C_DTYPES = {
    "f64": "QCC_F64",
    "f32": "QCC_F32",
    "f16": "QCC_F16",
    "bf16": "QCC_BF16",
    "i64": "QCC_I64",
    "i32": "QCC_I32",
    "i8": "QCC_I8",
    "u8": "QCC_U8",
    "i1": "QCC_BOOL",
}
"""Name of an element type in the kernels' interface."""

C_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long main"
    " register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while"
    " args begin bool c call end false input output qcc session true".split()
)
_SPECIAL = {"nan": "NAN", "inf": "INFINITY", "-inf": "-INFINITY"}
_FUNCTIONS = {"floordiv": "qcc_floor_div", "mod": "qcc_floor_mod", "max": "qcc_max", "min": "qcc_min"}


def c_name(text: str) -> str:
    """Make an identifier of C out of any text."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII) or "model"
    return f"q_{name}" if name[0].isdigit() or name in C_KEYWORDS else name


def c_symbol(name: str) -> str:
    """Return the C variable of a shape symbol."""
    return f"dim_{c_name(name)}" if not re.fullmatch(r"s\d+", name) else name


def c_comment(text: str) -> str:
    """Make text safe inside a C comment."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\n", " ").replace("\\", "/").replace("??", "? ?")


def c_string(text: str) -> str:
    """Quote text as a C string literal of plain ASCII."""
    out: list[str] = []
    for byte in text.encode():
        char = chr(byte)
        out.append(char if char.isascii() and char.isprintable() and char not in '"\\?' else f"\\{byte:03o}")
    return f'"{"".join(out)}"'


def c_dim(dim: Dim) -> str:
    """Write a dimension as a C expression of type int64_t over the shape symbols."""
    if not dim.terms:
        return "0"
    text = ""
    for monomial, coefficient in dim.terms:
        factors = [str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []
        factors += [_c_atom(atom) for atom in monomial]
        sign = "-" if coefficient < 0 else "+"
        joined = " * ".join(factors)
        text = f"{text} {sign} {joined}" if text else (f"-{joined}" if coefficient < 0 else joined)
    return text


def _c_atom(atom: Atom) -> str:
    if isinstance(atom, Call):
        return f"{_FUNCTIONS[atom.function]}({c_dim(atom.left)}, {c_dim(atom.right)})"
    return c_symbol(atom)


def c_float(value: float) -> str:
    """Write a float32 constant: the shortest decimal that reads back as the rounded value."""
    with np.errstate(over="ignore"):
        text = str(np.float32(value))
    return _SPECIAL.get(text) or f"{text}f"


def c_double(value: float) -> str:
    """Write a float64 constant."""
    text = repr(float(value))
    return _SPECIAL.get(text) or text


def c_integer(value: int) -> str:
    """Write an integer constant of 64 bits."""
    return "INT64_MIN" if value == -(2**63) else f"INT64_C({value})"


def c_array(items: Iterable[str]) -> str:
    """Write an initialiser."""
    return "{" + ", ".join(items) + "}"
