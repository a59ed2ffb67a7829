"""The C and Python loaders of an emitted project against a driver that computes nothing but notes what it is asked."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qcc.backends.triton import driver
from qcc.backends.triton.driver import Device
from qcc.backends.triton.launch_plan import LaunchPlan
from qcc.backends.triton.project import fnv1a, write_tables
from qcc.errors import BuildError
from tests.triton_runner import build_fake_cuda

CODE = b"\177ELF" + bytes(range(200))
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wpedantic"]

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "qcc_kernels.h"

int main(int count, char **texts) {
    qcc_error error = {""};
    qcc_program *program = NULL;
    qcc_status status = qcc_open(&qcc_kernels, texts[1], count > 3 ? atoi(texts[3]) : 0, &program, &error);
    if (status) {
        printf("%d %s\\n", (int)status, error.text);
        return 1;
    }
    uint32_t tokens = (uint32_t)atoi(texts[2]);
    rows_arguments rows = {.inputs = 4096, .k = 64, .eps = 0.5f};
    status = rows_launch(program, QCC_CALL_LAYER_ROWS, tokens, NULL, &rows, &error);
    if (!status) {
        gemm_arguments gemm = {.inputs = 1 << 20, .words = 32, .m = (int32_t)tokens};
        if (count > 4) gemm.words = 33;
        status = gemm_launch(program, QCC_CALL_LAYER, tokens, NULL, &gemm, &error);
    }
    const qcc_variant *chosen = qcc_choose(program, QCC_CALL_LAYER, tokens);
    printf("%d %s %d %s\\n", (int)status, error.text, qcc_capability(program), chosen ? chosen->name : "none");
    qcc_close(program);
    return 0;
}
"""


def cubin(name: str) -> dict[str, object]:
    return {
        "file": name,
        "bytes": len(CODE),
        "sha256": "",
        "fnv1a": fnv1a(CODE),
        "target": "sm_90a",
        "ptx_version": "8.8",
        "shared": 65536,
        "registers": 80,
        "stack": 0,
        "spills": 0,
        "mma": "",
        "instructions_per_weight": 0.0,
    }


def variant(name: str, channels: int | None, tokens: int, parts: int, archs: tuple[str, ...]) -> dict[str, object]:
    return {
        "constants": {"BLOCK_M": tokens, "BLOCK_N": channels or 0, "SPLIT_K": parts},
        "threads": 128,
        "stages": 4,
        "grid": {"channels": channels, "tokens": tokens, "parts": parts},
        "cubins": {arch: cubin(f"{name}.{arch}.cubin") for arch in archs},
    }


def argument(name: str, dtype: str, divisible: bool = False) -> dict[str, object]:
    return {"name": name, "dtype": dtype, "what": "", "divisible": divisible}


def plan() -> LaunchPlan:
    """Two kernels for sm_80 and sm_90; on sm_80 every number of tokens has one variant."""
    both = ("sm_80", "sm_90")
    gemm = {
        "what": "Contract.",
        "source": "gemm.py",
        "symbol": "gemm",
        "scratch": 2,
        "arguments": [
            *(argument(name, "*i8", True) for name in ("inputs", "words")),
            *(argument(name, "i32") for name in ("m", "steps")),
        ],
        "variants": {
            "gemm.small": variant("gemm.small", 128, 16, 4, both),
            "gemm.large": variant("gemm.large", 64, 64, 1, ("sm_90",)),
        },
    }
    rows = {
        "what": "Rows.",
        "source": "rows.py",
        "symbol": "rows",
        "scratch": 2,
        "arguments": [argument("inputs", "*fp32", True), argument("k", "i32", True), argument("eps", "fp32")],
        "variants": {"rows.b256": variant("rows.b256", None, 1, 1, both)},
    }
    call = {"label": "layer", "kernel": "gemm", "n": 200, "k": 64, "weights": {}}
    small = {"most_tokens": 16, "kernel": "gemm", "variant": "gemm.small", "steps": 5}
    every = {"most_tokens": None, "kernel": "rows", "variant": "rows.b256", "steps": 1}
    choices = {
        "sm_80": [{**small, "most_tokens": 100}],
        "sm_90": [small, {**small, "most_tokens": None, "variant": "gemm.large", "steps": 9}],
    }
    return LaunchPlan.model_validate(
        {
            "qcc": "0",
            "triton": "3.9.0",
            "name": "model",
            "architectures": {"sm_80": {"capability": 80, "exact": False}, "sm_90": {"capability": 90, "exact": True}},
            "kernels": {"gemm": gemm, "rows": rows},
            "calls": [
                {**call, "label": "layer.rows", "kernel": "rows", "n": 0, "choices": {arch: [every] for arch in both}},
                {**call, "choices": choices},
            ],
            "weights": {},
            "weights_sha256": "",
            "program_sha256": "",
        }
    )


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_cuda(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of tables, loader and files that stand for cubins, with a program that uses it."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("project")
    write_tables(plan(), folder)
    for kernel in plan().kernels.values():
        for one in kernel.variants.values():
            for entry in one.cubins.values():
                (folder / entry.file).write_bytes(CODE)
    (folder / "main.c").write_text(MAIN)
    sources = [str(folder / name) for name in ("main.c", "qcc_kernels.c", "qcc_cuda.c")]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *FLAGS, *sanitize, "-g", *sources, "-ldl", "-o", str(folder / "main")], check=True)
    return folder


