"""Frozen weights have no gradients: whoever asks for one is told so, when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from qcc.errors import QccError

REASON = "a gradient was asked for, and what backend qcc compiles has frozen, quantized weights"
FIX = "train the float model and compile it afterwards, or run under torch.no_grad()"


class _Frozen(torch.autograd.Function):
    """Mark results as functions of weights, as eager execution does, and refuse to go back through them."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, *results: torch.Tensor) -> Any:
        """Return the results themselves."""
        ctx.mark_dirty(*results)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Refuse.

        Raises:
            QccError: always.
        """
        raise QccError(REASON, fix=FIX)


def refusing_gradients(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let the floating-point results of a function require gradients that cannot be had.

    What is no new tensor, such as a view of an argument, stays as it is.
    """

    def marked(*arguments: Any) -> Any:
        results = list(run(*arguments))
        memory = {one.untyped_storage().data_ptr() for one in arguments if isinstance(one, torch.Tensor)}
        chosen = [index for index, one in enumerate(results) if _is_new(one, memory)]
        if chosen and torch.is_grad_enabled():
            anchor = torch.zeros((), requires_grad=True)
            found = _Frozen.apply(anchor, *(results[index] for index in chosen))
            for index, one in zip(chosen, found, strict=True):  # pyright: ignore[reportArgumentType]
                results[index] = one
        return results

    return marked


def _is_new(value: Any, memory: set[int]) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and not value.requires_grad
        and not value._is_view()
        and not value.is_inference()
        and value.untyped_storage().data_ptr() not in memory
    )
