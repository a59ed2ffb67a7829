"""qcc-opt: run passes on the text of a module.

    qcc-opt model.mlir -p 'raise-linear,canonicalize' --dump-ir out/

Weights are looked for in NAME.safetensors beside NAME.mlir unless --weights says otherwise. The module is verified
after every pass.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass, PassPipeline
from xdsl.universe import XDSL_UNIVERSE, Universe
from xdsl.utils.exceptions import DiagnosticException, ParseError
from xdsl.xdsl_opt_main import xDSLOptMain

from qcc.errors import QccError
from qcc.ir.context import QccContext
from qcc.ir.dialect import QCC
from qcc.passes.table import PASSES

# xdsl-opt refuses to start when a plugin names a pass as one of its own
UNIVERSE = Universe(
    all_dialects={"qcc": lambda: QCC},
    all_passes={name: load for name, load in PASSES.items() if name not in XDSL_UNIVERSE.all_passes},
)


class OptMain(xDSLOptMain):
    """xDSL's driver with the dialect, the passes and the weight store of qcc."""

    def register_all_dialects(self) -> None:
        """Use a context that carries weights."""
        self.ctx = QccContext()

    def register_all_passes(self) -> None:
        """Register xDSL's general passes, then ours: a name that both have is ours."""
        for name in ("cse", "dce"):
            self.register_pass(name, XDSL_UNIVERSE.all_passes[name])
        for name, load in PASSES.items():
            self.register_pass(name, load)

    def register_all_targets(self) -> None:
        """Print modules as text."""
        self.available_targets["mlir"] = XDSL_UNIVERSE.all_targets["mlir"]

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        """Add the options for weights and dumps."""
        super().register_all_arguments(arg_parser)
        arg_parser.add_argument("--weights", type=Path, help="safetensors file of the module's weights")
        arg_parser.add_argument("--dump-ir", type=Path, metavar="DIR", help="write the module after every pass")

    def setup_pipeline(self) -> None:
        """Chain the dump behind the driver's own callback, which verifies."""
        super().setup_pipeline()
        folder: Path | None = self.args.dump_ir
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        passes, verify = self.pipeline.passes, self.pipeline.callback
        count = 0

        def dump(before: ModulePass | None, module: ModuleOp, after: ModulePass | None) -> None:
            nonlocal count
            if verify is not None:
                verify(before, module, after)
            name = before.name if before is not None else "input"
            header = f"// pipeline: {','.join(str(one.pipeline_pass_spec()) for one in passes)}\n// after: {name}\n"
            (folder / f"{count:02}-{name}.mlir").write_text(f"{header}{module!s}\n")
            count += 1

        self.pipeline = PassPipeline(passes, dump)

    def apply_passes(self, prog: ModuleOp) -> None:
        """Load the weights, if there are any, and run the pipeline."""
        path = self._weights()
        if path is not None and self.pipeline.passes and isinstance(self.ctx, QccContext):
            from qcc.ir.store import WeightStore  # torch is loaded for modules with weights only

            self.ctx.store = WeightStore.load(path)
        super().apply_passes(prog)

    def _weights(self) -> Path | None:
        given: Path | None = self.args.weights
        if given is not None or self.args.input_file is None:
            return given
        beside = Path(self.args.input_file).with_suffix(".safetensors")
        return beside if beside.is_file() else None


def main(args: Sequence[str] | None = None) -> int:
    """Run qcc-opt; returns 2 where the user can mend the fault."""
    try:
        OptMain(description="Run passes of qcc on the text of a module", args=args).run()
    except (QccError, ParseError, DiagnosticException) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
