"""Every kernel of the table of shipped ones, compiled for three architectures and held to its gates."""

from __future__ import annotations

from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from qcc.admission import admit
from qcc.backends.targets import backend_of
from qcc.backends.triton.architectures import parse_architectures
from qcc.backends.triton.build import Builder, Wanted
from qcc.backends.triton.gates import SPENT_MORE, check_gates
from qcc.backends.triton.geometry import step_of
from qcc.backends.triton.lower import GemmStep
from qcc.backends.triton.render import kernel_name
from qcc.backends.triton.spec import GemmSpec
from qcc.backends.triton.steps import launches_of, steps_of
from qcc.frontend.export import import_program
from qcc.ir.context import QccContext
from qcc.ir.program import program_of
from qcc.passes.pipeline import pipeline, run_passes, targeting
from qcc.recipes.load import load_recipe
from tests.shipped_kernels import GROUPS, KERNELS, SIZE, Shipped, builds_of, of_recipes

PROMISED = {"w4a16": 2.5, "w4a8": 1.5, "w2a8": 1.0}
"""Instructions that a weight may cost on sm_90 at 16 tokens."""
PROMISED_GROUPS = {"w4a16": (128, None), "w4a8": (128, None), "w2a8": (None,)}
"""Columns of one scale that the promise is for; more scales cost more, and have limits of their own."""
INSTRUCTIONS = {"sm_80": ("HMMA", "IMMA"), "sm_90": ("HGMMA", "IGMMA")}
BLACKWELL = {(3, 6): "IMMA", (3, 7): "IMMA"}
"""What Triton before 3.8 makes of int8 on sm_100; later ones multiply in tensor memory."""
TOKENS = (16, 32, 64, 128)


@pytest.mark.slow
@pytest.mark.parametrize("shipped", KERNELS, ids=lambda one: kernel_name(one.spec))
def test_every_shipped_kernel_passes_its_gates(shipped: Shipped) -> None:
    spec = shipped.spec
    wanted = [Wanted(arch, builds) for arch in parse_architectures([]) for _, builds in builds_of(spec, arch, TOKENS)]
    made = Builder().build(wanted)
    check_gates(made)
    first = [one for one, work in zip(made, wanted, strict=True) if one.build == work.candidates[0]]
    assert {one.cubin.arch.name for one in first} == {"sm_80", "sm_90", "sm_100"}
    assert {(one.figures.spills, one.figures.stack) for one in made} == {(0, 0)}
    version = tuple(map(int, made[0].cubin.triton.split(".")[:2]))
    known = {**INSTRUCTIONS, "sm_100": ("UTCHMMA", BLACKWELL.get(version, "UTCIMMA"))}
    for one in made:
        assert one.figures.mma.partition(".")[0] == known[one.cubin.arch.name][spec.integer], one.where
    if spec.group in PROMISED_GROUPS.get(spec.plan, ()):
        few_tokens = made[len(TOKENS)]
        assert few_tokens.cubin.arch.name == "sm_90"
        assert few_tokens.figures.instructions_per_weight <= PROMISED[spec.plan] * SPENT_MORE.get(version, 1.0)


def test_every_plan_is_shipped_with_every_group_and_both_narrow_floats() -> None:
    def has(**facts: object) -> bool:
        return any(all(getattr(one.spec, name) == value for name, value in facts.items()) for one in KERNELS)

    for group, dtype in product(GROUPS, ("f16", "bf16")):
        assert has(plan="w4a16", group=group, input=dtype, output=dtype)
        assert has(plan="w4a8", group=group, output=dtype)
    for group, plan in product(GROUPS, ("w8a8", "w2a8")):
        assert has(plan=plan, group=group)
    for plan, dtype in product(("w8a8", "w2a8"), ("f16", "bf16")):
        assert has(plan=plan, output=dtype)
    assert set(GROUPS) == {32, 64, 128, None}
    assert len({kernel_name(one.spec) for one in KERNELS}) == len(KERNELS)


@pytest.mark.parametrize("name", of_recipes())
def test_the_kernels_of_recipes_are_what_the_recipes_become(name: str) -> None:
    recipe, dtype = name.split()
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    model = torch.nn.Sequential(torch.nn.Linear(256, 128), torch.nn.GELU()).to(kind).eval()
    imported = import_program(torch.export.export(model, (torch.ones(4, 256, dtype=kind),)))
    target = backend_of("triton").capabilities
    passes = targeting(target.epilogues, target.prologues, target.accumulator_bits, tuple(map(str, target.costs)))
    run_passes(pipeline(load_recipe(recipe)), QccContext(imported.store), imported.module)
    admit(imported.module, target)
    run_passes(passes, QccContext(imported.store), imported.module)
    parts = [part for _, part in launches_of(steps_of(program_of(imported.module)))]
    (spec,) = (part.spec for part in parts if isinstance(part, GemmStep))
    assert isinstance(spec, GemmSpec)
    assert spec == of_recipes()[name]
    assert step_of(spec.weight_bits, spec.group, SIZE) == spec.step
