"""What a user may give as a model, turned into an exported program."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import warnings
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from qcc.errors import CheckpointError, UnsupportedOp

CACHE_LENGTH = 2048
"""Tokens that the static cache of a causal model holds, unless told otherwise."""

_CALLABLE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


def load_source(
    source: ExportedProgram | torch.nn.Module | str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    cache_length: int = CACHE_LENGTH,
) -> ExportedProgram:
    """Get an exported program from any kind of source.

    Args:
        source: an exported program, a module, the path of a `.pt2` file or of a Hugging Face model folder, or
            `package.module:callable` returning (module, args, kwargs, dynamic_shapes).
        args: example arguments of a module.
        kwargs: example keyword arguments of a module.
        dynamic_shapes: as `torch.export.export` takes them, for a module.
        cache_length: tokens that the static cache of a causal model folder holds.

    Raises:
        CheckpointError: if a file or folder is missing, truncated or of another kind, or a callable not found.
        UnsupportedOp: if `torch.export` cannot capture the module.
    """
    if isinstance(source, ExportedProgram):
        return source
    if isinstance(source, torch.nn.Module):
        return _export(source, args, kwargs or {}, dynamic_shapes)
    path = Path(source)
    if path.is_dir():
        return _export(*_load_folder(path, cache_length))
    if path.is_file():
        return _load_pt2(path)
    if _CALLABLE.match(str(source)):
        return _export(*_call(str(source)))
    raise CheckpointError(
        f"{source}: no such file or folder",
        fix="give a .pt2 file, a Hugging Face model folder, or package.module:callable",
    )


def _export(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Any) -> ExportedProgram:
    """Export for inference; the module's training flags are put back afterwards."""
    training = [one for one in module.modules() if one.training]
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            examples, named = _distinct((tuple(args), dict(kwargs)))
            return torch.export.export(module, examples, named, dynamic_shapes=shapes)
    except Exception as error:  # torch raises errors of many kinds from the user's own code
        reason = str(error).split("\n\nThe error above", 1)[0].strip()
        raise UnsupportedOp(
            f"torch.export cannot capture {type(module).__name__}: {reason}",
            fix="make torch.export.export(module, args, kwargs) work first, or give its result",
        ) from error
    finally:
        for one in training:
            one.training = True


def _distinct(examples: Any) -> Any:
    """Copy tensors that are given twice: torch.export would take them for one input and ignore the other."""
    seen: set[int] = set()

    def copy(one: torch.Tensor) -> torch.Tensor:
        if id(one) in seen:
            return one.clone()
        seen.add(id(one))
        return one

    return pytree.tree_map_only(torch.Tensor, copy, examples)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep torch from logging tracebacks that the raised error repeats."""
    logger = logging.getLogger("torch.export")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _load_pt2(path: Path) -> ExportedProgram:
    if path.suffix == ".py":
        raise CheckpointError(
            f"{path}: a file of Python, not a model",
            fix=f"name what returns (module, args, kwargs, dynamic_shapes) in it, as {path.stem}:NAME",
        )
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a complete .pt2 file ({path.stat().st_size} bytes)",
            fix="save it again with torch.export.save, or copy it whole",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error})", fix="save or copy it again") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: '{damaged}' in it is damaged (checksum)", fix="save or copy it again")
    try:
        with _quiet():
            return _load_with_known_classes(path)
    except Exception as error:  # the reader of archives raises errors of many kinds on damaged data
        raise CheckpointError(
            f"{path}: torch.export.load cannot read it ({type(error).__name__}: {str(error).strip()[:300]})",
            fix="save it again with torch.export.save of this torch, and import the packages of its input classes",
        ) from error


def _load_with_known_classes(path: Path) -> ExportedProgram:
    """Load; where that fails, try again after `transformers` registered the classes of its outputs."""
    try:
        return torch.export.load(path)
    except Exception:  # the reason is in torch's log only; the second try raises if it was another
        try:
            importlib.import_module("transformers.modeling_outputs")
        except ImportError:
            pass
        return torch.export.load(path)


def _load_folder(path: Path, cache_length: int) -> Any:
    try:
        huggingface = importlib.import_module("qcc.frontend.huggingface")
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading a Hugging Face folder needs transformers ({error})",
            fix="pip install 'transformers>=4.57'",
        ) from error
    return huggingface.load_folder(path, cache_length)


def _call(text: str) -> tuple[torch.nn.Module, Sequence[Any], Mapping[str, Any], Any]:
    name, attribute = text.split(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{text}: {error}", fix="check the names and PYTHONPATH") from error
    finally:
        sys.path.pop(0)
    result = function()
    found: tuple[Any, ...] = cast(tuple[Any, ...], result) if isinstance(result, tuple) else ()
    if not 2 <= len(found) <= 4 or not isinstance(found[0], torch.nn.Module):
        raise CheckpointError(
            f"{text} returned {_shown(result)}",
            fix="return (module, args), or (module, args, kwargs, dynamic_shapes)",
        )
    module, args, kwargs, shapes = cast(tuple[Any, Any, Any, Any], (*found, None, None)[:4])
    return module, args or (), kwargs or {}, shapes


def _shown(result: object) -> str:
    if not isinstance(result, tuple):
        return type(result).__name__
    return f"({', '.join(type(one).__name__ for one in cast(tuple[object, ...], result))})"
