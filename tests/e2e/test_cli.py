"""The command line as a user meets it: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from tiny import mlp  # noqa: E402

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}


def qcc(*arguments: object, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qcc.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**ENVIRONMENT, **extra}, cwd=cwd or ROOT
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "mlp.qcc"
    run = qcc("compile", "tiny:mlp", "--recipe", "w4a8", "-o", out)
    assert run.returncode == 0, run.stderr
    assert "quantized 2 of 2 layers" in run.stdout
    return out


def refused(run: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One actionable message, exit code 2, no traceback."""
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    for part in parts:
        assert part in run.stderr


def test_json_is_all_that_compile_prints(tmp_path: Path) -> None:
    run = qcc("compile", "tiny:mlp", "--recipe", "w8a8", "-o", tmp_path / "m.qcc", "--json")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert set(found) >= {
        "quantized", "total", "left_in_float", "bytes_before", "bytes_after", "bits_per_weight", "seconds", "artifact",
    }  # fmt: skip
    assert (found["quantized"], found["total"], found["left_in_float"]) == (2, 2, [])
    assert found["bytes_after"] < found["bytes_before"]


def test_run_writes_what_python_computes(artifact: Path, tmp_path: Path) -> None:
    import qcc as package

    x = np.random.default_rng(0).standard_normal((7, 64), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    run = qcc("run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path / "out", "--threads", "1")
    assert run.returncode == 0, run.stderr
    compiled = package.load(artifact, threads=1)
    (name,) = compiled.output_names
    written = np.load(tmp_path / "out" / f"{name}.npy")
    assert np.array_equal(written, compiled(torch.from_numpy(x)).numpy())


def test_artifacts_repeat_byte_for_byte(artifact: Path, tmp_path: Path) -> None:
    assert qcc("compile", "tiny:mlp", "--recipe", "w4a8", "-o", tmp_path / "again.qcc").returncode == 0
    first, second = (
        {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
        for one in (artifact, tmp_path / "again.qcc")
    )
    assert {name for name in first if first[name] != second.get(name)} == set()
    assert set(first) == set(second)


def test_bench_prints_its_peers(artifact: Path) -> None:
    run = qcc("bench", artifact, "--against", "eager", "--batch", "4", "--threads", "1", "--json")
    assert run.returncode == 0, run.stderr
    row = json.loads(run.stdout)
    assert row["latency_ms_p10"] <= row["latency_ms"] <= row["latency_ms_p90"]
    assert row["against"]["eager"]["ratio"] == pytest.approx(row["against"]["eager"]["latency_ms"] / row["latency_ms"])
    assert row["threads"] == 1
    assert row["peak_rss_bytes"] > 0


def test_inspect_an_artifact_and_its_text(artifact: Path) -> None:
    run = qcc("inspect", artifact)
    assert run.returncode == 0, run.stderr
    assert "quantized 2 of 2 layers" in run.stdout
    assert "rows" in run.stdout or "symbol" in run.stdout
    found = json.loads(qcc("inspect", artifact / "program.mlir", "--json").stdout)
    assert found["operations"]["qcc.contract"] == 2


def test_dry_run_builds_nothing(tmp_path: Path) -> None:
    run = qcc("compile", "tiny:mlp", "--recipe", "w4a8", "--dry-run", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [layer["name"] for layer in found["layers"]] == ["first", "second"]
    assert all(layer["weights"].startswith("uint4") for layer in found["layers"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "what"),
    [(["bench"], "this benchmark"), (["report", "--data", "x.npz"], "measuring"), (["bisect"], "measuring")],
)
def test_what_does_not_fit_in_memory_is_refused(artifact: Path, tmp_path: Path, words: list[str], what: str) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3, 64), np.float32))
    run = qcc(words[0], artifact, *words[1:], "--memory-limit", "1MB", cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert f"{what} would take about" in run.stderr
    assert "the memory limit is 1 MB" in run.stderr
    if words[0] != "bench":
        assert qcc(words[0], artifact, *words[1:], "--memory-limit", "64GB", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("words", ["recipes", "recipes w4a8", "report {}", "inspect {}", "inspect {} --json"])
def test_a_pipe_that_is_closed_early_is_no_error(artifact: Path, words: str) -> None:
    """As of `qcc report X | head -1`: nothing is said, and the code is that of a program which SIGPIPE ends."""
    command = [sys.executable, "-m", "qcc.cli", *words.format(artifact).split()]
    read, write = os.pipe()
    os.close(read)
    try:
        run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, check=False)
    finally:
        os.close(write)
    assert run.returncode == 141, run.stderr
    assert "rror" not in run.stderr


def test_what_the_system_refuses_is_told_by_file(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    run = qcc("run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path / "file" / "below")
    assert run.returncode == 2
    np.save(tmp_path / "x.npy", np.zeros((3, 64), np.float32))
    run = qcc("run", artifact, "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path / "file" / "below")
    assert run.returncode == 2
    assert "Not a directory" in run.stderr
    assert "defect" not in run.stderr
    run = qcc("report", artifact, "--html", tmp_path / "nowhere" / "report.html")
    assert run.returncode == 2
    assert "there is no folder" in run.stderr


def test_names_with_spaces_and_letters_of_any_kind(tmp_path: Path) -> None:
    folder = tmp_path / "my mödels ü"
    folder.mkdir()
    run = qcc("compile", "tiny:mlp", "--recipe", "w8a8", "-o", folder / "größe 1.qcc", cwd=folder)
    assert run.returncode == 0, run.stderr
    np.save(folder / "the x.npy", np.zeros((3, 64), np.float32))
    run = qcc("run", folder / "größe 1.qcc", "--input", f"x={folder / 'the x.npy'}", "--output", folder / "out put")
    assert run.returncode == 0, run.stderr
    assert len(list((folder / "out put").iterdir())) == 1
    narrow = qcc("inspect", folder / "größe 1.qcc", NO_COLOR="1", COLUMNS="40", HOME="", LC_ALL="C")
    assert narrow.returncode == 0, narrow.stderr
    assert "\x1b" not in narrow.stdout


def test_dump_ir_numbers_the_passes(tmp_path: Path) -> None:
    run = qcc("compile", "tiny:mlp", "-o", tmp_path / "m.qcc", "--dump-ir", tmp_path / "ir")
    assert run.returncode == 0, run.stderr
    names = sorted(path.name for path in (tmp_path / "ir").iterdir())
    assert names[0] == "00-import.mlir"
    assert any("assign-formats" in name for name in names)
    last = (tmp_path / "ir" / names[-1]).read_text()
    assert last.startswith("// passes so far: canonicalize")


def test_recipes_are_listed_and_printed() -> None:
    listed = qcc("recipes").stdout
    assert all(name in listed for name in ("w8a8", "w4a8", "w8", "w4"))
    assert "weights:" in qcc("recipes", "w4a8").stdout
    refused(qcc("recipes", "w4a9"), "did you mean 'w4a8'")


def test_a_missing_and_a_truncated_pt2(tmp_path: Path) -> None:
    refused(qcc("compile", tmp_path / "no.pt2", "-o", tmp_path / "o"), "no.pt2")
    module, args, kwargs, shapes = mlp()
    good = tmp_path / "good.pt2"
    torch.export.save(torch.export.export(module, args, kwargs, dynamic_shapes=shapes), good)
    (tmp_path / "cut.pt2").write_bytes(good.read_bytes()[:-2000])
    refused(qcc("compile", tmp_path / "cut.pt2", "-o", tmp_path / "o"), "cut.pt2")
    assert qcc("compile", good, "-o", tmp_path / "ok.qcc").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pt2", "good.pt2", "ok.qcc"]


def test_unsupported_operations_are_listed_at_once(tmp_path: Path) -> None:
    run = qcc("compile", "tiny:unsupported", "-o", tmp_path / "o")
    refused(run, "svd", "det", "tiny.py:")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    refused(qcc("compile", "tiny:nan_weights", "-o", tmp_path / "o"), "first.weight", "second.bias")


def test_recipes_that_do_not_fit(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("weights: {format: int4, group: 7}\nactivations: {format: int8}\n")
    refused(qcc("compile", "tiny:mlp", "--recipe", recipe, "-o", tmp_path / "o"), "first", "second", "group 7")
    recipe.write_text("weights: {format: int4}\noverrides: [{match: thrid, weights: {format: int8}}]\n")
    refused(qcc("compile", "tiny:mlp", "--recipe", recipe, "-o", tmp_path / "o"), "thrid", "matches no layer")
    assert not (tmp_path / "o").exists()


def test_inputs_that_do_not_fit(artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((41, 64), np.float32))
    refused(qcc("run", artifact, "--input", f"x={tmp_path / 'wide.npy'}"), "41", "between 1 and 40")
    np.save(tmp_path / "double.npy", np.zeros((2, 64)))
    refused(qcc("run", artifact, "--input", f"x={tmp_path / 'double.npy'}"), "x", "float64", "float32")
    refused(qcc("run", artifact, "--input", f"y={tmp_path / 'wide.npy'}"), "no input y")
    refused(qcc("run", artifact), "input 'x'", "is missing")
    (tmp_path / "text.npy").write_text("not numpy")
    refused(qcc("run", artifact, "--input", f"x={tmp_path / 'text.npy'}"), "text.npy")


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    run = qcc("compile", "tiny:mlp", "-o", tmp_path / "o", "--cc", "/no/such/compiler")
    refused(run, "/no/such/compiler")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    run = qcc("compile", tmp_path / "no.pt2", "-o", tmp_path / "o", "--debug")
    assert run.returncode != 0
    assert "Traceback" in run.stderr


def listen_to_interrupts() -> None:
    """Undo what a parent that runs in the background hands down: ignoring the interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_being_stopped_leaves_no_half_written_artifact(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "qcc.cli", "compile", "tiny:mlp", "-o", str(tmp_path / "m.qcc")]
    # a compiler that takes its time, so that the signal comes in the middle
    slow = tmp_path / "slow-cc"
    slow.write_text('#!/bin/sh\nsleep 1\nexec cc "$@"\n')
    slow.chmod(0o755)
    process = subprocess.Popen(
        [*command, "--cc", str(slow)], env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=listen_to_interrupts,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".m.qcc.*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["slow-cc"]


def test_report_shows_the_layers_and_writes_a_page(artifact: Path, tmp_path: Path) -> None:
    run = qcc("report", artifact, "--html", tmp_path / "page.html")
    assert run.returncode == 0, run.stderr
    assert "output output: SQNR" in run.stdout
    assert "overrides:" in run.stdout
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    found = json.loads(qcc("report", artifact, "--json").stdout)
    assert found["output_sqnr_db"] > 15
    keys = {"name", "scheme", "bits_per_weight", "sqnr_db", "cumulative_sqnr_db", "mse", "plan"}
    assert all(set(layer) >= keys for layer in found["layers"])
    kept = json.loads((artifact / "report.json").read_text("utf-8"))
    assert kept["layers"] == found["layers"]
    assert kept["latency_ms"] is None


def test_report_and_bisect_measure_on_data(artifact: Path, tmp_path: Path) -> None:
    data = tmp_path / "samples.npz"
    np.savez(data, x=np.random.default_rng(1).standard_normal((6, 64), dtype=np.float32))
    found = json.loads(qcc("report", artifact, "--data", data, "--json").stdout)
    assert found["samples"] == 6
    assert "samples.npz" in found["data"]
    finding = json.loads(qcc("bisect", artifact, "--data", data, "--json").stdout)
    assert {one["name"] for one in finding["candidates"]} == {"first", "second"}
    assert finding["output_sqnr_db"] == found["output_sqnr_db"]
    assert "output SQNR" in qcc("bisect", artifact, "--data", data).stdout
    refused(qcc("bisect", artifact, "--data", tmp_path / "no.npz"), "no.npz", "no such file")
    np.savez(data, y=np.zeros((6, 64), np.float32))
    refused(qcc("report", artifact, "--data", data), "input 'x'", "is missing", "input 'y'")
