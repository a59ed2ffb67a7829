"""What transforms chose by the values they saw: scales and orders of channels, kept so that they can be repeated.

A compilation records them, and the artifact holds them in one small file. Given again, the same transforms make of the
same float model the weights that codes were chosen for, without any samples. Names are `TRANSFORM.NUMBER`, counted in
the order of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qcc.errors import CheckpointError, QccError

CHOICES = "choices.safetensors"
"""The file of an artifact; none where nothing was chosen."""

_MODEL = "model"
"""Key of the file's metadata: digest of the float weights that the choices were made for."""


class Recording:
    """Lets transforms choose, and keeps what they chose."""

    def __init__(self) -> None:
        self._chosen: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._chosen)

    def choose(self, user: str, count: int, make: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
        """Give on what `make` gives, one after another, and keep each."""
        for index, one in enumerate(make()):
            self._chosen[f"{user}.{index}"] = one
            yield one

    def save(self, folder: Path, model: str) -> None:
        """Write the file into the folder of an artifact; `model` is the digest of the float weights."""
        # copies, since tensors that share memory cannot be written
        tensors = {name: one.contiguous().clone() for name, one in self._chosen.items()}
        save_file(tensors, str(folder / CHOICES), metadata={_MODEL: model})


class Replay:
    """Gives transforms what they chose before, and lets them look at nothing."""

    def __init__(self, chosen: dict[str, Tensor], model: str) -> None:
        self._chosen = chosen
        self.model = model

    def choose(self, user: str, count: int, make: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
        """Give what was chosen, one after another.

        Raises:
            QccError: if a transform asks for another number of tensors than it chose.
        """
        found = sum(name.rpartition(".")[0] == user for name in self._chosen)
        if found != count:
            raise QccError(f"'{user}' chooses for {count} places, and the artifact holds {found}")
        yield from (self._chosen[f"{user}.{index}"] for index in range(count))

    @staticmethod
    def load(folder: Path) -> Replay | None:
        """Read the file of an artifact, None if it has none.

        Raises:
            CheckpointError: if it is damaged.
        """
        path = folder / CHOICES
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}
                return Replay(found, (file.metadata() or {}).get(_MODEL, ""))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable file of tensors ({error})") from error
