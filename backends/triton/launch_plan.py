"""`launch.json`: what a project's kernels are, which cubin runs on which GPU, and how each is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from qcc.errors import CheckpointError

LAUNCH = "launch.json"
FORMAT = "qcc-triton"
VERSION = 1


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArgumentEntry(_Entry):
    """An argument: a pointer (`*fp16`) or a number (`i32`), what it is, and whether it is a multiple of 16."""

    name: str
    dtype: str
    what: str
    divisible: bool


class CubinEntry(_Entry):
    """A cubin: file, size, SHA-256 and 64-bit FNV-1a, what a launch needs, and what its machine code tells."""

    file: str
    bytes: int
    sha256: str
    fnv1a: int
    target: str
    ptx_version: str
    shared: int
    registers: int
    stack: int
    spills: int
    mma: str
    instructions_per_weight: float


class GridEntry(_Entry):
    """The programs of a launch: `ceil(channels / n)` by `ceil(tokens / m)` by `parts`; without n, tokens by 1 by 1."""

    channels: int | None
    tokens: int
    parts: int


class VariantEntry(_Entry):
    """A kernel cut into blocks: its constants, threads of a block, grid, and cubin by architecture."""

    constants: dict[str, int]
    threads: int
    stages: int
    grid: GridEntry
    cubins: dict[str, CubinEntry]


class KernelEntry(_Entry):
    """A kernel: what it computes, its source, its arguments in order, and its variants by name.

    After the arguments follow `scratch` null pointers.
    """

    what: str
    source: str
    symbol: str
    arguments: tuple[ArgumentEntry, ...]
    scratch: int
    variants: dict[str, VariantEntry]


class ChoiceEntry(_Entry):
    """A variant of a kernel, up to how many tokens it serves (None: any number), and the steps of K that it takes."""

    most_tokens: int | None
    kernel: str
    variant: str
    steps: int


class CallEntry(_Entry):
    """A place in the program that launches a kernel: `n` channels (0 row-wise), `k` columns.

    `weights` are names in the weights file by argument. `choices` are in ascending order of tokens; all take the
    arguments of `kernel`, and `steps` is what differs.
    """

    label: str
    kernel: str
    n: int
    k: int
    weights: dict[str, str]
    choices: dict[str, tuple[ChoiceEntry, ...]]


class WeightEntry(_Entry):
    """A tensor in the weights file: element type, shape, place and bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class ArchitectureEntry(_Entry):
    """An architecture: its compute capability, and whether its code runs on no other."""

    capability: int
    exact: bool


class LaunchPlan(_Entry):
    """What a project says of itself."""

    format: Literal["qcc-triton"] = FORMAT
    version: int = VERSION
    qcc: str
    triton: str
    name: str
    architectures: dict[str, ArchitectureEntry]
    kernels: dict[str, KernelEntry]
    calls: tuple[CallEntry, ...]
    weights: dict[str, WeightEntry]
    weights_sha256: str
    program_sha256: str

    def save(self, folder: Path) -> None:
        """Write the plan."""
        text = json.dumps(self.model_dump(mode="json"), indent=1)
        (folder / LAUNCH).write_text(text + "\n", "utf-8")

    @staticmethod
    def load(folder: Path) -> LaunchPlan:
        """Read a plan.

        Raises:
            CheckpointError: for a folder that holds none, or one that is damaged or of another version.
        """
        path = folder / LAUNCH
        try:
            data = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{folder}: holds no {LAUNCH}", fix="compile with --target triton") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})", fix="compile the model again") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CheckpointError(f"{path}: is no launch plan of qcc")
        if data.get("version") != VERSION:
            raise CheckpointError(
                f"{path}: version {data.get('version')}, this qcc reads version {VERSION}",
                fix="compile the model again",
            )
        try:
            return LaunchPlan.model_validate(data)
        except ValidationError as error:
            raise CheckpointError(f"{path}: is damaged ({str(error).splitlines()[0]})") from error
