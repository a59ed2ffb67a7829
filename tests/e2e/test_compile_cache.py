"""Programs in the compile cache: what makes a key, and a second process that compiles nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from qcc.cache import Cache
from qcc.driver import Options, compile_program
from tests.e2e.tiny import mlp
from tests.installed import install

SCRIPT = """
import json, sys, time
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 10)).eval()
x = torch.randn(3, 256)
plain = torch.compile(model, backend="aot_eager")
fast = torch.compile(model, backend="qcc", options={"recipe": "w8a8", "cache_dir": sys.argv[1]})
with torch.no_grad():
    plain(x)
    import qcc.driver, qcc.jit.graph
    spent = []
    inner = qcc.driver.compile_program
    def timed(*args):
        start = time.process_time()
        found = inner(*args)
        spent.append(time.process_time() - start)
        return found
    import qcc.dynamo
    qcc.dynamo.compile_program = timed
    start = time.perf_counter()
    y = fast(x)
    whole = time.perf_counter() - start
print(json.dumps({"compile": sum(spent), "whole": whole, "sum": float(y.sum())}))
"""


def exported() -> torch.export.ExportedProgram:
    module, args, _, shapes = mlp()
    with torch.no_grad():
        return torch.export.export(module, args, dynamic_shapes=shapes)


def keys(cache: Cache) -> list[str]:
    return sorted(one.key for one in cache.entries() if one.kind == "program")


def test_the_key_holds_everything_that_changes_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, program = Cache(tmp_path), exported()
    x = torch.randn(3, 64)
    first = compile_program(program, Options(recipe="w8", golden=False), cache=cache)
    assert len(keys(cache)) == 1
    second = compile_program(exported(), Options(recipe="w8", golden=False), cache=cache)
    assert second.folder == first.folder
    assert torch.equal(first(x), second(x))
    compile_program(program, Options(recipe="w4", golden=False), cache=cache)
    compile_program(program, Options(recipe="w8", settings={"name": "other"}, golden=False), cache=cache)
    assert len(keys(cache)) == 3
    with torch.no_grad():
        program.state_dict["second.bias"][3] += 1.0
    third = compile_program(program, Options(recipe="w8", golden=False), cache=cache)
    assert len(keys(cache)) == 4
    assert torch.allclose((third(x) - first(x))[:, 3], torch.ones(3), atol=1e-4)
    monkeypatch.setattr("qcc.backends.cpu.build.FLAGS", ("-std=c11", "-O1", "-ffp-contract=off", "-fPIC"))
    compile_program(program, Options(recipe="w8", golden=False), cache=cache)
    assert len(keys(cache)) == 5


def test_a_damaged_program_is_compiled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, program, x = Cache(tmp_path), exported(), torch.randn(3, 64)
    first = compile_program(program, Options(recipe="w8", golden=False), cache=cache)
    wanted = first(x)
    weights = first.folder / "c" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.unlink()
    weights.write_bytes(bytes(data))
    again = compile_program(program, Options(recipe="w8", golden=False), cache=cache)
    assert "is damaged; it is made again" in caplog.text
    assert torch.equal(again(x), wanted)


def run_script(tmp_path: Path, env: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(command(tmp_path), env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def command(tmp_path: Path) -> list[str]:
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    return [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "cache")]


def test_a_second_process_starts_warm(tmp_path: Path) -> None:
    env = install(tmp_path / "site")
    cold, warm = run_script(tmp_path, env), run_script(tmp_path, env)
    print(
        f"cold {cold['compile']:.2f} s of {cold['whole']:.2f} s, warm {warm['compile']:.2f} s of {warm['whole']:.2f} s"
    )
    assert warm["sum"] == cold["sum"]
    assert warm["compile"] < 1.0
    assert len(keys(Cache(tmp_path / "cache"))) == 1


def test_two_processes_compile_into_one_cache(tmp_path: Path) -> None:
    env = install(tmp_path / "site")
    started = [subprocess.Popen(command(tmp_path), env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(one.communicate(timeout=300)[0].splitlines()[-1]) for one in started]
    assert results[0]["sum"] == results[1]["sum"]
    assert len(keys(Cache(tmp_path / "cache"))) == 1


def test_a_kill_in_the_middle_then_a_clean_run(tmp_path: Path) -> None:
    env = install(tmp_path / "site")
    process = subprocess.Popen(command(tmp_path), env=env, stdout=subprocess.PIPE, start_new_session=True)
    aside = tmp_path / "cache" / "aside"
    deadline = time.monotonic() + 120
    # the program is half-written when its IR is there and its library is not
    while not list(aside.glob("program-*/.model.qcc.*/program.mlir")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert keys(Cache(tmp_path / "cache")) == []
    assert list(aside.iterdir())
    assert run_script(tmp_path, env)["sum"] != 0.0
    assert len(keys(Cache(tmp_path / "cache"))) == 1
