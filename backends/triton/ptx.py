"""The inline PTX of the kernels: every sequence, and nothing of it anywhere else.

A sequence turns a 32-bit register of packed words into registers of int8 x 4 or float16 x 2, one for each plane,
without moving an element to another lane. A project carries the rendered module as `qcc_ptx.py`;
`qcc.backends.triton.emulator` executes the same text on a CPU.

Integers unpack to the top of a byte (a code of b bits as code * 2^(8-b)): two's complement needs no sign extension
there, and the power of two leaves the sums exactly once, after the last of them. Floats unpack through magic numbers:
the bits of a code are set in the mantissa of 1024 (float16) or 128 (bfloat16), so that one subtraction, or one
multiply-add where the code lies four bits higher, gives code - zero exactly (Kim et al., "Who Says Elephants Can't
Run", arXiv 2211.10017; Frantar et al., "MARLIN", arXiv 2408.11743).
"""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.triton.spec import GemmSpec


@dataclass(frozen=True)
class Sequence:
    """PTX that is applied elementwise.

    `text` numbers registers as `tl.inline_asm_elementwise` does: outputs first. `arguments` are names of tensors of
    one shape, `result` is the element type of each of `outputs` tensors, and `pack` elements fill a register.
    """

    name: str
    what: str
    arguments: tuple[str, ...]
    outputs: int
    result: str
    pack: int
    text: str

    @property
    def constraints(self) -> str:
        """Give the register constraints, all of them 32 bits wide."""
        return ",".join(["=r"] * self.outputs + ["r"] * len(self.arguments))


SEQUENCES: dict[str, Sequence] = {
    one.name: one
    for one in (
        Sequence(
            "unpack_int4_to_int8",
            "Split bytes into two planes of int4 codes, each times 16 as int8.",
            ("words",),
            2,
            "int8",
            4,
            """
            .reg .b32 low;
            shl.b32 low, $2, 4;
            and.b32 $0, low, 0xf0f0f0f0;
            and.b32 $1, $2, 0xf0f0f0f0;
            """,
        ),
        Sequence(
            "unpack_int2_to_int8",
            "Split bytes into four planes of int2 codes, each times 64 as int8.",
            ("words",),
            4,
            "int8",
            4,
            """
            .reg .b32 p0, p1, p2;
            shl.b32 p0, $4, 6;
            shl.b32 p1, $4, 4;
            shl.b32 p2, $4, 2;
            and.b32 $0, p0, 0xc0c0c0c0;
            and.b32 $1, p1, 0xc0c0c0c0;
            and.b32 $2, p2, 0xc0c0c0c0;
            and.b32 $3, $4, 0xc0c0c0c0;
            """,
        ),
        Sequence(
            "unpack_uint4_to_float16",
            "Split 16-bit words into four planes of codes 0..15, each less 8 as float16.",
            ("words",),
            4,
            "float16",
            2,
            """
            .reg .b32 high, p0, p1, p2, p3, m, s, z;
            shr.u32 high, $4, 8;
            lop3.b32 p0, $4, 0x000f000f, 0x64006400, 0xea;    // 1024 + code
            lop3.b32 p1, $4, 0x00f000f0, 0x64006400, 0xea;    // 1024 + 16 code
            lop3.b32 p2, high, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 p3, high, 0x00f000f0, 0x64006400, 0xea;
            mov.b32 m, 0x64086408;                            // 1032
            mov.b32 s, 0x2c002c00;                            // 1 / 16
            mov.b32 z, 0xd480d480;                            // -72
            sub.f16x2 $0, p0, m;
            fma.rn.f16x2 $1, p1, s, z;
            sub.f16x2 $2, p2, m;
            fma.rn.f16x2 $3, p3, s, z;
            """,
        ),
        Sequence(
            "unpack_uint4_to_float16_less_zero",
            "Split 16-bit words into four planes of codes 0..15, each less its own zero point, as float16: an offset "
            "is 1024 + zero for planes 0 and 2, and -64 - zero for planes 1 and 3.",
            ("words", "offset0", "offset1", "offset2", "offset3"),
            4,
            "float16",
            2,
            """
            .reg .b32 high, p0, p1, p2, p3, s;
            shr.u32 high, $4, 8;
            lop3.b32 p0, $4, 0x000f000f, 0x64006400, 0xea;    // 1024 + code
            lop3.b32 p1, $4, 0x00f000f0, 0x64006400, 0xea;    // 1024 + 16 code
            lop3.b32 p2, high, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 p3, high, 0x00f000f0, 0x64006400, 0xea;
            mov.b32 s, 0x2c002c00;                            // 1 / 16
            sub.f16x2 $0, p0, $5;
            fma.rn.f16x2 $1, p1, s, $6;
            sub.f16x2 $2, p2, $7;
            fma.rn.f16x2 $3, p3, s, $8;
            """,
        ),
        Sequence(
            "unpack_uint4_to_bfloat16",
            "Split 16-bit words into four planes of codes 0..15, each less 8 as bfloat16.",
            ("words",),
            4,
            "bfloat16",
            2,
            """
            .reg .b32 s1, s2, s3, p0, p1, p2, p3, one, z;
            shr.u32 s1, $4, 4;
            shr.u32 s2, $4, 8;
            shr.u32 s3, $4, 12;
            lop3.b32 p0, $4, 0x000f000f, 0x43004300, 0xea;    // 128 + code
            lop3.b32 p1, s1, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 p2, s2, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 p3, s3, 0x000f000f, 0x43004300, 0xea;
            mov.b32 one, 0x3f803f80;
            mov.b32 z, 0xc308c308;                            // -136
            fma.rn.bf16x2 $0, p0, one, z;
            fma.rn.bf16x2 $1, p1, one, z;
            fma.rn.bf16x2 $2, p2, one, z;
            fma.rn.bf16x2 $3, p3, one, z;
            """,
        ),
        Sequence(
            "unpack_uint4_to_bfloat16_less_zero",
            "Split 16-bit words into four planes of codes 0..15, each less its own zero point, as bfloat16: an offset "
            "is -128 - zero.",
            ("words", "offset0", "offset1", "offset2", "offset3"),
            4,
            "bfloat16",
            2,
            """
            .reg .b32 s1, s2, s3, p0, p1, p2, p3, one;
            shr.u32 s1, $4, 4;
            shr.u32 s2, $4, 8;
            shr.u32 s3, $4, 12;
            lop3.b32 p0, $4, 0x000f000f, 0x43004300, 0xea;    // 128 + code
            lop3.b32 p1, s1, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 p2, s2, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 p3, s3, 0x000f000f, 0x43004300, 0xea;
            mov.b32 one, 0x3f803f80;
            fma.rn.bf16x2 $0, p0, one, $5;
            fma.rn.bf16x2 $1, p1, one, $6;
            fma.rn.bf16x2 $2, p2, one, $7;
            fma.rn.bf16x2 $3, p3, one, $8;
            """,
        ),
    )
}
"""All sequences by name."""


def unpacking_of(spec: GemmSpec) -> Sequence | None:
    """Return the sequence that unpacks a kernel's weights; None for int8, which need none."""
    if spec.integer:
        names = {2: "unpack_int2_to_int8", 4: "unpack_int4_to_int8", 8: None}
        name = names[spec.weight_bits]
    else:
        target = {"f16": "float16", "bf16": "bfloat16"}[spec.input]
        name = f"unpack_uint4_to_{target}" + ("_less_zero" if spec.zero == "integer" else "")
    return None if name is None else SEQUENCES[name]
