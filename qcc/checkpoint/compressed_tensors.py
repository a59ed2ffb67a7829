"""Write a compressed-tensors checkpoint, which transformers and vLLM load.

The format says integer weights of 1 to 8 bits with a scale per output channel or per group of columns, symmetric or
with integer zero points, and int8 inputs with a scale per token, computed at run time. Codes and scales are those of
the artifact, bit for bit. Its readers choose the scales of inputs themselves, as 2 * amax / 255 where qcc takes
amax / 127, so their logits differ from the interpreter's by less than a step of the inputs' codes; with float inputs
they are equal but for the order of float sums.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from qcc.checkpoint.source import CONFIG, Entry, Source, is_plain_integer
from qcc.errors import Problem, UnsupportedOp
from qcc.numerics.pack import pack
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor

WEIGHTS = "model.safetensors"
PACKED, PLAIN, MIXED = "pack-quantized", "int-quantized", "mixed-precision"
WORD_BYTES = 4


@dataclass(frozen=True)
class _Scheme:
    """What the format says of a group of layers."""

    bits: int
    symmetric: bool
    group: int | None
    quantizes_inputs: bool

    @property
    def format(self) -> str:
        """How codes are stored: whole bytes only where both sides are int8, as the readers' integer kernels want it."""
        return PLAIN if self.quantizes_inputs and self.bits == 8 and self.symmetric and self.group is None else PACKED

    def group_json(self, targets: Sequence[str]) -> dict[str, Any]:
        """Return the group of the configuration that means these modules."""
        weights = _arguments(self.bits, self.symmetric, "channel" if self.group is None else "group", False)
        inputs = _arguments(8, True, "token", True) if self.quantizes_inputs else None
        return {
            "targets": list(targets),
            "weights": {**weights, "group_size": self.group},
            "input_activations": inputs,
            "output_activations": None,
            "format": self.format,
        }


def _arguments(bits: int, symmetric: bool, strategy: str, dynamic: bool) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": dynamic}


def write_compressed_tensors(entries: Sequence[Entry], source: Source, out: Path) -> list[str]:
    """Write the folder of a checkpoint; returns lines on what is not as in the artifact.

    Raises:
        UnsupportedOp: listing every layer whose formats the format cannot say.
    """
    dtype = _dtype(source)
    _refuse_unsayable(entries, dtype)
    tensors: dict[str, Tensor] = {}
    groups: dict[_Scheme, list[str]] = {}
    floats: list[str] = []
    messages: list[str] = []
    for entry in entries:
        module = entry.name.removesuffix(".weight")
        if not isinstance(entry.weight, QuantizedTensor):
            tensors[entry.name] = entry.weight.contiguous()
            floats += [module] if entry.weight.dim() == 2 else []
        elif entry.is_layer and not entry.is_read:
            scheme = _scheme(entry)
            groups.setdefault(scheme, []).append(module)
            tensors.update(_coded(module, entry.weight, scheme, dtype))
        else:
            tensors[entry.name] = dequantize(entry.weight, dtype).contiguous()
            messages.append(_float_message(entry))
    if source.config.get("tie_word_embeddings"):
        floats.append("lm_head")
    save_file(tensors, str(out / WEIGHTS), metadata={"format": "pt"})
    config = {**source.config, "quantization_config": _quantization_config(groups, floats)}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    for path in source.other_files():
        shutil.copyfile(path, out / path.name)
    return messages + _mixed_groups(entries)


def _mixed_groups(entries: Sequence[Entry]) -> list[str]:
    """Say which layers that read one value are in different schemes, which programs that fuse them cannot take."""
    members: dict[str, dict[str, _Scheme | None]] = {}
    for entry in entries:
        if entry.group:
            scheme = _scheme(entry) if isinstance(entry.weight, QuantizedTensor) else None
            members.setdefault(entry.group, {})[entry.name.removesuffix(".weight")] = scheme
    mixed = [", ".join(schemes) for schemes in members.values() if len(set(schemes.values())) > 1]
    return [f"{names}: read one value in different formats; vLLM, which fuses them, refuses that" for names in mixed]


