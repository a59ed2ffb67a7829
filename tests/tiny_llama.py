"""The small Llama that `examples/train_tiny_llama.py` trained on bytes, and text to calibrate and measure it on.

`held_out.bin` are 128 windows of 256 bytes, spread evenly over the files of Python's standard library that training did
not see; `calibration.bin` are 64 such windows of the files that it saw. Both are kept, so that figures do not depend on
the Python that runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "data" / "tiny_llama"
LENGTH = 256
"""Tokens of a window: as many bytes as the rows had that it was trained on."""

OUTLIERS = 50.0
"""How much larger `with_outliers` makes some channels behind every norm, half and twice of it in turns."""

Run = Callable[[dict[str, torch.Tensor]], torch.Tensor]
"""Logits [1, n, 256] of named inputs."""


def is_there() -> bool:
    """Say whether the trained weights are kept beside the text."""
    return (FOLDER / "model.safetensors").is_file()


@cache
def pristine(folder: Path = FOLDER) -> Any:
    """Load the model in float32, in evaluation mode."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def loaded(*, outliers: bool = False, folder: Path = FOLDER) -> Any:
    """Return a copy of the model that may be changed; with `outliers`, see `with_outliers`."""
    import copy

    model = copy.deepcopy(pristine(folder))
    return with_outliers(model) if outliers else model


def with_outliers(model: Any, share: int = 64, factor: float = OUTLIERS) -> Any:
    """Make one channel in `share` behind every norm up to twice `factor` larger, and the columns that read it smaller.

    Large language models have such channels; a model this small does not grow them. The float function stays the same,
    as in real arithmetic only the order of two multiplications changes.
    """
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            attention, gated = layer.self_attn, layer.mlp
            _inject(
                layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), number, share, factor
            )
            _inject(layer.post_attention_layernorm, (gated.gate_proj, gated.up_proj), number + 100, share, factor)
        _inject(model.model.norm, (model.lm_head,), 1000, share, factor)
    return model


def _inject(norm: Any, readers: tuple[torch.nn.Linear, ...], seed: int, share: int, factor: float) -> None:
    count = norm.weight.numel() // share
    chosen = torch.randperm(norm.weight.numel(), generator=torch.Generator().manual_seed(seed))[:count]
    scales = factor * torch.logspace(-0.7, 1, count, base=2.0)
    norm.weight[chosen] *= scales
    for one in readers:
        one.weight[:, chosen] /= scales


def windows(name: str, count: int | None = None) -> torch.Tensor:
    """Return windows of `held_out` or `calibration`, i64[N, 256]: `count` spread evenly, or all."""
    kept = torch.frombuffer(bytearray((FOLDER / f"{name}.bin").read_bytes()), dtype=torch.uint8)
    every = kept.long().reshape(-1, LENGTH)
    return every if count is None else every[:: max(1, len(every) // count)][:count]


def inputs(window: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the inputs of a call that reads one window from an empty cache."""
    return {"input_ids": window[None], "cache_position": torch.arange(len(window))}


def exported(model: Any) -> torch.export.ExportedProgram:
    """Export with a cache of a window: `input_ids` i64[1, n], `cache_position` i64[n] -> logits [1, n, 256]."""
    from qcc.frontend.static_cache import CachedCausalModel  # transformers is optional

    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"input_ids": {1: dynamic}, "cache_position": {0: dynamic}}
    example = inputs(torch.arange(4))
    with torch.no_grad():
        return torch.export.export(CachedCausalModel(model, LENGTH).eval(), (), example, dynamic_shapes=shapes)


def perplexity(run: Run, text: torch.Tensor) -> float:
    """Return the perplexity per byte over windows i64[N, n], each read from an empty cache."""
    total = 0.0
    for window in text:
        scores = run(inputs(window))[0, :-1].double()
        total += float(torch.nn.functional.cross_entropy(scores, window[1:], reduction="sum"))
    return math.exp(total / (text.shape[0] * (text.shape[1] - 1)))
