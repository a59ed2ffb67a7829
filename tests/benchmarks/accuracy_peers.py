"""The same model quantized by other tools, beside the recipe that stores weights in as many bits or fewer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from accuracy_models import Decoder
from accuracy_rows import Row

GROUP = 32
ALIKE = "embeddings in float"
BY_GPTQ = " by GPTQ"
BESIDE_PEERS = (
    *(f"{name}, {ALIKE}" for name in ("w8", f"w8{BY_GPTQ}", "w8a8", f"w8a8{BY_GPTQ}", "w4", "w4a8", "gptq-w4a8")),
    f"gptq-w4, groups of {GROUP}, {ALIKE}",
)
"""What peers stand beside: they leave tables of embeddings as they are."""


@dataclass(frozen=True)
class Peer:
    """A tool's way to quantize a module, and the recipes that it stands beside."""

    name: str
    recipes: tuple[str, ...]
    bits_per_weight: float
    quantize: Callable[[Any], Any]


def torchao_peers() -> list[Peer]:
    """Return what torchao computes on a CPU; empty where it is not installed.

    Its scales are as wide as the weights were, float32 here; zero points of integers of 4 bits are stored as int8.
    """
    if find_spec("torchao") is None:
        return []
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerGroup,
        quantize_,
    )

    def by(config: Any) -> Callable[[Any], Any]:
        def quantize(model: Any) -> Any:
            quantize_(model, config)
            return model

        return quantize

    int4: torch.dtype = getattr(torch, "int4")  # noqa: B009 - the stubs of torch lack it
    asymmetric = IntxWeightOnlyConfig(int4, PerGroup(GROUP), MappingType.ASYMMETRIC)
    symmetric = IntxWeightOnlyConfig(int4, PerGroup(GROUP))
    mixed = Int8DynamicActivationIntxWeightConfig(int4, PerGroup(GROUP))
    w8, gptq_w8, w8a8, gptq_w8a8, w4, w4a8, gptq_w4a8, gptq_w4 = BESIDE_PEERS
    weight_only, both = (w4, gptq_w4), (w4a8, gptq_w4a8)
    return [
        Peer("torchao int8 weight-only", (w8, gptq_w8), 8.0, by(Int8WeightOnlyConfig())),
        Peer("torchao int8 dynamic", (w8a8, gptq_w8a8), 8.0, by(Int8DynamicActivationInt8WeightConfig())),
        Peer("torchao int4 weight-only, group 32, asymmetric", weight_only, 4 + 40 / GROUP, by(asymmetric)),
        Peer("torchao int4 weight-only, group 32", weight_only, 4 + 32 / GROUP, by(symmetric)),
        Peer("torchao int8 dynamic, int4 weights, group 32", both, 4 + 32 / GROUP, by(mixed)),
    ]


def peer_rows(model: Decoder, values: dict[str, Row]) -> list[Row]:
    """Measure every peer on a model; `values` are the rows of the recipes that they stand beside."""
    rows: list[Row] = []
    for peer in torchao_peers():
        beside = [values[name] for name in peer.recipes if name in values]
        if not beside:
            continue
        module = peer.quantize(copy.deepcopy(model.module))
        with torch.no_grad():
            value = model.judge(lambda inputs, module=module: module(input_ids=inputs["input_ids"]).logits.float())
        name = f"{peer.name}, {peer.bits_per_weight:g} bits"
        rows += [replace(own, peer=name, peer_value=value) for own in beside]
    return rows
