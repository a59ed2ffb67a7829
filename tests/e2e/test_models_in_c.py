"""Every model of the zoo as compiled C: held to the interpreter at sizes it was not exported with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import qcc
from qcc.errors import QccError, RecipeError, ShapeError
from tests import zoo
from tests.compiling import (
    FLOAT_BOUND,
    WEIGHT_ONLY_BOUND,
    apart,
    compile_fitting,
    exported,
    golden_tolerance,
    interpreter,
)

# batch and length, or batch, height and width; the first is the size of the export
TOKEN_SIZES = [(2, 9), (1, 1), (3, 2), (1, 31), (5, 13)]
IMAGE_SIZES = {
    "vit": [(2, 24, 24), (1, 24, 24), (5, 24, 24)],
    "mobilenet": [(2, 30, 30), (1, 30, 30), (3, 30, 30)],
    "resnet": [(2, 32, 32), (1, 33, 47), (3, 17, 50), (1, 7, 9)],
}
# layers that a recipe of integers reaches, of all layers: MobileNet's two depthwise convolutions stay in float
LAYERS = {
    "bert": (13, 13),
    "llama": (15, 15),
    "qwen2": (15, 15),
    "gemma": (15, 15),
    "gpt2": (9, 9),
    "gpt2_eager": (9, 9),
    "vit": (14, 14),
    "resnet": (7, 7),
    "mobilenet": (6, 8),
}
REPEATED = ("gpt2_eager",)  # the program of gpt2 once raised
HALF_STEP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def test_every_model_is_here() -> None:
    assert set(LAYERS) == set(zoo.MODELS) - {"minilm"}  # which has tests of its own


def inputs_of(name: str, sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    family = name.split("_")[0]
    if family in IMAGE_SIZES:
        return {"pixel_values" if family == "vit" else "input": zoo.images(*sizes).to(dtype)}
    ids = {"input_ids": zoo.tokens(*sizes)}
    return {**ids, "attention_mask": zoo.padding(*sizes)} if family == "bert" else ids


def sizes_of(name: str) -> list[tuple[int, ...]]:
    return IMAGE_SIZES.get(name.split("_")[0], TOKEN_SIZES)


def differences(name: str, compiled: qcc.Compiled) -> list[float]:
    """Return how far C and the interpreter are apart at every size."""
    oracle = interpreter(compiled)
    found: list[float] = []
    for sizes in sizes_of(name):
        inputs = inputs_of(name, sizes)
        results, wanted = compiled.run(inputs), oracle.run(inputs)
        assert list(results) == list(wanted)
        assert all(bool(one.isfinite().all()) for one in wanted.values())
        found.append(max(apart(results[key], wanted[key]) for key in wanted))
    return found


def check_warnings(compiled: qcc.Compiled) -> None:
    """The emitted text compiles without a warning: what its own Makefile asks for, less the optimisation."""
    flags = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Werror"]
    source = str(compiled.folder / "c" / "model.c")
    done = subprocess.run(["cc", *flags, "-c", source, "-o", "/dev/null"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def slow_if(condition: bool, *values: str) -> object:
    return pytest.param(*values, marks=[pytest.mark.slow] if condition else [])


@pytest.mark.parametrize("name", [slow_if(name in REPEATED, name) for name in LAYERS])
def test_float_programs_equal_the_interpreter(name: str) -> None:
    compiled = qcc.compile(exported(name), recipe="float", threads=2)
    check_warnings(compiled)
    assert compiled.coverage.quantized == 0
    assert max(differences(name, compiled)) <= FLOAT_BOUND


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        slow_if((name, recipe) not in (("llama", "w4"), ("vit", "w8")), name, recipe)
        for name in LAYERS
        for recipe in ("w8", "w4")
    ],
)
def test_weight_only_programs_equal_the_interpreter(name: str, recipe: str) -> None:
    compiled = compile_fitting(exported(name), recipe)
    assert (compiled.coverage.quantized, compiled.coverage.total) == LAYERS[name]
    check_warnings(compiled)
    assert max(differences(name, compiled)) <= WEIGHT_ONLY_BOUND


@pytest.mark.parametrize(
    ("name", "recipe"),
    [slow_if(name in REPEATED, name, recipe) for name in LAYERS for recipe in ("w8a8", "w4a8")],
)
def test_integer_programs_follow_the_interpreter(name: str, recipe: str) -> None:
    """Equal but where a float in the last bit moves a code over a rounding boundary, which is rare."""
    compiled = compile_fitting(exported(name), recipe)
    assert (compiled.coverage.quantized, compiled.coverage.total) == LAYERS[name]
    check_warnings(compiled)
    found = differences(name, compiled)
    assert max(found) <= golden_tolerance(compiled)
    assert sum(one <= FLOAT_BOUND for one in found) * 2 > len(found), found


@pytest.mark.parametrize("group", [8, 16])
def test_groups_that_divide_follow_the_interpreter(group: int) -> None:
    """BERT's 48 and 80 columns have no group of 32, so `w4a8` leaves groups untried."""
    scheme = {"weights": {"format": "uint4", "group": group}, "activations": {"format": "int8", "group": group}}
    compiled = qcc.compile(exported("bert"), recipe={"version": 1, **scheme}, threads=2)
    assert compiled.coverage.quantized == 13
    found = differences("bert", compiled)
    assert max(found) <= golden_tolerance(compiled)
    assert sum(one <= FLOAT_BOUND for one in found) * 2 > len(found), found


