"""Lines of text as calibration samples, by the tokenizer of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qcc.calibrate.run import Sample
from qcc.errors import CheckpointError, Problem, QccError, ShapeError
from qcc.ir.dims import UNBOUNDED
from qcc.ir.program import ProgramOp
from qcc.ir.types import TensorType, type_of

_FROM_TOKENIZER = ("input_ids", "attention_mask", "token_type_ids")
_POSITIONS = ("cache_position", "position_ids")


def samples_from_text(path: Path, program: ProgramOp, folder: Path) -> list[Sample]:
    """Return a sample for every line that is not blank, cut to what the program and the tokenizer take.

    Raises:
        CheckpointError: if the folder has no tokenizer, or the file is no text in UTF-8.
        ShapeError: listing the inputs of the program that text does not give.
        QccError: if no line is left.
    """
    kinds = {name: type_of(one) for name, one in zip(program.input_names, program.body.block.args, strict=True)}
    if "input_ids" not in kinds or set(kinds) - {*_FROM_TOKENIZER, *_POSITIONS}:
        names = sorted(set(kinds) - {*_FROM_TOKENIZER, *_POSITIONS}) or ["input_ids"]
        what = "cannot be made from text" if "input_ids" in kinds else "is missing, and text gives nothing else"
        problems = [Problem(f"input '{name}'", what) for name in names]
        fix = "give a .safetensors or .npz of named inputs with a leading sample axis"
        raise ShapeError("the program does not take text", problems, fix=fix)
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a text file in UTF-8 ({error})") from error
    if not lines:
        raise QccError(f"{path}: has no samples", fix="write one sample a line")
    tokenizer = _tokenizer(folder)
    length, fixed = _length(program, kinds["input_ids"], int(tokenizer.model_max_length))
    padding = "max_length" if fixed else False
    return [_sample(tokenizer(line, truncation=True, max_length=length, padding=padding), kinds) for line in lines]


def _tokenizer(folder: Path) -> Any:
    try:
        import transformers

        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise CheckpointError(f"{folder}: text needs transformers ({error})", fix="pip install transformers") from error
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: has no tokenizer that can be loaded ({error})",
            fix="give a .safetensors or .npz of named inputs with a leading sample axis",
        ) from error


def _length(program: ProgramOp, kind: TensorType, limit: int) -> tuple[int, bool]:
    """Return the most tokens of a sample, and whether every sample must have as many."""
    dim = kind.shape[-1]
    if dim.constant is not None:
        return dim.constant, True
    bounds = [program.symbol_ranges[name][1] for name in dim.symbols]
    return min([limit, *(bound for bound in bounds if bound < UNBOUNDED)]), False


def _sample(encoding: Any, kinds: dict[str, TensorType]) -> Sample:
    sample: dict[str, Tensor] = {}
    count = len(encoding["input_ids"])
    for name, kind in kinds.items():
        row = torch.arange(count) if name in _POSITIONS else torch.tensor(encoding.get(name, [0] * count))
        sample[name] = row.expand(*(1 for _ in range(kind.rank - 1)), count).contiguous()
    return sample
