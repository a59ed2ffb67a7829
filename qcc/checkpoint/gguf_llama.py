"""Write a GGUF file of the llama architecture, which llama.cpp and everything built on it load.

Weights whose format means what a kind of ggml blocks means (Q4_0, Q8_0, Q4_K, ...) are written as those blocks, bit for
bit; floats as float32. The rows of query and key projections are put in the order of interleaved rotary pairs, which
llama.cpp computes with. It quantizes the inputs of its products by itself, to 8 bits in blocks, so logits are close to
the interpreter's and not equal. Tokenizers are not written: the file says that it has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import torch
from torch import Tensor

from qcc.checkpoint.source import Entry, Source
from qcc.errors import Problem, UnsupportedOp
from qcc.numerics.ggml import GGML_FORMATS, ggml_kind, layout_of, to_ggml
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor

ARCHITECTURE = "llama"
MODELS = ("llama", "mistral")
"""`model_type`s whose code is that of the llama architecture."""

USUAL = ("Q4_0", "Q8_0", "Q4_K")
"""The kinds that a refusal names."""

_ROTATED = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")


@dataclass(frozen=True)
class _Shape:
    """What the configuration says, checked."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    context: int
    epsilon: float
    rope_base: float


def write_gguf(entries: Sequence[Entry], source: Source, out: Path) -> list[str]:
    """Write the file; returns lines on what is not as in the artifact.

    Raises:
        UnsupportedOp: for a model of another architecture, and listing every layer whose format no kind of ggml blocks
            means.
    """
    shape = _shape(source.config)
    names = _names(entries, shape)
    _refuse_unsayable(entries)
    writer: Any = gguf.GGUFWriter(str(out), ARCHITECTURE)
    _write_metadata(writer, source, shape)
    messages: list[str] = []
    for entry in entries:
        _write_tensor(writer, entry, names[entry.name], shape, messages)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if any(entry.activations is not None for entry in entries):
        messages.append("inputs of layers: llama.cpp quantizes them its own way, in blocks of 32 or 256")
    return [*messages, "no tokenizer is written: give token ids, or add one with llama.cpp's own tools"]


def _shape(config: dict[str, Any]) -> _Shape:
    kind = str(config.get("model_type"))
    if kind not in MODELS:
        raise UnsupportedOp(
            f"gguf: '{kind}' is not of the llama architecture", fix=f"exported are models of type {', '.join(MODELS)}"
        )
    rope = cast(dict[str, Any], config.get("rope_parameters") or config.get("rope_scaling") or {})
    if (rope_kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise UnsupportedOp(f"gguf: rotary embeddings of type '{rope_kind}' are not exported", fix="use type default")
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    return _Shape(
        layers=int(config["num_hidden_layers"]),
        width=width,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or width // heads),
        hidden=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        epsilon=float(config["rms_norm_eps"]),
        rope_base=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
    )


def _names(entries: Sequence[Entry], shape: _Shape) -> dict[str, str]:
    table: Any = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    found = {entry.name: table.get_name(entry.name, try_suffixes=(".weight", ".bias")) for entry in entries}
    if unknown := [name for name, other in found.items() if other is None]:
        problems = [Problem(name, "has no name in the llama architecture") for name in unknown]
        raise UnsupportedOp("gguf: some tensors are not of the llama architecture", problems)
    return found


def _refuse_unsayable(entries: Sequence[Entry]) -> None:
    problems: list[Problem] = []
    for entry in entries:
        if not isinstance(entry.weight, QuantizedTensor) or (entry.is_read and not entry.is_layer):
            continue
        if (kind := ggml_kind(entry.weight.qtype)) is None:
            problems.append(Problem(entry.name, f"weights '{entry.weight.qtype}' are no kind of ggml blocks"))
        elif entry.weight.shape[-1] % layout_of(kind).elements:
            what = f"{entry.weight.shape[-1]} columns do not fill the blocks of {kind}"
            problems.append(Problem(entry.name, what, "leave it in float, or use q4_0 or q8_0"))
    if problems:
        kinds = "\n".join(f"    {kind}: {text}" for kind, text in GGML_FORMATS.items() if kind in USUAL)
        fix = f"use a format that ggml has, such as\n{kinds}"
        raise UnsupportedOp(f"gguf: {len(problems)} weights cannot be said", problems, fix=fix)


def _write_metadata(writer: Any, source: Source, shape: _Shape) -> None:
    writer.add_name(source.folder.name)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_tokenizer_model("no_vocab")


def _write_tensor(writer: Any, entry: Entry, name: str, shape: _Shape, messages: list[str]) -> None:
    weight = entry.weight
    if isinstance(weight, QuantizedTensor) and (kind := ggml_kind(weight.qtype)) is not None:
        blocks = _interleaved(to_ggml(weight).reshape(weight.shape[0], -1), name, shape)
        writer.add_tensor(name, blocks.numpy(), raw_dtype=gguf.GGMLQuantizationType[kind])
        return
    if isinstance(weight, QuantizedTensor):
        messages.append(f"{entry.name}: a table, written in float with the values that its codes stand for")
        weight = dequantize(weight, torch.float32)
    writer.add_tensor(name, np.ascontiguousarray(_interleaved(weight.float(), name, shape).numpy()))


def _interleaved(rows: Tensor, name: str, shape: _Shape) -> Tensor:
    """Reorder the rows of a query or key projection from rotary halves to interleaved pairs, head by head."""
    match = _ROTATED.fullmatch(name)
    if match is None:
        return rows.contiguous()
    heads = shape.heads if match.group(1) == "q" else shape.kv_heads
    halves = rows.reshape(heads, 2, shape.head_size // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape).contiguous()
