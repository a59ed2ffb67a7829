"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from qcc.backends.triton.emulate import EmulatedDevice

# In CI the same examples every time: a new counterexample belongs to who looks for it, not to who happens to land.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Tensors of tests are small: a second thread costs more than it brings, and much more where tests run side by side.
torch.set_num_threads(1)

GOLDEN = Path(__file__).with_name("golden")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    parser.addoption("--update-golden", action="store_true", help="write golden texts instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a generated text with `tests/golden/NAME`, or write it with --update-golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, "utf-8")
        assert path.is_file(), f"{path} is missing: run pytest --update-golden"
        assert text == path.read_text("utf-8"), f"differs from {path}: look at the change, then pytest --update-golden"

    return compare


@pytest.fixture(scope="session")
def emulated_device() -> Iterator[EmulatedDevice]:
    """A process that runs Triton kernels on the CPU."""
    pytest.importorskip("triton")
    from qcc.backends.triton.emulate import EmulatedDevice

    with EmulatedDevice() as device:
        yield device


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Forget what Dynamo captured and counted before a test, and what it captured in it."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
