"""A GGUF export holds the artifact's codes bit for bit, and its readers compute with it what the interpreter does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import qcc
from qcc.checkpoint.export import export
from qcc.errors import UnsupportedOp
from qcc.interpreter import Interpreter
from qcc.ir.store import WeightStore
from qcc.numerics.ggml import from_ggml
from qcc.numerics.quantize import dequantize

gguf: Any = pytest.importorskip("gguf")

ROOT = Path(__file__).parents[2]
TOKENS = torch.tensor([[3, 17, 99, 5, 42, 42, 1, 150]])
Q4 = {"weights": {"format": "q4_0"}, "overrides": [{"match": "*lm_head", "weights": {"format": "q8_0"}}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights, grouped heads, and norms that are not one."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, rope_theta=5000.0, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    out = tmp_path_factory.mktemp("hf") / "llama"
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[qcc.Compiled, WeightStore, Path]:
    out = tmp_path_factory.mktemp("gguf")
    compiled = qcc.compile(folder, recipe=Q4, output=out / "m.qcc", threads=1)
    store = WeightStore.load(compiled.folder / "weights.safetensors")
    messages = export(compiled.module, store, compiled.manifest, "gguf", out / "m.gguf")
    assert messages == ["no tokenizer is written: give token ids, or add one with llama.cpp's own tools"]
    return compiled, store, out / "m.gguf"


def interpreted(compiled: qcc.Compiled, store: WeightStore) -> torch.Tensor:
    run = Interpreter(compiled.module, store)
    positions = torch.arange(TOKENS.shape[1])
    return run.run({"input_ids": TOKENS, "cache_position": positions})[compiled.output_names[0]]


def test_every_weight_is_read_back_bit_for_bit(written: tuple[qcc.Compiled, WeightStore, Path]) -> None:
    _, store, path = written
    tensors = {one.name: one for one in gguf.GGUFReader(str(path)).tensors}
    assert len(tensors) == 2 * 9 + 3
    names = {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}
    for short, long in names.items():
        read = tensors[f"blk.1.{short}.weight"]
        assert read.tensor_type == gguf.GGMLQuantizationType.Q4_0
        (key,) = [key for key in store if key.startswith(f"model.model.layers.1.{long}.weight:")]
        stored = store.quantized(key)
        again = from_ggml(torch.from_numpy(np.array(read.data)), "Q4_0", stored.shape)
        assert torch.equal(again.codes, stored.codes)
        assert torch.equal(again.scales[0], stored.scales[0])
        ours = dequantize(stored, torch.float32).numpy()
        assert np.array_equal(gguf.quants.dequantize(read.data, read.tensor_type), ours)
    assert tensors["output.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    norm = store.tensor("model.model.norm.weight")
    assert np.array_equal(tensors["output_norm.weight"].data, norm.numpy())


def test_queries_and_keys_are_in_interleaved_order(written: tuple[qcc.Compiled, WeightStore, Path]) -> None:
    _, store, path = written
    tensors = {one.name: one for one in gguf.GGUFReader(str(path)).tensors}
    for short, heads in (("q", 4), ("k", 2)):
        (key,) = [key for key in store if key.startswith(f"model.model.layers.0.self_attn.{short}_proj.weight:")]
        ours = dequantize(store.quantized(key), torch.float32).numpy()
        read = tensors[f"blk.0.attn_{short}.weight"]
        theirs = gguf.quants.dequantize(read.data, read.tensor_type)
        for head in range(heads):
            for pair in range(8):
                assert np.array_equal(theirs[head * 16 + 2 * pair], ours[head * 16 + pair])
                assert np.array_equal(theirs[head * 16 + 2 * pair + 1], ours[head * 16 + 8 + pair])


def test_metadata_is_that_of_the_configuration(written: tuple[qcc.Compiled, WeightStore, Path]) -> None:
    fields = gguf.GGUFReader(str(written[2])).fields
    wanted = {
        "general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 64,
        "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.context_length": 64, "llama.vocab_size": 160, "llama.rope.freq_base": 5000.0,
        "llama.rope.dimension_count": 16, "tokenizer.ggml.model": "no_vocab",
    }  # fmt: skip
    for name, value in wanted.items():
        assert fields[name].contents() == value, name
    assert fields["llama.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-5)


def test_transformers_computes_the_interpreters_logits_from_it(
    written: tuple[qcc.Compiled, WeightStore, Path], folder: Path
) -> None:
    """Its GGUF reader decodes the blocks and undoes the order of rows; the configuration comes from the folder."""
    pytest.importorskip("accelerate")
    compiled, store, path = written
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config).eval()
    with torch.no_grad():
        found = model(TOKENS).logits
    wanted = interpreted(compiled, store)
    assert float((wanted - found).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_blocks_of_256_are_written_bit_for_bit(tmp_path: Path) -> None:
    """Q4_K: two levels of scales and of minima, from an artifact whose C multiplies by the decoded weights."""
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    recipe = {"weights": {"format": "q4_K"}}
    compiled = qcc.compile(tmp_path / "hf", recipe=recipe, output=tmp_path / "m.qcc", threads=1)
    store = WeightStore.load(compiled.folder / "weights.safetensors")
    export(compiled.module, store, compiled.manifest, "gguf", tmp_path / "m.gguf")
    tensors = {one.name: one for one in gguf.GGUFReader(str(tmp_path / "m.gguf")).tensors}
    read = tensors["blk.0.ffn_down.weight"]
    assert read.tensor_type == gguf.GGMLQuantizationType.Q4_K
    (key,) = [key for key in store if ".mlp.down_proj.weight:" in key]
    ours = dequantize(store.quantized(key), torch.float32).numpy()
    assert np.array_equal(gguf.quants.dequantize(read.data, read.tensor_type), ours)


def test_what_gguf_cannot_say_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    recipe = {
        "weights": {"format": "int4", "group": 16},
        "overrides": [{"match": "*.v_proj", "weights": Q4["weights"]}],
    }
    compiled = qcc.compile(folder, recipe=recipe, output=tmp_path / "m.qcc", threads=1)
    store = WeightStore.load(compiled.folder / "weights.safetensors")
    with pytest.raises(UnsupportedOp) as caught:
        export(compiled.module, store, compiled.manifest, "gguf", tmp_path / "m.gguf")
    text = str(caught.value)
    assert "13 weights" in text
    assert "v_proj" not in text
    assert "Q4_0: int4 | (1,32) f16 signed_amax" in text
    assert [path.name for path in tmp_path.iterdir()] == ["m.qcc"]


def test_the_command_writes_both(folder: Path, tmp_path: Path) -> None:
    qcc.compile(folder, recipe={"weights": {"format": "q8_0"}}, output=tmp_path / "m.qcc", threads=1)
    for kind, name in (("gguf", "m.gguf"), ("compressed-tensors", "out")):
        command = [sys.executable, "-m", "qcc.cli", "export", str(tmp_path / "m.qcc"), "--format", kind]
        run = subprocess.run(
            [*command, "-o", str(tmp_path / name)], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert run.returncode == 0, run.stderr
        assert f"wrote {tmp_path / name}" in run.stdout.replace("\n", "")
        assert (tmp_path / name).exists()
    run = subprocess.run(
        [sys.executable, "-m", "qcc.cli", "export", str(tmp_path / "m.qcc"), "--format", "onnx", "-o", "x"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 2
    assert "compressed-tensors, gguf" in run.stderr
