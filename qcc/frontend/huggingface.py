"""Hugging Face model folders as exported programs. Imports `transformers`, which is optional."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch.export import Dim

from qcc.errors import CheckpointError, UnsupportedOp
from qcc.frontend.static_cache import CachedCausalModel

Example = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any], Any]
"""Module, args, kwargs and dynamic shapes, as `torch.export.export` takes them."""

_HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForImageClassification",
)
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def load_folder(folder: Path, cache_length: int) -> Example:
    """Load a model folder (`config.json` and safetensors) with example inputs and dynamic shapes.

    Encoders take `input_ids` and `attention_mask` i64[batch, sequence], image models `pixel_values`
    [batch, channels, height, width] with a dynamic batch. Causal models take `input_ids` i64[1, n] and
    `cache_position` i64[n], and keep at most `cache_length` tokens in a static cache.

    Raises:
        CheckpointError: if the configuration or the weights are missing or damaged.
        UnsupportedOp: if the model is neither of these kinds.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: has no config.json", fix="give the folder of a Hugging Face model")
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: has no .safetensors", fix="save the model with safe_serialization=True")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder}/config.json: {error}") from error
    architecture = next(iter(config.architectures or []), "")
    if architecture.endswith(_CAUSAL):
        return _causal(_load(transformers.AutoModelForCausalLM, folder), cache_length)
    own = getattr(transformers, architecture, None) if architecture.endswith(_HEADS) else None
    model = _load(own or transformers.AutoModel, folder)
    if model.main_input_name == "pixel_values":
        return _vision(model)
    if model.main_input_name == "input_ids" and not config.is_encoder_decoder:
        return _encoder(model)
    raise UnsupportedOp(
        f"{folder}: {architecture or type(model).__name__} is neither an encoder nor a causal or image model",
        fix="give a callable `package.module:function` that returns (module, args, kwargs, dynamic_shapes)",
    )


@contextmanager
def _quiet_unless_watched() -> Generator[None]:
    """Keep the progress bars of transformers out of logs and pipes."""
    bars = transformers.utils.logging
    hidden = bars.is_progress_bar_enabled() and not sys.stderr.isatty()
    if hidden:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            bars.enable_progress_bar()


def _load(kind: Any, folder: Path) -> Any:
    try:
        with _quiet_unless_watched():
            model, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({error})") from error
    # the pooler on top of an encoder is often absent from a checkpoint, and then its output is meaningless
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing: {shown}")
    return model.eval()


def _encoder(model: Any) -> Example:
    # two tensors: the export takes one object given twice for one input
    kwargs = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    axes = {0: Dim("batch"), 1: Dim.DYNAMIC}
    return model, (), kwargs, dict.fromkeys(kwargs, axes)


def _vision(model: Any) -> Example:
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    pixels = torch.zeros(2, model.config.num_channels, height, width, dtype=model.dtype)
    return model, (), {"pixel_values": pixels}, {"pixel_values": {0: Dim("batch")}}


def _causal(model: Any, cache_length: int) -> Example:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    length = min(cache_length, limit) if limit else cache_length
    module = CachedCausalModel(model, length).eval()
    count = min(4, length)
    kwargs = {"input_ids": torch.ones(1, count, dtype=torch.long), "cache_position": torch.arange(count)}
    return module, (), kwargs, {"input_ids": {1: Dim.DYNAMIC}, "cache_position": {0: Dim.DYNAMIC}}
