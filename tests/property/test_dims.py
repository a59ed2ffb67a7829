"""Symbolic dimensions: the canonical form never changes a value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir.dims import Dim, parse_dim

ATOMS = st.sampled_from(["s0", "s1", "0", "1", "2", "3", "5", "12"])


def expressions(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return ATOMS
    inner = expressions(depth - 1)
    divisors = st.sampled_from(["2", "3", "4", "6"])
    return st.one_of(
        inner,
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("({}){}{}".format, inner, st.sampled_from(["//", "%"]), divisors),
        st.builds("{}({}, {})".format, st.sampled_from(["max", "min"]), inner, inner),
    )


@settings(max_examples=100, deadline=None)
@given(text=expressions(4), s0=st.integers(0, 50), s1=st.integers(0, 50))
def test_parse_keeps_the_value(text: str, s0: int, s1: int) -> None:
    dim = parse_dim(text)
    wanted = eval(text, {"max": max, "min": min}, {"s0": s0, "s1": s1})
    assert dim.evaluate({"s0": s0, "s1": s1}) == wanted
    assert parse_dim(str(dim)) == dim


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
