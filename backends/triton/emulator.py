"""Execute the PTX of the kernels on a CPU, bit for bit: the twin of `qcc.backends.triton.ptx`.

Only the instructions that the sequences use are known; another one is an error. Registers are vectors of uint32, one
entry a thread. Formulas are those of the PTX ISA, section "Instruction Set".
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qcc.errors import QccError

Register = NDArray[np.uint32]
Instruction = Callable[..., Register]


def run_ptx(text: str, inputs: list[Register], outputs: int) -> list[Register]:
    """Execute straight-line PTX with operands `$0`, `$1`, ... (outputs first) and return the output registers.

    Raises:
        QccError: an instruction or an operand that is not known, or an output that is never written.
    """
    registers = {f"${outputs + index}": value for index, value in enumerate(inputs)}
    for statement in re.split(r"[;{}]", re.sub(r"//[^\n]*", "", text)):
        words = statement.split(None, 1)
        if not words or words[0] == ".reg":
            continue
        if words[0] not in INSTRUCTIONS or len(words) < 2:
            raise QccError(f"the emulator does not know the PTX '{statement.strip()}'")
        target, *sources = (word.strip() for word in words[1].split(","))
        values = [_operand(source, registers, len(inputs[0])) for source in sources]
        registers[target] = INSTRUCTIONS[words[0]](*values)
    missing = [f"${index}" for index in range(outputs) if f"${index}" not in registers]
    if missing:
        raise QccError(f"the PTX never writes {', '.join(missing)}")
    return [registers[f"${index}"] for index in range(outputs)]


def _operand(text: str, registers: dict[str, Register], length: int) -> Register:
    if text in registers:
        return registers[text]
    try:
        return np.full(length, int(text, 0) & 0xFFFFFFFF, np.uint32)
    except ValueError:
        raise QccError(f"the PTX reads '{text}' before it is written") from None


def _lop3(a: Register, b: Register, c: Register, table: Register) -> Register:
    """Look every bit up in a truth table: the bit of `a` counts 4, of `b` 2, of `c` 1."""
    result = np.zeros_like(a)
    for row in range(8):
        if int(table[0]) >> row & 1:
            result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    return result


def _halves(register: Register) -> NDArray[np.float64]:
    """Read two float16 a register, exactly, as [threads, 2]."""
    return np.ascontiguousarray(register).view(np.float16).reshape(-1, 2).astype(np.float64)


def _from_halves(values: NDArray[np.float64]) -> Register:
    return np.ascontiguousarray(values.astype(np.float16)).view(np.uint32).reshape(-1)


def _brains(register: Register) -> NDArray[np.float64]:
    """Read two bfloat16 a register, exactly, as [threads, 2]."""
    words = np.ascontiguousarray(register).view(np.uint16).reshape(-1, 2)
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16, halves to even, as its 16 bits; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), np.uint64(0x7FC0), rounded).astype(np.uint16)


def _from_brains(values: NDArray[np.float64]) -> Register:
    return np.ascontiguousarray(bfloat16_bits(values.astype(np.float32))).view(np.uint32).reshape(-1)


def _mov(a: Register) -> Register:
    return a


def _and(a: Register, b: Register) -> Register:
    return a & b


def _shift_left(a: Register, b: Register) -> Register:
    return a << b


def _shift_right(a: Register, b: Register) -> Register:
    return a >> b


def _sub_f16(a: Register, b: Register) -> Register:
    return _from_halves(_halves(a) - _halves(b))


# One rounding, as the hardware's: a product of two 16-bit floats is exact in float64, and so is the sum of one with a
# third wherever their exponents are less than 2^30 apart, as they are for codes, offsets and powers of two.
def _fma_f16(a: Register, b: Register, c: Register) -> Register:
    return _from_halves(_halves(a) * _halves(b) + _halves(c))


def _fma_bf16(a: Register, b: Register, c: Register) -> Register:
    return _from_brains(_brains(a) * _brains(b) + _brains(c))


INSTRUCTIONS: dict[str, Instruction] = {
    "mov.b32": _mov,
    "and.b32": _and,
    "shl.b32": _shift_left,
    "shr.u32": _shift_right,
    "lop3.b32": _lop3,
    "sub.f16x2": _sub_f16,
    "fma.rn.f16x2": _fma_f16,
    "fma.rn.bf16x2": _fma_bf16,
}
"""What the emulator executes, by name."""
