"""What a compiled program depends on, as the key of the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from xdsl.dialects.builtin import ModuleOp

from qcc.cache import digest_of
from qcc.errors import QccError
from qcc.ir.store import WeightStore
from qcc.recipes.model import Recipe
from qcc.version import __version__

_SOURCES = (".py", ".j2", ".c", ".h", ".yaml")


def program_key(module: ModuleOp, store: WeightStore, recipe: Recipe, target: str, *others: str) -> str:
    """Return the key of the program that an imported module is compiled to.

    It is the hash of the module's text and its weights, the recipe, the target, everything in `others` (settings, the
    tools of the target), and qcc itself: its version and its sources.
    """
    parts = [str(module), recipe.model_dump_json(), target, __version__, sources_digest(), *others]
    with ThreadPoolExecutor() as pool:
        keys = sorted(store)
        digests = pool.map(_tensor_digest, (store.tensor(key) for key in keys))
        return digest_of([*parts, json.dumps(list(zip(keys, digests, strict=True)))])


def weights_digest(store: WeightStore) -> str:
    """Return the hash of weights with their names; one at a time is in memory."""
    return digest_of([text for key in sorted(store) for text in (key, _tensor_digest(store.tensor(key)))])


def samples_digest(calls: Sequence[Any] | None) -> str:
    """Return the hash of calibration samples: arguments of calls, tensors in any structure."""
    if calls is None:
        return ""
    leaves, structure = pytree.tree_flatten(list(calls))
    return digest_of([str(structure), *(_leaf_text(one) for one in leaves)])


def _leaf_text(leaf: object) -> str:
    return _tensor_digest(leaf) if isinstance(leaf, torch.Tensor) else repr(leaf)


def _tensor_digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return digest_of([str(tensor.dtype), str(tuple(tensor.shape)), data.data])


@cache
def sources_digest() -> str:
    """Return the hash of qcc's own files, so that what one state of it made is never taken for another's."""
    parts: list[str | bytes] = []
    for path in sorted(_sources()):
        parts += [path.name, path.read_bytes()]
    return digest_of(parts)


def _sources() -> Iterator[Path]:
    """List the files that make programs; passes and backends may lie elsewhere than the package."""
    seen: set[Path] = set()
    for name in ("qcc", "qcc.passes", "qcc.backends"):
        places = import_module(name).__path__
        if not places:
            raise QccError(f"the package {name} is nowhere", fix="install qcc again")
        for folder, _, files in os.walk(Path(places[0]).resolve()):
            found = {Path(folder) / file for file in files if file.endswith(_SOURCES)}
            yield from found - seen
            seen |= found
