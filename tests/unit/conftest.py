"""Fixtures shared by the tests of the CPU kernels."""

import pytest

from tests.unit import cpu_kernels_abi as abi


@pytest.fixture(scope="session")
def kernel_library(tmp_path_factory: pytest.TempPathFactory):
    """The kernels compiled once for the whole run."""
    return abi.build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=abi.isas())
def kernels(kernel_library, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """The kernels of each instruction set this machine has."""
    monkeypatch.setenv("QCC_ISA", "")  # restored after the test; Kernels sets it for each call
    return abi.Kernels(kernel_library, request.param)
