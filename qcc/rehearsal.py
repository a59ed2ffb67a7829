"""What a compilation would do and refuse, without solving a weight, building or writing anything.

Weights that wait for a solver are rounded to nearest in its place, large ones once for each shape and format, so that
the rest of the way, to the kernels of the target, is gone as a compilation goes it. What only the solved weights or a
C compiler can tell stays unknown.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from qcc.admission import admit
from qcc.artifact import Coverage
from qcc.backends.base import HasPreview, HasToolchain
from qcc.building import LARGE_BYTES, Means, Options, Work, backend_options
from qcc.coverage import coverage_of
from qcc.ir.context import QccContext
from qcc.ir.on_disk import spool_beside
from qcc.memory import Estimate, estimate_of, refuse_beyond
from qcc.passes.pipeline import lowering, run_passes, solving
from qcc.progress import Say
from qcc.strictness import refuse_fallbacks


@dataclass(frozen=True)
class Plan:
    """What would become of every layer, and the memory that this is predicted to take."""

    coverage: Coverage
    memory: Estimate


def rehearse(work: Work, means: Means, options: Options, say: Say) -> Plan:
    """Plan a model that was read; weights that transforms make of a large one are in temporary files meanwhile.

    Raises:
        QccError: whatever a compilation refuses: the recipe, the target, the memory, a missing tool.
    """
    if work.float_bytes < LARGE_BYTES:
        return _rehearse(work, means, options, say)
    with tempfile.TemporaryDirectory(prefix="qcc-") as folder, spool_beside(Path(folder) / "plan") as spool:
        work.store.spool = spool
        return _rehearse(work, means, options, say)


def _rehearse(work: Work, means: Means, options: Options, say: Say) -> Plan:
    module, store = work.module, work.store
    run_passes(means.planning(), QccContext(store, work.calibration, say, costs=means.costs()), module)
    admit(module, means.target)
    memory = estimate_of(module, store, work.runs)
    refuse_beyond(memory, options.memory_limit, "this compilation")
    _go_on(work, means, options, say)
    run_passes(means.targeting(), QccContext(store), module)
    coverage = coverage_of(module, None, {}, work.float_bytes)
    if options.strict:
        refuse_fallbacks(coverage, means.backend.fallbacks(module))
    return Plan(coverage, memory)


def _go_on(work: Work, means: Means, options: Options, say: Say) -> None:
    """Go the rest of the way with a copy, whose weights are stand-ins, as far as the tools of the target."""
    module, store, backend = work.module.clone(), work.store.copy(), means.backend
    say("rounding weights to nearest in the place of solving them")
    run_passes(solving(stand_ins=True), QccContext(store, work.calibration, say), module)
    run_passes(lowering(integer_only=means.target.integer_only), QccContext(store), module)
    run_passes(means.targeting(), QccContext(store), module)
    chosen = backend_options(options, means.settings)
    if isinstance(backend, HasPreview):
        backend.preview(backend.legalize(module, store), store, chosen)
    if isinstance(backend, HasToolchain):
        backend.toolchain(chosen)
