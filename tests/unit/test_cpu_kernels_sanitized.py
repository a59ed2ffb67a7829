"""The kernel tests once more, compiled with AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import cpu_kernels_abi as abi

FLAGS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def runtime(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return found if Path(found).is_absolute() else ""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["int", "lookup", "float", "nd", "data", "cache"])
def test_no_access_out_of_bounds_and_no_undefined_behaviour(file: str):
    """Arrays come from malloc, so that reading one element past any of them is caught."""
    libraries = [runtime("libasan.so"), runtime("libubsan.so")] if shutil.which("gcc") else [""]
    if not all(libraries):
        pytest.skip("gcc's sanitizer runtimes are not installed")
    env = os.environ | {
        abi.FLAGS_VARIABLE: " ".join(FLAGS),
        "CC": "gcc",
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command.append(str(Path(__file__).with_name(f"test_cpu_kernels_{file}.py")))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
