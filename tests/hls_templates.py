"""Compile and run single HLS templates: integers in on standard input, integers out on standard output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qcc.backends.hls.aptypes import find_headers

TEMPLATES = Path(__file__).parent.parent / "backends" / "hls" / "templates"

PRELUDE = """
#include "qcc_hls/boundary.h"
#include "qcc_hls/elementwise.h"
#include "qcc_hls/flow.h"
#include "qcc_hls/matvec.h"
#include "qcc_hls/rows.h"
#include "qcc_hls/window.h"
#include <cstdio>
using namespace qcc;
static long long get() { long long v = 0; if (std::fread(&v, 8, 1, stdin) != 1) std::exit(9); return v; }
static void put(long long v) { std::fwrite(&v, 8, 1, stdout); }
template <class T, int P> void feed(hls::stream<vec<T, P>> &s, int elements) {
  for (int i = 0; i < elements / P; i++) { vec<T, P> t; for (int p = 0; p < P; p++) t[p] = T(get()); s.write(t); } }
template <class T, int P> void drain(hls::stream<vec<T, P>> &s) {
  while (!s.empty()) { vec<T, P> t = s.read(); for (int p = 0; p < P; p++) put((long long)(t[p])); } }
"""


def build(folder: Path, source: str, *, flags: Sequence[str] = ()) -> Path:
    """Compile a program that starts with `PRELUDE` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.cpp").write_text(PRELUDE + source, "utf-8")
    include = [f"-I{TEMPLATES}", "-isystem", str(find_headers())]
    line = [
        "g++",
        "-std=c++17",
        "-fno-exceptions",
        "-fno-rtti",
        "-O1",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-Wno-unused-label",
        "-Wno-unused-function",
    ]
    # the vendor's masking constructors read what they then overwrite
    line += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    done = subprocess.run(
        [*line, *flags, *include, "program.cpp", "-o", "program"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "warning:" not in done.stderr, done.stderr
    return folder / "program"


def execute(
    program: Path, values: Sequence[int] | np.ndarray, env: Mapping[str, str] | None = None
) -> tuple[int, np.ndarray, str]:
    """Run a program on integers; returns its exit status, the integers it put out, and what it said."""
    data = np.asarray(values, dtype=np.int64).tobytes()
    done = subprocess.run([program], input=data, capture_output=True, env={**os.environ, **(env or {})}, timeout=60)
    return done.returncode, np.frombuffer(done.stdout, dtype=np.int64), done.stderr.decode()


def lanes_of(codes: np.ndarray, bits: int) -> str:
    """Write rows of codes [words, PE * SIMD] as C++ initialisers of `lanes`, each lane holding 64 / bits codes."""
    per, rows = 64 // bits, []
    for word in codes.tolist():
        values = []
        for start in range(0, len(word), per):
            lane = sum((code & ((1 << bits) - 1)) << (bits * i) for i, code in enumerate(word[start : start + per]))
            values.append(f"{lane:#x}ull")
        rows.append("{{" + ", ".join(values) + "}}")
    return "{" + ", ".join(rows) + "}"