def test_a_recipe_that_divides_no_layer_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        qcc.compile(exported("bert"), recipe="w4a8")
    assert len(caught.value.problems) == 26  # weights and activations of 13 layers


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        slow_if(name not in ("bert_bf16", "gemma_f16") or recipe == "w8", name, recipe)
        for name in zoo.NARROW
        for recipe in ("float", "w8", "w8a8")
    ],
)
def test_half_precision_programs(name: str, recipe: str) -> None:
    """Half floats come in and go out; between, the program computes in float32 and rounds once, at its end."""
    compiled = compile_fitting(exported(name), recipe)
    own, wide = interpreter(compiled), interpreter(compiled, "f32")
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float16
    once: list[bool] = []
    for sizes in sizes_of(name):
        inputs = inputs_of(name, sizes, dtype)
        found, rounded, unrounded = compiled.run(inputs), own.run(inputs), wide.run(inputs)
        for key, value in found.items():
            assert value.dtype == dtype
            assert apart(value, rounded[key]) <= 0.04
            exact = unrounded[key].double()
            allowed = HALF_STEP[dtype] * exact.abs() + WEIGHT_ONLY_BOUND * exact.abs().max()
            once.append(bool(((value.double() - exact).abs() <= allowed).all()))
    assert sum(once) * 2 > len(once) if recipe == "w8a8" else all(once), once


@pytest.mark.parametrize("name", ["bert", "vit", "llama", "resnet"])
def test_called_like_the_module(name: str) -> None:
    """The module's own arguments in, its own result type out, close to what it computes."""
    module, args, kwargs, _ = zoo.MODELS[name]()
    compiled = qcc.compile(exported(name), recipe="w8", threads=2)
    found = compiled(*args, **kwargs)
    with torch.no_grad():
        wanted = module(*args, **kwargs)
    assert type(found) is type(wanted)
    leaves, tree = pytree.tree_flatten(found)
    expected, expected_tree = pytree.tree_flatten(wanted)
    assert tree == expected_tree
    assert all(apart(one, other) <= 0.02 for one, other in zip(leaves, expected, strict=True))
    if name == "bert":
        backwards = dict(reversed(kwargs.items()))
        assert torch.equal(compiled(**backwards).last_hidden_state, found.last_hidden_state)
        with pytest.raises(ShapeError, match="exported with"):
            compiled(kwargs["input_ids"], attention_mask=kwargs["attention_mask"])


def test_inputs_that_do_not_fit_are_refused_and_leave_the_program_usable() -> None:
    compiled = qcc.compile(exported("bert"), recipe="w8", threads=2)
    good = inputs_of("bert", (2, 9))
    wanted = compiled.run(good)
    ids, mask = good["input_ids"], good["attention_mask"]
    wrong: list[tuple[dict[str, torch.Tensor], str]] = [
        ({"input_ids": ids}, "attention_mask"),
        ({"input_ids": ids.int(), "attention_mask": mask}, "int32"),
        ({"input_ids": ids[0], "attention_mask": mask}, "input_ids"),
        ({"input_ids": ids, "attention_mask": mask[:, :8]}, "attention_mask"),
        ({"input_ids": ids[:0], "attention_mask": mask[:0]}, "0"),
        ({"input_ids": ids[:, :0], "attention_mask": mask[:, :0]}, "0"),
        ({"input_ids": ids + 97, "attention_mask": mask}, "outside"),
        ({"input_ids": -ids, "attention_mask": mask}, "outside"),
        ({"input_ids": ids, "attention_mask": mask[:1]}, "outside"),
        (inputs_of("bert", (1, 41)), ""),  # one position more than the model has
        ({**good, "token_type_ids": ids}, "token_type_ids"),
    ]
    for inputs, part in wrong:
        with pytest.raises(QccError) as caught:
            compiled.run(inputs)
        assert part in str(caught.value)
        again = compiled.run(good)
        assert all(torch.equal(again[key], value) for key, value in wanted.items())


