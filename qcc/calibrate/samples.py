"""Calibration samples as people have them: argument tuples in Python, files of named inputs, lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qcc.calibrate.run import Sample
from qcc.calling import Signature, flatten_arguments
from qcc.errors import CheckpointError, Problem, QccError, ShapeError
from qcc.ir.program import ProgramOp
from qcc.ir.types import type_of
from qcc.numerics.torch_dtypes import TORCH_DTYPES

_SHOWN = 8


def samples_from_arguments(signature: Signature, calls: Iterable[Any]) -> list[Sample]:
    """Return the samples of calls: tuples of positional arguments, or dicts of keyword arguments.

    What can be iterated only once is held as a whole; the tensors themselves are not copied.

    Raises:
        ShapeError: listing the calls that are not the exported one.
        QccError: if there is no call.
    """
    samples: list[Sample] = []
    problems: list[Problem] = []
    for number, call in enumerate(calls, 1):
        try:
            samples.append(_flat(signature, call))
        except ShapeError as error:
            found = error.problems or (Problem("", error.message),)
            problems += [Problem(f"sample {number}", str(one).split("\n")[0], one.fix) for one in found]
    if problems:
        raise ShapeError(f"{len(problems)} things in the calibration do not fit the exported call", problems[:_SHOWN])
    if not samples:
        raise QccError("the calibration has no samples", fix="give at least one tuple of arguments")
    return samples


def _flat(signature: Signature, call: Any) -> Sample:
    if isinstance(call, Mapping):
        return flatten_arguments(signature, (), call)
    if isinstance(call, Tensor) or not isinstance(call, Sequence) or isinstance(call, str):
        what = f"is a {type(call).__name__}"
        raise ShapeError("", [Problem("", what, "give a tuple of arguments, or a dict of keyword arguments")])
    return flatten_arguments(signature, call, {})


@dataclass(frozen=True, eq=False)
class FileSamples(Sequence[Sample]):
    """Samples of a file of named inputs with a leading sample axis; each is read when it is asked for.

    `joined` are the inputs whose own first axis is the sample axis: a sample keeps it, of length 1.
    """

    length: int
    read: Callable[[str, int], Tensor]
    dtypes: Mapping[str, torch.dtype]
    joined: frozenset[str]

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self.length))]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {name: self._tensor(name, index) for name in self.dtypes}

    def _tensor(self, name: str, index: int) -> Tensor:
        tensor = self.read(name, index).to(self.dtypes[name])
        return tensor[None] if name in self.joined else tensor


def samples_from_file(path: Path, program: ProgramOp, tokenizer_folder: Path | None = None) -> Sequence[Sample]:
    """Read a `.safetensors` or `.npz` of named inputs with a leading sample axis, or a text file, a sample a line.

    Text needs `tokenizer_folder`, a Hugging Face folder. An input whose first axis may be of length 1 may lack that
    axis in the file: its samples are then stacked along it.

    Raises:
        CheckpointError: if the file cannot be read.
        ShapeError: listing the inputs that are missing, unknown, or do not fit the program.
        QccError: if the file has no samples, or is text where no tokenizer is.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file", fix="give a .safetensors, .npz or text file of samples")
    if path.suffix == ".safetensors":
        return _from_named(path, program, *_open_safetensors(path))
    if path.suffix == ".npz":
        return _from_named(path, program, *_open_npz(path))
    if tokenizer_folder is None:
        raise QccError(
            f"{path}: text needs the tokenizer of a Hugging Face folder, and the model is not one",
            fix="give a .safetensors or .npz of named inputs with a leading sample axis",
        )
    from qcc.calibrate.text import samples_from_text  # transformers is optional

    return samples_from_text(path, program, tokenizer_folder)


Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
Read = Callable[[str, int], Tensor]


def _open_safetensors(path: Path) -> tuple[Shapes, Read]:
    try:
        file: Any = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    slices = {name: file.get_slice(name) for name in file.keys()}
    shapes = {name: (tuple(one.get_shape()), one[:0].dtype) for name, one in slices.items() if one.get_shape()}
    shapes |= {name: ((), torch.float32) for name, one in slices.items() if not one.get_shape()}
    return shapes, lambda name, index: slices[name][index]


def _open_npz(path: Path) -> tuple[Shapes, Read]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable .npz of arrays ({error})") from error
    shapes = {name: (tuple(one.shape), one.dtype) for name, one in arrays.items()}
    return shapes, lambda name, index: arrays[name][index]


def _from_named(path: Path, program: ProgramOp, shapes: Shapes, read: Read) -> FileSamples:
    kinds = {name: type_of(one) for name, one in zip(program.input_names, program.body.block.args, strict=True)}
    problems = list(_name_problems(set(shapes), set(kinds)))
    joined: set[str] = set()
    dtypes: dict[str, torch.dtype] = {}
    for name in (name for name in kinds if name in shapes):
        (shape, dtype), kind = shapes[name], kinds[name]
        dtypes[name] = TORCH_DTYPES[kind.scalar]
        if dtype.is_floating_point and not dtypes[name].is_floating_point:
            problems.append(Problem(f"input '{name}'", f"holds {dtype}, the program takes {dtypes[name]}"))
        if len(shape) == kind.rank and kind.rank and kind.shape[0].constant in (None, 1):
            joined.add(name)
        elif len(shape) != kind.rank + 1:
            what = f"has {len(shape)} axes; a sample axis and those of {kind} make {kind.rank + 1}"
            problems.append(Problem(f"input '{name}'", what))
    lengths = {name: shapes[name][0][0] for name in dtypes if shapes[name][0]}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        problems.append(Problem("sample axis", f"the inputs have different numbers of samples: {found}"))
    if problems:
        raise ShapeError(f"{path}: the samples do not fit the program", problems)
    count = next(iter(lengths.values()), 0)
    if not count:
        raise QccError(f"{path}: has no samples", fix="give at least one")
    return FileSamples(count, read, dtypes, frozenset(joined))


def _name_problems(given: set[str], wanted: set[str]) -> Iterator[Problem]:
    for name in sorted(wanted - given):
        yield Problem(f"input '{name}'", "is missing", f"the file has: {', '.join(sorted(given)) or 'nothing'}")
    for name in sorted(given - wanted):
        yield Problem(f"input '{name}'", "is unknown", f"the program takes: {', '.join(sorted(wanted))}")
