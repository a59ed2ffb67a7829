"""Rows of integer tables, from ROMs and from memory, as the interpreter picks them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.hls.lower_contract import ROM_BITS
from qcc.backends.hls.project import plan_project, write_project
from qcc.backends.hls.runtime import HlsProgram
from qcc.backends.hls.settings import read_hls_settings
from qcc.errors import ShapeError
from qcc.interpreter import Interpreter
from qcc.ir.nn import EmbeddingOp
from qcc.ir.types import tensor
from tests.hls_programs import Net
from tests.modules import Made, make


def test_tables_in_roms_and_in_memory(tmp_path: Path) -> None:
    """Two tables are picked by one input: the ids must be below the rows of the smaller one."""
    net = Net()
    small, large = net.draw(-7, 7, 11, 6, dtype=torch.int8), net.draw(-128, 127, 2500, 9, dtype=torch.int8)
    assert large.numel() * 8 > ROM_BITS

    def build(ids: SSAValue) -> list[Made]:
        rows = EmbeddingOp(net.weight(small), ids)
        return [net.floats(net.requant(net.contract(rows, 5), channels=5)), EmbeddingOp(net.weight(large), ids)]

    module = make({"ids": tensor([1, 7], "i64")}, build)
    project = plan_project(module, net.store, read_hls_settings({}))
    write_project(project, None, "net", tmp_path / "hls")
    assert len(list((tmp_path / "hls" / "weights").glob("*.bin"))) == 1
    program, oracle = HlsProgram(tmp_path / "hls"), Interpreter(module, net.store)
    frames = [{"ids": torch.randint(0, 11, (1, 7), generator=net.random)} for _ in range(6)]
    frames += [{"ids": torch.zeros(1, 7, dtype=torch.int64)}, {"ids": torch.full((1, 7), 10)}]
    for frame, found in zip(frames, program.run_frames(frames), strict=True):
        for name, wanted in oracle.run(frame).items():
            assert torch.equal(found[name], wanted)
    for wrong in (11, -1):
        with pytest.raises(ShapeError, match="of a table of 11"):
            program.run({"ids": torch.full((1, 7), wrong)})
