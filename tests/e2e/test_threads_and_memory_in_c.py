"""Compiled programs side by side on threads, and the memory that they take."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import qcc
from qcc.backends.cpu.emitter import Lowered, arena_of, lifetimes, lower
from qcc.backends.cpu.legalize import legalize
from qcc.backends.cpu.runtime import CpuProgram
from qcc.errors import QccError
from qcc.ir.binding import bind_symbols
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from tests import zoo
from tests.compiling import apart, compile_fitting, exported

Inputs = dict[str, torch.Tensor]


def texts(count: int) -> list[Inputs]:
    """Make inputs of BERT, all of different sizes or contents; some large enough to be split over threads."""
    sizes = itertools.cycle([(1, 1), (4, 31), (3, 2), (2, 40), (1, 17), (5, 9)])
    chosen = [next(sizes) for _ in range(count)]
    return [
        {"input_ids": (zoo.tokens(*size) + index) % 97, "attention_mask": zoo.padding(*size)}
        for index, size in enumerate(chosen)
    ]


def equal(one: Inputs, other: Inputs) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def side_by_side(*jobs: Callable[[], object]) -> None:
    """Start all jobs at the same moment and raise the first of their errors."""
    barrier, errors = threading.Barrier(len(jobs)), list[BaseException]()

    def work(job: Callable[[], object]) -> None:
        try:
            barrier.wait(60)
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def runner(compiled: qcc.Compiled, inputs: list[Inputs], results: list[Inputs]) -> Callable[[], None]:
    return lambda: results.extend(compiled.run(one) for one in inputs)


@pytest.mark.parametrize("recipe", ["float", "w4a8"])
def test_two_threads_compute_what_one_does(recipe: str, tmp_path: Path) -> None:
    compiled = compile_fitting(exported("bert"), recipe)
    compiled.save(tmp_path / "bert.qcc")
    inputs = texts(100)
    serial = [compiled.run(one) for one in inputs]
    loaded = [qcc.load(tmp_path / "bert.qcc", threads=2) for _ in range(2)]
    first: list[Inputs] = []
    second: list[Inputs] = []
    side_by_side(runner(loaded[0], inputs[:50], first), runner(loaded[1], inputs[50:], second))
    assert all(equal(one, other) for one, other in zip(first + second, serial, strict=True))


def test_one_loaded_program_serves_two_threads() -> None:
    """A program without state gives every thread a session of its own."""
    compiled = compile_fitting(exported("bert"), "w4a8")
    program = CpuProgram(compiled.folder / "c", 2)
    inputs = texts(60)
    serial = [program.run(one) for one in inputs]
    found: list[list[Inputs]] = [[], []]
    jobs = [lambda i=i: found[i].extend(program.run(one) for one in inputs[i::2]) for i in range(2)]
    side_by_side(*jobs)
    for i, results in enumerate(found):
        assert all(equal(one, other) for one, other in zip(results, serial[i::2], strict=True))


def test_threads_that_share_a_cache_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each object has its own state, though the weights file is one."""
    module, args, kwargs, shapes = zoo.cached_llama()
    folder = tmp_path / "llama.qcc"
    compiled = qcc.compile(module, args, kwargs, dynamic_shapes=shapes, recipe="w8a8", output=folder)

    def calls(first: int) -> list[Inputs]:
        ids = (zoo.tokens(1, 20) + first) % 97
        parts = [(0, 7), *((at, at + 1) for at in range(7, 20))]
        return [{"input_ids": ids[:, a:b], "cache_position": torch.arange(a, b)} for a, b in parts] * 4

    serial: list[list[Inputs]] = []
    for first in (0, 41):
        compiled.reset()
        serial.append([compiled.run(one) for one in calls(first)])
    found: list[list[Inputs]] = [[], []]
    loaded = [qcc.load(folder, threads=2) for _ in found]
    side_by_side(*(runner(loaded[i], calls(first), found[i]) for i, first in enumerate((0, 41))))
    for one, other in zip(found, serial, strict=True):
        assert all(equal(a, b) for a, b in zip(one, other, strict=True))
    assert not equal(serial[0][-1], serial[1][-1])


