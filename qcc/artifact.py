"""The artifact: a folder (or a zip of one) that holds everything a compiled program needs.

`manifest.json` says what the other files are and what they must contain; `program.mlir` and `weights.safetensors` are
the final module; `recipe.yaml` is the recipe to edit and to compile by again; each backend adds a folder. The folder
appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from qcc.calling import Signature
from qcc.errors import CheckpointError, Problem, QccError
from qcc.recipes.model import Recipe

MANIFEST = "manifest.json"
PROGRAM = "program.mlir"
WEIGHTS = "weights.safetensors"
RECIPE = "recipe.yaml"
FORMAT = "qcc-artifact"
VERSION = 1
DIGEST = "digest"
"""Key of the manifest's own checksum."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class LayerEntry(_Strict):
    """What became of one layer: formats of weights and activations, exact bits per weight, bytes, plan and its why."""

    name: str
    shape: tuple[int, ...]
    weights: str
    activations: str
    bits_per_weight: float
    bytes: int
    plan: str
    why: str = ""
    weight_sqnr_db: float | None = None
    left_in_float: str = ""


class Coverage(_Strict):
    """How much of the model was quantized. Bytes count weights as stored; `bits_per_weight` the quantized layers."""

    layers: tuple[LayerEntry, ...]
    bytes_before: int
    bytes_after: int

    @property
    def total(self) -> int:
        """Number of layers with weights that could be quantized."""
        return len(self.layers)

    @property
    def quantized(self) -> int:
        """Number of layers that were."""
        return sum(not layer.left_in_float for layer in self.layers)

    @property
    def bits_per_weight(self) -> float:
        """Mean over the weights of quantized layers, everything counted; 0 if there are none."""
        pairs = [(layer.bits_per_weight, _count(layer.shape)) for layer in self.layers if not layer.left_in_float]
        count = sum(number for _, number in pairs)
        return sum(bits * number for bits, number in pairs) / count if count else 0.0


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


class Manifest(_Strict):
    """What an artifact says of itself."""

    format: str = FORMAT
    version: int = VERSION
    qcc: str
    target: str
    recipe: Recipe
    settings: dict[str, str] = {}
    source: str = ""
    signature: Signature
    coverage: Coverage
    files: dict[str, FileEntry] = {}


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Count and hash the files of a folder and write its manifest, last."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest_text(complete.model_dump(mode="json")), "utf-8")
    return complete


def manifest_text(data: Mapping[str, Any]) -> str:
    """Write a manifest as JSON, with the checksum of everything else in it."""
    return json.dumps({**data, DIGEST: _own_digest(data)}, indent=1, sort_keys=True) + "\n"


def _own_digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, *, check: bool = True) -> Manifest:
    """Read a manifest and, unless told otherwise, check every file it lists.

    Raises:
        CheckpointError: for a folder of another kind or version, and listing all files that are missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: not a qcc artifact (no {MANIFEST})", fix="give what `qcc compile -o` wrote")
    try:
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CheckpointError(f"{folder}: not a qcc artifact (the manifest is of another kind)")
        if data.get("version") != VERSION:
            raise CheckpointError(
                f"{folder}: artifact version {data.get('version')}, this qcc reads version {VERSION}",
                fix="compile the model again, or install the qcc that wrote it",
            )
        if data.pop(DIGEST, None) != _own_digest(data):
            raise CheckpointError(f"{path}: the manifest is damaged (checksum)", fix="compile the model again")
        manifest = Manifest.model_validate(data)
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise CheckpointError(f"{path}: the manifest is damaged ({str(error).splitlines()[0]})") from error
    entries = manifest.files.items() if check else ()
    problems = [found for name, entry in entries if (found := _check_file(folder, name, entry))]
    if problems:
        raise CheckpointError(f"{folder}: the artifact is damaged", problems, fix="compile the model again")
    return manifest


def _check_file(folder: Path, name: str, entry: FileEntry) -> Problem | None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return Problem(name, "lies outside the artifact")
    if not path.is_file():
        return Problem(name, "is missing")
    if (size := path.stat().st_size) != entry.bytes:
        return Problem(name, f"has {size} bytes, should have {entry.bytes}")
    return None if _digest(path) == entry.sha256 else Problem(name, "does not have the checksum it should have")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_output(out: Path) -> None:
    """Refuse to write where something else than an artifact is, or where this user may not write.

    Raises:
        QccError: naming it.
    """
    if out.exists() and not (out / MANIFEST).is_file() and (out.is_file() or any(out.iterdir())):
        raise QccError(f"{out} exists and is no qcc artifact", fix="give another -o, or remove it")
    folder = next(one for one in out.absolute().parents if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise QccError(f"{out} cannot be written: {folder} is no folder that you may write to", fix="give another -o")


@contextmanager
def written_aside(out: Path) -> Generator[Path]:
    """Give a folder beside `out` that takes its name when the block ends well, and disappears otherwise.

    Raises:
        QccError: if `out` exists and is no artifact (it would be overwritten), or cannot be written.
    """
    refuse_output(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield aside
        aside.chmod(0o755)
        _replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(new: Path, out: Path) -> None:
    if not out.exists():
        os.rename(new, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    os.rename(out, old / out.name)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)


def zip_folder(folder: Path, path: Path) -> None:
    """Write a folder as a zip whose bytes depend on the contents only; members are stored uncompressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            info.external_attr, info.file_size = (file.stat().st_mode & 0o777) << 16, file.stat().st_size
            with file.open("rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, 1 << 20)


# what the standard library raises on archives with damaged headers
_DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)


def unzip(source: Path | bytes, folder: Path) -> None:
    """Unpack a zipped artifact into an empty folder.

    Raises:
        CheckpointError: if it is no zip, is truncated or damaged, or holds what `zip_folder` never writes: compressed
            members, two of one name, or a path that leads out of the folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            names: set[str] = set()
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                    raise CheckpointError(f"'{info.filename}' in the archive is compressed: qcc did not write it")
                if info.filename in names:
                    raise CheckpointError(f"the archive holds '{info.filename}' twice")
                if not (folder / info.filename).resolve().is_relative_to(folder.resolve()):
                    raise CheckpointError(f"the archive holds '{info.filename}', which leads outside")
                names.add(info.filename)
                target = archive.extract(info, folder)
                os.chmod(target, (info.external_attr >> 16) & 0o777 | 0o600)
    except _DAMAGED as error:
        raise CheckpointError(f"not a readable artifact: {error}", fix="save or copy it again") from error
