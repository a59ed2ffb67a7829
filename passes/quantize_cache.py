"""Keep the keys and values of attention as codes.

    c = state "k"                                     parts = state "k.codes", state "k.scale", ...
    w = index_update c[positions], rows           ->  new = cache_append rows at positions in parts
    attention(q, w, v); update_state "k", w           attention(q, cache_read new, v); update_state "k.codes", ...

    attention(q, k, v)                            ->  attention(q, cache_round k, v)     no cache: what one would read

Keys are those that attention reads: behind the rotary embedding, and behind rotations and scales folded before. A
mutable buffer `k` becomes several, of which only the recent tokens are floats (see `qcc.ir.cache`); its first value
must be zeros.

Legality, proved on the graph by `kv_sites`: nothing but the write reads the buffer, and nothing but attention reads
what was written. What a cache holds behind the last position reads as zeros. A cache that cannot be proved is refused.
Nothing about the function changes but the rounding of the formats; where no token is rounded, as in a window as long as
the cache, it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import Problem, RecipeError, UnsupportedOp
from qcc.ir.base import location_of, set_location
from qcc.ir.cache import CacheAppendOp, CacheReadOp, CacheRoundOp, cache_parts
from qcc.ir.context import QccContext
from qcc.ir.program import StateOp, UpdateStateOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.kv_cache import tokens_a_group
from qcc.numerics.qtype import QType
from qcc.passes.kv_sites import KEEP_IN_BUFFERS, Cache, attention_names, cache_of
from qcc.recipes.kv_cache import CacheTensor, KvCache
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Recipe

ALLOCATED_CACHE = "allocated_cache"
"""Name of the attribute with the section `kv_cache`, as JSON, that was chosen for an attention."""

ROLES = {1: "keys", 2: "values"}
"""What the operands of attention are, by their index."""


@dataclass(frozen=True)
class QuantizeCache(ModulePass):
    """The pass; `recipe` is a name, a path, or JSON text. The first values of buffers change in the store, if any."""

    name: ClassVar[str] = "quantize-cache"

    recipe: str = "qoq-w4a8kv4"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and, if there is one, its store.

        Raises:
            RecipeError: listing every override that matches no attention, and every format that does not fit.
            UnsupportedOp: listing every cache that cannot be proved to hold keys or values and nothing else.
        """
        recipe = load_recipe(self.recipe)
        names = attention_names(op)
        refuse_unmatched(recipe, names)
        schemes = {one: cache_scheme(recipe, one, name) for one, name in names.items()}
        keep_as_codes(names, schemes, ctx.store if isinstance(ctx, QccContext) else None)


def keep_as_codes(
    names: Mapping[AttentionOp, str], schemes: Mapping[AttentionOp, KvCache], store: WeightStore | None
) -> None:
    """Rewrite the keys and values of attentions as their schemes say; raises what the pass does."""
    wanted = _wanted(names, schemes)
    _refuse(wanted)
    rewriter = _Rewriter(store)
    for one in wanted:
        rewriter.rewrite(one)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Keys or values of one attention, how the recipe keeps them, and the cache they are in (a text says why not)."""

    attention: AttentionOp
    index: int
    name: str
    qtype: QType
    window: int
    cache: Cache | str | None

    @property
    def value(self) -> SSAValue:
        return self.attention.operands[self.index]

    @property
    def where(self) -> str:
        return f"{self.name}: {ROLES[self.index]}"


def cache_scheme(recipe: Recipe, op: AttentionOp, name: str) -> KvCache:
    """Return how an attention keeps keys and values: as allocated, by the last override that matches, or the recipe."""
    noted = op.attributes.get(ALLOCATED_CACHE)
    if isinstance(noted, StringAttr):
        return KvCache.model_validate_json(noted.data)
    return overriding(recipe, name) or recipe.kv_cache


def overriding(recipe: Recipe, name: str) -> KvCache | None:
    """Return what the last override that matches says of an attention's keys and values, if one does."""
    found = [one.kv_cache for one in recipe.overrides if one.kv_cache is not None and one.matches(name)]
    return found[-1] if found else None


def refuse_unmatched(recipe: Recipe, names: Mapping[AttentionOp, str]) -> None:
    """Refuse overrides of keys and values that match no attention."""
    known = list(dict.fromkeys(names.values()))
    hint = f"attentions are named like '{known[0]}'" if known else "the model has no attention"
    problems = [
        Problem(f"overrides: {one.match}", "has a kv_cache and matches no attention", hint)
        for one in recipe.overrides
        if one.kv_cache is not None and not any(map(one.matches, known))
    ]
    if problems:
        raise RecipeError(f"the recipe does not fit {len(problems)} places of the model", problems)


