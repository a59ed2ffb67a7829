"""Make the random matrices on which formats are compared, and measure formats on them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qcc.numerics.hadamard import hadamard
from qcc.numerics.presets import format_of
from qcc.numerics.quantize import fake_quantize, signal_to_quantization_noise_db

SHAPE = (256, 1024)
ROTATED_BLOCK = 128
SEED = 1


class Samples(NamedTuple):
    """Matrices of `SHAPE`, float32."""

    gaussian: Tensor
    student: Tensor
    rotated: Tensor


class Figures(NamedTuple):
    """One number in decibels for each of `Samples`."""

    gaussian: float
    student: float
    rotated: float


@lru_cache(maxsize=16)
def samples(seed: int = SEED) -> Samples:
    """Draw N(0, 1) and Student's t with 3 degrees of freedom, and rotate the latter.

    Each is drawn in float64 by a generator of its own, `numpy.random.default_rng(seed)`. The rotation multiplies
    each run of 128 columns by the orthonormal Hadamard matrix of Sylvester's construction, in float64.
    """
    gaussian = np.random.default_rng(seed).standard_normal(SHAPE)
    student = torch.from_numpy(np.random.default_rng(seed).standard_t(3, SHAPE))
    rotation = hadamard(ROTATED_BLOCK) / math.sqrt(ROTATED_BLOCK)
    rotated = (student.unflatten(-1, (-1, ROTATED_BLOCK)) @ rotation).flatten(-2)
    return Samples(torch.from_numpy(gaussian).float(), student.float(), rotated.float())


def measure(text: str, seed: int = SEED) -> Figures:
    """Give the signal to quantization noise ratio of a preset or type on each sample, in dB."""
    return _measure(str(format_of(text)), seed)


def spread(text: str, seeds: Iterable[int]) -> tuple[Figures, Figures]:
    """Give the least and the largest figures over several seeds."""
    found = [measure(text, seed) for seed in seeds]
    columns = list(zip(*found, strict=True))
    return Figures(*map(min, columns)), Figures(*map(max, columns))


@lru_cache(maxsize=1024)
def _measure(text: str, seed: int) -> Figures:
    return Figures(*(signal_to_quantization_noise_db(x, fake_quantize(x, text)) for x in samples(seed)))
