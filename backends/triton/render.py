"""Print kernels as Triton source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from qcc.backends.templates import source_templates
from qcc.backends.triton.geometry import TILE_ROWS, geometry_of
from qcc.backends.triton.ptx import SEQUENCES, unpacking_of
from qcc.backends.triton.signature import masks_columns, needs_sums, signature
from qcc.backends.triton.spec import Combine, GemmSpec, KernelSpec, Requantize, RowSpec, Step, Unary

PTX_MODULE = "qcc_ptx"
"""Name of the module that the rendered kernels import."""

FUNCTIONS = {
    "relu": "tl.maximum(y, 0.0)",
    "silu": "y / (1.0 + tl.exp(-y))",
    "sigmoid": "1.0 / (1.0 + tl.exp(-y))",
    "tanh": "1.0 - 2.0 / (1.0 + tl.exp(2.0 * y))",
    "gelu": "0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))",
    "gelu_tanh": "y / (1.0 + tl.exp(-1.5957691216057308 * (y + 0.044715 * y * y * y)))",
}
"""Activation functions of the float32 value `y`."""


def kernel_name(spec: KernelSpec) -> str:
    """Name a kernel by everything that changes its source, as in `w4a8_g128_bias_gelu_f16`."""
    return _gemm_name(spec) if isinstance(spec, GemmSpec) else _row_name(spec)


def _gemm_name(spec: GemmSpec) -> str:
    words = [spec.plan, "row" if spec.group is None else f"g{spec.group}"]
    words += [] if spec.zero == "none" else ["zero" if spec.zero == "integer" else "half"]
    words += [] if spec.scale == "f16" else [f"s{spec.scale}"]
    words += {"tensor": ["static"], "group": [f"xg{spec.input_group}"]}.get(spec.input_scale, [])
    words += [] if spec.bias is None else ["bias" if spec.bias == spec.output else f"bias_{spec.bias}"]
    for step in spec.steps:
        words.append(step.tag)
        words += [step.dtype] if isinstance(step, Combine) and step.dtype != spec.output else []
    words += [spec.input] if not spec.integer and spec.input != spec.output else []
    return "_".join(
        [*words, spec.output, *([f"k{spec.step}"] if spec.step != 128 else []), *(["ragged"] if spec.ragged else [])]
    )


def _row_name(spec: RowSpec) -> str:
    words = ["rows"] if spec.norm == "none" else [spec.norm, *(["weight"] if spec.norm_weight else [])]
    words += ["bias"] if spec.norm_bias else []
    words += [] if spec.hadamard is None else [f"hadamard{spec.hadamard}"]
    words += {"none": [], "tensor": ["static"], "token": ["token"], "group": [f"g{spec.group}"]}[spec.scale]
    if spec.scale != "none" and (spec.low, spec.high) != (-128, 127):
        words.append(f"to{-spec.low}_{spec.high}")
    words += [] if spec.sums is None else [f"sums{spec.sums or ''}"]
    words += ["values"] if spec.values else []
    return "_".join([*words, spec.input, *(["ragged"] if spec.ragged else [])])


def kernel_source(spec: KernelSpec, origin: str = "") -> str:
    """Print the module of one kernel; `origin` is the IR that it came from, shown in its head."""
    if isinstance(spec, GemmSpec):
        return render("gemm.py.j2", _gemm_context(spec, origin))
    return render("rows.py.j2", _row_context(spec, origin))


def ptx_source() -> str:
    """Print the module `qcc_ptx`, which the kernels import."""
    return render("qcc_ptx.py.j2", {"sequences": list(SEQUENCES.values())})


def render(template: str, context: Mapping[str, object]) -> str:
    """Fill in a template of this backend; an unknown name is an error."""
    return source_templates(Path(__file__).parent / "templates", trim=True).get_template(template).render(context)


def _gemm_context(spec: GemmSpec, origin: str) -> dict[str, object]:
    geometry, unit = geometry_of(spec), _unit(spec)
    groups, planes = geometry.groups, geometry.planes
    return {
        "spec": spec,
        "name": kernel_name(spec),
        "title": _title(spec),
        "formula": _formula(spec),
        "about": _about(spec),
        "origin": origin,
        "arguments": signature(spec),
        "unpack": unpacking_of(spec),
        "names": [[f"w{part * planes + plane}" for plane in range(planes)] for part in range(geometry.parts)],
        "offsets": [_offsets(spec, part) for part in range(geometry.parts)],
        "tile": TILE_ROWS,
        "width": geometry.width,
        "parts": geometry.parts,
        "step": geometry.step,
        "planes": planes,
        "planes_of": geometry.planes_of,
        "groups": groups,
        "zeros": spec.zero == "integer",
        "sums": needs_sums(spec),
        "half": unit // 2,
        "masked": masks_columns(spec),
        "accumulator": "tl.int32" if spec.integer and spec.group is None else "tl.float32",
        "unit": unit,
        "unit_inverse": 1 / unit,
        "steps": [line for index, step in enumerate(spec.steps) for line in _step_lines(index, step)],
        "output": f"tl.{'int8' if spec.output == 'i8' else _float(spec.output)}",
        "at": _at,
        "input_scale_at": partial(_input_scale_at, spec),
    }


def _row_context(spec: RowSpec, origin: str) -> dict[str, object]:
    size = spec.hadamard or 1
    return {
        "spec": spec,
        "name": kernel_name(spec),
        "title": _row_title(spec),
        "about": _row_about(spec),
        "origin": origin,
        "arguments": signature(spec),
        "group": spec.group or spec.sums or 0,
        "real": f"tl.{_float(spec.input)}",
        "narrow": spec.input != "f32",
        "butterflies": [1 << stage for stage in range(size.bit_length() - 1)],
        "hadamard_scale": 1 / math.sqrt(size),
        "quantize": _quantize("q", "scale", spec.low, spec.high),
    }


def _quantize(value: str, scale: str, low: int, high: int) -> list[str]:
    """Print how `value`, divided by `scale`, is rounded to a code.

    Adding and taking off 1.5 * 2^23 rounds to the nearest integer, halves to even. A NaN becomes 0, and so
    does everything under a scale of 0.
    """
    return [
        f"{value} = tl.where(({value} == {value}) & ({scale} != 0.0), {value}, 0.0)",
        f"{value} = tl.minimum(tl.maximum({value}, {low}.0), {high}.0)",
        f"{value} = ({value} + 12582912.0) - 12582912.0",
    ]


def _unit(spec: GemmSpec) -> int:
    """What one step of a code is worth in the integer sums."""
    return 1 << (8 - spec.weight_bits) if spec.integer else 1


def _at(step: str, index: int) -> str:
    """Print ` + index * step`, leaving out what says nothing."""
    if index == 0:
        return ""
    if not step:
        return f" + {index}"
    return f" + {step}" if index == 1 else f" + {index} * {step}"


def _input_scale_at(spec: GemmSpec, first: str, index: int) -> str:
    """Print where the input's scale of the group `first + index` is."""
    if spec.group is None or spec.input_group is None:
        return ""
    place = first + _at("", index)
    ratio = spec.input_group // spec.group
    return place if ratio == 1 else f"({place}) // {ratio}"


