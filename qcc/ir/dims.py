"""Symbolic dimensions: integer expressions over the program's shape symbols.

A dimension is kept in one canonical form, a polynomial with integer coefficients over atoms. An atom is a
symbol (`s0`) or a call of `floordiv`, `mod`, `max` or `min` on dimensions. Two dimensions are equal exactly
when their canonical forms are, so shapes compare with `==`; what the polynomial form cannot prove equal
counts as different.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qcc.errors import ShapeError

UNBOUNDED = 2**63 - 1
"""Upper bound of a symbol without an upper bound."""

_CALLS: dict[str, Callable[[int, int], int]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
}


@dataclass(frozen=True)
class Call:
    """An atom that is no polynomial: `function(left, right)`."""

    function: str
    left: Dim
    right: Dim

    def __str__(self) -> str:
        if self.function == "floordiv":
            return f"({self.left})//({self.right})"
        return f"{self.function}({self.left}, {self.right})"


Atom = str | Call
Monomial = tuple[Atom, ...]


def _monomial_key(monomial: Monomial) -> tuple[int, str]:
    return (-len(monomial), "*".join(map(str, monomial)))


@dataclass(frozen=True)
class Dim:
    """A canonical integer expression: `terms` maps sorted products of atoms to non-zero coefficients."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def of(value: Dim | int | str) -> Dim:
        """Make a dimension from an integer, the text of an expression, or another dimension.

        Raises:
            ShapeError: if the text is no integer expression of the grammar.
        """
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return parse_dim(value)
        return Dim((((), int(value)),)) if value else Dim(())

    @staticmethod
    def symbol(name: str) -> Dim:
        """Make the dimension that is the symbol `name`."""
        return Dim((((name,), 1),))

    @staticmethod
    def _from_terms(terms: Mapping[Monomial, int]) -> Dim:
        kept = [(m, c) for m, c in terms.items() if c]
        return Dim(tuple(sorted(kept, key=lambda term: _monomial_key(term[0]))))

    @property
    def constant(self) -> int | None:
        """The value, if it depends on no symbol."""
        if not self.terms:
            return 0
        (monomial, coefficient), *rest = self.terms
        return coefficient if not rest and not monomial else None

    def __add__(self, other: Dim | int) -> Dim:
        terms = dict(self.terms)
        for monomial, coefficient in Dim.of(other).terms:
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Dim._from_terms(terms)

    def __sub__(self, other: Dim | int) -> Dim:
        return self + Dim.of(other) * -1

    def __mul__(self, other: Dim | int) -> Dim:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in Dim.of(other).terms:
                monomial = tuple(sorted(left + right, key=str))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return Dim._from_terms(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def exact_div(self, divisor: Dim | int) -> Dim | None:
        """Return the quotient if `divisor`, a single term, divides every term; else None."""
        divisor = Dim.of(divisor)
        if len(divisor.terms) != 1:
            return Dim.of(1) if self == divisor else None
        (by, factor) = divisor.terms[0]
        terms: dict[Monomial, int] = {}
        for monomial, coefficient in self.terms:
            left = list(monomial)
            for atom in by:
                if atom not in left:
                    return None
                left.remove(atom)
            if coefficient % factor:
                return None
            terms[tuple(left)] = coefficient // factor
        return Dim._from_terms(terms)

    def __floordiv__(self, other: Dim | int) -> Dim:
        divisor = Dim.of(other).constant
        if divisor is not None and divisor > 0:
            return self._floordiv_constant(divisor)
        exact = self.exact_div(other) if Dim.of(other).terms else None
        return exact if exact is not None else self._call("floordiv", other)

    def _floordiv_constant(self, divisor: int) -> Dim:
        """Divide by a positive integer; equal quotients of strided windows get one form.

        `(d*a + b)//d = a + b//d`, `(g*a + r)//(g*d) = a//d` for 0 <= r < g, and `(a//b + k)//d = (a + k*b)//(b*d)`.
        """
        whole = Dim._from_terms({m: c // divisor for m, c in self.terms})
        rest = self - whole * divisor
        size = rest.constant
        if size is not None:
            return whole + size // divisor
        common = math.gcd(divisor, *(c for m, c in rest.terms if m))
        if common > 1:
            rest, divisor = Dim._from_terms({m: c // common for m, c in rest.terms}), divisor // common
            return whole + rest // divisor
        (monomial, coefficient), *others = rest.terms
        inner = monomial[0] if len(monomial) == 1 and coefficient == 1 else None
        if isinstance(inner, Call) and inner.function == "floordiv" and all(not m for m, _ in others):
            step = inner.right.constant
            if step is not None and step > 0:
                return whole + (inner.left + sum(c for _, c in others) * step) // (step * divisor)
        return whole + rest._call("floordiv", divisor)

    def __mod__(self, other: Dim | int) -> Dim:
        divisor = Dim.of(other).constant
        if divisor is not None and divisor > 0:
            return Dim._from_terms({m: c % divisor for m, c in self.terms})._call("mod", divisor)
        if Dim.of(other).terms and self.exact_div(other) is not None:
            return Dim.of(0)
        return self._call("mod", other)

    def maximum(self, other: Dim | int) -> Dim:
        """Return the larger of two dimensions."""
        return self if self == Dim.of(other) else self._call("max", other)

    def minimum(self, other: Dim | int) -> Dim:
        """Return the smaller of two dimensions."""
        return self if self == Dim.of(other) else self._call("min", other)

    def _call(self, function: str, other: Dim | int) -> Dim:
        right = Dim.of(other)
        a, b = self.constant, right.constant
        if b == 0 and function in ("floordiv", "mod"):
            raise ShapeError(f"dimension {self} is divided by zero")
        if a is not None and b is not None:
            return Dim.of(_CALLS[function](a, b))
        return Dim((((Call(function, self, right),), 1),))

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols in the expression."""
        names: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                names |= {atom} if isinstance(atom, str) else atom.left.symbols | atom.right.symbols
        return frozenset(names)

    def evaluate(self, values: Mapping[str, int]) -> int:
        """Compute the integer for given symbol values (elements, not bytes).

        Raises:
            KeyError: if a symbol has no value.
        """
        total = 0
        for monomial, coefficient in self.terms:
            for atom in monomial:
                if isinstance(atom, str):
                    coefficient *= values[atom]
                else:
                    coefficient *= _CALLS[atom.function](atom.left.evaluate(values), atom.right.evaluate(values))
            total += coefficient
        return total

    def substitute(self, values: Mapping[str, Dim]) -> Dim:
        """Replace symbols by dimensions; symbols without a replacement stay."""
        total = Dim.of(0)
        for monomial, coefficient in self.terms:
            product = Dim.of(coefficient)
            for atom in monomial:
                if isinstance(atom, str):
                    product = product * values.get(atom, Dim.symbol(atom))
                else:
                    left, right = atom.left.substitute(values), atom.right.substitute(values)
                    product = product * _apply(atom.function, left, right)
            total = total + product
        return total

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = ""
        alone = len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1
        for monomial, coefficient in self.terms:
            sign = "-" if coefficient < 0 else "+"
            size = abs(coefficient)
            # a division beside other factors needs parentheses: -(a//2) is not (-a)//2
            atoms = [f"({atom})" if isinstance(atom, Call) and not alone else str(atom) for atom in monomial]
            factors = ([str(size)] if size != 1 or not monomial else []) + atoms
            if not text:
                text = ("-" if coefficient < 0 else "") + "*".join(factors)
            else:
                text += f" {sign} " + "*".join(factors)
        return text


def _apply(function: str, left: Dim, right: Dim) -> Dim:
    table: dict[str, Callable[[Dim, Dim], Dim]] = {
        "floordiv": lambda a, b: a // b,
        "mod": lambda a, b: a % b,
        "max": Dim.maximum,
        "min": Dim.minimum,
    }
    return table[function](left, right)


_BINARY: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# sympy spells the same functions in its own way
_FUNCTIONS = {
    "floordiv": "floordiv",
    "FloorDiv": "floordiv",
    "CleanDiv": "floordiv",
    "mod": "mod",
    "Mod": "mod",
    "PythonMod": "mod",
    "max": "max",
    "Max": "max",
    "min": "min",
    "Min": "min",
}


def parse_dim(text: str) -> Dim:
    """Parse `2*s0 + 1`, `(s0 - 1)//2`, `max(s0, 4)`; sympy's spellings of the functions are taken too.

    Raises:
        ShapeError: if the text is no integer expression of this grammar.
    """
    try:
        return _convert(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ShapeError(
            f"'{text}' is no dimension", fix="write integers and symbols joined by + - * // %, max() or min()"
        ) from error


def _convert(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int() as value):
            return Dim.of(value)
        case ast.Name(id=name):
            return Dim.symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _convert(operand) * -1
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as power)) if power > 0:
            base = _convert(left)
            product = base
            for _ in range(power - 1):
                product = product * base
            return product
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_convert(left), _convert(right))
        case ast.Call(func=ast.Name(id="PowByNatural"), args=[base, power]):
            return _convert(ast.BinOp(base, ast.Pow(), power))
        case ast.Call(func=ast.Name(id=name), args=[first, *rest]) if name in _FUNCTIONS:
            result = _convert(first)
            for other in rest:
                result = _apply(_FUNCTIONS[name], result, _convert(other))
            return result
        case _:
            raise ValueError(ast.dump(node))


Shape = tuple[Dim, ...]


def shape_of(values: Iterable[Dim | int | str]) -> Shape:
    """Make a shape from integers, expressions and dimensions."""
    return tuple(Dim.of(value) for value in values)


def product(shape: Iterable[Dim]) -> Dim:
    """Multiply dimensions: the number of elements of a shape."""
    total = Dim.of(1)
    for dim in shape:
        total = total * dim
    return total


def broadcast(shapes: Iterable[Shape]) -> Shape | None:
    """Return the shape that all shapes broadcast to by numpy's rules, or None if they do not."""
    shapes = list(shapes)
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = []
    one = Dim.of(1)
    for axis in range(-rank, 0):
        wide = {shape[axis] for shape in shapes if len(shape) >= -axis} - {one}
        if len(wide) > 1:
            return None
        result.append(wide.pop() if wide else one)
    return tuple(result)
