"""Choose one option a group so that the summed error is least and the summed cost stays within a budget.

The integer program of mixed precision (HAWQ-V3, arXiv 2011.10680), solved by branch and bound:

    minimise    sum over g, o of  error[g][o] x[g][o]
    subject to  sum over o of x[g][o] = 1  for every g,    sum over g, o of cost[g][o] x[g][o] <= budget,    x in {0, 1}

Knows no layers and no formats. Errors may span many orders of magnitude and a solver of floating-point programs has
absolute tolerances, so the program is solved again at the scale of what it found until that is of the order of one;
and what a tolerance lets through above the budget is cut off by an inequality of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SHRINKS = 0.25
"""A solution below this share of the scale it was found at is looked for again at its own scale."""


@dataclass(frozen=True)
class _Option:
    """One option of a group: its place among all of the group, its error above the group's least, its cost above."""

    place: int
    error: float
    cost: int


_Groups = Sequence[Sequence[_Option]]


def least_cost(costs: Sequence[Sequence[int]]) -> int:
    """Return the cost of the cheapest option of every group."""
    return sum(min(one) for one in costs)


def allocate(errors: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int) -> tuple[int, ...]:
    """Return the place of the option that each group takes, of least total error within the budget.

    Both sequences have an entry a group and in it one an option; errors are finite. Of options that are alike the
    cheaper is taken, then the earlier. The error above what no budget at all would give is within 1e-5 of the least
    possible. The same numbers give the same choice.

    Raises:
        ValueError: if the sequences do not belong together, or no choice is within the budget.
    """
    shapes = [(len(one), len(other)) for one, other in zip(errors, costs, strict=True)]
    if any(one != other or not one for one, other in shapes):
        raise ValueError("every group needs at least one option, and an error and a cost for each")
    if not all(math.isfinite(error) for one in errors for error in one):
        raise ValueError("an error is not finite")
    room = budget - least_cost(costs)
    if room < 0:
        raise ValueError(f"the least cost is {least_cost(costs)}, above the budget of {budget}")
    groups = [_undominated(one, other) for one, other in zip(errors, costs, strict=True)]
    if sum(one[-1].cost for one in groups) <= room:
        return tuple(one[-1].place for one in groups)
    return tuple(one.place for one in _search(groups, room))


def _undominated(errors: Sequence[float], costs: Sequence[int]) -> list[_Option]:
    """Return the options that no other one beats in error and cost, by rising cost and falling error."""
    found: list[int] = []
    for place in sorted(range(len(errors)), key=lambda place: (costs[place], errors[place], place)):
        if not found or errors[place] < errors[found[-1]]:
            found.append(place)
    low, base = errors[found[-1]], costs[found[0]]
    return [_Option(place, errors[place] - low, costs[place] - base) for place in found]


def _search(groups: _Groups, room: int) -> list[_Option]:
    """Solve at the scale of the best known error, until a solution is no longer much better than its scale."""
    best = [one[0] for one in groups]
    while True:
        scale = _error(best)
        # an option whose error alone is above a known total is in no better choice
        left = [[option for option in one if option.error <= scale] for one in groups]
        found = _solve(left, room, scale)
        if found is None or _error(found) >= scale:
            return best
        best = found
        if _error(found) > _SHRINKS * scale:
            return best


def _error(chosen: Sequence[_Option]) -> float:
    return math.fsum(one.error for one in chosen)


def _solve(groups: _Groups, room: int, scale: float) -> list[_Option] | None:
    """Solve one program; cuts off solutions that only a tolerance lets through, one after another."""
    unit = math.gcd(*(option.cost for one in groups for option in one)) or 1
    cuts: list[list[_Option]] = []
    while (found := _branch_and_bound(groups, room // unit, unit, scale, cuts)) is not None:
        if sum(one.cost for one in found) <= room:
            return found
        cuts.append(found)
    return None


def _branch_and_bound(
    groups: _Groups, room: int, unit: int, scale: float, cuts: Sequence[Sequence[_Option]]
) -> list[_Option] | None:
    """Return the solution, costs counted in units; None if there is none."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    owner = [index for index, one in enumerate(groups) for _ in one]
    options = [option for one in groups for option in one]
    once = csr_array((np.ones(len(owner)), (owner, range(len(owner)))), shape=(len(groups), len(options)))
    paid = np.array([[option.cost // unit for option in options]], dtype=np.float64)
    constraints = [LinearConstraint(once, 1, 1), LinearConstraint(paid, -np.inf, room)]
    for cut in cuts:
        taken = np.array([[float(option is cut[index]) for index, option in zip(owner, options, strict=True)]])
        constraints.append(LinearConstraint(taken, -np.inf, len(groups) - 1))
    result: Any = milp(
        np.array([option.error / scale for option in options]),
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    starts = np.searchsorted(owner, range(len(groups)))
    return [one[int(result.x[at : at + len(one)].argmax())] for one, at in zip(groups, starts, strict=True)]
