"""From an exported program to a module of the IR and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch.fx import Graph, Node
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import VerifyException

from qcc.errors import Problem, ShapeError, UnsupportedOp
from qcc.frontend import signature, stored
from qcc.frontend.aten_table import DROPPED
from qcc.frontend.builder import Builder
from qcc.frontend.decompose import decompose_unknown
from qcc.frontend.importer import Importer, exported_type
from qcc.frontend.inline import flatten
from qcc.frontend.mapped import MappedFiles
from qcc.frontend.refusal import Refusal
from qcc.frontend.signature import Leaf
from qcc.frontend.symbols import Symbols
from qcc.frontend.weights import collect
from qcc.ir.dims import Dim
from qcc.ir.on_disk import OnDisk
from qcc.ir.program import ProgramOp, ReturnOp
from qcc.ir.store import WeightStore
from qcc.ir.types import TensorType, type_of


@dataclass(frozen=True)
class Imported:
    """A program of the IR, its weights, and how the model was called.

    `inputs` and `outputs` are the leaves of the calling convention in order: a leaf with a name is that input or output
    of the program, one without is a constant. `in_spec` and `out_spec` are the structures around them, as the JSON text
    that `torch.utils._pytree.treespec_loads` reads; empty where a class of the structure has no text form.
    """

    module: ModuleOp
    store: WeightStore
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    in_spec: str
    out_spec: str


def import_program(program: torch.export.ExportedProgram, name: str = "main", folder: Path | None = None) -> Imported:
    """Import an exported program, of training or of decomposed operators.

    Args:
        program: what `torch.export.export` or `run_decompositions` gave; it is not changed.
        name: symbol of the program in the module.
        folder: what the model was loaded from; weights that are still mapped from its files stay there.

    Raises:
        UnsupportedOp: listing every operation that cannot be taken, with its place in the user's model.
        CheckpointError: listing every weight that is missing or not finite.
        ShapeError: listing every weight or input without elements.
    """
    program = decompose_unknown(program)
    graph, symbols = flatten(program.graph_module, DROPPED), Symbols.of(program)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    becoming, written_inputs = signature.mutations(program)
    tensors = list(signature.stored_tensors(program))
    read = {str(node.target) for node in placeholders if node.users}
    find = _nowhere if folder is None else MappedFiles(folder).find
    weights = collect(tensors, frozenset(read | {one.placeholder for one in tensors if one.name in becoming}), find)
    leaves = signature.input_leaves(program)

    draft = ProgramOp(name, _inputs(placeholders, leaves, symbols))
    same = stored.tied(placeholders, weights)
    importer = Importer(Builder(draft.body.block, symbols), same)
    last = stored.changing(graph, tensors, weights, same, becoming)
    importer.problems.extend(stored.overlapping(weights, list(last)))
    importer.problems.extend(_foreign(program, written_inputs))
    stored.enter(importer, placeholders, weights, list(last))
    _enter_inputs(importer, placeholders, leaves, draft)
    for node in graph.nodes:
        if node.op not in ("placeholder", "output"):
            importer.visit(node)
    outputs, values = _outputs(program, graph, importer)
    if importer.problems:
        raise UnsupportedOp("the model uses what qcc cannot compile", importer.problems)
    stored.leave(importer, last)
    module = _close(draft, outputs, values, symbols)
    structures = [signature.structure(one) for one in (program.call_spec.in_spec, program.call_spec.out_spec)]
    return Imported(module, weights.store, leaves, outputs, *structures)


def _nowhere(tensor: torch.Tensor) -> OnDisk | None:
    return None


def _foreign(program: torch.export.ExportedProgram, written: Sequence[str]) -> list[Problem]:
    problems = [
        Problem(f"input '{one}'", f"is a {kind}, no tensor", "pass tensors; other arguments must be constants")
        for one, kind in signature.foreign_inputs(program)
    ]
    return problems + [Problem(f"input '{one}'", *_WRITTEN) for one in written]


_WRITTEN = ("is overwritten by the model", "write to a copy (clone()) of it and return that")


def _inputs(placeholders: Sequence[Node], leaves: Sequence[Leaf], symbols: Symbols) -> list[tuple[str, TensorType]]:
    """Return names and types of the inputs that are tensors.

    Raises:
        UnsupportedOp: listing the inputs whose element type or shape qcc does not have.
        ShapeError: listing the inputs that never have elements.
    """
    nodes = {str(node.target): node for node in placeholders}
    found: list[tuple[str, TensorType]] = []
    problems: list[Problem] = []
    empty: list[Problem] = []
    for leaf in leaves:
        value = None if leaf.name is None else nodes[leaf.name].meta.get("val")
        if leaf.name is None or not isinstance(value, torch.Tensor):
            continue
        try:
            kind = exported_type(symbols, value)
        except Refusal as refusal:
            problems.append(Problem(f"input '{leaf.name}'", refusal.what, refusal.fix))
            continue
        if Dim.of(0) in kind.shape:
            empty.append(Problem(f"input '{leaf.name}'", f"has the shape {list(value.shape)}"))
        found.append((leaf.name, kind))
    if problems:
        raise UnsupportedOp("the model takes inputs that qcc cannot take", problems)
    if empty:
        raise ShapeError("the model takes tensors without elements", empty, fix="export it with larger examples")
    return found


def _enter_inputs(importer: Importer, placeholders: Sequence[Node], leaves: Sequence[Leaf], draft: ProgramOp) -> None:
    """Give the placeholders of the user's inputs their values, and forbid writes to them."""
    nodes = {str(node.target): node for node in placeholders}
    users = [node for node in placeholders if node.target in {leaf.name for leaf in leaves}]
    for name, argument in zip(draft.input_names, draft.body.block.args, strict=True):
        importer.memory.define(nodes[name], argument)
    for node in users:
        importer.memory.fix(node, Refusal(*_WRITTEN))
    for node in placeholders:
        if not importer.memory.knows(node):
            importer.memory.define(node, node.meta.get("val"))


