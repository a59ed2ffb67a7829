"""Small networks of every kind, with an input of rows of very different sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Source = tuple[nn.Module, dict[str, Tensor]]


def drawn(*shape: int, seed: int) -> Tensor:
    """Values of very different sizes: rows of one tensor differ by orders of magnitude."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values * torch.logspace(-3, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


class Mlp(nn.Module):
    """Two layers; what is quantized first is the result of an operation, so that golden vectors hold its codes."""

    def __init__(self, columns: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(columns, hidden), nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(torch.tanh(x))))


class ConvNet(nn.Module):
    """Two convolutions, the second with a stride, a residual sum, and a linear layer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(width, width, 1, stride=2)
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.second(x) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    """A convolution, one by channels with a stride, one across channels, pooling, and a linear layer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.each = nn.Conv2d(width, 2 * width, (3, 2), stride=(2, 1), padding=1, groups=width)
        self.across = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.across(functional.relu(self.each(x))))
        return self.head(functional.max_pool2d(x, 2, stride=1).mean((2, 3)))


class Attention(nn.Module):
    """A block of a transformer: norm, heads, output, residual sum, and a gated layer behind a second norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.RMSNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.before(x)
        layers = self.query, self.key, self.value
        q, k, v = (one(y).view(batch, length, self.heads, -1).transpose(1, 2) for one in layers)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        y = self.after(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


def mlp(tokens: int, columns: int, hidden: int, channels: int) -> Source:
    torch.manual_seed(0)
    return Mlp(columns, hidden, channels), {"x": drawn(tokens, columns, seed=1)}


def conv_net(images: int, size: int, channels: int, width: int) -> Source:
    torch.manual_seed(0)
    return ConvNet(channels, width), {"x": drawn(images, channels, size, size + 1, seed=2)}


def attention(batch: int, length: int, width: int, heads: int, hidden: int) -> Source:
    torch.manual_seed(0)
    return Attention(width, heads, hidden), {"x": drawn(batch, length, width, seed=3)}


def depthwise(images: int, size: int, channels: int, width: int) -> Source:
    torch.manual_seed(0)
    return Depthwise(channels, width), {"x": drawn(images, channels, size, size + 1, seed=4)}


def attention_layer(length: int, width: int, heads: int, hidden: int) -> Source:
    """A block of a transformer behind a linear layer, one sequence."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), Attention(width, heads, hidden))
    return model, {"input": drawn(1, length, width, seed=5)}