def _float_message(entry: Entry) -> str:
    inputs = "; its inputs stay in float" if entry.activations is not None else ""
    return f"{entry.name}: a table, written in float with the values that its codes stand for{inputs}"


def _quantization_config(groups: dict[_Scheme, list[str]], floats: Sequence[str]) -> dict[str, Any]:
    formats = {scheme.format for scheme in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "config_groups": {
            f"group_{index}": scheme.group_json(modules) for index, (scheme, modules) in enumerate(groups.items())
        },
        "ignore": sorted(floats),
        "kv_cache_scheme": None,
    }


def _dtype(source: Source) -> torch.dtype:
    name = source.config.get("dtype") or source.config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _scheme(entry: Entry) -> _Scheme:
    assert isinstance(entry.weight, QuantizedTensor)
    qtype = entry.weight.qtype
    assert isinstance(qtype.decode, IntDecode)
    group = qtype.levels[0].block[-1]
    return _Scheme(qtype.decode.bits, qtype.zero is None, None if group == -1 else group, entry.activations is not None)


def _refuse_unsayable(entries: Sequence[Entry], dtype: torch.dtype) -> None:
    problems: list[Problem] = []
    for entry in entries:
        if not entry.is_layer or entry.is_read or not isinstance(entry.weight, QuantizedTensor):
            continue
        if not is_plain_integer(entry.weight, range(1, 9)):
            what = f"weights '{entry.weight.qtype}'"
            fix = "use int<k> or uint<k> with groups or rows"
            problems.append(Problem(entry.name, f"{what} cannot be said in compressed-tensors", fix))
        elif not _is_exact(entry.weight.scales[0], dtype):
            what = f"scales of {entry.weight.qtype.levels[0].dtype} are not exact in {dtype}, the model's dtype"
            problems.append(Problem(entry.name, what, "write scale: bf16 (or f16, as the model) in the recipe"))
        if entry.activations is not None and not _is_token_int8(entry.activations):
            what = f"inputs '{entry.activations}' cannot be said in compressed-tensors"
            fix = "use activations {format: int8, granularity: token, when: dynamic}, or f32"
            problems.append(Problem(entry.name, what, fix))
    if problems:
        raise UnsupportedOp(f"{len(problems)} reasons against this export", problems)


def _is_exact(scales: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(scales.to(dtype).double(), scales.double())


def _is_token_int8(qtype: QType) -> bool:
    decode = qtype.decode
    integers = isinstance(decode, IntDecode) and decode.signed and decode.bits == 8 and qtype.zero is None
    rows = len(qtype.levels) == 1 and qtype.levels[0].block == (1, -1)
    return integers and rows and qtype.when == "dynamic" and not qtype.sides


def _coded(module: str, weight: QuantizedTensor, scheme: _Scheme, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of one layer."""
    scales = weight.scales[0].to(dtype).reshape(weight.shape[0], -1).contiguous()
    if scheme.format == PLAIN:
        return {f"{module}.weight": weight.codes.to(torch.int8).contiguous(), f"{module}.weight_scale": scales}
    found = {
        f"{module}.weight_packed": _words(weight.codes, scheme.bits),
        f"{module}.weight_scale": scales,
        f"{module}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if weight.zero is not None:
        zero = weight.zero.reshape(weight.shape[0], -1)
        found[f"{module}.weight_zero_point"] = _words(zero.T.to(torch.uint8), scheme.bits).T.contiguous()
    return found


def _words(codes: Tensor, bits: int) -> Tensor:
    """Pack rows of codes, above the least one, into little-endian words: [R, C] to int32 [R, ceil(C * bits / 32)]."""
    octets = pack(codes.contiguous(), bits)
    missing = -octets.shape[-1] % WORD_BYTES
    return torch.nn.functional.pad(octets, (0, missing)).contiguous().view(torch.int32)
