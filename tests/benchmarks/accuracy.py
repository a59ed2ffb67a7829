"""How much of a trained model survives each recipe.

A byte-level Llama (`tests/data/tiny_llama`), as it was trained and with channels that are outliers: perplexity of
held-out text. all-MiniLM-L6-v2 on paragraphs of Python's language reference: mean cosine of the pooled embedding to the
float model's, and the rank correlation of the similarities of all pairs. torchao stands beside recipes of the same
formats. `--quick` takes few recipes and little text; `--json FILE` keeps the rows, and rows of the file that were not
measured again stay; `--model` and `--recipe` choose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from accuracy_models import Decoder, Encoder, Subject
from accuracy_peers import BESIDE_PEERS, BY_GPTQ, peer_rows
from accuracy_rows import Row, keep

from qcc.errors import QccError
from qcc.recipes.load import RecipeSource, load_recipe, recipe_names
from tests import minilm, tiny_llama

WIDE_GROUPS = ("qoq-w4a8kv4", "bitmod-w4", "trit-w3", "smoothquant-plus")
QUICK = ("w8a8", "w4a8", "gptq-w3")

GROUPED = "w8a8, activations in groups of 32"
GROUPED_SOLVED = "w8a8 by GPTQ, activations in groups of 32"
GROUPED_BOTH = "w8a8, all in groups of 32"


def _changed(name: str, **sections: object) -> RecipeSource:
    return {**load_recipe(name).model_dump(mode="json"), **sections}


def _head_in_float(name: str) -> RecipeSource:
    in_float = {"format": "f32"}
    return _changed(name, overrides=[{"match": "lm_head", "weights": in_float, "activations": in_float}])


def _in_groups_of_64(name: str) -> RecipeSource:
    """Return a recipe in groups that divide the 704 columns of the small Llama, where its own of 128 do not."""
    weights = load_recipe(name).weights
    whole = str(weights.qtype()).replace("(1,128)", "(1,64)")
    return _changed(name, weights={"format": whole, "solver": weights.solver})


def _in_blocks_of_32(name: str) -> RecipeSource:
    """Return a recipe whose blocks of channels divide the 704 columns of the small Llama, 256 of which are 8 blocks."""
    recipe = load_recipe(name)
    inputs = recipe.activations.format.replace("128)", "32)")
    return _changed(name, weights={"format": recipe.weights.format, "group": 32}, activations={"format": inputs})


def _solved(name: str, **sections: object) -> RecipeSource:
    """Return a recipe whose weights, in the same format, are chosen by GPTQ under scales of least squared error."""
    weights = load_recipe(name).weights.model_dump(mode="json")
    return _changed(name, weights={**weights, "clip": "mse", "solver": "gptq"}, **sections)


def _float_tables(label: str) -> RecipeSource:
    """Return a recipe that leaves embedding tables as they are, as other tools do."""
    name, in_float = label.split(",")[0], {"format": "f32"}
    if name.endswith(BY_GPTQ):
        return _solved(name.removesuffix(BY_GPTQ), embeddings=in_float)
    weights: dict[str, object] = {"weights": SOLVED_32} if name == "gptq-w4" else {}
    return _changed(name, embeddings=in_float, **weights)


ACTIVATIONS = {"format": "int8", "group": 32}
SOLVED_32 = {"format": "uint4", "group": 32, "clip": "mse", "solver": "gptq"}

OF_THEIR_OWN: dict[str, RecipeSource] = {
    GROUPED: _changed("w8a8", activations=ACTIVATIONS),
    GROUPED_SOLVED: _solved("w8a8", activations=ACTIVATIONS),
    GROUPED_BOTH: _changed("w8a8", activations=ACTIVATIONS, weights={"format": "int8", "group": 32}),
    **{f"{name}, groups of 64": _in_groups_of_64(name) for name in WIDE_GROUPS},
    "comet-w4a4, blocks of 32": _in_blocks_of_32("comet-w4a4"),
    "comet-w4a4, blocks of 32, all of 4 bits": _changed(
        "comet-w4a4", weights={"format": "int4", "group": 32}, activations={"format": "int4n | (1,32) f32 | dynamic"}
    ),
    **{label: _float_tables(label) for label in BESIDE_PEERS},
    "quarot-w4a4, head in float": _head_in_float("quarot-w4a4"),
    "mergequant-w4a4, head in float": _head_in_float("mergequant-w4a4"),
}
"""Recipes with settings of their own, by what rows call them; papers leave the head of a decoder in float."""

ENCODER_RECIPES = (
    "float", "w8", "w8a8", "w4", "w4a8", "gptq-w4a8", "rtn-w4", "gptq-w4", "rtn-w3", "gptq-w3", "spqr-w3",
    "rtn-w2", "decoupleq-w2", GROUPED, GROUPED_SOLVED, GROUPED_BOTH,
)  # fmt: skip

OUTLIER_RECIPES = ("float", "rtn-w4", "awq-w4", "gptq-w4")
"""What is measured with outliers beside all recipes that quantize activations."""


def _source_of(name: str) -> RecipeSource:
    return OF_THEIR_OWN[name] if name in OF_THEIR_OWN else name


def integer_targets_only(name: str) -> bool:
    """Say whether a recipe is for models in which every value is an integer: trained or calibrated on images."""
    recipe = load_recipe(name)
    return recipe.activations.format.startswith("int8n") or recipe.activations.format.startswith("int6n")


def subjects(*, quick: bool) -> list[Subject]:
    """Return the models that are there."""
    found: list[Subject] = []
    if tiny_llama.is_there():
        windows = 8 if quick else 32
        found += [Decoder(outliers, windows, windows) for outliers in ((False,) if quick else (False, True))]
    if minilm.folder() is not None:
        found.append(Encoder(40 if quick else 300))
    return found


def recipes_for(one: Subject, *, quick: bool) -> dict[str, RecipeSource]:
    """Return the recipes that a model is measured under, by what rows call them."""
    if quick:
        return {name: name for name in (QUICK[:2] if isinstance(one, Encoder) else QUICK)}
    if isinstance(one, Encoder):
        return {name: _source_of(name) for name in ENCODER_RECIPES}
    names = [name for name in recipe_names() if not integer_targets_only(name)]
    if isinstance(one, Decoder) and one.outliers:
        names = [name for name in names if name in OUTLIER_RECIPES or not load_recipe(name).activations.is_float]
    return {name: name for name in names} | OF_THEIR_OWN


def measured(one: Subject, recipes: dict[str, RecipeSource], say: Console) -> Iterable[list[Row]]:
    """Give the rows of a model, recipe by recipe, then those of its peers; what is refused is said and left out."""
    own: dict[str, Row] = {}
    for label, recipe in recipes.items():
        try:
            rows = one.measure(label, recipe)
        except QccError as error:
            say.print(f"{one.name}, {label}: {error}", highlight=False, markup=False)
            continue
        own |= {row.recipe: row for row in rows}
        yield rows
    if isinstance(one, Decoder):
        yield peer_rows(one, own)


def show(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    table = Table("model", "recipe", "bits per weight", "metric", "float", "value", "peer", "its value", box=None)
    for row in rows:
        peer = ("", "") if row.peer_value is None else (row.peer or "", f"{row.peer_value:.5f}")
        bits = f"{row.bits_per_weight:.3f}"
        table.add_row(row.model, row.recipe, bits, row.metric, f"{row.in_float:.5f}", f"{row.value:.5f}", *peer)
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", action="append", help="a model by its name in the table; may be repeated")
    parser.add_argument("--recipe", action="append", help="a recipe by name; may be repeated")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    console, rows = Console(), list[Row]()
    for one in subjects(quick=arguments.quick):
        if arguments.model is not None and one.name not in arguments.model:
            continue
        chosen = recipes_for(one, quick=arguments.quick)
        if arguments.recipe is not None:
            chosen = {name: _source_of(name) for name in arguments.recipe}
        for found in measured(one, chosen, Console(stderr=True)):
            rows += found
            if arguments.json is not None:
                keep(arguments.json, found)
            print(
                *(f"{row.model}: {row.recipe} {row.value:.5f}" for row in found), sep="\n", file=sys.stderr, flush=True
            )
    console.print(show(rows))


if __name__ == "__main__":
    main()
