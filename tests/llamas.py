"""Llama folders of random weights in several shards, written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

HEAD = 64


@dataclass(frozen=True)
class Size:
    """Hidden size, layers, width of the MLP, heads of keys and values, vocabulary; whether the embedding is tied."""

    hidden: int
    layers: int
    ffn: int
    kv_heads: int
    vocabulary: int
    positions: int = 64
    tied: bool = False

    @property
    def block(self) -> int:
        """Number of weights of one block."""
        return 2 * self.hidden * self.hidden + 2 * HEAD * self.kv_heads * self.hidden + 3 * self.hidden * self.ffn

    @property
    def weights(self) -> int:
        """Number of weights in matrices."""
        return self.layers * self.block + (1 if self.tied else 2) * self.vocabulary * self.hidden


def write_llama(folder: Path, size: Size, shard_bytes: int = 1 << 29) -> None:
    """Write a Hugging Face folder: bfloat16, weights normal with deviation 0.02."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "bfloat16",
        "hidden_size": size.hidden, "intermediate_size": size.ffn, "num_hidden_layers": size.layers,
        "num_attention_heads": size.hidden // HEAD, "num_key_value_heads": size.kv_heads, "rms_norm_eps": 1e-5,
        "vocab_size": size.vocabulary, "max_position_embeddings": size.positions, "tie_word_embeddings": size.tied,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(size):
        shard[name] = tensor
        if sum(one.nbytes for one in shard.values()) >= shard_bytes:
            places |= _write_shard(folder, shard, len(set(places.values())))
            shard = {}
    if shard:
        places |= _write_shard(folder, shard, len(set(places.values())))
    index = {"metadata": {"total_size": 2 * size.weights}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_shard(folder: Path, tensors: dict[str, torch.Tensor], number: int) -> dict[str, str]:
    name = f"model-{number:05}.safetensors"
    save_file(tensors, str(folder / name), metadata={"format": "pt"})
    return dict.fromkeys(tensors, name)


def _tensors(size: Size) -> Iterator[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.02).to(torch.bfloat16)

    norm, keys = torch.ones(size.hidden, dtype=torch.bfloat16), size.kv_heads * HEAD
    yield "model.embed_tokens.weight", normal(size.vocabulary, size.hidden)
    for index in range(size.layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", norm.clone()
        for name, rows in (("q", size.hidden), ("k", keys), ("v", keys), ("o", size.hidden)):
            yield f"{layer}.self_attn.{name}_proj.weight", normal(rows, size.hidden)
        yield f"{layer}.post_attention_layernorm.weight", norm.clone()
        yield f"{layer}.mlp.gate_proj.weight", normal(size.ffn, size.hidden)
        yield f"{layer}.mlp.up_proj.weight", normal(size.ffn, size.hidden)
        yield f"{layer}.mlp.down_proj.weight", normal(size.hidden, size.ffn)
    yield "model.norm.weight", norm.clone()
    if not size.tied:
        yield "lm_head.weight", normal(size.vocabulary, size.hidden)


def write_samples(path: Path, size: Size, count: int, tokens: int) -> None:
    """Write calibration samples of random tokens."""
    ids = torch.randint(0, size.vocabulary, (count, tokens), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(tokens).expand(count, tokens).contiguous()
    save_file({"input_ids": ids, "cache_position": positions}, str(path))
