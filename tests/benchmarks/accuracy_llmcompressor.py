"""Put llm-compressor's GPTQ beside the recipes of the same formats, in a file that `accuracy.py` has written.

    python tests/benchmarks/accuracy_llmcompressor.py docs/benchmarks/accuracy.json

In an environment of its own, since llm-compressor asks for older versions of what qcc uses: the same model, the same
samples and the same text, weights of 4 and 3 bits with zero points in groups of 64 columns, the head included.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import BPE

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from accuracy_models import Decoder
from accuracy_rows import PERPLEXITY, Row, keep, kept_rows

from tests import tiny_llama

GROUP = 64


def quantized(model: Any, bits: int, samples: int) -> Any:
    """Quantize the weights of all linear layers in place by GPTQ."""
    oneshot = import_module("llmcompressor").oneshot
    modifier = import_module("llmcompressor.modifiers.gptq").GPTQModifier
    weights = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP}
    groups = {"all": {"targets": ["Linear"], "weights": {**weights, "observer": "mse"}}}
    windows = tiny_llama.windows("calibration", samples)
    rows = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in windows]
    oneshot(
        model=model,
        dataset=torch.utils.data.DataLoader(rows, batch_size=1),  # type: ignore[arg-type]
        # bytes are tokens as they are, but a tokenizer has to be given
        processor=transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE())),
        recipe=modifier(config_groups=groups, ignore=[]),
        num_calibration_samples=samples,
        max_seq_length=tiny_llama.LENGTH,
    )
    return model


def rows_of(model: Decoder, known: dict[tuple[str, str, str, str | None], Row]) -> list[Row]:
    """Measure 4 and 3 bits on a model whose own rows are known."""
    rows: list[Row] = []
    for bits in (4, 3):
        own = known.get((model.name, f"gptq-w{bits}", PERPLEXITY, None))
        if own is None:
            continue
        module = quantized(tiny_llama.loaded(outliers=model.outliers), bits, model.samples)
        with torch.no_grad():
            value = model.judge(lambda inputs, module=module: module(input_ids=inputs["input_ids"]).logits)
        name = f"llm-compressor GPTQ, group {GROUP}, {bits + (16 + bits) / GROUP:g} bits"
        rows.append(replace(own, peer=name, peer_value=value))
    return rows


def main() -> None:
    """Measure, and add the rows to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    arguments = parser.parse_args()
    known = {row.key: row for row in kept_rows(arguments.json)}
    for outliers in (False, True):
        found = rows_of(Decoder(outliers, 32), known)
        keep(arguments.json, found)
        print(*found, sep="\n")


if __name__ == "__main__":
    main()
