"""The HLS backend: one streaming design per program."""

from __future__ import annotations

from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import Backend, BackendOptions, Capabilities, Emitted, Golden
from qcc.backends.hls.aptypes import find_headers
from qcc.backends.hls.folding import total_cost
from qcc.backends.hls.lowering import identifier
from qcc.backends.hls.project import plan_project, write_project
from qcc.backends.hls.render import memories_of
from qcc.backends.hls.report import design_report, summary_lines
from qcc.backends.hls.resources import resource_costs
from qcc.backends.hls.runtime import HlsProgram
from qcc.backends.hls.settings import KEYS, read_hls_settings
from qcc.ir.store import WeightStore
from qcc.numerics.qtype_parts import IntDecode, PlanesDecode, TableDecode

FOLDER = "hls"
"""Name of the backend's folder inside an artifact."""

EPILOGUES = ("integer_contract: requant|lookup|relu|add_channel|add_number *", "integer_matmul: requant|lookup *")
"""What is computed in the unit of a contraction."""


class HlsBackend(Backend):
    """Emit projects for Vitis HLS and run their simulation; see `qcc.backends.base.Backend`."""

    @property
    def capabilities(self) -> Capabilities:
        """What the units take."""
        return Capabilities(
            name="hls",
            scalars=frozenset({"f32", "i64", "i32", "i8", "u8", "i1"}),
            plans=frozenset({"group_after"}),
            weight_bits=range(1, 9),
            activation_bits=range(1, 9),
            decodes=(IntDecode, TableDecode, PlanesDecode),
            epilogues=EPILOGUES,
            integer_only=True,
            settings=KEYS,
            check_settings=read_hls_settings,
            resources=resource_costs,
        )

    def legalize(self, module: ModuleOp, store: WeightStore) -> ModuleOp:
        """Return a copy of a module; integer-only programs need no other form."""
        return module.clone()

    def preview(self, module: ModuleOp, store: WeightStore, options: BackendOptions) -> None:
        """Lower, fold and size a design, and throw it away.

        Raises:
            UnsupportedOp: listing every operation without a unit, or what keeps the design from rate or part.
            QccError: for settings that cannot be taken.
            BuildError: if the headers for simulation are nowhere.
        """
        find_headers()
        plan_project(module, store, read_hls_settings(options.settings))

    def emit(
        self, module: ModuleOp, store: WeightStore, golden: Golden | None, options: BackendOptions, out: Path
    ) -> Emitted:
        """Write the project of a program to `out/hls`.

        Raises:
            UnsupportedOp: listing every operation without a unit, or what keeps the design from rate or part.
            QccError: for settings that cannot be taken.
            BuildError: if the headers for simulation are nowhere.
        """
        settings = read_hls_settings(options.settings)
        project = plan_project(module, store, settings)
        folder = out / FOLDER
        files = write_project(project, golden, identifier(options.name), folder)
        cost = total_cost(project.design)
        report = design_report(project.design, settings, project.timing)
        return Emitted(
            folder,
            tuple(files),
            tuple(summary_lines(report)),
            sum(one.size for one in memories_of(project.design)),
            {"lut": cost.lut, "dsp": cost.dsp, "interval_cycles": float(project.timing.interval)},
        )

    def load(self, folder: Path, *, threads: int | None = None) -> HlsProgram:
        """Load the project of a folder (`out`, or `out/hls`); its simulation runs in one thread.

        Raises:
            CheckpointError: if the folder is no emitted project.
        """
        inner = folder / FOLDER
        return HlsProgram(inner if inner.is_dir() else folder)
