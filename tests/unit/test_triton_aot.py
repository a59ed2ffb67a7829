"""Cubins for three architectures without a GPU: gates, identical bytes, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

from qcc.backends.triton import aot, toolchain
from qcc.backends.triton.aot import CompileJob, Cubin, compile_kernels, unfit
from qcc.backends.triton.architectures import ARCHITECTURES, parse_architectures
from qcc.backends.triton.config import BlockConfig, RowConfig
from qcc.backends.triton.gates import Inspected, check_gates
from qcc.backends.triton.jobs import KernelBuild, compile_job
from qcc.backends.triton.sass import read_cubin
from qcc.backends.triton.spec import GemmSpec, RowSpec
from qcc.errors import BuildError

SMALL = KernelBuild(GemmSpec(4, 128, "i8", bias="f16"), BlockConfig(16, 128))
THREE = parse_architectures([])


@pytest.fixture(scope="module")
def cubins() -> tuple[Cubin, ...]:
    return compile_kernels([compile_job(SMALL, arch) for arch in THREE])


def test_three_architectures_pass_the_gates(cubins: tuple[Cubin, ...]) -> None:
    inspected = [Inspected(SMALL, one, read_cubin(one.code, SMALL.tile)) for one in cubins]
    check_gates(inspected)
    assert [one.target for one in cubins] == ["sm_80", "sm_90a", "sm_100a"]
    # what the installed version of Triton makes of int8 on sm_100 is spelled out in test_triton_sass.py
    blackwell = "UTCIMMA" if tuple(map(int, cubins[0].triton.split(".")[:2])) >= (3, 8) else "IMMA"
    assert [one.figures.mma.partition(".")[0] for one in inspected] == ["IMMA", "IGMMA", blackwell]
    assert all(one.figures.instructions_per_weight > 0.5 for one in inspected)
    assert all(one.warps == 4 and one.shared > 0 for one in cubins)


def test_bytes_are_identical_and_name_no_folder(cubins: tuple[Cubin, ...]) -> None:
    again = compile_kernels([compile_job(SMALL, arch) for arch in reversed(THREE)], workers=1)
    assert [one.code for one in reversed(again)] == [one.code for one in cubins]
    assert not any(b"/tmp" in one.code or b"qcc-triton" in one.code for one in cubins)


def test_settings_of_the_user_change_nothing(cubins: tuple[Cubin, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PTXAS_OPTIONS", "-O0")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm75")
    (again,) = compile_kernels([compile_job(SMALL, THREE[0])])
    assert again.code == cubins[0].code


def test_a_row_kernel_compiles_without_spills() -> None:
    variant = KernelBuild(RowSpec("f16", norm="rms", norm_weight=True), RowConfig.of(512))
    (cubin,) = compile_kernels([compile_job(variant, ARCHITECTURES["sm_90"])])
    figures = read_cubin(cubin.code, variant.tile)
    assert figures.spills == 0
    assert figures.mma == ""


def test_a_spilling_kernel_is_refused() -> None:
    variant = KernelBuild(GemmSpec(4, 32, "i8"), BlockConfig(128, 128, warps=4, stages=2))
    (cubin,) = compile_kernels([compile_job(variant, ARCHITECTURES["sm_90"])])
    with pytest.raises(BuildError, match="spills registers"):
        check_gates([Inspected(variant, cubin, read_cubin(cubin.code, variant.tile))])


def test_offenders_are_named_together_and_good_kernels_do_not_hide_them() -> None:
    # partial sums of 128 x 128 for each group need more tensor memory than there is; Triton alone would compile a trap.
    # Floats are multiplied in tensor memory by every version of Triton, int8 only by later ones
    spec = GemmSpec(4, 32, "f16", input_scale="none")
    trap = compile_job(KernelBuild(spec, BlockConfig(128, 128, 8, 3)), ARCHITECTURES["sm_100"])
    broken = replace(compile_job(SMALL, ARCHITECTURES["sm_80"]), source="def w4a8_g128_bias_f16(:\n")
    large = compile_job(replace(SMALL, config=BlockConfig(128, 128, 8, 8)), ARCHITECTURES["sm_86"])
    good = compile_job(SMALL, ARCHITECTURES["sm_90"])
    with pytest.raises(BuildError) as caught:
        compile_kernels([trap, broken, good, large])
    said = {one.where: one.what for one in caught.value.problems}
    assert set(said) == {trap.where, broken.where, large.where}
    assert "tensor memory" in said[trap.where]
    assert "SyntaxError" in said[broken.where]
    assert "shared memory" in said[large.where]


def test_a_worker_that_dies_costs_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    deadly = replace(compile_job(SMALL, ARCHITECTURES["sm_80"]), source="import os\nos._exit(3)\n")
    good = compile_job(SMALL, ARCHITECTURES["sm_90"])
    with pytest.raises(BuildError) as caught:
        compile_kernels([deadly, good], workers=1)
    assert [(one.where, one.what) for one in caught.value.problems] == [(deadly.where, "ends the compiler process")]


def test_a_kernel_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "TIMEOUT", 2.0)
    endless = replace(compile_job(SMALL, ARCHITECTURES["sm_80"]), source="while True:\n    pass\n")
    with pytest.raises(BuildError, match="takes longer than 2 s"):
        compile_kernels([endless])


def test_jobs_of_one_name_are_refused() -> None:
    job = compile_job(SMALL, ARCHITECTURES["sm_80"])
    with pytest.raises(BuildError, match="more than once"):
        compile_kernels([job, job])


def answer(job: CompileJob, **changes: object) -> dict[str, object]:
    parameters = ["u64" if one.is_pointer else "u32" for one in job.arguments] + ["u64", "u64"]
    metadata = {"shared": 1024, "num_ctas": 1, "global_scratch_size": 0, "profile_scratch_size": 0, "tmem_size": 0}
    return {"parameters": changes.pop("parameters", parameters), "metadata": {**metadata, **changes}}


def test_what_a_launch_cannot_serve_is_named() -> None:
    job = compile_job(SMALL, ARCHITECTURES["sm_90"])
    assert not unfit(job, answer(job))
    assert "scratch" in unfit(job, answer(job, global_scratch_size=128))[0]
    assert "clusters" in unfit(job, answer(job, num_ctas=2))[0]
    assert "parameters" in unfit(job, answer(job, parameters=["u64"]))[0]


def test_a_missing_triton_is_a_build_error_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match="pip install 'triton"):
        compile_kernels([compile_job(SMALL, ARCHITECTURES["sm_80"])])


def test_unknown_architectures_are_all_named() -> None:
    with pytest.raises(BuildError) as caught:
        parse_architectures(["sm_70", "sm_90", "gfx942"])
    assert [one.where for one in caught.value.problems] == ["--arch sm_70", "--arch gfx942"]
    assert [one.name for one in parse_architectures(["sm_90a", "sm_80", "sm_90"])] == ["sm_80", "sm_90"]


def test_code_runs_on_later_minor_capabilities_unless_it_is_exact() -> None:
    assert ARCHITECTURES["sm_80"].runs_on(86)
    assert not ARCHITECTURES["sm_86"].runs_on(80)
    assert not ARCHITECTURES["sm_80"].runs_on(90)
    assert ARCHITECTURES["sm_100"].runs_on(100)
    assert not ARCHITECTURES["sm_100"].runs_on(103)
