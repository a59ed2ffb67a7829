"""Weights, and inputs that are correlated as those of layers are: what solvers are tried on."""

from __future__ import annotations

import torch

from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.solvers.hessian import output_loss


def correlated(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Inputs `[rows, columns]` that lie near a space of a third of their channels, of unequal sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(max(1, columns // 3), columns, generator=generator)
    low = torch.randn(rows, len(mixing), generator=generator) @ mixing
    sizes = torch.logspace(-1, 1, columns)[torch.randperm(columns, generator=generator)]
    return (low + 0.1 * torch.randn(rows, columns, generator=generator)) * sizes


def hessian_of(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.double().T @ inputs.double()


def weight_of(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed + 1000))


def loss(weight: torch.Tensor, solved: QuantizedTensor, hessian: torch.Tensor) -> float:
    return output_loss(weight - dequantize(solved), hessian)
