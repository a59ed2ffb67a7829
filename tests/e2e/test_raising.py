"""Imported models become canonical operations, the same ones from both kinds of graph, and keep their function."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.passes.pipeline import raising, run_passes
from tests import zoo
from tests.e2e.test_models import UNDECOMPOSED, relative_error

# two layers each; a ViT and a BERT have a final linear more
EXPECTED = {
    "bert": {"linear": 13, "norm": 5, "attention": 2, "embedding": 3},
    "llama": {"linear": 15, "norm": 5, "attention": 2, "embedding": 1, "rope": 4},
    "qwen2": {"linear": 15, "norm": 5, "attention": 2, "embedding": 1, "rope": 4},
    "gemma": {"linear": 15, "norm": 5, "attention": 2, "embedding": 1, "rope": 4},
    "gpt2": {"linear": 9, "norm": 5, "attention": 2, "embedding": 2},
    "gpt2_eager": {"linear": 9, "norm": 5, "attention": 2, "embedding": 2},
    "vit": {"linear": 13, "norm": 5, "attention": 2, "conv": 1},
    "cached_llama": {"linear": 15, "norm": 5, "attention": 2, "rope": 4, "state": 4, "update_state": 4},
}


def counts(module: ModuleOp) -> Counter[str]:
    return Counter(op.name.removeprefix("qcc.") for op in module.walk())


@pytest.mark.parametrize("name", EXPECTED)
def test_models_raise_to_canonical_operations(name: str) -> None:
    module, args, kwargs, shapes = zoo.cached_llama() if name == "cached_llama" else zoo.MODELS[name]()
    with torch.no_grad():
        program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    for one in [program] if name in UNDECOMPOSED else [program, program.run_decompositions()]:
        imported = import_program(one)
        before = Interpreter(imported.module, imported.store, dtype="f64").run(kwargs)
        run_passes(raising(), QccContext(imported.store), imported.module)
        after = Interpreter(imported.module, imported.store, dtype="f64").run(kwargs)
        found = counts(imported.module)
        assert {key: found[key] for key in EXPECTED[name]} == EXPECTED[name]
        assert not found["matmul"]
        assert not found["softmax"]
        for key, value in before.items():
            assert relative_error(after[key], value) <= 1e-10
