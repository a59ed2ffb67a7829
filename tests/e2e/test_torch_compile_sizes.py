"""`torch.compile(model, backend="qcc")` over batches and lengths: how many graphs, in whatever order calls come."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from qcc import dynamo
from tests import zoo
from tests.compiling import FLOAT_BOUND, apart
from tests.torch_compiling import Net, compiled, rows

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

BATCHES = (1, 2, 4, 7, 9, 33, 64)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("batches", [BATCHES, (64, 4, 1, 7), (4, 1, 64, 9)])
def test_two_graphs_over_batches(
    batches: tuple[int, ...], dynamic: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = Net().eval()
    with torch.no_grad(), caplog.at_level(logging.INFO, "qcc.dynamo"):
        fast = torch.compile(model, backend=dynamo.backend, dynamic=dynamic, options={"recipe": "float"})
        for batch in batches:
            assert apart(fast(rows(batch)), model(rows(batch))) <= FLOAT_BOUND
    graphs = [record for record in caplog.records if "of 2 layers" in record.message]
    print(f"graphs for batches {batches}: {len(graphs)}")
    assert len(graphs) == counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize(
    ("sizes", "graphs"),
    [
        (((3, 5), (3, 9), (7, 31), (9, 7)), 1),
        (((4, 6), (1, 9), (3, 5), (1, 12)), 2),
        (((1, 9), (5, 5), (2, 8)), 2),
    ],
)
def test_two_graphs_over_batches_and_lengths(sizes: tuple[tuple[int, int], ...], graphs: int) -> None:
    model, _, kwargs, _ = zoo.bert()
    fast = compiled(model, recipe="float")
    counters.clear()
    with torch.no_grad():
        for batch, length in sizes:
            call = {"input_ids": zoo.tokens(batch, length), "attention_mask": zoo.padding(batch, length)}
            found, wanted = fast(**call), model(**call)
            assert type(found) is type(wanted)
            assert apart(found.last_hidden_state, wanted.last_hidden_state) <= FLOAT_BOUND
    print(f"graphs for batches and lengths {sizes}: {counters['stats']['unique_graphs']}")
    assert counters["stats"]["unique_graphs"] == graphs
    assert set(kwargs) == {"input_ids", "attention_mask"}


def test_a_float_mask_varies_with_the_lengths() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(16, 32)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            h = self.into(x).unflatten(-1, (4, 8)).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(h, h, h, attn_mask=mask).transpose(1, 2).flatten(2)

    model = Masked().eval()
    fast = compiled(model, recipe="float")
    with torch.no_grad():
        for batch, length in ((3, 5), (2, 11), (6, 6)):
            call = (torch.randn(batch, length, 16), torch.randn(batch, 1, length, length))
            assert apart(fast(*call), model(*call)) <= FLOAT_BOUND
    assert counters["stats"]["unique_graphs"] == 1


def test_what_the_caller_says_of_sizes_holds_and_inputs_keep_no_marks() -> None:
    model = Net().eval()
    fast = torch.compile(model, backend=dynamo.backend, dynamic=False, options={"recipe": "float"})
    with torch.no_grad():
        for batch in (4, 7, 9):
            fast(rows(batch))
    assert counters["stats"]["unique_graphs"] == 3
    torch._dynamo.reset()
    x, held = rows(4), rows(7)
    torch._dynamo.mark_static(held, 0)
    fast = compiled(model, recipe="float")
    with torch.no_grad():
        fast(x)
        assert not [name for name in dir(x) if "dynamo" in name]
        counters.clear()
        assert apart(fast(held), model(held)) <= FLOAT_BOUND
    assert counters["stats"]["unique_graphs"] == 1


def test_images_vary_in_their_batch_only() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    fast = compiled(model, recipe="float")
    with torch.no_grad():
        for batch in (5, 2, 1, 9):
            x = torch.randn(batch, 3, 8, 8)
            assert apart(fast(x), model(x)) <= FLOAT_BOUND
    assert counters["stats"]["unique_graphs"] == 2