def _offsets(spec: GemmSpec, part: int) -> list[str]:
    """Print the zero points of the planes of one block as the unpacking of floats takes them."""
    if spec.integer or spec.zero == "none":
        return []
    geometry, found = geometry_of(spec), list[str]()
    for plane in range(geometry.planes):
        group = (part * geometry.planes + plane) * geometry.groups // (geometry.planes * geometry.parts)
        odd = spec.input == "f16" and plane % 2
        found.append(f"(960.0 - zero{group})[:, None]" if odd else f"zero{group}[:, None]")
    return found


def _step_lines(index: int, step: Step) -> list[str]:
    match step:
        case Unary():
            return [f"y = {FUNCTIONS[step.function]}"]
        case Combine():
            return [f"y {'+' if step.function == 'add' else '*'}= {_operand(index, step)}"]
        case Requantize():
            return [
                "scale = tl.load(out_scale)",
                "y = tl.div_rn(y, scale + tl.zeros_like(y))",
                *_quantize("y", "scale", step.low, step.high),
            ]


def _operand(index: int, step: Combine) -> str:
    name = f"operand{index}"
    match step.shape:
        case "full":
            place = f"{name} + tokens.to(tl.int64)[None, :] * n + channels[:, None]"
            return f"tl.load({place}, mask=ok, other=0.0).to(tl.float32)"
        case "channel":
            return f"tl.load({name} + channels, mask=channel_ok, other=0.0).to(tl.float32)[:, None]"
        case "scalar":
            return f"tl.load({name}).to(tl.float32)"