def _wanted(names: Mapping[AttentionOp, str], schemes: Mapping[AttentionOp, KvCache]) -> list[_Wanted]:
    found: list[_Wanted] = []
    for op, scheme in schemes.items():
        name = names[op]
        tensors: list[tuple[int, CacheTensor]] = [(1, scheme.key_scheme), (2, scheme.value_scheme)]
        for index, one in tensors:
            if not one.is_float:
                found.append(_Wanted(op, index, name, one.qtype(), scheme.window, cache_of(op.operands[index])))
    return found


def _refuse(wanted: Sequence[_Wanted]) -> None:
    unproved = [Problem(one.where, one.cache) for one in wanted if isinstance(one.cache, str)]
    if unproved:
        raise UnsupportedOp(f"{len(unproved)} caches cannot be held as codes", unproved, fix=KEEP_IN_BUFFERS)
    problems: list[Problem] = []
    schemes: dict[SSAValue, _Wanted] = {}
    for one in wanted:
        first = schemes.setdefault(one.value, one)
        if (first.qtype, first.window) != (one.qtype, one.window):
            what = f"are those of {first.where}, and the recipe keeps them in another format there"
            problems.append(Problem(one.where, what, "give both attentions the same kv_cache"))
        if isinstance(one.cache, Cache) and (short := _too_short(one, one.cache)):
            problems.append(Problem(one.where, short, "use fewer tokens a group, or axis: token"))
    if problems:
        raise RecipeError(f"kv_cache does not fit {len(problems)} places of the model", problems)


def _too_short(one: _Wanted, cache: Cache) -> str:
    tokens, group = type_of(cache.state.result).shape[2].constant or 0, tokens_a_group(one.qtype)
    if group <= tokens:
        return ""
    return f"a cache of {tokens} tokens never fills a group of {group}"


class _Rewriter:
    """Rewrites one module; keys that several attentions read are kept once."""

    def __init__(self, store: WeightStore | None) -> None:
        self._store = store
        self._made: dict[SSAValue, SSAValue] = {}

    def rewrite(self, one: _Wanted) -> None:
        """Let attention read what a cache of the format gives."""
        value = one.value
        if value not in self._made:
            self._made[value] = self._held(one, one.cache) if isinstance(one.cache, Cache) else _rounded(one)
        one.attention.operands[one.index] = self._made[value]
        if isinstance(one.cache, Cache) and not any(isinstance(use.operation, AttentionOp) for use in value.uses):
            for op in (one.cache.update, one.cache.write, one.cache.state):
                Rewriter.erase_op(op)

    def _held(self, one: _Wanted, cache: Cache) -> SSAValue:
        kind = type_of(cache.state.result)
        parts = cache_parts(kind.shape, one.qtype, one.window, kind.scalar)
        states = {f"{cache.state.key.data}.{name}": part for name, part in parts.items()}
        self._begin(cache.state.key.data, states, one.where)
        entered = [StateOp(key, part) for key, part in states.items()]
        Rewriter.insert_op(entered, InsertPoint.before(cache.state))
        append = CacheAppendOp(cache.write.source, cache.positions, entered, one.qtype, window=one.window)
        read = CacheReadOp(cache.positions, append.outputs, kind, one.qtype, window=one.window)
        for op in (append, read):
            set_location(op, location_of(cache.write))
        Rewriter.insert_op([append, read], InsertPoint.before(cache.write))
        updates = [UpdateStateOp(key, value) for key, value in zip(states, append.outputs, strict=True)]
        Rewriter.insert_op(updates, InsertPoint.before(cache.update))
        return read.result

    def _begin(self, key: str, states: Mapping[str, TensorType], where: str) -> None:
        """Give the parts their first values: a cache of zeros is empty."""
        store = self._store
        if store is None or key not in store:
            return
        import torch  # stays out of the import of the pass

        from qcc.numerics.torch_dtypes import TORCH_DTYPES

        if bool((store.tensor(key) != 0).any()):
            problem = Problem(where, f"the buffer '{key}' does not begin as zeros", "start with an empty cache")
            raise UnsupportedOp("a cache that is not empty cannot be held as codes", [problem])
        del store[key]
        for name, kind in states.items():
            shape = kind.static_shape
            assert shape is not None  # proved: the buffer has a fixed shape
            store[name] = torch.zeros(shape, dtype=TORCH_DTYPES[kind.scalar])


def _rounded(one: _Wanted) -> SSAValue:
    op = CacheRoundOp(one.value, one.qtype, window=one.window)
    set_location(op, location_of(one.attention))
    owner = one.value.owner
    at = InsertPoint.after(owner) if isinstance(owner, Operation) else InsertPoint.at_start(owner)
    Rewriter.insert_op(op, at)
    return op.result
