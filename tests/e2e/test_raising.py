"""Whole models reach canonical operations, from training and from decomposed graphs alike."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils import _pytree as pytree
from xdsl.dialects.builtin import ModuleOp

from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import ProgramOp
from qcc.passes.pipeline import raising, run_passes
from tests import zoo

# what is in a model: layers, norms, attention, activations; and how many groups of layers read one value
WANTED = {
    "bert": {"linear": 13, "norm layer": 5, "attention": 2, "unary gelu": 2, "embedding": 3, "groups": 2},
    "llama": {"linear": 15, "norm rms": 5, "attention": 2, "unary silu": 2, "rope half": 4, "groups": 4},
    "qwen2": {"linear": 15, "norm rms": 5, "attention": 2, "unary silu": 2, "rope half": 4, "groups": 4},
    "gemma": {"linear": 15, "norm rms_plus1": 5, "attention": 2, "unary gelu_tanh": 2, "rope half": 4, "groups": 4},
    "gpt2_eager": {"linear": 9, "norm layer": 5, "attention": 2, "unary gelu_tanh": 2, "embedding": 2, "groups": 0},
    "mobilenet": {"conv": 7, "unary hardswish": 3, "linear": 1, "groups": 0},
}
WRITTEN_OUT = (
    "matmul",
    "softmax",
    "unary rsqrt",
    "unary sigmoid",
    "unary erf",
    "unary tanh",
    "unary exp",
    "reduce mean",
)


def count(module: ModuleOp) -> Counter[str]:
    found: Counter[str] = Counter()
    for op in module.walk():
        name = op.name.removeprefix("qcc.")
        found[name] += 1
        for word in ("function", "kind", "pairing", "reduction"):
            if word in op.properties:
                found[f"{name} {op.properties[word].data.value}"] += 1
    groups = {op.attributes["fuse_group"] for op in module.walk() if "fuse_group" in op.attributes}
    found["groups"] = len(groups)
    return found


@pytest.mark.parametrize("name", WANTED)
def test_models_are_raised(name: str) -> None:
    module, args, kwargs, shapes = zoo.MODELS[name]()
    with torch.no_grad():
        exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    counts: list[Counter[str]] = []
    for program in (exported, exported.run_decompositions()):
        imported = import_program(program)
        (entry,) = (op for op in imported.module.ops if isinstance(op, ProgramOp))
        leaves = zip(imported.inputs, pytree.tree_leaves((args, kwargs)), strict=True)
        inputs = {leaf.name: value for leaf, value in leaves if leaf.name in entry.input_names}
        before = Interpreter(imported.module.clone(), dict_of(imported.store), "f64").run(inputs)
        run_passes(raising(), QccContext(imported.store), imported.module)
        after = Interpreter(imported.module, imported.store, "f64").run(inputs)
        for key, value in before.items():
            torch.testing.assert_close(after[key], value, rtol=1e-10, atol=1e-10)
        counts.append(count(imported.module))
    for found in counts:
        assert {key: found[key] for key in WANTED[name]} == WANTED[name]
    allowed = {"unary tanh": 1, "reduce mean": 1, "softmax": 1}  # poolers, global pooling, a classifier's output
    assert {key: counts[1][key] for key in WRITTEN_OUT if counts[1][key] > allowed.get(key, 0)} == {}
    assert counts[0] == counts[1]


def dict_of(store: object) -> dict[str, torch.Tensor]:
    """Copy a store, which passes change."""
    return {key: store[key] for key in store}
