"""Write specs as one line of text and read them back: what an exported graph or a launch table carries."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from qcc.backends.triton.spec import Combine, GemmSpec, KernelSpec, Requantize, RowSpec, Step, Unary
from qcc.errors import CheckpointError

KINDS: dict[str, type[GemmSpec] | type[RowSpec]] = {"gemm": GemmSpec, "rows": RowSpec}
STEPS: dict[str, type[Unary] | type[Combine] | type[Requantize]] = {
    "unary": Unary,
    "combine": Combine,
    "requantize": Requantize,
}


def spec_text(spec: KernelSpec) -> str:
    """Write a spec as JSON; equal specs give equal text."""
    kind = next(name for name, one in KINDS.items() if isinstance(spec, one))
    fields = asdict(spec)
    if isinstance(spec, GemmSpec):
        fields["steps"] = [[_step_name(step), asdict(step)] for step in spec.steps]
    return json.dumps({"kernel": kind, **fields}, sort_keys=True, separators=(",", ":"))


def parse_spec(text: str) -> KernelSpec:
    """Read what `spec_text` writes.

    Raises:
        CheckpointError: text that is no spec.
        UnsupportedOp: a spec that no kernel covers.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        kind = KINDS[fields.pop("kernel")]
        if "steps" in fields:
            fields["steps"] = tuple(STEPS[name](**step) for name, step in fields["steps"])
        return kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"this is no kernel: {text[:80]}", fix="compile the model again") from error


def _step_name(step: Step) -> str:
    return next(name for name, one in STEPS.items() if isinstance(step, one))
