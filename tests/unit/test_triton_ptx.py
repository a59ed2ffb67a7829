"""The inline PTX, executed by its emulator over every word that there is."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.triton.emulator import run_ptx
from qcc.backends.triton.interpreting import floats_of, registers_of, tensors_of
from qcc.backends.triton.ptx import SEQUENCES, Sequence
from qcc.backends.triton.render import ptx_source
from qcc.errors import QccError

WORDS = np.arange(2**16, dtype=np.uint16)


def planes(sequence: Sequence, *arguments: np.ndarray) -> list[np.ndarray]:
    """Run a sequence elementwise, as Triton would."""
    inputs = [register for one in arguments for register in registers_of(one, sequence.pack)]
    results = run_ptx(sequence.text, inputs, sequence.outputs)
    dtype = np.dtype({"int8": np.int8, "float16": np.float16, "bfloat16": np.uint16}[sequence.result])
    found = tensors_of(results, [dtype] * sequence.outputs, sequence.pack, arguments[0].shape)
    return [floats_of(one) if sequence.result == "bfloat16" else one for one in found]


@pytest.mark.parametrize("bits", [2, 4])
def test_integers_lie_at_the_top_of_their_byte(bits: int) -> None:
    octets = np.arange(256, dtype=np.uint8).view(np.int8)
    for plane, result in enumerate(planes(SEQUENCES[f"unpack_int{bits}_to_int8"], octets)):
        field = (octets.view(np.uint8) >> (bits * plane)) & (2**bits - 1)
        signed = np.where(field >= 2 ** (bits - 1), field.astype(int) - 2**bits, field)
        assert (result == signed * 2 ** (8 - bits)).all()


@pytest.mark.parametrize("target", ["float16", "bfloat16"])
def test_floats_are_the_codes_less_eight(target: str) -> None:
    for plane, result in enumerate(planes(SEQUENCES[f"unpack_uint4_to_{target}"], WORDS.view(np.int16))):
        assert (result == ((WORDS >> (4 * plane)) & 15).astype(float) - 8).all()


@pytest.mark.parametrize("zeros", [(0, 0, 0, 0), (15, 15, 15, 15), (3, 14, 0, 9)])
def test_floats_are_the_codes_less_their_zero_point(zeros: tuple[int, ...]) -> None:
    offsets = [np.full(WORDS.shape, -64 - z if plane % 2 else 1024 + z, np.float16) for plane, z in enumerate(zeros)]
    brains = [(np.full(WORDS.shape, -128 - z, np.float32).view(np.uint32) >> 16).astype(np.uint16) for z in zeros]
    for target, given in (("float16", offsets), ("bfloat16", brains)):
        found = planes(SEQUENCES[f"unpack_uint4_to_{target}_less_zero"], WORDS.view(np.int16), *given)
        for plane, result in enumerate(found):
            assert (result == ((WORDS >> (4 * plane)) & 15).astype(float) - zeros[plane]).all()


def test_neighbours_of_a_register_stay_apart() -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**16, 1 << 12, dtype=np.uint16)
    for name in ("unpack_uint4_to_float16", "unpack_uint4_to_bfloat16"):
        for plane, result in enumerate(planes(SEQUENCES[name], words.view(np.int16))):
            assert (result == ((words >> (4 * plane)) & 15).astype(float) - 8).all()


def test_the_module_holds_every_sequence_and_parses() -> None:
    text = ptx_source()
    compile(text, "qcc_ptx.py", "exec")
    for sequence in SEQUENCES.values():
        assert f"def {sequence.name}(" in text
        assert f'"{sequence.constraints}"' in text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("mad.lo.u32 $0, $1, $1, $1;", "does not know the PTX 'mad.lo.u32"),
        ("and.b32 $0, $1, t;", "reads 't' before it is written"),
        ("mov.b32 t, $1;", "never writes \\$0"),
    ],
)
def test_what_is_not_known_is_an_error(text: str, what: str) -> None:
    with pytest.raises(QccError, match=what):
        run_ptx(text, [np.zeros(1, np.uint32)], 1)


def test_lop3_is_its_truth_table() -> None:
    a, b, c = (np.array([value], np.uint32) for value in (0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA))
    for table in (0xEA, 0x96, 0x01, 0x80):
        (result,) = run_ptx(f"lop3.b32 $0, $1, $2, $3, {table:#x};", [a, b, c], 1)
        # With these inputs bit i of a byte has the row i of the table.
        assert int(result[0]) == table * 0x01010101
