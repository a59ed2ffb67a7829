"""Emitted projects under AddressSanitizer and UndefinedBehaviorSanitizer: with good files, and with damaged ones."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import qcc
from tests import zoo
from tests.compiling import compile_fitting, exported

pytestmark = pytest.mark.slow

FLAGS = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
REPORTS = ("AddressSanitizer", "LeakSanitizer", "runtime error", "UndefinedBehavior")
PROJECTS = {"bert": "w4a8", "cached_llama": "w8a8", "mobilenet": "w8a8"}
ISAS = ("portable", "avx2", "avx512vnni")


def has_sanitizers() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("int main(void) { return 0; }\n", "utf-8")
        command = ["cc", *FLAGS.split(), str(source), "-o", str(source.with_suffix(""))]
        return shutil.which("cc") is not None and subprocess.run(command, capture_output=True).returncode == 0


@functools.cache
def compiled(name: str) -> qcc.Compiled:
    if name == "cached_llama":
        module, args, kwargs, shapes = zoo.cached_llama()
        return qcc.compile(module, args, kwargs, dynamic_shapes=shapes, recipe=PROJECTS[name])
    return compile_fitting(exported(name), PROJECTS[name])


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Every project built with the sanitizers by its own Makefile; the kernels are the same, and compiled once."""
    if not has_sanitizers():
        pytest.skip("the compiler has no sanitizer runtimes")
    root = tmp_path_factory.mktemp("sanitized")
    kernels: Path | None = None
    for name in PROJECTS:
        shutil.copytree(compiled(name).folder / "c", root / name)
        if kernels is not None:
            shutil.copy2(kernels, root / name)
        subprocess.run(["make", "-s", "-C", str(root / name), f"CFLAGS={FLAGS}", "model_main"], check=True)
        kernels = root / name / "qcc_kernels.o"
    return {name: root / name for name in PROJECTS}


