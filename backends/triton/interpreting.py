"""Teach Triton's interpreter what it lacks: inline PTX, bfloat16 that rounds and multiplies as a GPU's, truth values.

Triton's interpreter (`TRITON_INTERPRET=1`) refuses inline assembly, keeps bfloat16 as raw bits that it would multiply
as integers, and rounds float32 to bfloat16 by cutting bits off. With `extend_interpreter` the very source of a kernel
runs on a CPU. Everything else stays as Triton has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.triton.emulator import Register, bfloat16_bits, run_ptx


def extend_interpreter() -> None:
    """Put inline PTX and bfloat16 into Triton's interpreter, for this process and for good."""
    import triton.language as tl
    from triton.runtime import interpreter

    handle: Any = interpreter.TensorHandle
    builder: Any = interpreter.InterpreterBuilder
    dtype_of: Any = interpreter._get_np_dtype  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
    plain_patch: Any = interpreter._patch_lang_tensor  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
    plain_dot, plain_cast, plain_binary = builder.create_dot, builder.cast_impl, builder.binary_op

    def inline_asm(_: Any, text: str, constraints: str, values: Any, types: Any, pure: bool, pack: int) -> Any:
        outputs = sum(one.startswith("=") for one in constraints.split(","))
        results = run_ptx(text, [one for value in values for one in registers_of(value.data, pack)], outputs)
        scalars = [getattr(one, "scalar", one) for one in types]
        arrays = tensors_of(results, [np.dtype(dtype_of(one)) for one in scalars], pack, values[0].data.shape)
        return _Results([handle(array, scalar) for array, scalar in zip(arrays, scalars, strict=True)])

    def dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if tl.bfloat16 not in (a.dtype.scalar, b.dtype.scalar):
            return plain_dot(self, a, b, d, *options)
        left, right = (floats_of(one.data) if one.dtype.scalar == tl.bfloat16 else one.data for one in (a, b))
        return handle(np.matmul(left, right, dtype=d.data.dtype) + d.data, d.dtype.scalar)

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            return handle(bfloat16_bits(source.data), tl.bfloat16)
        return plain_cast(self, source, target)

    def binary(self: Any, left: Any, right: Any, operation: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            value = operation(floats_of(left.data), floats_of(right.data))
            bits = value if value.dtype == np.bool_ else bfloat16_bits(value.astype(np.float32))
            result = handle(bits, tl.bfloat16)
        else:
            result = plain_binary(self, left, right, operation)
        # A comparison keeps the type of its operands, and a scalar one would be spread as a float.
        return handle(result.data, tl.int1) if result.data.dtype == np.bool_ else result

    def patch_tensor(tensor: Any, scope: Any) -> None:
        plain_patch(tensor, scope)
        # The bounds of a loop are arrays of one element, which numpy 2.4 takes for no integer (Triton 3.6).
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))  # pyright: ignore

    interpreter._patch_lang_tensor = patch_tensor  # pyright: ignore[reportPrivateUsage]
    builder.create_inline_asm, builder.create_dot = inline_asm, dot
    builder.cast_impl, builder.binary_op = cast, binary


class _Results:
    """What the interpreter wants of an operation with several results."""

    def __init__(self, results: list[Any]) -> None:
        self.results = results

    def get_result(self, index: int) -> Any:
        """Return one result."""
        return self.results[index]


def registers_of(values: NDArray[Any], pack: int) -> list[Register]:
    """Cut a tensor into 32-bit registers, `pack` neighbours a thread: several a thread where they do not fit one."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    each = values.dtype.itemsize * pack // 4
    return [np.ascontiguousarray(one) for one in flat.reshape(-1, each).T]


def tensors_of(
    registers: list[Register], dtypes: list[np.dtype[Any]], pack: int, shape: tuple[int, ...]
) -> list[NDArray[Any]]:
    """Undo `registers_of` for every result."""
    found: list[NDArray[Any]] = []
    taken = 0
    for dtype in dtypes:
        each = dtype.itemsize * pack // 4
        words = np.ascontiguousarray(np.stack(registers[taken : taken + each], -1)).reshape(-1)
        found.append(words.view(dtype).reshape(shape))
        taken += each
    return found


def floats_of(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Read bfloat16 from its bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
