"""Allocation takes the least error that a budget allows: what trying every choice finds."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.passes.solvers.allocation import allocate, least_cost

Table = list[list[tuple[float, int]]]


def brute_force(table: Table, budget: int) -> float:
    """Return the least total error of all choices within a budget."""
    choices = [one for one in itertools.product(*table) if sum(cost for _, cost in one) <= budget]
    return min(math.fsum(error for error, _ in one) for one in choices)


def solved(table: Table, budget: int) -> tuple[float, int]:
    """Return the error and the cost of what is allocated."""
    errors, costs = [[e for e, _ in one] for one in table], [[c for _, c in one] for one in table]
    found = allocate(errors, costs, budget)
    assert found == allocate(errors, costs, budget)
    chosen = [one[place] for one, place in zip(table, found, strict=True)]
    return math.fsum(error for error, _ in chosen), sum(cost for _, cost in chosen)


def budget_of(table: Table, share: float) -> int:
    """Return a budget between the least and the largest cost."""
    least = sum(min(cost for _, cost in one) for one in table)
    most = sum(max(cost for _, cost in one) for one in table)
    return least + int(share * (most - least))


def tables(errors: st.SearchStrategy[float], costs: st.SearchStrategy[int]) -> st.SearchStrategy[Table]:
    return st.lists(st.lists(st.tuples(errors, costs), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(
    table=tables(st.floats(-9, 3).map(lambda exponent: 10.0**exponent), st.integers(0, 10**9)),
    share=st.floats(0, 1),
)
def test_the_error_is_that_of_brute_force_at_any_scale(table: Table, share: float) -> None:
    budget = budget_of(table, share)
    error, cost = solved(table, budget)
    floor = math.fsum(min(error for error, _ in one) for one in table)
    best = brute_force(table, budget)
    assert cost <= budget
    assert best - 1e-12 * best <= error <= best + 1e-5 * (best - floor) + 1e-12 * best


@settings(max_examples=80, deadline=None)
@given(table=tables(st.integers(0, 3).map(float), st.integers(0, 3)), share=st.floats(0, 1))
def test_ties_cost_no_error_and_the_budget_holds(table: Table, share: float) -> None:
    budget = budget_of(table, share)
    error, cost = solved(table, budget)
    assert error == brute_force(table, budget)
    assert cost <= budget


def test_of_options_that_are_alike_the_cheaper_and_then_the_earlier_is_taken() -> None:
    assert allocate([[1.0, 1.0, 1.0]], [[5, 4, 4]], 5) == (1,)
    assert allocate([[2.0, 0.0, 0.0], [1.0, 1.0, 0.5]], [[1, 8, 6], [2, 2, 3]], 9) == (2, 2)


def test_many_groups_use_the_whole_budget() -> None:
    errors = [[4.0**-bits * (1 + index % 7) for bits in (2, 3, 4, 8)] for index in range(200)]
    costs = [[bits * 4096 for bits in (2, 3, 4, 8)] for _ in range(200)]
    found = allocate(errors, costs, 200 * 3 * 4096)
    assert sum(one[place] for one, place in zip(costs, found, strict=True)) > 200 * 3 * 4096 * 0.99
    spread = [found[index] for index in range(0, 200, 7)] + [found[index] for index in range(6, 200, 7)]
    assert min(spread[len(spread) // 2 :]) >= max(spread[: len(spread) // 2]) - 1
    uniform = sum(one[1] for one in errors)
    assert sum(one[place] for one, place in zip(errors, found, strict=True)) < 0.95 * uniform


@pytest.mark.parametrize(
    ("errors", "costs", "budget", "what"),
    [
        ([[1.0]], [[5]], 4, "least cost is 5"),
        ([[math.nan]], [[1]], 4, "not finite"),
        ([[math.inf, 1.0]], [[1, 2]], 4, "not finite"),
        ([[]], [[]], 4, "at least one option"),
        ([[1.0]], [[1, 2]], 4, "a cost for each"),
    ],
)
def test_what_has_no_solution_is_said(
    errors: list[list[float]], costs: list[list[int]], budget: int, what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        allocate(errors, costs, budget)


def test_the_least_cost_is_that_of_the_cheapest_options() -> None:
    assert least_cost([[3, 2], [7]]) == 9
