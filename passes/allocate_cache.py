"""Choose the bits of the keys and of the values of every attention, within a budget (KVTuner, arXiv 2502.04420).

    attention(q, k, v)  ->  attention(q, k, v) {allocated_cache = "{keys: {format: uint8}, values: {format: uint4}}"}

Only the attribute is set; `quantize-cache` follows it. A pair of widths for keys and values is an option of an
attention: everything else about the cache is as the recipe says. Its harm is what the outputs lose on samples when this
attention alone keeps codes, relative to the float outputs; its cost is bits with scales and zero points. The integer
program of `allocate-bits` takes a pair for each. Attentions of one name, or that share keys or values, get the same;
what an override gives a `kv_cache` keeps it and counts. `allocated_cache_recipe` writes the result as overrides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.errors import RecipeError
from qcc.ir.context import Calibration, QccContext, calibration_of, store_of
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import type_of
from qcc.numerics.kv_cache import tokens_a_group
from qcc.numerics.qtype_bits import storage_bits
from qcc.passes.kv_sites import attention_names
from qcc.passes.layer_schemes import pattern_of
from qcc.passes.quantize_cache import ALLOCATED_CACHE, keep_as_codes, overriding, refuse_unmatched
from qcc.passes.solvers.allocation import allocate, least_cost
from qcc.recipes.kv_cache import CacheAllocation, CacheTensor, KvCache
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Override, Recipe


@dataclass(frozen=True)
class AllocateCache(ModulePass):
    """The pass; needs the weight store and samples. `recipe`: a name, a path, or JSON text."""

    name: ClassVar[str] = "allocate-cache"

    recipe: str = "qoq-w4a8kv4"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set the attributes, where the recipe allocates a cache and there is attention.

        Raises:
            RecipeError: if the budget cannot be met, saying the least possible; or as `quantize-cache` does.
            QccError: if there are no samples.
        """
        recipe = load_recipe(self.recipe)
        allocation = None if recipe.allocate is None else recipe.allocate.kv_cache
        names = attention_names(op)
        refuse_unmatched(recipe, names)
        groups = _grouped(names)
        free = [group for group in groups if overriding(recipe, names[group[0]]) is None]
        if allocation is None or not free:
            return
        options = list(dict.fromkeys(recipe.kv_cache.with_bits(*one) for one in product(allocation.bits, repeat=2)))
        fixed = {group[0]: overriding(recipe, names[group[0]]) or recipe.kv_cache for group in groups}
        costs, room = _costs(allocation, groups, free, options, fixed)
        calibration = calibration_of(ctx, "bit allocation", "give each attention its kv_cache by overrides")
        say = ctx.say if isinstance(ctx, QccContext) else _silent
        say(f"measuring {len(options)} caches of {len(free)} attentions")
        measured = _harms(op, store_of(ctx, self.name), calibration, names, free, options)
        for group, place in zip(free, allocate(measured, costs, room), strict=True):
            for one in group:
                one.attributes[ALLOCATED_CACHE] = StringAttr(options[place].model_dump_json(exclude_defaults=True))


def _silent(text: str) -> None:
    return None


def _grouped(names: Mapping[AttentionOp, str]) -> list[list[AttentionOp]]:
    """Join attentions that share a name, keys or values, in the order of the program."""
    groups: list[tuple[set[str | SSAValue], list[AttentionOp]]] = []
    for op, name in names.items():
        labels: set[str | SSAValue] = {name, op.key, op.value}
        same = [one for one in groups if one[0] & labels]
        groups = [one for one in groups if not one[0] & labels]
        members = [member for _, found in same for member in found]
        groups.append((labels.union(*(found for found, _ in same)), [*members, op]))
    return [members for _, members in groups]


