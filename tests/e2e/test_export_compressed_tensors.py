"""A compressed-tensors export is loaded by transformers, and computes what the interpreter computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import qcc
from qcc.checkpoint.export import export
from qcc.checkpoint.source import Source
from qcc.errors import CheckpointError, QccError, UnsupportedOp
from qcc.interpreter import Interpreter
from qcc.ir.store import WeightStore

pytest.importorskip("compressed_tensors")

TOKENS = torch.tensor([[3, 17, 99, 5, 42, 42, 1, 150]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights, grouped heads, and norms that are not one."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    out = tmp_path_factory.mktemp("hf") / "llama"
    model.save_pretrained(out)
    (out / "tokenizer_config.json").write_text("{}")
    return out


def exported(folder: Path, tmp_path: Path, recipe: Any) -> tuple[qcc.Compiled, Path, list[str]]:
    compiled = qcc.compile(folder, recipe=recipe, output=tmp_path / "m.qcc", threads=1)
    out = tmp_path / "out"
    store = WeightStore.load(compiled.folder / "weights.safetensors")
    messages = export(compiled.module, store, compiled.manifest, "compressed-tensors", out)
    return compiled, out, messages


def interpreted(compiled: qcc.Compiled) -> torch.Tensor:
    run = Interpreter(compiled.module, WeightStore.load(compiled.folder / "weights.safetensors"))
    positions = torch.arange(TOKENS.shape[1])
    return run.run({"input_ids": TOKENS, "cache_position": positions})[compiled.output_names[0]]


def loaded(out: Path) -> torch.Tensor:
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    asymmetric = any(not group["weights"]["symmetric"] for group in config["config_groups"].values())
    # left packed, the reader makes room for unpacked zero points and refuses the packed ones that it writes itself
    how = {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)} if asymmetric else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(out, **how).eval()
    with torch.no_grad():
        return model(TOKENS).logits


def db(exact: torch.Tensor, found: torch.Tensor) -> float:
    return float(10 * torch.log10(exact.double().square().sum() / (exact - found).double().square().sum()))


@pytest.mark.parametrize(
    "weights",
    [
        {"format": "int4", "group": 32},
        {"format": "uint4", "group": 16},
        {"format": "int8"},
        {"format": "uint3"},
        {"format": "int5", "group": 32, "scale": "bf16"},
    ],
    ids=str,
)
def test_weight_only_logits_are_the_interpreters(folder: Path, tmp_path: Path, weights: Any) -> None:
    compiled, out, messages = exported(folder, tmp_path, {"weights": weights, "embeddings": {"format": "int8"}})
    wanted, found = interpreted(compiled), loaded(out)
    assert float((wanted - found).abs().max()) <= 1e-4 * float(wanted.abs().max())
    # a test that could not fail would say the same of the float model
    float_model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert db(float_model(TOKENS).logits, found) < 55
    assert len(messages) == 1
    assert "embed_tokens" in messages[0]
    assert (out / "tokenizer_config.json").is_file()


def test_dynamic_token_inputs_are_quantized_by_the_reader_too(folder: Path, tmp_path: Path) -> None:
    compiled, out, _ = exported(folder, tmp_path, {"weights": {"format": "int8"}, "activations": {"format": "int8"}})
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    (group,) = config["config_groups"].values()
    assert config["format"] == "int-quantized"
    assert group["input_activations"]["strategy"] == "token"
    assert group["input_activations"]["dynamic"] is True
    wanted, found = interpreted(compiled), loaded(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        exact = model(TOKENS).logits
    # both lose the same to rounding, on grids of inputs that differ by 0.4 %
    assert db(wanted, found) > db(exact, wanted) - 6
    assert abs(db(exact, found) - db(exact, wanted)) < 3


def test_mixed_recipes_become_groups_and_ignored_layers(folder: Path, tmp_path: Path) -> None:
    recipe = {
        "weights": {"format": "int4", "group": 32},
        "overrides": [
            {"match": "*.down_proj", "weights": {"format": "int8"}},
            {"match": "*lm_head", "weights": {"format": "f32"}},
        ],
    }
    compiled, out, _ = exported(folder, tmp_path, recipe)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head", "model.embed_tokens"]
    assert sorted(len(group["targets"]) for group in config["config_groups"].values()) == [2, 12]
    wanted = interpreted(compiled)
    assert float((wanted - loaded(out)).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_layers_that_others_fuse_are_named_where_their_formats_differ(folder: Path, tmp_path: Path) -> None:
    recipe = {
        "weights": {"format": "int4", "group": 32},
        "overrides": [
            {"match": "*.layers.0.self_attn.k_proj", "weights": {"format": "int8"}},
            {"match": "*.layers.1.mlp.up_proj", "weights": {"format": "f32"}},
        ],
    }
    compiled, out, messages = exported(folder, tmp_path, recipe)
    fused = [line for line in messages if "which fuses them" in line]
    assert [line.count("_proj") for line in fused] == [3, 2]
    assert "layers.0.self_attn.k_proj" in fused[0]
    assert "layers.1.mlp.gate_proj" in fused[1]
    wanted = interpreted(compiled)  # which computes them apart, as transformers does
    assert float((wanted - loaded(out)).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_tied_heads_are_written_in_float_and_said(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    transformers.LlamaForCausalLM(config).eval().save_pretrained(tmp_path / "tied")
    compiled, out, messages = exported(tmp_path / "tied", tmp_path, {"weights": {"format": "int4", "group": 32}})
    assert ["embed_tokens" in line for line in messages] == [True]
    wanted = interpreted(compiled)
    assert float((wanted - loaded(out)).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_what_the_format_cannot_say_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    recipe = {
        "weights": {"format": "int4 mid_rise | (1,32) f16"},
        "activations": {"format": "int8", "group": 32},
        "overrides": [{"match": "*.q_proj", "weights": {"format": "int4"}, "activations": {"format": "f32"}}],
    }
    with pytest.raises(UnsupportedOp) as caught:
        exported(folder, tmp_path, recipe)
    text = str(caught.value)
    assert text.startswith("26 reasons")
    assert "layers.1.mlp.up_proj" in text
    assert "q_proj" not in text
    assert "granularity: token" in text
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m.qcc"]


def test_what_has_no_folder_or_format_is_refused(folder: Path, tmp_path: Path) -> None:
    module = torch.nn.Linear(8, 8)
    compiled = qcc.compile(module, (torch.randn(2, 8),), recipe="w8", output=tmp_path / "m.qcc", threads=1)
    with pytest.raises(CheckpointError, match="a module in Python, not a Hugging Face folder"):
        Source(compiled.manifest.source)
    with pytest.raises(QccError, match="no export format 'onnx'"):
        export(compiled.module, WeightStore(), compiled.manifest, "onnx", tmp_path / "x")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    compiled = qcc.compile(folder, recipe="w8", output=tmp_path / "n.qcc", threads=1)
    store = WeightStore.load(compiled.folder / "weights.safetensors")
    with pytest.raises(QccError, match="exists and is no qcc artifact"):
        export(compiled.module, store, compiled.manifest, "compressed-tensors", mine)
    assert (mine / "notes.txt").read_text() == "keep"
