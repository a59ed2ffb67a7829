"""The CUDA driver through ctypes: load cubins and launch them, without Triton and without a compiler.

The C loader of an emitted project does the same; neither needs the CUDA toolkit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcc.errors import BuildError

LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_DYNAMIC_SHARED = 8
_SHARED_WITHOUT_ASKING = 48 * 1024
_FUNCTIONS = (
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGetErrorString",
)


def open_driver() -> ctypes.CDLL:
    """Open the driver's library.

    Raises:
        BuildError: if there is none, or it lacks a function.
    """
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if missing := [one for one in _FUNCTIONS if not hasattr(library, one)]:
            raise BuildError(f"the CUDA driver lacks {', '.join(missing)}", fix="install a newer NVIDIA driver")
        return library
    raise BuildError(f"no CUDA driver: {LIBRARIES[0]} cannot be opened", fix="install NVIDIA's driver")


@dataclass(frozen=True, eq=False)
class Function:
    """A loaded kernel: its handle, threads of a block and dynamic shared memory in bytes."""

    handle: ctypes.c_void_p
    threads: int
    shared: int


class Device:
    """One GPU with the kernels loaded into its primary context, which torch uses too."""

    def __init__(self, ordinal: int = 0) -> None:
        """Open GPU number `ordinal`.

        Raises:
            BuildError: if there is no driver, or no such GPU.
        """
        self._library = open_driver()
        self._modules: list[ctypes.c_void_p] = []
        self._context = ctypes.c_void_p()
        count = ctypes.c_int()
        if self._library.cuInit(0) or self._library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            raise BuildError("the CUDA driver finds no GPU")
        if not 0 <= ordinal < count.value:
            raise BuildError(f"there is no GPU {ordinal}; the driver finds {count.value}")
        device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode(errors="replace")
        major, minor = (self._attribute(device, which) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        self.capability = 10 * major + minor
        self._device = device

    def _attribute(self, device: ctypes.c_int, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        result: int = getattr(self._library, name)(*arguments)
        if result:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(result, ctypes.byref(text))
            said = (text.value or b"unknown error").decode(errors="replace")
            raise BuildError(f"{name} fails: the CUDA driver says '{said}' ({result})")

    def load(self, code: bytes, symbol: str, threads: int, shared: int) -> Function:
        """Load a cubin and return the kernel in it.

        Raises:
            BuildError: if the driver refuses it.
        """
        if not self._context:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call("cuModuleLoadData", ctypes.byref(module), code)
            self._modules.append(module)
            self._call("cuModuleGetFunction", ctypes.byref(function), module, symbol.encode())
            if shared > _SHARED_WITHOUT_ASKING:
                self._call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, shared)
        finally:
            self._leave()
        return Function(function, threads, shared)

    def launch(self, function: Function, grid: tuple[int, int, int], stream: int, values: Sequence[Any]) -> None:
        """Launch a kernel on a stream; `values` are ctypes numbers in the order of its parameters.

        Raises:
            BuildError: if the driver refuses the launch.
        """
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call(
                "cuLaunchKernel",
                function.handle,
                *grid,
                *(function.threads, 1, 1),
                function.shared,
                ctypes.c_void_p(stream or None),
                pointers,
                None,
            )
        finally:
            self._leave()

    def _leave(self) -> None:
        self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def close(self) -> None:
        """Unload all kernels and give the context back."""
        if self._context:
            self._library.cuCtxPushCurrent_v2(self._context)
            for module in self._modules:
                self._library.cuModuleUnload(module)
            self._leave()
            self._library.cuDevicePrimaryCtxRelease_v2(self._device)
            self._modules.clear()
            self._context = ctypes.c_void_p()
