"""Train a small Llama on the source text of Python's standard library, byte by byte, on a CPU.

    python examples/train_tiny_llama.py --output tiny-llama --minutes 30

Grouped-query attention, rotary embeddings, RMSNorm and a gated MLP, 4.5 million parameters: small enough to train here,
real enough that what quantization costs is a perplexity and not a guess. Files are held out by the hash of their path;
`held_out` gives their text. The folder is one that transformers and qcc read (`config.json`, `model.safetensors` in
float16), with `card.json`: data, steps and perplexity. A run that was stopped goes on from `training.safetensors`
in the folder. Needs transformers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

BYTES = 256
"""The vocabulary: tokens are bytes."""

HELD_OUT_SHARE = 16
"""One file in so many is held out."""


@dataclass(frozen=True)
class Schedule:
    """Tokens of a row, rows of a step, learning rate at its peak, steps of warm-up, and steps to the end."""

    length: int = 256
    rows: int = 32
    rate: float = 1.5e-3
    warm_up: int = 100
    steps: int = 4000


def source_files() -> list[Path]:
    """Return the source files of the standard library but its tests, sorted."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
    return sorted(path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts))


def is_held_out(path: Path) -> bool:
    """Say whether a file is kept from training, by the hash of its path in the library."""
    name = path.relative_to(sysconfig.get_paths()["stdlib"]).as_posix()
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_SHARE == 0


def text_of(files: list[Path]) -> torch.Tensor:
    """Return the bytes of files, one after another, as int64 tokens."""
    joined = b"\n".join(path.read_bytes() for path in files)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()


def training_text() -> torch.Tensor:
    """Return the tokens that the model is trained on."""
    return text_of([path for path in source_files() if not is_held_out(path)])


def held_out() -> torch.Tensor:
    """Return the tokens of the files that the model has not seen."""
    return text_of([path for path in source_files() if is_held_out(path)])


def configuration(length: int = Schedule.length) -> LlamaConfig:
    """Return the shape of the model: 6 layers of 256 channels, 8 heads that share 4 keys and values.

    It knows as many positions as the rows it is trained on have.
    """
    return LlamaConfig(
        vocab_size=BYTES,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def perplexity(model: LlamaForCausalLM, tokens: torch.Tensor, length: int, rows: int) -> float:
    """Return the perplexity per byte over `rows` windows of `length` tokens, at even distances over the text."""
    starts = torch.linspace(0, len(tokens) - length, rows).long()
    windows = torch.stack([tokens[start : start + length] for start in starts.tolist()])
    total, count = 0.0, 0
    for window in windows.split(16):
        with torch.inference_mode():
            scores = model(input_ids=window).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), window[:, 1:].flatten(), reduction="sum")
        total, count = total + float(loss), count + window[:, 1:].numel()
    return math.exp(total / count)


def rate_at(step: int, schedule: Schedule) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine down to a tenth."""
    if step < schedule.warm_up:
        return schedule.rate * (step + 1) / schedule.warm_up
    done = (step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
    return schedule.rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def batch_of(tokens: torch.Tensor, schedule: Schedule, step: int) -> torch.Tensor:
    """Return the rows of a step, chosen by its number alone: a run that goes on sees what an unbroken one does."""
    chance = torch.Generator().manual_seed(step)
    starts = torch.randint(len(tokens) - schedule.length - 1, (schedule.rows,), generator=chance)
    return torch.stack([tokens[start : start + schedule.length] for start in starts.tolist()])


class Trainer:
    """The model, its optimiser, and the step it stands at; kept in one file without pickle."""

    def __init__(self, folder: Path, schedule: Schedule) -> None:
        torch.manual_seed(0)
        self.schedule, self.path, self.step = schedule, folder / "training.safetensors", 0
        self.model = LlamaForCausalLM(configuration())
        decayed = [one for one in self.model.parameters() if one.dim() > 1]
        others = [one for one in self.model.parameters() if one.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.95))
        if self.path.is_file():
            self._resume()

    def _moments(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, one in self.model.named_parameters():
            state = self.optimiser.state[one]
            found |= {f"moment.{kind}.{name}": state[kind] for kind in ("exp_avg", "exp_avg_sq")}
        return found

    def keep(self) -> None:
        """Write everything that the next run needs, aside and renamed."""
        held = {f"model.{name}": one.detach() for name, one in self.model.named_parameters()} | self._moments()
        aside = self.path.with_suffix(".partial")
        save_file(held, str(aside), metadata={"step": str(self.step)})
        aside.replace(self.path)

    def _resume(self) -> None:
        from safetensors import safe_open

        held = load_file(str(self.path))
        with safe_open(str(self.path), "pt") as opened:
            self.step = int(opened.metadata()["step"])
        for name, one in self.model.named_parameters():
            one.data.copy_(held[f"model.{name}"])
            state = {kind: held[f"moment.{kind}.{name}"] for kind in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[one] = {"step": torch.tensor(float(self.step)), **state}

    def advance(self, tokens: torch.Tensor) -> float:
        """Take one step and return its loss, in nats per byte."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, self.schedule)
        rows = batch_of(tokens, self.schedule, self.step)
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.model(input_ids=rows).logits
        loss = torch.nn.functional.cross_entropy(scores[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())


def write_model(trainer: Trainer, folder: Path) -> dict[str, object]:
    """Write the model in float16 with its card, and return the card; perplexity is that of the float16 weights."""
    model = LlamaForCausalLM(configuration()).eval()
    model.load_state_dict({name: one.half().float() for name, one in trainer.model.state_dict().items()})
    unseen, length = held_out(), trainer.schedule.length
    card: dict[str, object] = {
        "model": "byte-level Llama, 6 layers, 256 channels, 8 heads, 4 key and value heads",
        "parameters": sum(one.numel() for one in model.parameters()),
        "data": f"standard library of Python {sys.version.split()[0]} without its tests",
        "held out": f"files whose path's SHA-256 starts with a byte divisible by {HELD_OUT_SHARE}",
        "held-out bytes": len(unseen),
        "steps": trainer.step,
        "tokens": trainer.step * trainer.schedule.rows * trainer.schedule.length,
        f"held-out perplexity per byte, 128 windows of {length}": round(perplexity(model, unseen, length, 128), 4),
    }
    model.half().save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return card


def main() -> None:
    """Train for some minutes or to the last step, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many; a later run goes on")
    parser.add_argument("--steps", type=int, default=Schedule.steps, help="the length of the schedule")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.output, Schedule(steps=arguments.steps))
    tokens, start = training_text(), time.perf_counter()
    while trainer.step < arguments.steps and time.perf_counter() - start < arguments.minutes * 60:
        loss = trainer.advance(tokens)
        if trainer.step % 50 == 0:
            trainer.keep()
            print(f"step {trainer.step}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    trainer.keep()
    for key, value in write_model(trainer, arguments.output).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