def call(folder: Path, *arguments: object, isa: str = "") -> subprocess.CompletedProcess[str]:
    command = ["./model_main", *map(str, arguments)]
    environment = {"PATH": "/nonexistent", "QCC_ISA": isa, "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert not any(word in done.stderr + done.stdout for word in REPORTS), done.stderr[-6000:]
    return done


def refused(done: subprocess.CompletedProcess[str], part: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert part in done.stderr


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PROJECTS)
def test_golden_vectors_hold(projects: Mapping[str, Path], name: str, isa: str) -> None:
    for threads in (1, 3):
        done = call(projects[name], "--weights", "weights.bin", "--golden", "golden", "--threads", threads, isa=isa)
        assert done.returncode == 0, done.stderr
        assert "all golden vectors hold" in done.stdout


@pytest.mark.parametrize("name", PROJECTS)
def test_damaged_weights_are_refused(projects: Mapping[str, Path], name: str, tmp_path: Path) -> None:
    whole = (projects[name] / "weights.bin").read_bytes()
    damaged = tmp_path / "weights.bin"
    for length in (0, 7, 63, 64, 4096, len(whole) // 2 // 8 * 8, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        refused(call(projects[name], "--weights", damaged, "--golden", "golden"), "weights file")
    damaged.write_bytes(whole + bytes(8))
    refused(call(projects[name], "--weights", damaged, "--golden", "golden"), "truncated")
    rng = np.random.default_rng(0)
    for at in [0, 8, 16, 24, 32, 40, 64, len(whole) - 1, *rng.integers(64, len(whole), 8)]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(flipped)
        refused(call(projects[name], "--weights", damaged, "--golden", "golden"), "weights file")
    other = next(folder for one, folder in projects.items() if one != name)
    refused(call(projects[name], "--weights", other / "weights.bin", "--golden", "golden"), "another program")
    refused(call(projects[name], "--weights", tmp_path, "--golden", "golden"), "weights file")
    refused(call(projects[name], "--weights", tmp_path / "none", "--golden", "golden"), "cannot be opened")


GOOD = {
    "bert": {"input_ids": zoo.tokens(2, 9).numpy(), "attention_mask": zoo.padding(2, 9).numpy()},
    "cached_llama": {"input_ids": zoo.tokens(1, 5).numpy(), "cache_position": np.arange(5)},
    "mobilenet": {"input": zoo.images(1, 30).numpy()},
}
NEGATIVE = np.full((2, 9), -1)
# the program, the inputs that are not good, and what the message has to say
WRONG_INPUTS = [
    ("bert", {"input_ids": zoo.tokens(2, 9).numpy() + 97}, "token id"),
    ("bert", {"input_ids": NEGATIVE}, "token id"),
    ("bert", {"input_ids": np.full((2, 9), 2**62)}, "token id"),
    ("bert", {"input_ids": zoo.tokens(2, 9).numpy().astype(np.int32)}, "dtype"),
    ("bert", {"input_ids": zoo.tokens(2, 9).numpy()[0]}, "axes"),
    ("bert", {"input_ids": np.zeros((2, 0), np.int64)}, "input 'input_ids', axis 1"),
    ("bert", {"attention_mask": zoo.padding(2, 8).numpy()}, "attention_mask"),
    ("bert", {"attention_mask": zoo.padding(1, 9).numpy()}, "index"),
    ("bert", {"input_ids": zoo.tokens(1, 41).numpy(), "attention_mask": zoo.padding(1, 41).numpy()}, "1 to 40"),
    ("cached_llama", {"cache_position": np.arange(20, 25)}, "index"),
    ("cached_llama", {"cache_position": np.full(5, -25)}, "index"),
    ("cached_llama", {"cache_position": np.arange(4)}, "cache_position"),
    ("cached_llama", {"input_ids": zoo.tokens(2, 5).numpy()}, "input_ids"),
    ("mobilenet", {"input": zoo.images(1, 30, 31).numpy()}, "input"),
    ("mobilenet", {"input": zoo.images(1, 30).numpy()[:, :2].copy()}, "input"),
    ("mobilenet", {"input": np.zeros((0, 3, 30, 30), np.float32)}, "1 or more"),
    ("mobilenet", {"input": np.asfortranarray(zoo.images(1, 30).numpy())}, "C order"),
    ("mobilenet", {"input": zoo.images(1, 30).numpy().astype(np.complex64)}, "dtype"),
    ("mobilenet", {"input": zoo.images(1, 30).numpy().astype(">f4")}, "little-endian"),
]


def given(folder: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Write arrays as .npy and return the options that name them."""
    options: list[str] = []
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        options += ["--input", f"{name}={folder / name}.npy"]
    return options


@pytest.mark.parametrize(("name", "wrong", "part"), WRONG_INPUTS)
def test_inputs_that_do_not_fit_are_refused(
    projects: Mapping[str, Path], name: str, wrong: Mapping[str, np.ndarray], part: str, tmp_path: Path
) -> None:
    folder = projects[name]
    out = tmp_path / "out"
    out.mkdir()
    good = call(folder, "--weights", "weights.bin", *given(tmp_path, GOOD[name]), "--output", out)
    assert good.returncode == 0, good.stderr
    shutil.rmtree(out)
    out.mkdir()
    arrays = {**GOOD[name], **wrong}
    refused(call(folder, "--weights", "weights.bin", *given(tmp_path, arrays), "--output", out), part)
    assert list(out.iterdir()) == []


def test_damaged_array_files_are_refused(projects: Mapping[str, Path], tmp_path: Path) -> None:
    folder = projects["mobilenet"]
    given(tmp_path, GOOD["mobilenet"])
    whole = (tmp_path / "input.npy").read_bytes()
    damaged = tmp_path / "damaged.npy"
    rng = np.random.default_rng(1)
    variants = [whole[:length] for length in (0, 5, 9, 10, 11, 60, 128, len(whole) - 1)]
    for _ in range(40):  # only the header: any pixels are good ones
        flipped = bytearray(whole)
        flipped[int(rng.integers(128))] ^= 1 << int(rng.integers(8))
        variants.append(bytes(flipped))
    huge = whole.replace(b"(1, 3, 30, 30)", b"(1, 3, 30, 99999999999)"[:14].ljust(14, b"9"))
    for data in (*variants, huge):
        damaged.write_bytes(data)
        done = call(folder, "--weights", "weights.bin", "--input", f"input={damaged}")
        assert done.returncode in (0, 2), done.stderr  # a bit of the header's padding may say nothing
        assert (done.returncode == 0) == (done.stderr == "")
    refused(call(folder, "--weights", "weights.bin", "--input", f"input={tmp_path / 'none.npy'}"), "cannot be opened")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--weights"),
        (["--weights"], "needs a value"),
        (["--weights", "weights.bin"], "is missing"),
        (["--weights", "weights.bin", "--input", "other=x.npy"], "names no input"),
        (["--weights", "weights.bin", "--input", "nothing"], "names no input"),
        (["--weights", "weights.bin", "--golden", "nowhere"], "cannot be opened"),
        (["--weights", "weights.bin", "--golden", "golden", "--threads", "0"], "--threads"),
        (["--weights", "weights.bin", "--golden", "golden", "--threads", "99999"], "--threads"),
        (["--weights", "weights.bin", "--fast", "yes"], "is no option"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    projects: Mapping[str, Path], arguments: list[str], part: str
) -> None:
    refused(call(projects["mobilenet"], *arguments), part)


def test_golden_vectors_can_fail(projects: Mapping[str, Path], tmp_path: Path) -> None:
    """A wrong expectation is a failure of its own: exit code 1."""
    golden = tmp_path / "golden"
    shutil.copytree(projects["mobilenet"] / "golden", golden)
    expected = next(iter(sorted(golden.glob("case0_call0_output*.npy"))))
    array = np.load(expected)
    array.flat[-1] += 0.5
    np.save(expected, array)
    done = call(projects["mobilenet"], "--weights", "weights.bin", "--golden", golden)
    assert done.returncode == 1, done.stderr
    assert f"element {array.size - 1} is" in done.stderr
    for line in (
        "input 99 x.npy",
        "output -1 x.npy",
        "contract 99 contract0",
        "contract",
        "nonsense",
        "input 0 none.npy",
    ):
        (golden / "golden.txt").write_text(f"qcc-golden 1\n{line}\n", "utf-8")
        assert call(projects["mobilenet"], "--weights", "weights.bin", "--golden", golden).returncode == 2
    (golden / "golden.txt").write_text("qcc-golden 1\ncase x\noutput 0 case0_call0_output0.npy\n", "utf-8")
    assert call(projects["mobilenet"], "--weights", "weights.bin", "--golden", golden).returncode == 1
