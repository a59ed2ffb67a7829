"""Write docs/passes.md: every pass with its rewrite, its legality and its options, in the order of the pipeline."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from pages import write_or_check
from xdsl.passes import ModulePass

from qcc.passes.pipeline import lowering, planning, raising, solving, targeting
from qcc.passes.table import PASSES
from qcc.passes.transforms import transforming, transforming_codes
from qcc.recipes.model import Recipe, Rotation, Sorting, Transform

TARGET = Path(__file__).parent / "passes.md"

HEAD = """# Pass reference

Generated from the passes by `python docs/make_pass_reference.py`; do not edit.

A pass is one file in `passes/`, named as the pass. Its docstring shows the rewrite and says when it is legal; where no
condition is stated the two sides are equal as real numbers. [Write a pass](write-a-pass.md) shows how one is made,
[Design](design.md#passes) why they stand in this order, and [IR](ir.md) what the operations mean. Any
of them runs by hand:

```
qcc-opt program.mlir -p 'canonicalize,lower-conv{recipe="w8a8"}' --print-between-passes
```

Options are written in braces as above; the defaults are shown. A pass that the pipeline runs more than once is listed
where it runs first.
"""

EVERY_ROTATION = Rotation(r1=True, r2=True, r3=True, r4=True, inputs=True)
EVERY_TRANSFORM = Recipe(transforms=get_args(Transform), rotate=EVERY_ROTATION)
SORTED_INPUTS = Recipe(transforms=("permute",), permute=Sorting(inputs=True))

STAGES: tuple[tuple[str, str, Sequence[ModulePass]], ...] = (
    ("Raising", "What torch exported becomes canonical operations; the function stays the same.", raising()),
    (
        "Transforms",
        "Folds that a recipe asks for (`transforms`).",
        [*transforming(EVERY_TRANSFORM), *transforming(SORTED_INPUTS)],
    ),
    (
        "Formats",
        "Layers get formats; for targets without floats all values do.",
        [*planning(Recipe(), integer_only=True), *transforming_codes(EVERY_TRANSFORM)],
    ),
    ("Scales and codes", "Static scales from samples, codes of weights by a solver.", solving()),
    ("Integers only", "For targets without floats.", lowering(integer_only=True)),
    ("For a target", "What the target is like reaches these passes as data.", targeting((), (), 32, ("any",))),
)


def document() -> str:
    """Return the page; a pass that no stage runs stands at its end."""
    parts, left = [HEAD], dict(PASSES)
    for title, about, passes in STAGES:
        parts.append(f"## {title}\n\n{about}\n")
        for one in passes:
            if left.pop(one.name, None) is not None:
                parts.append(_section(one.name, type(one)))
    if left:
        parts.append("## By name only\n\nRun by `qcc-opt`, by no compilation.\n")
        parts.extend(_section(name, load()) for name, load in left.items())
    return "\n".join(parts)


def _section(name: str, kind: type[ModulePass]) -> str:
    text = inspect.getdoc(sys.modules[kind.__module__]) or ""
    options = [_option(one) for one in fields(kind)] if is_dataclass(kind) else []
    words = "\n" + "\n".join(["Options:\n", *options]) + "\n" if options else ""
    return f"### `{name}`\n\n{markdown(text)}\n{words}"


def _option(one: Field[Any]) -> str:
    name = one.name.replace("_", "-")
    if one.default is MISSING:
        return f"- `{name}`, to be given"
    values = one.default if isinstance(one.default, tuple) else (one.default,)
    text = ",".join(str(value).lower() if isinstance(value, bool) else json.dumps(value) for value in values)
    return f"- `{name}={text}`" if text else f"- `{name}`, none by default"


def markdown(docstring: str) -> str:
    """Turn a docstring into Markdown: indented blocks become code, and stars outside of code stay stars."""
    parts: list[str] = []
    for block in re.split(r"\n\n(?=\S)|\n\n(?=    )", docstring):
        if block.startswith("    "):
            parts.append("```text\n" + inspect.cleandoc(block) + "\n```")
        else:
            parts.append(block.replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_"))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, document()))
