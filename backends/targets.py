"""Name -> backend: an explicit table; a backend is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from qcc.backends.base import Backend
from qcc.errors import QccError


def _cpu() -> Backend:
    from qcc.backends.cpu.backend import CpuBackend

    return CpuBackend()


def _hls() -> Backend:
    from qcc.backends.hls.backend import HlsBackend

    return HlsBackend()


def _triton() -> Backend:
    from qcc.backends.triton.backend import TritonBackend

    return TritonBackend()


TARGETS: dict[str, Callable[[], Backend]] = {"cpu": _cpu, "hls": _hls, "triton": _triton}
"""Loaders of all backends by the name of their target."""


def backend_of(target: str) -> Backend:
    """Return the backend of a target.

    Raises:
        QccError: for an unknown target, naming the nearest.
    """
    if target not in TARGETS:
        near = get_close_matches(target, TARGETS, 1)
        fix = f"did you mean '{near[0]}'?" if near else f"use one of: {', '.join(TARGETS)}"
        raise QccError(f"there is no target '{target}'", fix=fix)
    return TARGETS[target]()
