"""Print a design as C++ from its templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import prod
from pathlib import Path

import numpy as np
from jinja2 import Environment

from qcc.backends.hls.design import Built, Design, Port, Stream, stored_of
from qcc.backends.hls.settings import HlsSettings
from qcc.backends.hls.steps import Array, element_type, numbers_text
from qcc.backends.hls.timing import Timing
from qcc.backends.hls.units import Fold
from qcc.backends.hls.units_matvec import Stored
from qcc.backends.hls.units_port import BYTES, NUMPY
from qcc.backends.templates import source_templates

HEADERS = {
    "matvec.h": ("matvec", "load", "matmul", "rescale"),
    "window.h": ("window", "reduce", "depthwise"),
    "elementwise.h": ("map", "join"),
    "rows.h": ("softmax", "norm"),
    "boundary.h": ("quantize", "dequantize"),
    "ports.h": ("enter", "leave"),
    "flow.h": ("reorder", "concat", "constant", "duplicate", "gearbox", "embedding"),
}
HEADER_OF = {kind: header for header, kinds in HEADERS.items() for kind in kinds}
"""The header that has the C++ template of every kind of unit."""


@dataclass(frozen=True)
class Memory:
    """Weights that are read over m_axi: the name of the port and the file, words, and lanes of 64 bits in a word."""

    name: str
    count: int
    lanes: int
    unit: Stored
    fold: Fold

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.count * self.lanes * 8

    def content(self) -> bytes:
        """Return the packed words, little-endian."""
        return self.unit.words(self.fold).astype("<u8").tobytes()


def template_folder() -> Path:
    """Return the folder of templates and headers."""
    return Path(str(resources.files("qcc.backends.hls"))) / "templates"


@cache
def _environment() -> Environment:
    environment = source_templates(template_folder())
    filters: dict[str, Callable[[Array], object]] = {
        "numbers": _numbers,
        "hexes": _hexes,
        "element_type": element_type,
        "anynonzero": _any_nonzero,
    }
    environment.filters.update(filters)  # pyright: ignore[reportArgumentType, reportCallIssue] - filters take anything
    return environment


def _numbers(values: Array) -> str:
    return numbers_text(np.asarray(values))


def _hexes(values: Array) -> str:
    return ", ".join(f"{int(one):#x}u" for one in values.tolist())


def _any_nonzero(values: Array) -> bool:
    return bool(np.any(values))


def memories_of(design: Design) -> list[Memory]:
    """Return the weights that are read from memory, in the order of the ports."""
    found: list[Memory] = []
    for built, unit in design.stored():
        fold = built.fold
        lanes = unit.word_lanes(fold)
        found.append(Memory(f"weights_{built.node.name}", unit.depth(fold), lanes, unit, fold))
    return found


def layer_text(design: Design, built: Built) -> str:
    """Return the header of one process."""
    node = built.node
    inputs, outputs = ([design.streams[name] for name in names] for names in (node.inputs, node.outputs))
    layer = f"layer {node.layer}" if node.layer else "no layer of the model: it joins two units"
    return _environment().get_template("layer.h.j2").render(
        name=node.name,
        title=f"{node.name}: {node.unit.template}, {layer}",
        note=f"folding {built.fold} (PE x SIMD), {built.cycles} cycles a frame",
        header=f"../qcc_hls/{HEADER_OF[node.unit.template]}",
        template=node.unit.template,
        inputs=inputs,
        outputs=outputs,
        **node.unit.context(built.fold),
    )  # fmt: skip


def _port(design: Design, port: Port) -> dict[str, object]:
    stream = design.streams[port.edge]
    return {
        "stream": stream.name, "port": port.name, "ctype": stream.ctype, "beats": stream.tokens, "bits": stream.bits,
        "numpy": NUMPY[port.scalar],
        "bytes": BYTES[port.scalar], "elements": prod(port.shape), "scalar": port.scalar, "shape": port.shape,
    }  # fmt: skip


def _arguments(design: Design, memories: Sequence[Memory]) -> str:
    ports = [*design.inputs, *design.outputs]
    streams = [design.streams[one.edge].argument for one in ports]
    return ", ".join([*streams, *(f"const qcc::lanes<{one.lanes}> *{one.name}" for one in memories)])


def _calls(design: Design) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []
    for built in design.nodes:
        node = built.node
        memory = [f"weights_{node.name}"] if stored_of(node.unit) is not None else []
        calls.append({"name": node.name, "arguments": [*memory, *node.inputs, *node.outputs]})
    return calls


def project_context(design: Design, top: str, settings: HlsSettings, timing: Timing) -> dict[str, object]:
    """Return what the templates of the project need."""
    memories = memories_of(design)
    inputs, outputs = ([_port(design, one) for one in ports] for ports in (design.inputs, design.outputs))
    ports = [*design.inputs, *design.outputs]
    fifos: list[Stream] = design.fifos
    return {
        "top": top,
        "part": settings.part.full_name,
        "clock": f"{settings.clock_ns:g}",
        "interval": timing.interval,
        "inputs": inputs,
        "outputs": outputs,
        "memories": [{"name": one.name, "words": one.count, "lanes": one.lanes} for one in memories],
        "arguments": _arguments(design, memories),
        "interface": settings.interface,
        **_linking(settings, ports, memories),
        "call": [
            *(one.edge + (".data()" if settings.interface == "memory" else "") for one in ports),
            *(f"{one.name}.data()" for one in memories),
        ],
        "fifos": fifos,
        "nodes": _calls(design),
        "in_bytes": sum(prod(one.shape) * BYTES[one.scalar] for one in design.inputs),
        "out_bytes": sum(prod(one.shape) * BYTES[one.scalar] for one in design.outputs),
    }


def _linking(settings: HlsSettings, ports: Sequence[Port], memories: Sequence[Memory]) -> dict[str, object]:
    """Return what connects the ports on a board: memory banks, and names of DMA engines."""
    kind, banks = settings.part.banks
    buffers = [one.edge for one in ports] if settings.interface == "memory" else []
    return {
        "bus_ports": [*buffers, *(one.name for one in memories)],
        "bank": kind,
        "banks": banks,
        "dmas": [f"`dma_{one.edge}`" for one in ports],
    }


MEMORY_FILES = {"host/xrt_host.cpp": "xrt_host.cpp.j2"}
"""Files of projects whose ports are memory, beside `PROJECT_FILES`: XRT moves buffers."""

PROJECT_FILES = {
    "src/{top}.h": "top.h.j2",
    "src/{top}.cpp": "top.cpp.j2",
    "tb/tb.cpp": "tb.cpp.j2",
    "sim/all.cpp": "all.cpp.j2",
    "Makefile": "Makefile.j2",
    "hls_config.cfg": "hls_config.cfg.j2",
    "run_hls.tcl": "run_hls.tcl.j2",
    "README.md": "README.md.j2",
    "connectivity.cfg": "connectivity.cfg.j2",
    "host/pynq_driver.py": "pynq_driver.py.j2",
}
"""Files of a project and their templates."""


def render_project(design: Design, context: Mapping[str, object]) -> dict[str, str]:
    """Return the text of every file that is printed, by its path inside the project."""
    files = {**PROJECT_FILES, **(MEMORY_FILES if context["interface"] == "memory" else {})}
    texts = {
        path.format(top=context["top"]): _environment().get_template(template).render(context)
        for path, template in files.items()
    }
    for built in design.nodes:
        texts[f"src/layers/{built.node.name}.h"] = layer_text(design, built)
    return texts