def _float(dtype: str) -> str:
    return {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]


def _title(spec: GemmSpec) -> str:
    one = "a row" if spec.group is None else f"a row and {spec.group} columns"
    zero = {"none": "", "integer": " and zero point", "half": " on a mid-rise grid"}[spec.zero]
    inputs = "int8 inputs" if spec.integer else f"{_float(spec.input)} inputs"
    return f"Contract {inputs} with {spec.weight_bits}-bit weights: one {_float(spec.scale)} scale{zero} {one}."


def _formula(spec: GemmSpec) -> str:
    code = {"none": "code[n, k]", "integer": "(code[n, k] - zero)", "half": "(code[n, k] + 1/2)"}[spec.zero]
    text = f"scale * sum_k {code} * input[m, k]"
    text = text if spec.group is None else f"sum over groups of {text}"
    text = {"none": text, "token": f"input_scale[m] * {text}", "tensor": f"input_scale * {text}"}.get(
        spec.input_scale, text.replace("scale *", "input_scale * scale *")
    )
    text += " + bias[n]" if spec.bias is not None else ""
    for index, step in enumerate(spec.steps):
        match step:
            case Unary():
                text = f"{step.function}({text})"
            case Combine():
                text = f"({text}) {'+' if step.function == 'add' else '*'} operand{index}"
            case Requantize():
                text = f"clamp(round(({text}) / out_scale))"
    return f"out[m, n] = {text}"


def _about(spec: GemmSpec) -> str:
    text = "Weights are the left operand of the matrix instruction and tokens its columns, so that few tokens fill it. "
    if not spec.integer:
        return (
            f"{text}Codes less their zero points are exact in {_float(spec.input)}. Scales enter after the sums, in "
            "float32."
        )
    unit = _unit(spec)
    times = f", times {unit}: codes lie at the top of their bytes" if unit > 1 else ""
    return text + f"The sums of products of codes are exact int32{times}. Scales enter after them, in float32."


def _row_title(spec: RowSpec) -> str:
    parts = [] if spec.norm == "none" else [f"normalise ({spec.norm})"]
    parts += [] if spec.hadamard is None else [f"rotate (Hadamard {spec.hadamard})"]
    parts += [] if spec.scale == "none" else ["quantize to int8"]
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}: one program a row of {_float(spec.input)}."


def _row_about(spec: RowSpec) -> str:
    if spec.scale == "none":
        return "Everything is computed in float32."
    where = {"tensor": "one stored scale", "token": f"scale = max|row| / {spec.high}"}
    text = where.get(spec.scale, f"scale = max|{spec.group} columns| / {spec.high}")
    text = f"code = clamp(round(y / scale), {spec.low}, {spec.high}), halves to even, with {text}. "
    return text + "A code is 0 where y / scale is NaN. Rows of codes are filled up with zeros."
