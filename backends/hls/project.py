"""From a program to a project on disk: lower, fold, size, refuse, then write."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import Golden
from qcc.backends.hls import lower_boundary, lower_contract, lower_embedding, lower_rows, lower_shape
from qcc.backends.hls.aptypes import copy_headers
from qcc.backends.hls.design import Design, Graph, Port
from qcc.backends.hls.folding import (
    FULLNESS,
    Choices,
    all_choices,
    fastest,
    fold_within,
    join,
    refuse_interval,
    shortest_interval,
    slowest,
    total_cost,
)
from qcc.backends.hls.lint import check_unrolling, lint
from qcc.backends.hls.lowering import Lowering
from qcc.backends.hls.parts import smallest_holding
from qcc.backends.hls.rates import deepened, roomier
from qcc.backends.hls.render import memories_of, project_context, render_project, template_folder
from qcc.backends.hls.report import REPORT, SECTIONS, design_report, sections, summary_lines
from qcc.backends.hls.settings import HlsSettings
from qcc.backends.hls.simulate import least_depths, with_depths
from qcc.backends.hls.timing import Forecast, Timing, forecast
from qcc.backends.hls.units_port import NUMPY, with_ports
from qcc.errors import Problem, QccError, ShapeError, UnsupportedOp
from qcc.ir.program import StateOp, program_of
from qcc.ir.store import WeightStore

LOWERINGS = {
    **lower_boundary.LOWERINGS,
    **lower_contract.LOWERINGS,
    **lower_shape.LOWERINGS,
    **lower_rows.LOWERINGS,
    **lower_embedding.LOWERINGS,
}
"""The function that lowers each operation."""

ATTEMPTS = 6
"""Times that a design is folded anew for the interval asked for."""

SLACK = 1.1
"""How much longer than its busiest unit a frame may take before FIFOs are made deeper for speed."""

SKIP_FRAMES = 2
"""Frames more that skips are made to hold at most, where a frame rate asks for it."""

LARGE = 200_000
"""Reads and writes of a frame beyond which units are folded wider before skips get more room: that costs about the same
on a part, and trying how much room is enough takes seconds."""


@dataclass(frozen=True)
class Project:
    """A design with its depths, and what is predicted of it."""

    design: Design
    settings: HlsSettings
    timing: Timing


def plan_project(module: ModuleOp, store: WeightStore, settings: HlsSettings) -> Project:
    """Lower and fold a program, and size its FIFOs.

    Raises:
        UnsupportedOp: listing all operations without a unit, all layers too slow for the rate, or a part too small.
        QccError: for foldings that do not divide.
    """
    program = program_of(module)
    if any(isinstance(op, StateOp) for op in program.body.walk()):
        problem = Problem("the program", "keeps values between calls", "give them as inputs and outputs")
        raise UnsupportedOp("target hls takes programs without state", [problem])
    graph = Lowering(program, store).run(LOWERINGS)
    project = _plan(graph, settings)
    _check_fit(project.design, settings)
    return project


def _plan(graph: Graph, settings: HlsSettings) -> Project:
    """Fold for the interval asked for; where a run on paper takes longer, fold for less, a few times."""
    choices = all_choices(graph, settings.foldings)
    wanted = asked = settings.interval
    shortest, taken = shortest_interval(choices), 0
    for _ in range(ATTEMPTS):
        design = _fold(graph, choices, settings, asked)
        goal = wanted or int(design.interval * SLACK)
        last = design.interval <= shortest
        found = _sized_for(design, settings, goal, roomy=wanted is not None and (last or design.actions <= LARGE))
        interval = found.timing.interval
        if wanted is None or asked is None or interval <= wanted:
            return Project(found.design, settings, found.narrow())
        taken = min(taken, interval) if taken else interval
        if last:
            break
        asked = max(design.interval * wanted // interval, shortest)
    raise refuse_rate(taken, wanted)


def refuse_rate(taken: int, wanted: int | None) -> UnsupportedOp:
    """Make the refusal of a frame rate that units keep up with by themselves, but not together."""
    problem = Problem("the design", f"takes {taken} cycles a frame, {wanted} are asked for")
    return UnsupportedOp("the frame rate is not reached", [problem], fix="ask for fewer frames a second")


def _sized_for(design: Design, settings: HlsSettings, goal: int, *, roomy: bool) -> Forecast:
    """Return the design with the cheapest depths that reach an interval, or else with the quickest that the part holds.

    Beyond what it needs, a FIFO gets depth for what is read at once, and then, with `roomy`, skips get more.
    """
    plain = _sized(design)
    if plain.timing.interval <= goal:
        return plain
    deep = _sized(deepened(design))
    wider = [roomier(deep.design, frames) for frames in range(1, SKIP_FRAMES + 1)] if roomy else []
    rooms = [one for one in wider if one.streams != deep.design.streams and settings.part.holds(total_cost(one))]
    found = [plain, deep] if settings.part.holds(total_cost(deep.design)) else [plain]
    # depth never makes a frame later: where the deepest design misses the goal, the others need not be run
    widest = forecast(rooms.pop()) if rooms else found[-1]
    if widest.narrow(goal).interval <= goal:
        reaching = (one for one in chain(found, map(forecast, rooms)) if one.narrow(goal).interval <= goal)
        return next(reaching, widest)
    if settings.interval is None:
        plain.narrow(goal)
    return min([*found, widest], key=lambda one: one.timing.interval)


def _sized(design: Design) -> Forecast:
    sized = least_depths(design)
    deep = with_depths(design, sized.depths)
    return Forecast(deep, sized.work) if sized.on_time else forecast(deep)


def _fold(graph: Graph, choices: Choices, settings: HlsSettings, interval: int | None) -> Design:
    """Fold for an interval, or where none is asked for, as the part allows."""
    if interval is not None:
        folds = fold_within(graph, choices, interval)
        if folds is None:
            raise refuse_interval(choices, graph, interval)
    elif settings.foldings:
        folds = slowest(choices, graph)
    else:
        part = settings.part
        most = {"lut": part.lut, "ff": part.ff, "dsp": part.dsp, "bram18": part.bram18}
        folds = fastest(graph, choices, {name: FULLNESS * value for name, value in most.items()})
    return with_ports(join(graph, folds), settings.interface)


def _check_fit(design: Design, settings: HlsSettings) -> None:
    """Refuse a design that the part does not hold, naming the layers that take most."""
    cost, part = total_cost(design), settings.part
    if part.holds(cost):
        return
    over = {name: share for name, share in part.use(cost).items() if share > 1}
    worst = max(over, key=lambda name: over[name])
    heavy = sorted(design.nodes, key=lambda one: -getattr(one.node.unit.cost(one.fold), worst))[:3]
    other = smallest_holding(cost)
    fix = "ask for fewer frames a second" + (f", or use part {other.name}" if other else "")
    problems = [
        Problem(one.node.layer or one.node.name, f"takes {getattr(one.node.unit.cost(one.fold), worst):,.0f}", fix)
        for one in heavy
        if getattr(one.node.unit.cost(one.fold), worst)
    ]
    shares = ", ".join(f"{name.upper()} {share:.0%}" for name, share in over.items())
    raise UnsupportedOp(f"part {part.name} cannot hold the design by the estimate ({shares}); most {worst}:", problems)


def write_project(project: Project, golden: Golden | None, top: str, folder: Path) -> list[Path]:
    """Write the files of a project to a folder and return them.

    Raises:
        QccError: if the emitted text breaks a rule of `qcc.backends.hls.lint`; nothing is written then.
        ShapeError: listing every golden call whose tensors are not the program's.
        BuildError: if the headers for simulation are nowhere.
    """
    design = project.design
    report = design_report(design, project.settings, project.timing)
    context = {**project_context(design, top, project.settings, project.timing), "summary": summary_lines(report)}
    texts = render_project(design, context)
    problems = lint(texts) + [
        found for one in design.nodes for found in check_unrolling(one.node.name, one.fold.pe * one.fold.simd)
    ]
    if problems:
        raise QccError("emitted C++ breaks the rules of synthesis (a defect of qcc)", problems)
    data = golden_bytes(design, golden)
    folder.mkdir(parents=True)
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    source = template_folder()
    shutil.copytree(source / "qcc_hls", folder / "src" / "qcc_hls")
    for name in ("hls_stream.h", "ap_axi_sdata.h"):
        shutil.copyfile(source / name, folder / "sim" / name)
    copy_headers(folder / "ap_types")
    (folder / "weights").mkdir()
    for memory in memories_of(design):
        (folder / "weights" / f"{memory.name}.bin").write_bytes(memory.content())
    for name, content in zip(("tb_in.dat", "tb_gold.dat"), data, strict=True):
        (folder / "tb" / name).write_bytes(content)
    for name, content in ((REPORT, report), (SECTIONS, sections(report))):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def golden_bytes(design: Design, golden: Golden | None) -> tuple[bytes, bytes]:
    """Return all golden calls as the testbench reads them: inputs and outputs, frame after frame.

    Raises:
        ShapeError: listing every tensor that is missing or has another shape.
    """
    problems: list[Problem] = []
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for case in golden.models if golden else ():
        for call in case.calls:
            pairs = ((design.inputs, call.inputs), (design.outputs, call.outputs))
            for part, (ports, tensors) in zip(parts, pairs, strict=True):
                for port in ports:
                    found = tensors.get(port.name)
                    if found is None or tuple(found.shape) != port.shape:
                        shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
                        problems.append(Problem(f"{case.name}, {port.name}", f"is {shape}, not {port.shape}"))
                    else:
                        part.append(port_bytes(port, found))
    if problems:
        raise ShapeError("golden vectors do not fit the program", problems)
    return b"".join(parts[0]), b"".join(parts[1])


def port_bytes(port: Port, tensor: torch.Tensor) -> bytes:
    """Return a tensor as the testbench reads it: row-major, little-endian."""
    return tensor.detach().cpu().contiguous().numpy().astype(NUMPY[port.scalar]).tobytes()
