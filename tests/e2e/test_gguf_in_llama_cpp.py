"""llama.cpp itself loads a GGUF export and computes the interpreter's logits, but for what it rounds by itself.

It quantizes the inputs of its products to 8 bits: in blocks of 32 for Q4_0 and Q8_0, whose noise is about 0.5 % of a
normal input's rms, in blocks of 256 (0.7 %) for Q4_K; and it keeps keys and values in float16. Noise of some ten
products after one another adds up to a few percent of the logits' rms. The codes' own error, which a file with another
model's meaning could hide behind, is larger than that by far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from qcc.checkpoint.source import Source, entries_of
from qcc.frontend.export import import_program
from qcc.frontend.source import load_source
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import program_of
from qcc.passes.pipeline import planning, run_passes, solving
from qcc.recipes.load import load_recipe

pytest.importorskip("gguf")
llama_cpp: Any = pytest.importorskip("llama_cpp")

from qcc.checkpoint.gguf_llama import write_gguf  # noqa: E402  (needs gguf)

TOKENS = torch.tensor([[3, 17, 99, 5, 42, 42, 1, 250]])
ROUNDED_INPUTS = 0.05
"""Relative rms error of the logits that 8-bit inputs may cause in two layers."""
HALF_CACHE = 0.002
"""The same with float weights and inputs: keys and values in float16, 2^-11 each, through two attentions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama over bytes with random weights, whose rows fill the blocks of 256 that Q4_K has."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.05,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("hf") / "llama"
    transformers.LlamaForCausalLM(config).eval().save_pretrained(out)
    return out


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the rms of the difference over the rms of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


def logits_of(file: Path) -> torch.Tensor:
    """Return the logits that llama.cpp computes for all positions."""
    model = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, n_threads=1, verbose=False)
    model.eval(TOKENS[0].tolist())
    return torch.from_numpy(np.array(model.scores[: TOKENS.shape[1]], dtype=np.float32))[None]


@pytest.mark.parametrize("weights", ["q4_0", "q8_0", "q4_K", "f32"])
def test_logits_are_the_interpreters(folder: Path, weights: str, tmp_path: Path) -> None:
    imported = import_program(load_source(folder))
    recipe = load_recipe({"weights": {"format": weights}})
    context = QccContext(imported.store)
    run_passes([*planning(recipe), *solving()], context, imported.module)
    source = Source(str(folder))
    write_gguf(entries_of(imported.module, imported.store, source), source, tmp_path / "m.gguf")
    calls = {"input_ids": TOKENS, "cache_position": torch.arange(TOKENS.shape[1])}
    (name,) = program_of(imported.module).output_names
    wanted = Interpreter(imported.module, imported.store).run(calls)[name]
    found = logits_of(tmp_path / "m.gguf")
    error = apart(found, wanted)
    print(f"{weights}: llama.cpp is {error:.2%} of the logits' rms from the interpreter")
    assert error < (HALF_CACHE if weights == "f32" else ROUNDED_INPUTS)
    with torch.no_grad():
        model: Any = transformers.LlamaForCausalLM.from_pretrained(folder)
        exact = model(TOKENS).logits
    if weights in ("q4_0", "q4_K"):
        assert error < apart(found, exact) / 5
