"""Every kernel of the table of shipped ones, compiled for three architectures and held to its gates."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from qcc.backends.triton.architectures import parse_architectures
from qcc.backends.triton.build import Builder, Wanted
from qcc.backends.triton.gates import check_gates
from qcc.backends.triton.render import kernel_name
from tests.shipped_kernels import KERNELS, Shipped, builds_of


@pytest.mark.slow
@pytest.mark.parametrize("shipped", KERNELS, ids=lambda one: kernel_name(one.spec))
def test_every_shipped_kernel_passes_its_gates(shipped: Shipped) -> None:
    wanted = [
        Wanted(arch, builds)
        for arch in parse_architectures([])
        for _, builds in builds_of(shipped.spec, arch, (16, 32, 64, 128))
    ]
    made = Builder().build(wanted)
    check_gates(made)
    first = [one for one, work in zip(made, wanted, strict=True) if one.build == work.candidates[0]]
    assert {one.cubin.arch.name for one in first} == {"sm_80", "sm_90", "sm_100"}
