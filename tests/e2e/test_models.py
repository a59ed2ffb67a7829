"""Whole models: the imported program computes what torch computes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from qcc.errors import CheckpointError, QccError
from qcc.frontend.export import Imported, import_program
from qcc.frontend.source import load_source
from qcc.interpreter import Interpreter
from tests import zoo

# at run time: batch and length (or height and width) of the images
TOKEN_SIZES = [(2, 9), (1, 1), (3, 2), (1, 31)]
IMAGE_SIZES = {"vit": [(2, 24, 24), (1, 24, 24), (5, 24, 24)], "mobilenet": [(1, 30, 30), (3, 30, 30)]}
RESNET_SIZES = [(2, 32, 32), (1, 33, 47), (3, 17, 50)]
UNDECOMPOSED = {"gpt2"}


def _widen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return torch.float64 if value in (torch.float32, torch.float16, torch.bfloat16) else value


def in_float64(program: ExportedProgram) -> torch.nn.Module:
    """Return the program as a module in which all that was computed in a narrower float is computed in float64."""
    wide = copy.deepcopy(program)
    modules = [one for one in wide.graph_module.modules() if isinstance(one, torch.fx.GraphModule)]
    for node in (node for module in modules for node in module.graph.nodes):
        if "_assert_tensor_metadata" in str(node.target):
            node.graph.erase_node(node)
            continue
        node.args = pytree.tree_map_only((torch.dtype, torch.Tensor), _widen, node.args)
        node.kwargs = pytree.tree_map_only((torch.dtype, torch.Tensor), _widen, node.kwargs)
    for module in modules:
        module.recompile()
    module = wide.module(check_guards=False)
    return module.double()


def random_inputs(name: str, sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    if len(sizes) == 3:
        return {"pixel_values" if name == "vit" else "input": zoo.images(*sizes)}
    ids = {"input_ids": zoo.tokens(*sizes)}
    return {**ids, "attention_mask": zoo.padding(*sizes)} if family(name) in ("minilm", "bert") else ids


def family(name: str) -> str:
    return name.split("_")[0]


def sizes_of(name: str) -> Sequence[tuple[int, ...]]:
    return RESNET_SIZES if family(name) == "resnet" else IMAGE_SIZES.get(name, TOKEN_SIZES)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


@functools.cache
def exported(name: str) -> ExportedProgram:
    module, args, kwargs, shapes = {**zoo.MODELS, **zoo.NARROW}[name]()
    with torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


@functools.cache
def decomposed(name: str) -> ExportedProgram:
    return exported(name).run_decompositions()


def check(name: str, program: ExportedProgram, imported: Imported) -> None:
    oracle = Interpreter(imported.module, imported.store, dtype="f64")
    reference = in_float64(program)
    for sizes in sizes_of(name):
        inputs = random_inputs(name, sizes)
        positional = family(name) in ("resnet", "mobilenet")
        wide = {key: _widen(value) for key, value in inputs.items()}
        with torch.no_grad():
            wanted = reference(*wide.values()) if positional else reference(**wide)
        found = oracle.run(wide)
        leaves = [one for one in pytree.tree_leaves(wanted) if isinstance(one, torch.Tensor)]
        assert len(leaves) == len(found)
        for one, (key, value) in zip(leaves, found.items(), strict=True):
            assert value.shape == one.shape
            assert value.dtype == torch.float64
            assert relative_error(value, one) <= 1e-10, (name, sizes, key)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_training_graph_equals_torch(name: str) -> None:
    check(name, exported(name), import_program(exported(name)))


@pytest.mark.parametrize("name", [name for name in zoo.MODELS if name not in UNDECOMPOSED])
def test_decomposed_graph_equals_torch(name: str) -> None:
    check(name, decomposed(name), import_program(decomposed(name)))


@pytest.mark.parametrize("name", zoo.NARROW)
def test_half_precision_graph_equals_torch(name: str) -> None:
    """The widened program: what is left to compare is the structure, not the rounding."""
    check(name, exported(name), import_program(exported(name)))


@pytest.mark.parametrize("decompose", [False, True])
def test_static_cache_decodes_as_one_pass_does(decompose: bool) -> None:
    module, args, kwargs, shapes = zoo.cached_llama()
    with torch.no_grad():
        program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    imported = import_program(program.run_decompositions() if decompose else program)
    runner = Interpreter(imported.module, imported.store, dtype="f64")
    ids = zoo.tokens(1, 20)
    with torch.no_grad():
        wanted = module.double().model(input_ids=ids).logits
    for _ in range(2):  # the second round starts on the caches that the first one left
        parts = [(0, 7), *((at, at + 1) for at in range(7, 15)), (15, 20)]
        for start, end in parts:
            found = runner.run({"input_ids": ids[:, start:end], "cache_position": torch.arange(start, end)})
            assert relative_error(found["output"], wanted[:, start:end]) <= 1e-6  # the model casts to float32 in places


def test_positions_beyond_the_cache_are_refused() -> None:
    module, args, kwargs, shapes = zoo.cached_llama(length=8)
    with torch.no_grad():
        imported = import_program(torch.export.export(module, args, kwargs, dynamic_shapes=shapes))
    runner = Interpreter(imported.module, imported.store)
    with pytest.raises(QccError):
        runner.run({"input_ids": zoo.tokens(1, 3), "cache_position": torch.arange(6, 9)})


def test_hugging_face_folders_are_loaded(tmp_path: Path) -> None:
    bert, _, inputs, _ = zoo.bert()
    bert.save_pretrained(tmp_path / "bert")
    imported = import_program(load_source(tmp_path / "bert"))
    assert [leaf.name for leaf in imported.inputs] == ["input_ids", "attention_mask"]
    found = Interpreter(imported.module, imported.store).run(inputs)
    with torch.no_grad():
        wanted = bert(**inputs)
    assert list(found) == list(wanted)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)

    gpt2 = zoo.gpt2()[0].model
    gpt2.save_pretrained(tmp_path / "gpt2")
    imported = import_program(load_source(tmp_path / "gpt2", cache_length=16))
    ids = zoo.tokens(1, 6)
    found = Interpreter(imported.module, imported.store).run({"input_ids": ids, "cache_position": torch.arange(6)})
    with torch.no_grad():
        torch.testing.assert_close(found["output"], gpt2(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_a_folder_is_loaded_without_bars_in_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    zoo.bert()[0].save_pretrained(tmp_path)
    logs = zoo.transformers.utils.logging
    logs.enable_progress_bar()
    capfd.readouterr()
    load_source(tmp_path)
    assert capfd.readouterr().err == ""
    assert logs.is_progress_bar_enabled()


def test_damaged_hugging_face_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_source(tmp_path)
    bert = zoo.bert()[0]
    bert.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        load_source(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        load_source(tmp_path)
