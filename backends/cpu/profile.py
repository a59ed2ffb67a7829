"""Where the time of an emitted program goes: the same sources, built once more with a clock around every call."""

from __future__ import annotations

import ctypes
import statistics
import tempfile
from pathlib import Path

from qcc.backends.base import CallTime, Tensors
from qcc.backends.cpu.build import build_library
from qcc.backends.cpu.runtime import INTERFACE, CpuProgram, Interface

MACRO = "QCC_PROFILE"
WEIGHTS = "weights.bin"


def time_calls(folder: Path, inputs: Tensors, *, threads: int, runs: int) -> tuple[CallTime, ...]:
    """Time every call of an emitted program, in order: the median of some runs, each from the first state.

    Reading the clock costs some tens of nanoseconds a call. The program in the folder has no clock and stays as it is.

    Raises:
        CheckpointError: if the folder is no emitted program.
        ShapeError: if the inputs do not fit the program.
        BuildError: if there is no C compiler.
    """
    interface = Interface.load(folder)
    with tempfile.TemporaryDirectory(prefix="qcc-profile-") as scratch:
        built = Path(scratch)
        for name in (INTERFACE, WEIGHTS):
            (built / name).symlink_to((folder / name).resolve())
        build_library(folder, interface.prefix, defines=(f"-D{MACRO}",), out=built)
        program = _Timed(built, threads)
        try:
            program.reset()
            program.run(inputs)
            before, steps = program.times(), list[list[float]]()
            for _ in range(runs):
                program.reset()
                program.run(inputs)
                after = program.times()
                steps.append([now.ms - then.ms for now, then in zip(after, before, strict=True)])
                before = after
        finally:
            program.close()
    medians = map(statistics.median, zip(*steps, strict=True))
    return tuple(CallTime(one.kernel, one.layer, ms) for one, ms in zip(before, medians, strict=True))


class _Timed(CpuProgram):
    """A program built with the macro: its clocks can be read."""

    def times(self) -> list[CallTime]:
        """Return what every call took in all runs so far."""
        function = getattr(self._library.handle, f"{self.interface.prefix}_profile")
        kernel, layer, ms = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_double()
        ports = [ctypes.byref(one) for one in (kernel, layer, ms)]
        found: list[CallTime] = []
        while function(self._session(), len(found), *ports) == 0:
            found.append(CallTime((kernel.value or b"").decode(), (layer.value or b"").decode(), ms.value))
        return found
