"""Reading machine code: loops, matrix instructions, instructions per weight, and the gates held against them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qcc.backends.triton.aot import Cubin
from qcc.backends.triton.architectures import ARCHITECTURES, matrix_instruction
from qcc.backends.triton.config import BlockConfig
from qcc.backends.triton.gates import Inspected, check_gates, faults, instruction_limit, slow
from qcc.backends.triton.jobs import KernelBuild
from qcc.backends.triton.sass import Figures, Tile, figures_of, main_loop, parse_listing
from qcc.backends.triton.spec import GemmSpec
from qcc.errors import BuildError

# Two loops: the second multiplies. A wait at the end jumps back into it, as on sm_100.
LISTING = """
	.headerflags	@"EF_CUDA_SM90"
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   LDGSTS.E.BYPASS.128 [R13], desc[UR18][R14.64], !P3 ;
        /*0040*/                   LOP3.LUT R3, R3, 0xf0f0f0f0, RZ, 0xc0, !PT ;
        /*0050*/                   IGMMA.64x16x32.S8.S8 R32, R40, gdesc[UR16], RZ, !UPT ;
.L_x_2:
        /*0060*/              @!UP0 IGMMA.64x16x32.S8.S8 R32, R44, gdesc[UR12], R32, gsb0 ;
        /*0070*/                   IADD3 R4, R4, 0x1, RZ ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
        /*0090*/                   STG.E [R2], R3 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], RZ ;
        /*00c0*/                   BRA `(.L_x_2) ;
.L_x_3:
        /*00d0*/                   BRA `(.L_x_3);
