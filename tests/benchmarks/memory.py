"""Peak memory and time of compiling Llamas of random weights, phase by phase, beside what qcc predicted.

Each model is a Hugging Face folder in bfloat16 (several shards) that goes through `gptq-w4` in a process of its own;
calibration is 4 samples of 64 tokens. Sizes: 100m (94 million weights), wide (two blocks of the largest: the widths
that decide its peak) and 1b (1.1 billion). `--quick` takes a model of 5 million; `--json FILE` keeps the rows, in place
of those of the same models. Folders are kept in `--folder`, and a run that was stopped goes on from the weights that
were solved.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.llamas import Size, write_llama, write_samples

SIZES = {
    "5m": Size(hidden=256, layers=4, ffn=704, kv_heads=2, vocabulary=4096),
    "100m": Size(hidden=768, layers=8, ffn=3072, kv_heads=4, vocabulary=16384, positions=512),
    "wide": Size(hidden=2048, layers=2, ffn=8192, kv_heads=8, vocabulary=32000, positions=512),
    "1b": Size(hidden=2048, layers=16, ffn=8192, kv_heads=8, vocabulary=32000, positions=512),
}
PHASES = (("pass", "passes"), ("solving", "solving"), ("running", "golden vectors"), ("emitting", "emitting"))


def run_one(folder: Path, name: str, recipe: str) -> dict[str, Any]:
    """Compile in this process; its peak is the process's own."""
    from qcc.driver import Options, compile_source
    from qcc.memory import peak_bytes

    start, phase, rows, estimate = time.perf_counter(), "loading", {}, ""

    def say(text: str) -> None:
        nonlocal phase, estimate
        estimate = text if text.startswith("memory: ") else estimate
        found = next((title for word, title in PHASES if text.startswith(word)), phase)
        rows[phase] = {"peak_mb": peak_bytes() >> 20, "seconds": round(time.perf_counter() - start, 1)}
        phase = found
        print(f"{time.perf_counter() - start:9.1f} s {peak_bytes() >> 20:6} MB  {text}", file=sys.stderr, flush=True)

    options = Options(recipe=recipe, calib=folder / f"{name}.safetensors")
    compile_source(str(folder / name), options, folder / f"{name}.qcc", say)
    say("done")
    predicted = re.search(r"about ([\d.]+) (GB|MB)", estimate)
    told = None if predicted is None else float(predicted[1]) * (1000 if predicted[2] == "GB" else 1)
    return {"peak_mb": round(peak_bytes() / 1e6), "predicted_mb": told, "phases": rows}


def measure(folder: Path, name: str, recipe: str) -> dict[str, Any]:
    """Write a model where there is none yet, and compile it in a process of its own."""
    size = SIZES[name]
    if not (folder / name / "model.safetensors.index.json").is_file():
        write_llama(folder / name, size)
        write_samples(folder / f"{name}.safetensors", size, count=4, tokens=64)
    start = time.perf_counter()
    command = [sys.executable, __file__, "--one", name, "--folder", str(folder), "--recipe", recipe]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    seconds = round(time.perf_counter() - start, 1)
    return {"model": name, "weights": size.weights, "recipe": recipe, "seconds": seconds, **found}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", default="100m,wide", help="of: " + ", ".join(SIZES))
    parser.add_argument("--recipe", default="gptq-w4")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.folder, arguments.one, arguments.recipe)))
        return
    names = ["5m"] if arguments.quick else arguments.models.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        rows = [measure(folder, name, arguments.recipe) for name in names]
    print(f"{'model':6} {'weights':>13} {'peak MB':>8} {'predicted':>9} {'seconds':>8}  phases: peak so far MB, s")
    for row in rows:
        phases = ", ".join(f"{name} {one['peak_mb']} {one['seconds']}" for name, one in row["phases"].items())
        told = "" if row["predicted_mb"] is None else f"{row['predicted_mb']:.0f}"
        print(f"{row['model']:6} {row['weights']:13,} {row['peak_mb']:8} {told:>9} {row['seconds']:8}  {phases}")
    if arguments.json is not None:
        kept = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
        merged = {row["model"]: row for row in (*kept, *rows)}
        arguments.json.write_text(json.dumps(list(merged.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
