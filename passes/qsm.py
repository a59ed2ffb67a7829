"""Quantize by channel with nothing to compute at run time (step migration of MergeQuant, arXiv 2503.07654).

    linear(norm x weight g, w)   ->   linear(norm x weight g / s, w * s)   read as static codes of scale 1

s[j] is the static scale of channel j in the recipe's activation format: the range of least squared error on the
calibration samples (`clip=mse`), the largest magnitude (`clip=amax`), or (`clip=adaptive`) what a search channel by
channel finds best for the outputs of the layers, whose weights are rounded once they have taken the step. The norm
then gives numbers in units of codes, so that quantizing is rounding; the steps are in the weights, whose rows are
quantized after. Legality, proved by `legality`: as for `smooth`. Inputs of other layers have no norm that could take
the step, and stay as the recipe says. Before rounding equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from qcc.errors import Problem, RecipeError
from qcc.ir.context import chosen, store_of
from qcc.ir.nn import LinearOp
from qcc.passes.layer_schemes import INPUT_FORMAT, scheme_of
from qcc.passes.legality import Kind, Proof, Refusals, keeps
from qcc.passes.settled import refuse_settled
from qcc.passes.sites import norm_sites, prove_sites
from qcc.recipes.formats import integer_bits, quantized_type, with_statistic
from qcc.recipes.load import load_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.calibrate.ranges import StaticRange

Clip = Literal["amax", "mse", "adaptive"]


@dataclass(frozen=True)
class Qsm(ModulePass):
    """The pass; needs the weight store and samples. `recipe` (a name, a path, or JSON text) names the formats."""

    name: ClassVar[str] = "qsm"

    recipe: str = "w8a8"
    clip: Clip = "mse"
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what else reads each norm that feeds layers;
                or what was settled before.
            RecipeError: if the activations of layers that read one norm are no integers, or differ.
            QccError: if there are no samples.
        """
        refuse_settled(op, self.name)
        refusals = Refusals("migrating quantization steps into norms", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.DIAGONAL, norm_sites(op), refusals)
        if not proofs:
            return
        from qcc.passes.scales import divide_channels

        formats = _formats(self.recipe, proofs)
        every = chosen(ctx, self.name, len(proofs), lambda: self._choose(ctx, op, proofs, formats))
        for proof, text, steps in zip(proofs, formats, every, strict=True):
            divide_channels(op, store_of(ctx, self.name), proof, steps, "qsm")
            for one in proof.consumers:
                if text and isinstance(one.op, LinearOp):
                    one.op.attributes[INPUT_FORMAT] = StringAttr(f"{text} | tensor f32 constant(1)")

    def _choose(self, ctx: Context, op: ModuleOp, proofs: list[Proof], formats: list[str]) -> Iterator[Tensor]:
        """Give the steps of every norm, f64[N]."""
        from qcc.passes.scale_search import readers_of_sites
        from qcc.passes.scales import bounded, over_classes, watch_values
        from qcc.passes.step_search import best_steps

        store, user = store_of(ctx, self.name), f"transform {self.name}"
        ranges = [self._range(proof, text) for proof, text in zip(proofs, formats, strict=True)]
        values = [proof.seed.value for proof in proofs]
        watch = {value: found.add for value, found in zip(values, ranges, strict=True)}
        seen = {value: found.channels for value, found in zip(values, ranges, strict=True)}
        watch_values(ctx, op, user, watch, seen)
        searches = self.clip == "adaptive"
        readers = readers_of_sites(ctx, op, user, self.recipe, proofs) if searches else [[] for _ in proofs]
        for proof, text, found, behind in zip(proofs, formats, ranges, readers, strict=True):
            steps = over_classes(proof, bounded(found.parameters()["scale0"].flatten().double()))
            if text and behind:
                steps = best_steps(store, proof, behind, steps, bounded(found.channels.amax.double()), text)
            yield steps

    def _range(self, proof: Proof, text: str) -> StaticRange:
        from qcc.calibrate.ranges import StaticRange

        plain = quantized_type(text or "int8", "tensor", "f32", "static")
        clip = "mse" if self.clip == "adaptive" else self.clip
        return StaticRange(with_statistic(plain, clip, (-1, 1)), proof.size, 2)


def _formats(recipe: str, proofs: list[Proof]) -> list[str]:
    """Return the integer format of the activations behind each norm, empty where they stay in float."""
    loaded = load_recipe(recipe)
    found: list[str] = []
    problems: list[Problem] = []
    for proof in proofs:
        layers = [one.op for one in proof.consumers if isinstance(one.op, LinearOp)]
        schemes = [scheme_of(loaded, layer) for layer in layers]
        quantized = [one for one in schemes if not one.reason and not one.activations.is_float]
        texts = sorted({one.activations.format for one in quantized})
        names = ", ".join(one.name for one in quantized)
        if len(texts) > 1 or (texts and len(quantized) < len(schemes)):
            problems.append(Problem(names, f"read one norm in different formats: {', '.join(texts)}", "give them one"))
        elif texts and (integer_bits(texts[0]) is None or not texts[0].startswith("int")):
            problems.append(Problem(names, f"'{texts[0]}' is no symmetric integer format", "write int2 to int8"))
        found.append(texts[0] if texts else "")
    if problems:
        raise RecipeError("steps cannot be migrated into norms", problems)
    return found
