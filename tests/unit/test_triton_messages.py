"""What goes through the pipe to the process that interprets kernels arrives as it was."""

from __future__ import annotations

import io

import pytest
import torch

from qcc.backends.triton.messages import receive, send


def test_tensors_arrive_with_strides_and_shared_memory() -> None:
    whole = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    values = [whole[1:5, 2:6], whole, 3, 1e-5, torch.empty(0, 4, dtype=torch.int8), whole.bfloat16(), torch.tensor(7)]
    stream = io.BytesIO()
    send(stream, {"grid": (2, 1, 1)}, values)
    stream.seek(0)
    fields, found = receive(stream)
    assert fields == {"grid": [2, 1, 1]}
    assert found[2:4] == [3, 1e-5]
    for one, other in zip(values, found, strict=True):
        if isinstance(one, torch.Tensor):
            assert isinstance(other, torch.Tensor)
            assert (other.dtype, other.stride()) == (one.dtype, one.stride())
            assert torch.equal(other, one)
    view, base = found[:2]
    assert isinstance(view, torch.Tensor)
    assert isinstance(base, torch.Tensor)
    view.zero_()
    assert bool((base[1:5, 2:6] == 0).all())
    assert torch.equal(base[0], whole[0])


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_a_message_that_is_cut_is_an_end(kept: int) -> None:
    stream = io.BytesIO()
    send(stream, {}, [torch.ones(3)])
    with pytest.raises(EOFError):
        receive(io.BytesIO(stream.getvalue()[:kept]))
