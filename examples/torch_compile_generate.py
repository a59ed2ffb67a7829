"""Generate text with a Hugging Face Llama through `torch.compile(backend="qcc")`, and compare with torch.

The model is small and has random weights, so its text means nothing; a pretrained one takes the same lines. qcc is not
imported: installed, it is found by its name. Run it with `python examples/torch_compile_generate.py`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import transformers

SETTINGS = {"do_sample": False, "cache_implementation": "static", "eos_token_id": None, "pad_token_id": 0}


def llama() -> transformers.LlamaForCausalLM:
    """Return a Llama of two layers with random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=120,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return transformers.LlamaForCausalLM(config).eval()


def main() -> None:
    """Generate with torch, then with qcc, twice: the first call compiles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="w8a8")
    parser.add_argument("--tokens", type=int, default=24)
    arguments = parser.parse_args()
    model: Any = llama()
    prompt = torch.tensor([[5, 17, 3, 88, 41]])
    wanted = model.generate(prompt, max_new_tokens=arguments.tokens, **SETTINGS)
    model.forward = torch.compile(model.forward, backend="qcc", options={"recipe": arguments.recipe})
    seconds, found = list[float](), wanted
    for _ in range(2):
        start = time.perf_counter()
        found = model.generate(prompt, max_new_tokens=arguments.tokens, **SETTINGS)
        seconds.append(time.perf_counter() - start)
    same = int((found == wanted).int().cumprod(1).sum()) - prompt.shape[1]
    print(f"torch, float32: {wanted[0, prompt.shape[1] :].tolist()}")
    print(f"qcc, {arguments.recipe}:     {found[0, prompt.shape[1] :].tolist()}")
    print(f"the first {same} of {arguments.tokens} tokens agree; {seconds[0]:.1f} s, then {seconds[1]:.2f} s")


if __name__ == "__main__":
    main()
