"""Find the arbitrary-precision integer headers (`ap_int.h`) that simulation needs, without importing any package.

The vendor publishes them under the Apache License 2.0 (github.com/Xilinx/HLS_arbitrary_Precision_Types), and the wheels
of da4ml and hls4ml carry them. Only files that bear that licence are taken; neighbours that do not are left alone.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from qcc.errors import BuildError, Problem

VARIABLE = "QCC_AP_TYPES"
"""Environment variable that names a folder of headers to use before any package's."""

PACKAGES = (
    ("da4ml", "codegen/hls/source/ap_types/include"),
    ("hls4ml", "templates/vivado/ap_types"),
)
"""Packages that carry the headers, and where inside."""

KINDS = "common decl int int_base int_ref int_special fixed fixed_base fixed_ref fixed_special"
HEADERS = (*(f"ap_{kind}.h" for kind in KINDS.split()), "etc/ap_private.h")
"""What `ap_int.h` needs."""

LICENCE = "Apache License, Version 2.0"


def find_headers() -> Path:
    """Return a folder that holds all `HEADERS`.

    Raises:
        BuildError: if there is none, saying where it was looked for and how to get them.
    """
    problems: list[Problem] = []
    for where, folder in _candidates():
        missing = [name for name in HEADERS if not (folder / name).is_file()]
        foreign = [name for name in HEADERS if name not in missing and not _licensed(folder / name)]
        if not missing and not foreign:
            return folder
        if missing:
            problems.append(Problem(where, f"{folder} lacks {', '.join(missing)}"))
        if foreign:
            problems.append(Problem(where, f"{', '.join(foreign)} in {folder} is not under the {LICENCE}"))
    raise BuildError(
        "simulating an HLS project needs the ap_int headers, which no installed package carries",
        problems,
        fix=f"pip install 'qcc[hls]', or set {VARIABLE} to a folder with ap_int.h",
    )


def copy_headers(folder: Path) -> list[Path]:
    """Copy the headers to a folder, with a note on their origin and licence, and return the files.

    Raises:
        BuildError: if they are not found.
    """
    source = find_headers()
    copied: list[Path] = []
    for name in HEADERS:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copied.append(Path(shutil.copyfile(source / name, target)))
    note = folder / "NOTICE"
    note.write_text(
        "These headers are the vendor's arbitrary-precision types, published under the Apache License, Version 2.0\n"
        "(https://github.com/Xilinx/HLS_arbitrary_Precision_Types); each file carries its notice. They are here for\n"
        "simulation with an ordinary compiler. The vendor's tool brings its own.\n",
        "utf-8",
    )
    return [*copied, note]


def _candidates() -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    if given := os.environ.get(VARIABLE):
        found.append((VARIABLE, Path(given)))
    for name, inside in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append((name, Path(spec.origin).parent / inside))
    return found


def _licensed(path: Path) -> bool:
    return LICENCE in path.read_text("utf-8", "replace")[:2000]
