"""Choose how each contraction is computed; what it computes stays the same.

    kernel "up" { contract(q, w) }   ->   kernel "up" why "group_after: 0.09 instr/weight, 2.4 MB; lookup refused:
                                              8-bit weights" { contract(q, w) {plan = group_after} }

Candidates are the plans in `costs` that take the formats of both sides; the cheapest by the model of `qcc.ir.plans` is
taken, the first one of equals. `byte_cost` is what a byte costs in instructions, and `rows` the number of rows of input
to weigh plans by where that is symbolic. `force`
asks for plans by name, `lookup` for every contraction or `layers.*.up=lookup` for those whose kernel matches, the last
match winning; a plan that cannot be is an error that says why, and what can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from qcc.errors import Problem, QccError
from qcc.ir.dims import product
from qcc.ir.kernel import contracts_of, kernel_of
from qcc.ir.plans import PlanCost, parse_costs
from qcc.ir.quant import ContractOp, Plan, PlanAttr
from qcc.ir.types import TensorType, type_of
from qcc.passes.regions import label_of


@dataclass(frozen=True)
class SelectPlans(ModulePass):
    """The pass; `costs` are the plans of the target."""

    name: ClassVar[str] = "select-plans"

    costs: tuple[str, ...]
    force: tuple[str, ...] = ()
    rows: int = 1
    byte_cost: float = 0.0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set the plan of every contraction, and on its kernel why.

        Raises:
            QccError: if a cost cannot be read, or listing every contraction without a plan that takes it, every plan
                that is asked for and cannot be, and every pattern that matches nothing.
        """
        costs = parse_costs(self.costs)
        wishes = [_wish(text) for text in self.force]
        contracts = contracts_of(op)
        names = [label_of(kernel_of(one) or one) for one in contracts]
        problems = _unmatched(wishes, names)
        for contract, name in zip(contracts, names, strict=True):
            asked = next((plan for pattern, plan in reversed(wishes) if fnmatchcase(name, pattern)), None)
            choice = _Choice(type_of(contract.input), type_of(contract.weight), costs, self)
            taken = choice.best(asked)
            if taken is None:
                problems.append(choice.problem(name, asked))
            else:
                _note(contract, taken, choice.why(taken, asked))
        if problems:
            raise QccError(f"{len(problems)} plans cannot be taken", problems)


def _wish(text: str) -> tuple[str, str]:
    pattern, equals, plan = text.rpartition("=")
    return (pattern, plan) if equals else ("*", text)


def _unmatched(wishes: list[tuple[str, str]], names: list[str]) -> list[Problem]:
    known = [one.value for one in Plan]
    problems = [
        Problem(f"plan {plan}", "does not exist", f"plans: {', '.join(known)}")
        for _, plan in wishes
        if plan not in known
    ]
    for pattern, plan in wishes:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            problems.append(
                Problem(f"plan {pattern}={plan}", "matches no layer", f"layers are named like '{names[0]}'")
            )
    return problems


def _note(op: ContractOp, plan: PlanCost, why: str) -> None:
    op.properties["plan"] = PlanAttr(Plan(plan.plan))
    if (kernel := kernel_of(op)) is not None:
        kernel.properties["why"] = StringAttr(why)


class _Choice:
    """The candidates of one contraction."""

    def __init__(
        self, inputs: TensorType, weights: TensorType, costs: tuple[PlanCost, ...], options: SelectPlans
    ) -> None:
        self.weights, self.byte_cost = weights, options.byte_cost
        self.rows = product(inputs.shape[:-1]).constant or options.rows
        refusals = [(cost, cost.refusal(inputs, weights)) for cost in costs]
        self.possible = [cost for cost, why in refusals if not why]
        self.refused = [(cost.plan, why) for cost, why in refusals if why]

    def best(self, asked: str | None) -> PlanCost | None:
        """Return the plan that is asked for, else the cheapest; None if it cannot be."""
        candidates = [one for one in self.possible if asked in (None, one.plan)]
        return min(candidates, key=lambda one: one.cost(self.weights, self.rows, self.byte_cost), default=None)

    def why(self, taken: PlanCost, asked: str | None) -> str:
        """Say in one line what was taken and at which cost, what else could be, and what could not."""
        others = [f"{one.plan}: {self._cost(one)}" for one in self.possible if one is not taken]
        refused = [f"{plan} refused: {why}" for plan, why in self.refused if plan != taken.plan]
        first = f"{taken.plan}: {self._cost(taken)}{', as asked' if asked else ''}"
        return "; ".join([first, *others, *refused])

    def _cost(self, plan: PlanCost) -> str:
        instructions, moved = plan.instructions(self.weights, self.rows), plan.bytes(self.weights, self.rows)
        size = f"{moved / 1e6:.1f} MB" if moved >= 1e5 else f"{moved / 1e3:.1f} kB"
        return f"{instructions:.2g} instr/weight, {size}"

    def problem(self, name: str, asked: str | None) -> Problem:
        """Say why no plan, or not the one asked for, takes the contraction, and what would."""
        reasons = [f"{plan} refused: {why}" for plan, why in self.refused if asked in (None, plan)]
        what = f"cannot have plan {asked}" if asked else "has no plan on this target"
        plans = ", ".join(dict.fromkeys(one.plan for one in self.possible))
        fix = f"leave the choice free, or ask for {plans}" if plans else "choose other formats"
        return Problem(name, f"{what} ({'; '.join(reasons) or 'the target has no such plan'})", fix)
