"""Real networks in integers: as far from the float model as their quantized floats are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qcc.ir.integer import IntegerContractOp
from qcc.numerics.quantize import signal_to_quantization_noise_db
from tests import minilm, zoo
from tests.integer_nets import nets
from tests.integer_ops import expect_integers


class Layer(nn.Module):
    """One layer of a sentence encoder, hidden states in and out."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        made = self.layer(hidden)
        return made[0] if isinstance(made, tuple) else made


def encoder_layer() -> tuple[nn.Module, list[tuple[Any, ...]]]:
    model = minilm.model_and_tokenizer()[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ids = [torch.randint(1000, 20000, (1, 16), generator=generator) for _ in range(4)]
        return Layer(model.encoder.layer[0]), [(model.embeddings(one),) for one in ids]


@pytest.mark.parametrize(
    ("network", "recipe", "decibels"),
    [
        ("encoder_layer", "fixed8", 10.0),
        ("encoder_layer", "w4a8-fixed", 12.0),
        ("resnet", "fixed8", 30.0),
        ("mobilenet", "w4a8-fixed", 30.0),
    ],
)
def test_a_network_in_integers(network: str, recipe: str, decibels: float) -> None:
    if network == "encoder_layer":
        if minilm.folder() is None:
            pytest.skip("the model is not installed")
        model, samples = encoder_layer()
    else:
        model, args, _, _ = zoo.MODELS[network]()
        samples = [args]
    found = nets(model, samples, recipe)
    expect_integers(found.integer_module)
    assert any(isinstance(op, IntegerContractOp) for op in found.integer_module.walk())
    with torch.no_grad():
        wanted = model(*samples[0])
    _, quantized, integers = found.run(*samples[0])
    loss = signal_to_quantization_noise_db(wanted, quantized)
    assert loss > decibels
    assert signal_to_quantization_noise_db(wanted, integers) > loss - 1.5
