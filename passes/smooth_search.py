"""Search one exponent of smoothing for a whole program (SmoothQuant+, arXiv 2312.03788).

A smoothed and rounded layer computes x / s times the codes of w s: the same as x times those codes divided by s. So no
exponent has to be folded to know what it loses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from qcc.ir.context import QccContext, calibration_of, store_of
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.store import WeightStore
from qcc.numerics.qtype import QType
from qcc.numerics.quantize import fake_quantize
from qcc.passes.channels import OUTSIDE
from qcc.passes.layer_schemes import scheme_of
from qcc.passes.legality import Proof
from qcc.passes.scale_search import DEFAULT, STEPS
from qcc.passes.scales import as_declared
from qcc.passes.sensitivity import output_error
from qcc.recipes.load import load_recipe


def best_alpha(
    ctx: Context,
    module: ModuleOp,
    user: str,
    recipe: str,
    proofs: Sequence[Proof],
    scales_of: Callable[[float], list[Tensor]],
) -> float:
    """Return the exponent of least error at the outputs, with the weights of all layers rounded.

    `scales_of` gives the scales f64[N] of every site for an exponent from 0 to 1. Where nothing is quantized no error
    can choose: then it is one half.

    Raises:
        QccError: if there are no samples, or no output is a float.
        ShapeError: if samples do not fit the program.
    """
    formats = _formats(module, recipe)
    if not formats:
        return DEFAULT
    store = as_declared(module, store_of(ctx, user))
    calibration = calibration_of(ctx, user, "leave the transform away")
    error = output_error(module, store, calibration, user, "write alpha as a number")
    rounded = {key: _rounded(store, key, qtype, None) for key, qtype in formats.items()}
    say = ctx.say if isinstance(ctx, QccContext) else None
    errors: list[float] = []
    for step in range(STEPS + 1):
        columns = _columns(proofs, scales_of(step / STEPS))
        at_sites = {key: _rounded(store, key, formats[key], columns[key]) for key in columns if key in formats}
        errors.append(error({**rounded, **at_sites}))
        if say is not None:
            say(f"smoothing by alpha {step / STEPS:.2f}: {errors[-1]:.3g} of the outputs is lost")
    return errors.index(min(errors)) / STEPS


def _formats(module: ModuleOp, recipe: str) -> dict[str, QType]:
    """Return the format of every stored weight that the recipe quantizes."""
    loaded = load_recipe(recipe)
    found: dict[str, QType] = {}
    for layer in [one for one in module.walk() if isinstance(one, LinearOp)]:
        scheme, weight = scheme_of(loaded, layer), layer.weight.owner
        if not scheme.reason and isinstance(weight, WeightOp):
            found[weight.key.data] = scheme.weights.qtype()
    return found


def _columns(proofs: Sequence[Proof], scales: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what the columns of every weight behind a site are multiplied by, f64[K]."""
    found: dict[str, Tensor] = {}
    for proof, one in zip(proofs, scales, strict=True):
        for reader in proof.consumers:
            channels = torch.from_numpy(reader.place.atoms).flatten()
            found[reader.key] = torch.where(channels == OUTSIDE, 1.0, one[channels % len(one)])
    return found


def _rounded(store: WeightStore, key: str, qtype: QType, columns: Tensor | None) -> Tensor:
    """Return a weight as the codes of it, its columns multiplied and divided again, stand for it."""
    weight = store.tensor(key)
    if columns is None:
        return fake_quantize(weight.float(), qtype).to(weight.dtype)
    return (fake_quantize((weight.double() * columns).float(), qtype).double() / columns).to(weight.dtype)