def _outputs(
    program: torch.export.ExportedProgram, graph: Graph, importer: Importer
) -> tuple[tuple[Leaf, ...], list[SSAValue]]:
    """Return the leaves of the outputs, and the values of those that are tensors."""
    importer.builder.place = ""
    flat = cast(Sequence[object], graph.output_node().args[0])
    positions = signature.user_outputs(program)
    leaves: list[Leaf] = []
    values: list[SSAValue] = []
    for position, name in zip(positions, signature.output_names(program, len(positions)), strict=True):
        one = flat[position]
        value = importer.memory.read(one) if isinstance(one, Node) else one
        if isinstance(value, Dim):
            leaves.append(Leaf(name, integer=True))
            values.append(importer.builder.operand(value, "i64"))
        elif isinstance(value, SSAValue):
            leaves.append(Leaf(name))
            values.append(value)
        else:
            leaves.append(Leaf(None, cast(signature.Constant, value)))
    return tuple(leaves), values


def _close(draft: ProgramOp, outputs: Sequence[Leaf], values: Sequence[SSAValue], symbols: Symbols) -> ModuleOp:
    """End the program, name its outputs and symbols, and verify it."""
    draft.body.block.add_op(ReturnOp(values))
    names = [leaf.name for leaf in outputs if leaf.name is not None]
    used = {name for one in draft.body.block.args for dim in type_of(one).shape for name in dim.symbols}
    draft.properties["outputs"] = ArrayAttr([StringAttr(name) for name in names])
    draft.properties["symbols"] = ArrayAttr(symbols.attributes(frozenset(used)))
    module = ModuleOp([draft])
    try:
        module.verify()
    except VerifyException as error:
        raise ShapeError(f"the exported graph does not verify: {error}") from error
    return module