"""


def test_the_main_loop_is_the_one_that_multiplies() -> None:
    loop = main_loop(parse_listing(LISTING))
    names = [one.opcode for one in loop]
    assert names == ["LDGSTS", "LOP3", "IGMMA", "IGMMA", "IADD3", "BRA"]


def test_instructions_are_counted_over_the_weights_of_a_thread() -> None:
    # 64 x 64 weights by 16 tokens in four warps: two IGMMA of 64 x 16 x 32, one step, 32 weights a thread
    figures = figures_of(parse_listing(LISTING), 40, 0, Tile(64, 16, 64, 4))
    assert figures == Figures(40, 0, 0, "IGMMA.64x16x32", 6, 6 / 32)


def test_an_unrolled_loop_counts_for_all_its_steps() -> None:
    # 64 x 32 weights a step: the loop's two IGMMA are two steps
    figures = figures_of(parse_listing(LISTING), 40, 0, Tile(64, 16, 32, 4))
    assert figures.instructions_per_weight == pytest.approx(6 / 32)


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("IMMA.16832.S8.S8.SAT", Tile(16, 8, 32, 1)),
        ("HMMA.16816.F32", Tile(32, 16, 16, 2)),
        ("HMMA.1688.F32", Tile(16, 8, 8, 1)),
    ],
)
def test_the_shape_of_older_matrix_instructions_is_read(name: str, tile: Tile) -> None:
    count = tile.channels * tile.tokens // (16 * 8) // tile.warps
    body = "".join(f"        /*{index:04x}*/                   {name} R0, R1, R2, R3 ;\n" for index in range(count))
    text = f".L_x_0:\n{body}        /*0ff0*/               @P0 BRA `(.L_x_0) ;\n"
    figures = figures_of(parse_listing(text), 1, 0, tile)
    weights = tile.channels * tile.columns / (tile.warps * 32)
    assert figures.instructions_per_weight == pytest.approx((count + 1) / weights)


def test_spills_are_local_loads_and_stores() -> None:
    text = LISTING.replace("STG.E [R2]", "STL.64 [R1]").replace("LDC R1,", "LDL R1,")
    assert figures_of(parse_listing(text), 255, 16, None).spills == 2


def test_a_kernel_without_a_loop_has_no_matrix_instruction() -> None:
    trap = "/*0000*/ BPT.TRAP 0x1 ;\n.L_x_0:\n/*0010*/ BRA `(.L_x_0);\n"
    assert figures_of(parse_listing(trap), 4, 0, Tile(128, 128, 128, 8)).mma == ""


def inspected(
    figures: Figures, spec: GemmSpec | None = None, arch: str = "sm_90", tokens: int = 16, triton: str = "3.9.0"
) -> Inspected:
    variant = KernelBuild(spec or GemmSpec(4, 128, "i8"), BlockConfig(tokens, 128))
    cubin = Cubin(variant.name, variant.kernel, ARCHITECTURES[arch], arch, b"", 0, 4, "8.8", triton)
    return Inspected(variant, cubin, figures)


GOOD = Figures(80, 0, 0, "IGMMA.64x16x32", 150, 1.25)


def test_gates_name_every_offender() -> None:
    kernels = [
        inspected(GOOD),
        inspected(Figures(255, 16, 4, "IGMMA.64x16x32", 150, 1.25)),
        inspected(Figures(80, 0, 0, "IMMA.16832", 150, 1.25)),
        inspected(Figures(80, 0, 0, "IGMMA.64x16x32", 250, 1.75)),
        inspected(Figures(4, 0, 0)),
    ]
    with pytest.raises(BuildError) as caught:
        check_gates(kernels)
    said = [one.what for one in caught.value.problems]
    assert [text.split(",")[0].split(":")[0] for text in said] == [
        "spills registers",
        "multiplies with IMMA.16832",
        "1.75 instructions a weight",
        "multiplies with no matrix instruction",
    ]
    check_gates(kernels[:1])


@pytest.mark.parametrize(
    ("triton", "expected"),
    [("3.6.0", "IMMA"), ("3.7.1", "IMMA"), ("3.8.0", "UTCIMMA"), ("3.9.0+git1a2b", "UTCIMMA"), ("3.10.0", "UTCIMMA")],
)
def test_int8_on_sm_100_is_what_the_version_of_triton_makes_of_it(triton: str, expected: str) -> None:
    other = {"IMMA": "UTCIMMA", "UTCIMMA": "IMMA"}[expected]
    good, bad = (Figures(80, 0, 0, name, 150, 1.25) for name in (expected, other))
    assert not faults(inspected(good, arch="sm_100", triton=triton))
    (problem,) = faults(inspected(bad, arch="sm_100", triton=triton))
    assert problem.what == f"multiplies with {other}, not {expected} as Triton {triton} should give"


def test_no_other_instruction_depends_on_the_version_of_triton() -> None:
    for triton in ("3.6.0", "3.9.0"):
        for arch in ARCHITECTURES.values():
            assert matrix_instruction(arch, triton, integer=False) == arch.mma[0]
            assert arch.name == "sm_100" or matrix_instruction(arch, triton, integer=True) == arch.mma[1]


def test_limits_are_wider_for_the_one_version_that_spends_more() -> None:
    figures = Figures(80, 0, 0, "IGMMA.64x16x32", 150, 1.55)
    assert [bool(slow(inspected(figures, triton=one))) for one in ("3.6.0", "3.7.1", "3.8.0", "3.9.0")] == [
        True,
        True,
        False,
        True,
    ]
    (problem,) = slow(inspected(replace(figures, instructions_per_weight=1.6), triton="3.8.0"))
    assert problem.what.startswith("1.60 instructions a weight, at most 1.5")


def test_a_version_that_is_no_number_is_told() -> None:
    with pytest.raises(BuildError, match="version 'main'"):
        matrix_instruction(ARCHITECTURES["sm_100"], "main", integer=True)


def test_instructions_are_limited_on_one_architecture_only() -> None:
    many = Figures(80, 0, 0, "IMMA.16832", 250, 9.0)
    assert not faults(inspected(many, arch="sm_80"))
    assert not slow(inspected(many, arch="sm_80"))
    assert slow(inspected(many))


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        (GemmSpec(4, 128, "i8"), 1.5),
        (GemmSpec(4, None, "i8"), 1.5),
        (GemmSpec(4, 128, "f16", input_scale="none"), 2.5),
        (GemmSpec(2, None, "i8"), 1.0),
    ],
)
def test_limits_at_sixteen_tokens(spec: GemmSpec, limit: float) -> None:
    assert instruction_limit(inspected(GOOD, spec).build) == pytest.approx(limit)


def test_smaller_groups_and_more_tokens_may_cost_more() -> None:
    def limit(group: int | None, tokens: int) -> float:
        found = instruction_limit(inspected(GOOD, GemmSpec(4, group, "i8"), tokens=tokens).build)
        assert found is not None
        return found

    assert limit(32, 16) > limit(64, 16) > limit(128, 16)
    assert limit(128, 128) > limit(128, 16)
    assert limit(None, 128) > limit(None, 16)