def test_memory_of_inputs_may_be_strided() -> None:
    compiled = qcc.compile(exported("resnet"), recipe="w8a8", threads=2)
    image = zoo.images(3, 33, 20)
    wanted = compiled(image)
    assert torch.equal(compiled(image.to(memory_format=torch.channels_last)), wanted)
    assert torch.equal(compiled(image.transpose(2, 3).contiguous().transpose(2, 3)), wanted)
    assert torch.equal(compiled(image.clone().requires_grad_()), wanted)


def hard_images(name: str) -> dict[str, torch.Tensor]:
    """Make images [2, 3, H, W] that are hard to quantize: without values, without range, or not numbers."""
    image = zoo.images(*sizes_of(name)[0])

    def holding(value: float) -> torch.Tensor:
        return image.clone().index_put_(
            (torch.tensor(1), torch.tensor(1), torch.tensor(5), torch.tensor(3)), torch.tensor(value)
        )

    whole = {"zeros": image * 0, "ones": torch.ones_like(image), "huge": image * 1e30, "subnormal": image * 1e-42}
    single = {str(value): holding(value) for value in (1e6, 3.4e38, torch.inf, -torch.inf, torch.nan)}
    return {**whole, **single, "nothing but nan": image * torch.nan}


@pytest.mark.parametrize(("name", "recipe"), [("mobilenet", "w8a8"), ("vit", "w4a8"), ("resnet", "w8")])
def test_hard_values_come_out_as_the_interpreter_says(name: str, recipe: str) -> None:
    compiled = compile_fitting(exported(name), recipe)
    oracle = interpreter(compiled)
    for label, image in hard_images(name).items():
        inputs = {compiled.input_names[0]: image}
        found, wanted = compiled.run(inputs), oracle.run(inputs)
        for key, value in wanted.items():
            broken = value.isfinite().logical_not()
            # what is no number in one image stays there; the other image is computed as ever
            assert not broken[0].any() or label == "nothing but nan"
            assert broken[1].all() or label not in ("nan", "nothing but nan")
            assert torch.equal(found[key].isfinite(), value.isfinite()), label
            assert torch.equal(found[key].isnan(), value.isnan()), label
            clean = value.masked_fill(broken, 0)
            assert apart(found[key].masked_fill(broken, 0), clean) <= golden_tolerance(compiled), label


def test_masks_that_leave_nothing_to_look_at() -> None:
    compiled = qcc.compile(exported("bert"), recipe="w8", threads=2)
    module, oracle = zoo.bert()[0], interpreter(compiled)
    rows = torch.tensor([[0] * 9, [1] * 9])
    for mask in (torch.zeros_like(rows), rows, rows.flip(0), rows * 2 - 1, torch.tensor([[0] * 4 + [1] * 5] * 2)):
        inputs = {"input_ids": zoo.tokens(2, 9), "attention_mask": mask}
        found = compiled.run(inputs)["last_hidden_state"]
        assert apart(found, oracle.run(inputs)["last_hidden_state"]) <= WEIGHT_ONLY_BOUND
        with torch.no_grad():
            assert apart(found, module(**inputs).last_hidden_state) <= 0.02


def test_the_c_project_meets_its_golden_vectors_with_every_instruction_set(tmp_path: Path) -> None:
    compiled = compile_fitting(exported("qwen2"), "w4a8")
    folder = tmp_path / "c"
    shutil.copytree(compiled.folder / "c", folder)
    subprocess.run(["make", "-s", "-C", str(folder), "CFLAGS=-O1", "model_main"], check=True)
    inputs = inputs_of("qwen2", (1, 17))
    np.save(tmp_path / "ids.npy", inputs["input_ids"].numpy())
    wanted = interpreter(compiled).run(inputs)["output"]
    seen: set[str] = set()
    for isa in ("portable", "avx2", "avx512vnni"):
        command = ["./model_main", "--weights", "weights.bin"]
        environment = {"PATH": "/nonexistent", "QCC_ISA": isa}
        golden = subprocess.run(
            [*command, "--golden", "golden"], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert golden.returncode == 0, golden.stdout + golden.stderr
        seen.add(golden.stdout.splitlines()[-1])
        call = [*command, "--threads", "3", "--input", f"input_ids={tmp_path}/ids.npy", "--output", str(tmp_path)]
        subprocess.run(call, cwd=folder, env=environment, check=True)
        found = torch.from_numpy(np.load(tmp_path / "output.npy"))
        assert apart(found, wanted) <= golden_tolerance(compiled)
    assert any("portable" in line for line in seen)
