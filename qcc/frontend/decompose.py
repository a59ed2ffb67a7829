"""Operators without a handler of their own are rewritten by torch's decompositions, where there are any."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OperatorBase, OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule

from qcc.frontend.aten_table import DROPPED, IN_PLACE, TABLE

_ROUNDS = 3
"""A decomposition may give operators that have to be decomposed again."""


def decompose_unknown(program: ExportedProgram) -> ExportedProgram:
    """Return a program in which operators that the table lacks are replaced by what torch defines them as.

    What has no decomposition stays; so does everything if torch fails to decompose. Operators that the table has stay
    whole.
    """
    for _ in range(_ROUNDS):
        known = torch.export.default_decompositions()
        chosen: dict[OperatorBase, Callable[..., Any]] = {one: known[one] for one in _unknown(program) if one in known}
        if not chosen:
            break
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = program.run_decompositions(chosen)
        except Exception:  # whatever torch cannot do here, the import then lists the operators in question
            break
    return program


def _unknown(program: ExportedProgram) -> set[OpOverload]:
    graphs = [one.graph for one in program.graph_module.modules() if isinstance(one, GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes if node.op == "call_function"]
    targets = {node.target for node in nodes if isinstance(node.target, OpOverload) and _makes_tensors(node.meta)}
    return {target for target in targets if not any(target in one for one in (TABLE, IN_PLACE, DROPPED))}


def _makes_tensors(meta: dict[str, object]) -> bool:
    value = meta.get("val")
    return isinstance(value, torch.Tensor | list | tuple)
