"""In-place writes of the exported graph: functional in the program, kept between calls where they reach a buffer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from qcc.errors import UnsupportedOp
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.program import StateOp, UpdateStateOp, WeightOp
from tests.importing import both, export, program_of, run, run_with


class Writes(nn.Module):
    """Writes to a buffer [4, 6] in many ways; each method is a model."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("state", torch.arange(24.0, dtype=torch.float64).view(4, 6))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


def write_slice(m: Any, x: torch.Tensor) -> Any:
    m.state[1:3, ::2].copy_(x[:2, :3])
    return m.state * 2


def write_select_of_transpose(m: Any, x: torch.Tensor) -> Any:
    column = m.state.t()[2]
    before = column + 0
    column.mul_(x[0, 0])
    return before, column, m.state.sum(0)


def write_through_views(m: Any, x: torch.Tensor) -> Any:
    view = m.state.view(2, 2, 6).permute(1, 0, 2).unsqueeze(0)
    row = view[0, 1]
    row[1] += x[0, 0]
    view.clamp_(max=20)
    return row, view.reshape(-1)


def write_pieces(m: Any, x: torch.Tensor) -> Any:
    low, high = m.state.chunk(2, dim=1)
    high.copy_(low * 2 + x[0, 0])
    first, *_ = m.state.unbind(0)
    first.zero_()
    return low, high


def write_index(m: Any, x: torch.Tensor) -> Any:
    m.state.index_copy_(0, torch.tensor([3, 0]), x[:2])
    m.state[torch.tensor([1, 2]), torch.tensor([5, 4])] = x[0, :2]
    m.state[:, torch.tensor([1])] = 7.0
    m.state.masked_fill_(m.state > 20, -1)
    m.state[m.state == -1] = 0.25
    return m.state.clone()


def write_count(m: Any, x: torch.Tensor) -> Any:
    m.count += 1
    with torch.no_grad():
        m.state.add_(m.count, alpha=2)
    return x + m.count


def write_value(m: Any, x: torch.Tensor) -> Any:
    y = x * 2
    part = y[:, 1:3]
    F.relu(part, inplace=True)
    flat = y.reshape(-1)  # shares memory
    flat[0] = 5.0
    apart = y.t().reshape(-1)  # does not
    apart[1] = 9.0
    return y, part, apart


def write_narrow_buffer(m: Any, x: torch.Tensor) -> Any:
    m.state.narrow(1, 2, 3).fill_(1.5)
    m.state.detach()[-1] = x[0]
    return m.state.flatten()[3:9]


WRITES = [
    write_slice,
    write_select_of_transpose,
    write_through_views,
    write_pieces,
    write_index,
    write_count,
    write_value,
    write_narrow_buffer,
]


@pytest.mark.parametrize("body", WRITES)
def test_writes_reach_their_base_and_last_until_the_next_call(body: Any) -> None:
    model = Writes(body)
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    program = export(model, x)
    for one in both(program):
        imported = import_program(one)
        runner = Interpreter(imported.module, imported.store)
        twin = Writes(body)
        for call in range(3):
            wanted = pytree.tree_leaves(twin(x + call))
            found = run_with(runner, imported, [x + call])
            for mine, theirs in zip(found, wanted, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
            for key, value in runner.state.items():
                torch.testing.assert_close(value, twin.get_buffer(key), rtol=1e-12, atol=1e-12)


def test_dropout_at_inference_shares_memory() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            y = x * 2
            kept = F.dropout(y, 0.5, training=False)
            kept += 1
            return y

    # only as traced: torch's decomposition makes a copy of it and so changes what the model computes
    assert run(import_program(export(Model(), torch.ones(2))), torch.ones(2))[0].tolist() == [3.0, 3.0]


def test_only_overwritten_buffers_are_state() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.ones(3))
            self.register_buffer("changed", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.changed.copy_(x)  # type: ignore[operator]
            return x + self.kept

    for one in both(export(Model(), torch.ones(3))):
        ops = list(program_of(import_program(one)).walk())
        assert [op.key.data for op in ops if isinstance(op, WeightOp)] == ["kept"]
        assert [op.key.data for op in ops if isinstance(op, StateOp)] == ["changed"]
        assert [op.key.data for op in ops if isinstance(op, UpdateStateOp)] == ["changed"]


def test_a_write_to_an_input_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x[0].add_(1)
            return x * 2

    for one in both(export(Model(), torch.ones(3, 2))):
        with pytest.raises(UnsupportedOp, match="overwritten by the model"):
            import_program(one)


def test_a_write_to_an_expanded_tensor_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = (x * 2)[:1]
            y.expand(3, 4)[0].add_(1)
            return y

    with pytest.raises(UnsupportedOp, match=r"a write to the result of aten\.expand"):
        import_program(export(Model(), torch.ones(3, 4)))


def test_an_overwritten_buffer_inside_another_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.zeros(4, 3)
            self.register_buffer("whole", whole)
            self.register_buffer("part", whole[1:3])

        def forward(self, x: torch.Tensor) -> Any:
            self.part.copy_(x)  # type: ignore[operator]
            return self.whole + 1  # type: ignore[operator]

    with pytest.raises(UnsupportedOp, match="part or a view of whole"):
        import_program(export(Model(), torch.ones(2, 3)))
