"""Where in the user's model a graph node comes from."""

from __future__ import annotations

import re
from pathlib import PurePath

from torch.fx import Node

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
# frames of torch itself, and of code that torch generated, are no place of the user's
_FOREIGN = re.compile(r"(^|/)torch/|^<")


def place_of(node: Node) -> str:
    """Return `encoder.layer.0.attention (modeling_bert.py:84)`; either part may be missing."""
    path, line = _module_path(node), _source_line(node)
    if path and line:
        return f"{path} ({line})"
    return path or line


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for key, entry in stack.items() if not str(key).startswith("_empty")]
    # a module called twice is told apart by a suffix `@1` that the user never wrote
    return paths[-1].removeprefix("L['self'].").split("@")[0] if paths else ""


def _source_line(node: Node) -> str:
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in frames if not _FOREIGN.search(file)]
    return f"{PurePath(own[-1][0]).name}:{own[-1][1]}" if own else ""
