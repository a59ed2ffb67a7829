"""The same model quantized by other tools, beside the recipe that stores weights in as many bits or fewer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from accuracy_models import Decoder, Row

GROUP = 32


@dataclass(frozen=True)
class Peer:
    """A tool's way to quantize a module, and the recipe that it stands beside."""

    name: str
    recipe: str
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
    return [
        Peer("torchao int8 weight-only", "w8", 8.0, by(Int8WeightOnlyConfig())),
        Peer("torchao int8 dynamic", "w8a8", 8.0, by(Int8DynamicActivationInt8WeightConfig())),
        Peer("torchao int4 weight-only, group 32, asymmetric", "w4", 4 + 40 / GROUP, by(asymmetric)),
        Peer("torchao int4 weight-only, group 32", "w4", 4 + 32 / GROUP, by(symmetric)),
        Peer("torchao int8 dynamic, int4 weights, group 32", "w4a8", 4 + 32 / GROUP, by(mixed)),
    ]


def peer_rows(model: Decoder, values: dict[str, Row]) -> list[Row]:
    """Measure every peer on a model; `values` are the rows of the recipes that they stand beside."""
    rows: list[Row] = []
    for peer in torchao_peers():
        if peer.recipe not in values:
            continue
        own = values[peer.recipe]
        module = peer.quantize(copy.deepcopy(model.module))
        with torch.no_grad():
            value = model.judge(lambda inputs, module=module: module(input_ids=inputs["input_ids"]).logits.float())
        name = f"{peer.name}, {peer.bits_per_weight:g} bits"
        rows.append(replace(own, peer=name, peer_value=value))
    return rows