def _costs(
    allocation: CacheAllocation,
    groups: Sequence[Sequence[AttentionOp]],
    free: Sequence[Sequence[AttentionOp]],
    options: Sequence[KvCache],
    fixed: Mapping[AttentionOp, KvCache],
) -> tuple[list[list[int]], int]:
    """Return the bits of every option of every free group, of as many tokens as all groups of tokens divide; and what
    the fixed ones leave of the budget."""
    schemes = [*options, *fixed.values()]
    tokens = math.lcm(*(tokens_a_group(t.qtype()) for one in schemes for t in _tensors(one) if not t.is_float))
    floats = sum(_values(one) for group in groups for one in _stored(group)) * tokens
    total = math.floor(Fraction(str(allocation.bits_per_value)) * floats)
    taken = sum(_bits(group, fixed[group[0]], tokens) for group in groups if group not in free)
    costs = [[_bits(group, one, tokens) for one in options] for group in free]
    if least_cost(costs) + taken > total:
        least = math.ceil(Fraction((least_cost(costs) + taken) * 10000, floats)) / 10000
        what = f"{allocation.bits_per_value:g} bits per value cannot be met, {least:g} is the least possible"
        raise RecipeError(f"allocate.kv_cache: {what}", fix="raise the budget, or allow fewer bits")
    return costs, total - taken


def _tensors(scheme: KvCache) -> tuple[CacheTensor, CacheTensor]:
    return scheme.key_scheme, scheme.value_scheme


def _stored(group: Sequence[AttentionOp]) -> list[SSAValue]:
    return list(dict.fromkeys(value for op in group for value in (op.key, op.value)))


def _values(value: SSAValue) -> int:
    """Return how many numbers a token of keys or values has."""
    _, heads, _, size = type_of(value).shape
    return (heads.constant or 1) * (size.constant or 1)


def _bits(group: Sequence[AttentionOp], scheme: KvCache, tokens: int) -> int:
    kept = {op.key: scheme.key_scheme for op in group} | {op.value: scheme.value_scheme for op in group}
    total = 0
    for value, one in kept.items():
        _, heads, _, size = type_of(value).shape
        shape = (heads.constant or 1, tokens, size.constant or 1)
        total += math.prod(shape) * 32 if one.is_float else storage_bits(one.qtype(), shape)
    return total


def _harms(
    module: ModuleOp,
    store: WeightStore,
    calibration: Calibration,
    names: Mapping[AttentionOp, str],
    groups: Sequence[Sequence[AttentionOp]],
    options: Sequence[KvCache],
) -> list[list[float]]:
    """Return the relative error of the outputs when one group alone keeps its keys and values in one way."""
    from qcc.passes.sensitivity import Outputs  # torch stays out of the import of the pass

    outputs = Outputs.of(module, "bit allocation by output", "write by: hessian")
    calibration.observe(module, store, outputs.watch(outputs.keep))
    table: list[list[float]] = []
    for group in groups:
        row: list[float] = []
        for option in options:
            copies: dict[SSAValue, SSAValue] = {}
            copy = module.clone(copies)
            weights = store.copy()
            mapped = {found: names[one] for one in group if isinstance(found := copies[one.result].owner, AttentionOp)}
            keep_as_codes(mapped, dict.fromkeys(mapped, option), weights)
            outputs.start()
            calibration.observe(copy, weights, outputs.watch(outputs.compare, copies))
            row.append(outputs.error())
        table.append(row)
    return table


def allocated_cache_recipe(recipe: Recipe, module: ModuleOp) -> Recipe:
    """Return a recipe that gives by overrides the caches that were allocated, and allocates none.

    A recipe that allocates no cache is returned as it is.
    """
    if recipe.allocate is None or recipe.allocate.kv_cache is None:
        return recipe
    names = attention_names(module)
    known = list(dict.fromkeys(names.values()))
    found: dict[str, KvCache] = {}
    for op, name in names.items():
        noted = op.attributes.get(ALLOCATED_CACHE)
        if isinstance(noted, StringAttr):
            found[name] = KvCache.model_validate_json(noted.data)
    overrides = [Override(match=pattern_of(name, known), kv_cache=scheme) for name, scheme in found.items()]
    rest = recipe.allocate.model_copy(update={"kv_cache": None}) if recipe.allocate.budget is not None else None
    return recipe.model_copy(update={"allocate": rest, "overrides": (*recipe.overrides, *overrides)})