class Run:
    """Runs the program with the driver that notes."""

    def __init__(self, built: Path, fake: Path | None, tmp_path: Path) -> None:
        self.folder, self.fake, self.log = built, fake, tmp_path / "log"

    def __call__(self, *texts: str, folder: Path | None = None, **settings: str) -> str:
        self.log.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "FAKE_CUDA_LOG": str(self.log),
            "LD_LIBRARY_PATH": str(self.fake.parent) if self.fake else "",
            "ASAN_OPTIONS": "detect_leaks=0",
            **settings,
        }
        command = [str(self.folder / "main"), str(folder or self.folder), *texts]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
        assert not done.stderr, done.stderr
        return done.stdout.strip()

    @property
    def notes(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def run(built: Path, fake: Path, tmp_path: Path) -> Run:
    return Run(built, fake, tmp_path)


def test_c_launches_with_grid_shared_memory_and_arguments(run: Run) -> None:
    assert run("7", FAKE_CUDA_SIZES="8 4 4 8 8;8 8 4 4 8 8") == "0  90 gemm.small"
    rows, gemm = (note for note in run.notes if note.startswith("cuLaunchKernel"))
    half = int.from_bytes(bytes(ctypes.c_float(0.5)), "little")
    assert rows == f"cuLaunchKernel 7 1 1 block 128 1 1 shared 65536 stream (nil) : 4096 64 {half} 0 0"
    assert gemm == "cuLaunchKernel 2 1 4 block 128 1 1 shared 65536 stream (nil) : 1048576 32 7 5 0 0"
    assert run.notes.count("cuFuncSetAttribute 8 65536") == 3
    assert "cuDevicePrimaryCtxRelease depth 0" in run.notes
    assert sum(note.startswith("cuModuleUnload") for note in run.notes) == 3


def test_c_chooses_by_tokens_and_architecture(run: Run) -> None:
    assert run("17") == "0  90 gemm.large"
    assert [note for note in run.notes if "LaunchKernel" in note][1].startswith("cuLaunchKernel 4 1 1 ")
    # an RTX of capability 8.6 runs code for 8.0, and only its variants are loaded
    assert run("17", FAKE_CUDA_CAPABILITY="86") == "0  86 gemm.small"
    assert [note for note in run.notes if "LaunchKernel" in note][1].startswith("cuLaunchKernel 2 2 4 ")
    assert sum(note.startswith("cuModuleLoadData") for note in run.notes) == 2


def test_c_refuses_what_it_was_not_compiled_for(run: Run) -> None:
    assert "layer is not compiled for 101 tokens" in run("101", FAKE_CUDA_CAPABILITY="80")
    said = run("7", "0", "misaligned")
    assert said.startswith("5 gemm: argument 'words' is 33, and must be a multiple of 16")
    assert sum(note.startswith("cuLaunchKernel") for note in run.notes) == 1  # the step in front of it


def test_c_launches_nothing_for_no_tokens(run: Run) -> None:
    assert run("0").startswith("0 ")
    assert not any(note.startswith("cuLaunchKernel") for note in run.notes)


@pytest.mark.parametrize("capability", ["70", "100", "103", "91"])
def test_c_refuses_another_architecture_by_name(run: Run, capability: str) -> None:
    said = run("7", FAKE_CUDA_CAPABILITY=capability)
    major, minor = divmod(int(capability), 10)
    assert said.startswith("3 the kernels are compiled for sm_80, sm_90; GPU 'Paper GPU 0'")
    assert f"compute capability {major}.{minor}" in said
    assert f"--arch sm_{capability}" in said
    assert not any(note.startswith("cuModuleLoadData") for note in run.notes)


@pytest.mark.skipif(Path("/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists(), reason="there is a CUDA driver")
def test_c_says_that_there_is_no_driver(built: Path, tmp_path: Path) -> None:
    assert Run(built, None, tmp_path)("7").startswith("1 no CUDA driver: libcuda.so.1 cannot be opened")


def test_c_says_that_there_is_no_gpu(run: Run) -> None:
    assert run("7", FAKE_CUDA_COUNT="0") == "2 the CUDA driver finds no GPU"
    assert run("7", "3") == "2 there is no GPU 3; the driver finds 1"
    assert run("7", FAKE_CUDA_FAIL="cuInit") == "2 the CUDA driver finds no GPU"


def test_c_says_what_the_driver_refuses(run: Run) -> None:
    for function in ("cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuModuleLoadData", "cuModuleGetFunction"):
        assert "the CUDA driver says 'made to fail' (700)" in run("7", FAKE_CUDA_FAIL=function)
    assert run("7", FAKE_CUDA_FAIL="cuLaunchKernel").startswith("7 rows.b256: the CUDA driver says 'made to fail'")


def test_c_refuses_damaged_files(run: Run, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in built.glob("*.cubin"):
        shutil.copy(path, folder)
    assert run("7", folder=folder).startswith("0 ")
    path = folder / "gemm.large.sm_90.cubin"
    for data in (CODE[:-1], CODE + b"x", CODE[:-1] + b"x", b""):
        path.write_bytes(data)
        assert "gemm.large.sm_90.cubin is not the file that was compiled" in run("7", folder=folder)
    path.unlink()
    assert "gemm.large.sm_90.cubin cannot be opened" in run("7", folder=folder)
    # a GPU that does not use the file does not miss it
    assert run("7", folder=folder, FAKE_CUDA_CAPABILITY="80").startswith("0 ")


def test_the_emitted_c_compiles_as_cpp(built: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    text = '#include "qcc_kernels.h"\nint main() { return QCC_CALL_COUNT == 2 ? 0 : 1; }\n'
    (built / "main.cpp").write_text(text)
    command = ["g++", "-Wall", "-Wextra", "-Werror", str(built / "main.cpp"), "-fsyntax-only"]
    subprocess.run(command, check=True)


@pytest.fixture
def device(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the driver that notes in the place of the real one; returns its log."""
    monkeypatch.setattr(driver, "LIBRARIES", (str(fake),))
    for name, value in {
        "LOG": str(tmp_path / "log"),
        "CAPABILITY": "90",
        "COUNT": "1",
        "FAIL": "",
        "SIZES": "",
    }.items():
        monkeypatch.setenv(f"FAKE_CUDA_{name}", value)
    return tmp_path / "log"


def test_python_launches_with_grid_and_arguments(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_SIZES", "8 4 8")
    gpu = Device()
    assert (gpu.name, gpu.capability) == ("Paper GPU 0", 90)
    function = gpu.load(CODE, "gemm", 256, 100_000)
    gpu.launch(function, (3, 2, 1), 64, [ctypes.c_void_p(1 << 40), ctypes.c_int32(7), ctypes.c_void_p()])
    gpu.close()
    notes = device.read_text().splitlines()
    assert "cuModuleGetFunction gemm" in notes
    assert "cuFuncSetAttribute 8 100000" in notes
    assert f"cuLaunchKernel 3 2 1 block 256 1 1 shared 100000 stream 0x40 : {1 << 40} 7 0" in notes
    assert "cuDevicePrimaryCtxRelease depth 0" in notes


def test_python_says_what_is_missing(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="there is no GPU 2"):
        Device(2)
    monkeypatch.setenv("FAKE_CUDA_COUNT", "0")
    with pytest.raises(BuildError, match="finds no GPU"):
        Device()
    monkeypatch.setattr(driver, "LIBRARIES", ("libqcc_no_such_driver.so",))
    with pytest.raises(BuildError, match="no CUDA driver"):
        Device()


def test_python_says_what_the_driver_refuses(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device()
    with pytest.raises(BuildError, match=r"cuModuleLoadData fails: the CUDA driver says 'made to fail' \(200\)"):
        gpu.load(b"no cubin at all", "gemm", 128, 0)
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuLaunchKernel")
    function = gpu.load(CODE, "gemm", 128, 0)
    with pytest.raises(BuildError, match="cuLaunchKernel fails"):
        gpu.launch(function, (1, 1, 1), 0, [])
    gpu.close()
