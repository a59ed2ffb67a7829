"""Compile Triton kernels for architectures that are not here: one process, one request a line.

Run by its path, with nothing of qcc on the path: a request names a folder with the kernel's source, the answer carries
the cubin. Triton is imported here and nowhere else in a build, so a fault in it ends a worker and not the compiler.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ENTRY = re.compile(r"\.entry\s+\w+\s*\((.*?)\)", re.DOTALL)
PARAMETER = re.compile(r"\.param\s+\.(\w+)")
VERSION = re.compile(r"^\.version\s+(\S+)", re.MULTILINE)
TARGET = re.compile(r"^\.target\s+(\w+)", re.MULTILINE)
KEPT = ("name", "shared", "num_warps", "num_ctas", "global_scratch_size", "profile_scratch_size", "tmem_size")


def compile_one(request: dict[str, Any]) -> dict[str, Any]:
    """Compile one kernel of a folder of sources and return its cubin and what a launch must know."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(load(request["folder"], request["module"]), request["function"])
    constants, types = request["constants"], request["types"]
    names: list[str] = function.arg_names
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in request["divisible"]},
    )
    target = GPUTarget("cuda", request["capability"], 32)
    made: Any = triton.compile(source, target=target, options=request["options"])
    ptx: str = made.asm["ptx"]
    metadata: dict[str, Any] = made.metadata._asdict()
    return {
        "cubin": base64.b64encode(made.asm["cubin"]).decode("ascii"),
        "metadata": {key: metadata.get(key) or 0 for key in KEPT},
        "parameters": PARAMETER.findall(_first(ENTRY, ptx)),
        "ptx_version": _first(VERSION, ptx),
        "target": _first(TARGET, ptx),
    }


def load(folder: str, name: str) -> Any:
    """Import a module of a folder, and the modules beside it, afresh."""
    for one in Path(folder).glob("*.py"):
        sys.modules.pop(one.stem, None)
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""


def main() -> None:
    """Answer requests until the input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what Triton prints is no answer
    for line in sys.stdin:
        try:
            answer = compile_one(json.loads(line))
        except Exception as error:  # whatever it is, the one who asked must hear of it
            answer = {"error": f"{type(error).__name__}: {error}".strip()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
