"""Symbolic dimensions compute what Python computes, in any form they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import ShapeError
from qcc.ir.dims import Dim, broadcast, parse_dim, product, shape_of

SYMBOLS = ("a", "b", "c")


def expressions() -> st.SearchStrategy[str]:
    leaves = st.one_of(st.sampled_from(SYMBOLS), st.integers(0, 9).map(str))

    def grow(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.tuples(children, children)
        return st.one_of(
            st.tuples(children, st.sampled_from("+-*"), children).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            pairs.map(lambda t: f"max({t[0]}, {t[1]})"),
            pairs.map(lambda t: f"min({t[0]}, {t[1]})"),
            st.tuples(children, st.integers(1, 7)).map(lambda t: f"({t[0]})//{t[1]}"),
            st.tuples(children, st.integers(1, 7)).map(lambda t: f"({t[0]}) % {t[1]}"),
        )

    return st.recursive(leaves, grow, max_leaves=8)


values = st.fixed_dictionaries({name: st.integers(0, 50) for name in SYMBOLS})


@given(expressions(), values)
def test_evaluates_as_python_does(text: str, env: dict[str, int]) -> None:
    expected = eval(text, {"max": max, "min": min, "__builtins__": {}}, env)  # the text is ours
    assert parse_dim(text).evaluate(env) == expected


@given(expressions(), values)
def test_text_round_trips(text: str, env: dict[str, int]) -> None:
    dim = parse_dim(text)
    assert parse_dim(str(dim)) == dim
    assert parse_dim(str(dim)).evaluate(env) == dim.evaluate(env)


@given(expressions(), expressions(), values)
def test_substitution_is_evaluation(text: str, other: str, env: dict[str, int]) -> None:
    dim, replacement = parse_dim(text), parse_dim(other)
    inner = {**env, "a": replacement.evaluate(env)}
    assert dim.substitute({"a": replacement}).evaluate(env) == dim.evaluate(inner)


@given(expressions(), expressions())
def test_equal_polynomials_are_equal(left: str, right: str) -> None:
    a, b = parse_dim(left), parse_dim(right)
    assert (a + b) * (a + b) == a * a + 2 * (a * b) + b * b
    assert a - a == Dim.of(0)


def test_exact_division() -> None:
    dim = parse_dim("12*a*b + 6*a")
    assert dim.exact_div(Dim.of("3*a")) == parse_dim("4*b + 2")
    assert dim.exact_div(Dim.of("b")) is None
    assert dim.exact_div(5) is None
    assert dim // 6 == parse_dim("2*a*b + a")


@pytest.mark.parametrize("text", ["", "a +", "1.5", "f(a)", "a / b", "'a'", "a//0"])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ShapeError):
        parse_dim(text)


def test_broadcast_and_product() -> None:
    assert broadcast([shape_of(["a", 1, 4]), shape_of(["b", 4])]) == shape_of(["a", "b", 4])
    assert broadcast([shape_of(["a"]), shape_of(["b"])]) is None
    assert product(shape_of(["a", 2, "b"])) == parse_dim("2*a*b")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("((s0 - 1)//2)//2 + 1", "(s0 - 1)//4 + 1"),
        ("((s0 - 1)//2 + 1 + 1)//2", "(s0 + 3)//4"),
        ("(2*s0 + 1)//4", "s0//2"),
        ("(4*s0 + s1 + 5)//4", "s0 + 1 + (s1 + 1)//4"),
        ("(s0 + 7) % 4", "(s0 + 3) % 4"),
        ("(4*s0*s1) % 4", "0"),
        ("PowByNatural(s0, 2)", "s0*s0"),
    ],
)
def test_equal_sizes_have_one_form(left: str, right: str) -> None:
    assert parse_dim(left) == parse_dim(right)


def test_division_by_a_symbol_stays_exact_or_a_call() -> None:
    assert Dim.of("6*s0") // Dim.of("s0") == Dim.of(6)
    assert str(Dim.of("s1 + 1") // Dim.of("s0")) == "(s1 + 1)//(s0)"