@pytest.mark.parametrize(
    ("name", "recipe"), [("bert", "float"), ("llama", "w4a8"), ("gemma", "w4"), ("resnet", "w8a8")]
)
def test_the_number_of_threads_changes_no_bit(name: str, recipe: str) -> None:
    compiled = compile_fitting(exported(name), recipe)
    if name == "resnet":
        inputs = [{"input": zoo.images(*size)} for size in ((1, 33, 47), (3, 64, 65))]
    elif name == "bert":
        inputs = texts(6)
    else:
        inputs = [{"input_ids": zoo.tokens(*size)} for size in ((1, 1), (1, 61), (5, 31))]
    wanted = [compiled.run(one) for one in inputs]
    for threads in (1, 3, 7):
        loaded = qcc.load(compiled.folder, threads=threads)
        assert all(equal(loaded.run(one), other) for one, other in zip(inputs, wanted, strict=True))


def test_a_number_of_threads_that_cannot_be_is_refused(tmp_path: Path) -> None:
    compiled = qcc.compile(exported("bert"), recipe="w8")
    with pytest.raises(QccError, match="threads"):
        qcc.load(compiled.folder, threads=100_000).run(texts(1)[0])


def test_a_program_that_lives_until_the_end_leaves_quietly() -> None:
    compiled = qcc.compile(exported("resnet"), recipe="w8")
    code = f"import qcc, torch; one = qcc.load({str(compiled.folder)!r}); one(torch.ones(1, 3, 32, 32))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- Memory


def lowered(compiled: qcc.Compiled) -> Lowered:
    """Lower the program of an artifact again, as it was emitted."""
    store = WeightStore.load(compiled.folder / "weights.safetensors")
    return lower(program_of(legalize(compiled.module)), store)


@pytest.mark.parametrize("recipe", ["float", "w8a8"])
def test_temporaries_share_one_arena(recipe: str) -> None:
    module, args, kwargs, shapes = zoo.bert(layers=4, positions=64)
    compiled = qcc.compile(module, args, kwargs, dynamic_shapes=shapes, recipe=recipe, threads=2)
    low = lowered(compiled)
    lives, plan = lifetimes(low.schedule), arena_of(low)
    symbols = bind_symbols(low.program, {name: (4, 64) for name in low.program.input_names})
    total = sum(life.size.evaluate(symbols) for life in lives)
    # two neighbours in a chain are always alive together: a fair plan of a deep model is far below half
    assert plan.bytes_for(symbols) < total / 2
    for one, other in itertools.combinations(lives, 2):
        assert not (one.overlaps(other) and plan.placement[one.buffer] == plan.placement[other.buffer])
    # the arena follows the sizes of each call, up and down
    large = {"input_ids": zoo.tokens(4, 64), "attention_mask": zoo.padding(4, 64)}
    small = {"input_ids": zoo.tokens(1, 3), "attention_mask": zoo.padding(1, 3)}
    fresh = [qcc.load(compiled.folder, threads=2).run(one) for one in (large, small)]
    for index in (1, 0, 1, 0):
        assert equal(compiled.run((large, small)[index]), fresh[index])


def private_bytes() -> int:
    """Return the anonymous memory of this process: pages that no file stands behind."""
    gc.collect()
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_weights_are_mapped_not_copied(tmp_path: Path) -> None:
    """Checking the sum reads every page, so pages of the file are resident; but they are the file's, and shared."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2048, 12288, bias=False), nn.Linear(12288, 2048, bias=False))
    example = torch.randn(3, 2048)
    with torch.no_grad():
        wanted = module(example)
    folder = tmp_path / "large.qcc"
    qcc.compile(module, (example,), recipe="float", output=folder)
    size = (folder / "c" / "weights.bin").stat().st_size
    assert size > 200e6
    before = private_bytes()
    loaded = qcc.load(folder, threads=2)
    found = loaded(example)
    assert private_bytes() - before < size / 10
    assert apart(found, wanted) <= 1e-5
