"""Compile a Llama to C, and let a standalone program decode text token by token.

Keys and values live in the program's session, so a call takes the new tokens and their positions and nothing else. The
model is small and has random weights, so its text means nothing; the program of a pretrained one differs in weights
only. Needs transformers, make and a C compiler. Run it with `python examples/tiny_llama_in_c.py --output llama.qcc`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import qcc
from qcc.frontend.static_cache import CachedCausalModel

CACHE = 64
PROMPT = [5, 17, 3, 88, 41]

DECODER = r"""/* Decode greedily: decode WEIGHTS COUNT TOKEN... prints COUNT tokens that follow the given ones. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

enum { VOCABULARY = @VOCABULARY@, CACHE = @CACHE@ };

/* Run `n` tokens that stand at `position`, and return the likeliest next one, or -1. */
static int64_t step(model_session_t *session, int64_t *tokens, int64_t n, int64_t position) {
    static int64_t positions[CACHE];
    static float logits[CACHE * VOCABULARY];
    if (n > CACHE) return -1;
    for (int64_t i = 0; i < n; i++) positions[i] = position + i;
    uint64_t bytes = (uint64_t)n * sizeof *tokens;
    model_tensor in[2] = {
        {.data = tokens, .bytes = bytes, .dtype = MODEL_I64, .rank = 2, .shape = {1, n}},
        {.data = positions, .bytes = bytes, .dtype = MODEL_I64, .rank = 1, .shape = {n}}};
    model_tensor out = {.data = logits, .bytes = sizeof logits, .dtype = MODEL_F32};
    if (model_run(session, in, 2, &out, 1) != MODEL_OK) {
        fprintf(stderr, "%s\n", model_error(session));
        return -1;
    }
    const float *last = logits + (n - 1) * VOCABULARY;
    int64_t best = 0;
    for (int64_t i = 1; i < VOCABULARY; i++)
        if (last[i] > last[best]) best = i;
    return best;
}

int main(int words, char **word) {
    char message[512];
    model_t *model;
    model_session_t *session;
    int64_t tokens[CACHE], n = words - 3, position = 0;
    if (n < 1 || n > CACHE) return 2;
    for (int64_t i = 0; i < n; i++) tokens[i] = atoll(word[i + 3]);
    if (model_open(word[1], &model, message, sizeof message) != MODEL_OK) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    if (model_session_create(model, 2, &session) != MODEL_OK) return 1;
    for (int count = atoi(word[2]); count > 0; count--) {
        int64_t next = step(session, tokens, n, position);
        if (next < 0) return 1;
        printf("%lld\n", (long long)next);
        position += n;
        n = 1;
        tokens[0] = next;
    }
    model_session_destroy(session);
    model_close(model);
    return 0;
}
"""


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


def compile_llama(model: transformers.LlamaForCausalLM, recipe: str, output: Path) -> qcc.Compiled:
    """Compile with a static cache: one program for the prompt and for each token after it."""
    dynamic = torch.export.Dim.DYNAMIC
    example = {"input_ids": torch.tensor([PROMPT]), "cache_position": torch.arange(len(PROMPT))}
    shapes = {"input_ids": {1: dynamic}, "cache_position": {0: dynamic}}
    cached = CachedCausalModel(model, CACHE).eval()
    return qcc.compile(cached, (), example, dynamic_shapes=shapes, recipe=recipe, output=output)


def build_decoder(project: Path, vocabulary: int, work: Path) -> Path:
    """Build the emitted library in a copy of its folder, and a decoder against it; returns the program."""
    source, program = work / "decode.c", work / "decode"
    source.write_text(DECODER.replace("@VOCABULARY@", str(vocabulary)).replace("@CACHE@", str(CACHE)), "utf-8")
    shutil.copytree(project, work / "project")
    subprocess.run(["make", "-s", "-C", str(work / "project"), "libmodel.so"], check=True)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I", "project", "-L", "project", "-lmodel"]
    line = ["cc", "decode.c", *flags, "-Wl,-rpath,$ORIGIN/project", "-o", "decode"]
    subprocess.run(line, cwd=work, check=True)
    return program


def decode_in_c(program: Path, weights: Path, count: int) -> list[int]:
    """Run the program without Python in reach; returns the tokens that it prints."""
    line = [str(program), str(weights), str(count), *map(str, PROMPT)]
    done = subprocess.run(line, env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def decode_in_python(compiled: qcc.Compiled, count: int) -> list[int]:
    """Decode with the artifact from Python."""
    found: list[int] = []
    step, positions = torch.tensor([PROMPT]), torch.arange(len(PROMPT))
    for place in range(count):
        logits = compiled.run({"input_ids": step, "cache_position": positions})["output"]
        step, positions = logits[:, -1].argmax(-1, keepdim=True), torch.tensor([len(PROMPT) + place])
        found.append(int(step))
    return found


def main() -> None:
    """Compile, build, decode, and compare with Python and with the float model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="keep the artifact here")
    parser.add_argument("--recipe", default="w8a8")
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    if not 1 <= arguments.tokens <= CACHE - len(PROMPT):
        raise SystemExit(f"the cache holds {CACHE} tokens, {len(PROMPT)} of them the prompt's")
    model: Any = llama()
    settings = {"max_new_tokens": arguments.tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = model.generate(torch.tensor([PROMPT]), **settings)[0, len(PROMPT) :].tolist()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = arguments.output or work / "llama.qcc"
        compiled = compile_llama(model, arguments.recipe, folder)
        print(compiled.summary())
        program = build_decoder(folder / "c", model.config.vocab_size, work)
        in_c = decode_in_c(program, folder / "c" / "weights.bin", arguments.tokens)
        print("the C program:", *in_c)
        same = next((i for i, (a, b) in enumerate(zip(in_c, wanted, strict=True)) if a != b), len(wanted))
        print(f"the first {same} of {len(wanted)} tokens are the float model's")
        if in_c != decode_in_python(compiled, arguments.tokens):
            raise SystemExit("the C program and Python disagree")
        print("Python, through the same library, gives the same tokens")


if __name__ == "__main__":
    main()
