"""The programs behind `tests/benchmarks/cpu.py` and `cache.py`: they build without a warning and fill in their rows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qcc.backends.cpu.build import find_compiler
from tests.benchmarks import cache, cpu
from tests.unit.cpu_project import WARNINGS, kernels_object

KEYS = "kernel plan bits m n k group threads ms weight_gbps gops read_gbps vnni_gops peers isa".split()


def built(source: str, out: Path) -> Path:
    """Build a program with kernels that other tests have compiled already."""
    flags = (*WARNINGS, "-O2")
    sources = [str(cpu.HERE / source), str(kernels_object(flags))]
    command = [*find_compiler(), *flags, f"-I{cpu.TEMPLATES}", *sources, "-o", str(out), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("cpu_products.c", tmp_path_factory.mktemp("benchmark") / "products")


def test_every_kernel_has_a_row(program: Path) -> None:
    timing = cpu.Program([str(program)], {})
    for kernel in cpu.PLANS:
        bits = 32 if kernel == "linear" else 3
        for m in (1, 20):
            product = cpu.Product(m, 70, 96, bits, 32 if bits == 3 else 0, 1)
            found = timing.ask(f"{kernel} {m} 70 96 {bits} {product.group} 1 0.001")
            row = cpu.row_of(product, kernel, found, {"peer": 2 * found["ms"]})
            assert list(row) == KEYS
            assert row["ms"] > 0
            assert row["read_gbps"] > 0
            assert (row["vnni_gops"] > 0) == (row["isa"] == "avx512vnni")
            assert "(2.0x)" in cpu.shown(row)
    timing.close()


def test_the_quick_subset_is_one_of_the_whole() -> None:
    whole, quick = list(cpu.products(quick=False)), list(cpu.products(quick=True))
    assert set(quick) < set(whole)
    assert {one.bits for one, _ in whole} == {1, 2, 3, 4, 8, 32}
    assert {one.threads for one, _ in quick} == {1, 2}


def test_decoding_is_timed_over_every_kind_of_cache(tmp_path: Path) -> None:
    timing = cpu.Program([str(built("cache_decoding.c", tmp_path / "decoding"))], {})
    floats = 2 * 4 * cache.KV_HEADS * 70 * cache.DIM * 1e-6
    for kind in cache.CACHES:
        for kernel in ("float", "read", "cached"):
            found = timing.ask(cache.line_of(kernel, kind, 0.001, layers=2, tokens=70))
            assert found["status"] == 0
            assert found["ms"] > 0
            assert found["read_gbps"] > 0
            if kernel == "float":
                assert found["mb"] == pytest.approx(floats, rel=1e-3)
            elif not kind.window:
                assert found["mb"] < floats / 3
    timing.close()
