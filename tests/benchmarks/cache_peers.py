"""Time torch's attention over caches of floats, in a process of its own.

A line of input is a JSON object with `layers, heads, kv_heads, dim, tokens, seconds`; a line of output maps names to
median milliseconds of one layer: writing the token's keys and values into the cache, and attention of one query.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from cpu_peers import median_ms
from torch.nn.functional import scaled_dot_product_attention


def attention_ms(job: dict[str, Any], dtype: torch.dtype) -> float:
    """Median time of a layer, over caches of as many layers as the job says."""
    layers, heads, kv_heads, dim, tokens = (job[key] for key in ("layers", "heads", "kv_heads", "dim", "tokens"))
    caches = torch.randn(layers, 2, 1, kv_heads, tokens, dim, dtype=dtype)
    query = torch.randn(1, heads, 1, dim, dtype=dtype)
    row = torch.randn(1, kv_heads, dim, dtype=dtype)

    def decode(_: int) -> None:
        for keys, values in caches:
            keys[:, :, tokens - 1] = row
            values[:, :, tokens - 1] = row
            scaled_dot_product_attention(query, keys, values, enable_gqa=heads != kv_heads)

    return median_ms(decode, 1, job["seconds"], layers)


@torch.no_grad()
def main() -> None:
    """Answer line by line."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        found = {"torch f32": attention_ms(job, torch.float32), "torch bf16": attention_ms(job, torch.bfloat16)}
        print(json.dumps({name: round(ms, 5) for name, ms in found.items()}), flush=True)


if __name__ == "__main__":
    main()
