"""Simulate several HLS projects as one program: the vendor's headers are read, and their classes made, once for all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

SHARED = (
    "ap_int.h", "ap_axi_sdata.h", "hls_stream.h", "cstdio", "cstdlib", "cstring", "string", "vector",
    "qcc_hls/boundary.h", "qcc_hls/elementwise.h", "qcc_hls/flow.h", "qcc_hls/matvec.h", "qcc_hls/ports.h",
    "qcc_hls/rows.h", "qcc_hls/window.h",
)  # fmt: skip
"""What is read before the projects, so that it does not end up in their namespaces."""


def build_batch(projects: Sequence[Path], top: str, folder: Path) -> Path:
    """Compile projects with one top function's name, each in a namespace; the program takes the number of one first."""
    lines = [f"#include <{name}>" for name in SHARED]
    cases: list[str] = []
    for number, project in enumerate(projects):
        for at, path in enumerate(sorted(project.rglob("*.h"))):
            # compilers take files of one time, size and content for one file, and read it once
            os.utime(path, (at, 1_000_000_000 + number))
        files = [f'#include "{(project / path).resolve()}"' for path in (f"src/{top}.cpp", "tb/tb.cpp")]
        lines += [f"namespace project{number} {{", *files, "}"]
        cases.append(f"if (chosen == {number}) return project{number}::main(argc - 1, argv + 1);")
    lines += ["int main(int argc, char **argv) { int chosen = std::atoi(argv[1]);", *cases, "return 9; }"]
    folder.mkdir(parents=True)
    (folder / "batch.cpp").write_text("\n".join(lines) + "\n", "utf-8")
    first = projects[0]
    include = [f"-I{first / 'sim'}", f"-I{first / 'src'}", "-isystem", str(first / "ap_types")]
    line = ["g++", "-std=c++17", "-O0", "-fno-exceptions", "-fno-rtti", "-w", *include, "batch.cpp", "-o", "batch"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "batch").resolve()


def run_batch(program: Path, projects: Sequence[Path]) -> list[str]:
    """Run each project's testbench; returns what those said that found a wrong bit, or failed."""
    wrong: list[str] = []
    for number, project in enumerate(projects):
        done = subprocess.run(
            [program, str(number)], cwd=project, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode or "mismatches 0" not in done.stdout:
            wrong.append(f"project {number}: {done.stdout}{done.stderr}")
    return wrong
