"""Search the quantization step of every channel of a norm (adaptive clipping of MergeQuant, arXiv 2503.07654).

A step s turns the activations x of a channel into codes and its column w of a layer into w s, which is rounded by the
scales of its row. What the output of the layer loses is about

    mean (x - s code)^2 |w|^2  +  mean code^2 |w s - round(w s)|^2

a sum over channels as long as the scales of the rows stay. So all channels are searched at once under the scales that
the last steps gave, and again under those of what was found.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcc.ir.store import WeightStore
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.quantize import compute_qparams, dequantize, fake_quantize, quantize
from qcc.passes.channels import OUTSIDE
from qcc.passes.legality import Proof
from qcc.passes.scale_search import Reader
from qcc.passes.scales import bounded, over_classes
from qcc.recipes.formats import quantized_type

CANDIDATES = 32
"""Steps tried for a channel: the largest magnitude over the largest code, times 1/32, 2/32, ..., 1."""

ROUNDS = 3
"""How often the channels are searched."""


def best_steps(
    store: WeightStore, proof: Proof, readers: Sequence[Reader], start: Tensor, amax: Tensor, text: str
) -> Tensor:
    """Return steps f64[N] of least error over all readers on their samples: never more than that of `start`.

    `amax` is f64[N], the largest magnitude of every channel; `text` names the integer format of the activations.
    """
    low, high = _codes(text)
    weights = [store.tensor(one.binding.key).double() for one in readers]
    best, least = start, sum(_error(*pair, start, (low, high)) for pair in zip(readers, weights, strict=True))
    steps = start
    for _ in range(ROUNDS):
        tried = [amax / high * (index / CANDIDATES) for index in range(1, CANDIDATES + 1)]
        losses = torch.zeros(CANDIDATES, len(amax), dtype=torch.float64)
        for one, weight in zip(readers, weights, strict=True):
            losses += torch.stack([_losses(one, weight, steps, candidate, (low, high)) for candidate in tried])
        chosen = (losses.argmin(0) + 1) / CANDIDATES
        steps = over_classes(proof, bounded(amax / high * chosen))
        found = sum(_error(*pair, steps, (low, high)) for pair in zip(readers, weights, strict=True))
        if found < least:
            best, least = steps, found
    return best


def _codes(text: str) -> tuple[int, int]:
    decode = quantized_type(text, "tensor", "f32", "static").decode
    assert isinstance(decode, IntDecode)  # the pass has refused others
    return decode.minimum, decode.maximum


def _at_columns(reader: Reader, values: Tensor) -> Tensor:
    """Return values of channels f64[N] at the columns of a reader, f64[K]; 1 where a column is no channel."""
    return torch.where(reader.channels == OUTSIDE, 1.0, values[reader.channels % len(values)])


def _error(reader: Reader, weight: Tensor, steps: Tensor, codes: tuple[int, int]) -> float:
    """Return the squared error of a layer's output on its sample."""
    columns, rows = _at_columns(reader, steps), reader.sample.rows.double()
    moved = weight * columns
    coded = moved if reader.weights is None else fake_quantize(moved.float(), reader.weights).double()
    given = (rows / columns).round().clamp(*codes)
    return float((given @ coded.T - rows @ weight.T).square().sum())


def _losses(reader: Reader, weight: Tensor, steps: Tensor, tried: Tensor, codes: tuple[int, int]) -> Tensor:
    """Return what every channel loses with the tried steps f64[N] under the weight scales that `steps` give."""
    columns, rows = _at_columns(reader, tried), reader.sample.rows.double()
    given = (rows / columns).round().clamp(*codes)
    lost = (rows - given * columns).square().mean(0) * weight.square().sum(0)
    if reader.weights is not None:
        parameters = compute_qparams((weight * _at_columns(reader, steps)).float(), reader.weights)
        moved = weight * columns
        coded = dequantize(quantize(moved.float(), reader.weights, parameters), torch.float64)
        lost = lost + given.square().mean(0) * (coded - moved).square().sum(0)
    inside = reader.channels != OUTSIDE
    found = torch.zeros(len(tried), dtype=torch.float64)
    return found.index_add(0, reader.channels[inside] % len(tried), lost[inside])
