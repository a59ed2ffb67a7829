"""Turn a program into a schedule: one straight line of kernel calls over views of buffers.

Each operation is lowered by one function of the tables `emit_*.LOWERINGS`. A function that cannot take its
operation raises `Refusal`; all refusals are collected and raised as one error before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.code_rows import CodeRows
from qcc.backends.cpu.fields import dtype, nd_fields, read, write
from qcc.backends.cpu.inplace import Uses, live_operations
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Call, Check, Schedule, Value
from qcc.backends.cpu.table_rows import TableRows
from qcc.backends.cpu.views import ONE, ZERO, Buffer, Rows, View, as_rows, collapse, dense
from qcc.backends.cpu.weights import Constants
from qcc.errors import Problem, UnsupportedOp
from qcc.ir.base import LAYER, location_of, show
from qcc.ir.dims import Dim, Shape, product
from qcc.ir.kernel import KernelOp, kernel_parts, origin_of
from qcc.ir.program import ProgramOp, UpdateStateOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.tensor import QuantizedTensor

MAX_RANK = 6
"""Axes that the strided kernels iterate over (QCC_RANK)."""


Table = Mapping[type[Operation], "Callable[[Lowering, Operation], None]"]
"""What lowers each operation."""


class Lowering:
    """The state of lowering one program: where every value is, and the schedule so far."""

    def __init__(self, program: ProgramOp, constants: Constants) -> None:
        self.program = program
        self.constants = constants
        self.schedule = Schedule()
        self.uses = Uses(program)
        self.views: dict[SSAValue, View] = {}
        self.joined: set[Operation] = set()
        self._table: Table = {}
        self._live = live_operations(program)
        self._problems: list[Problem] = []
        self.updated = {op.key.data for op in program.body.block.ops if isinstance(op, UpdateStateOp)}
        self.quantized: dict[SSAValue, QuantizedTensor] = {}
        self.plain_codes: dict[SSAValue, View] = {}
        self.code_rows: dict[tuple[SSAValue, int], CodeRows] = {}
        self.table_rows: dict[tuple[SSAValue, int, bool], TableRows] = {}
        self.pending: list[tuple[str, View]] = []
        self._comment = ""
        self._layer = ""
        for index, argument in enumerate(program.body.block.args):
            kind = type_of(argument)
            self.views[argument] = dense(Buffer("input", index), kind.scalar, kind.shape)

    def run(self, table: Table) -> Schedule:
        """Lower every operation that the outputs or the state depend on.

        Raises:
            UnsupportedOp: listing every operation that was refused.
        """
        self._table = table
        for op in self.program.body.block.ops:
            self.lower(op)
        if self._problems:
            raise UnsupportedOp(f"the CPU backend cannot take {len(self._problems)} operations", self._problems)
        return self.schedule

    def lower(self, op: Operation) -> None:
        """Lower one operation by the table, if something needs it; a refusal is noted and the next one goes on."""
        if op not in self._live:
            return
        self._comment = describe(op)
        outer, self._layer = self._layer, layer_of(op) or self._layer
        try:
            if (lower := self._table.get(type(op))) is None:
                raise Refusal("has no kernel", "lower it to other operations first")
            lower(self, op)
        except Refusal as refusal:
            where = f"{op.name} at {location_of(op) or show_results(op)}"
            self._problems.append(Problem(where, refusal.what, refusal.fix))
            self._invent_results(op)
        self._layer = outer

    def _invent_results(self, op: Operation) -> None:
        """Give a refused operation results of the right shape, so that later refusals are found as well."""
        for result in op.results:
            kind = type_of(result)
            self.views[result] = dense(Buffer("temp", -1), "f32" if kind.qtype else kind.scalar, kind.shape)

    def join(self, op: Operation) -> None:
        """Note that the call to come computes this operation of the kernel as well."""
        self.joined.add(op)
        self._comment += f"; {describe(op)}"

    def view(self, value: SSAValue) -> View:
        """Return where a plain value is, through the borders of kernels."""
        found = self.views.get(origin_of(value))
        if found is None:
            raise Refusal("reads quantized codes where plain numbers are needed", "put a qcc.dequantize before it")
        return found

    def temp(self, scalar: str, shape: Shape) -> View:
        """Make a row-major temporary."""
        return self.workspace(product(shape), scalar, shape)

    def workspace(self, elements: Dim, scalar: str, shape: Shape) -> View:
        """Make a temporary of a number of elements, seen as `shape`."""
        buffer = Buffer("temp", len(self.schedule.temps))
        view = dense(buffer, scalar, shape)
        self.schedule.temps[buffer] = elements * view.element_bytes
        return view

    def result(self, value: SSAValue, scalar: str | None = None) -> View:
        """Make a row-major temporary for a result and note that the result is there."""
        kind = type_of(value)
        self.views[value] = self.temp(scalar or kind.scalar, kind.shape)
        return self.views[value]

    def call(
        self,
        kernel: str,
        fields: Mapping[str, Value],
        work: Dim,
        *,
        scratch: bool = False,
        status: str = "",
        serial: bool = False,
    ) -> None:
        """Append a kernel call."""
        self.schedule.calls.append(Call(kernel, fields, work, self._comment, scratch, status, serial, self._layer))

    def require(self, size: Dim, text: str) -> None:
        """Check at run time that a dimension is not negative."""
        if size.constant is not None:
            if size.constant < 0:
                raise Refusal(text)
        elif not any(size == check.size for check in self.schedule.checks):
            self.schedule.checks.append(Check(size, text))

    def copy(self, source: View, target: View) -> None:
        """Copy elements; both views have one shape."""
        x, y = self.collapsed([source, target])
        self.call(
            "copy",
            {"x": read(x), "y": write(y), **nd_fields({"x_stride": x, "y_stride": y}), "element_size": x.element_bytes},
            source.elements,
        )

    def collapsed(self, views: Sequence[View]) -> list[View]:
        """Merge the axes of views of one shape, and refuse what keeps more than the kernels' rank."""
        merged = collapse(views)
        if merged[0].rank > MAX_RANK:
            raise Refusal(f"iterates over {merged[0].rank} axes; the kernels take {MAX_RANK}")
        return merged

    def contiguous(self, view: View) -> View:
        """Return the same elements in row-major order, copied if they are not."""
        if view.is_contiguous:
            return view
        target = self.temp(view.scalar, view.shape)
        self.copy(view, target)
        return target

    def unit_last(self, view: View) -> View:
        """Return the elements with those of the last axis side by side, copied if they are not."""
        return view if view.unit_last else self.contiguous(view)

    def rows(self, view: View, length_axes: int = 1) -> Rows:
        """Return the view as rows of its last axes, copied if strides cannot say that."""
        rows = as_rows(view, length_axes)
        if rows is None:
            rows = as_rows(self.contiguous(view), length_axes)
        assert rows is not None, "a contiguous view is rows"
        return rows

    def reshaped(self, view: View, shape: Shape) -> View:
        """Return the elements with another shape, copied if strides cannot say that."""
        found = view.reshape(shape)
        if found is None:
            found = self.contiguous(view).reshape(shape)
        assert found is not None, "a contiguous view reshapes"
        return found

    def updatable(self, op: Operation, old: SSAValue, new: SSAValue) -> View:
        """Return memory that holds the old value of an update and may be changed, noted as the new value's place."""
        view = self.view(old)
        owned = view.buffer.kind == "temp" or (view.buffer.kind == "state" and view.buffer.key in self.updated)
        repeats = any(stride == ZERO and size != ONE for size, stride in zip(view.shape, view.strides, strict=True))
        if not owned or repeats or not self.uses.may_overwrite(old, op):
            target = self.temp(view.scalar, view.shape)
            self.copy(view, target)
            view = target
        self.views[new] = view
        return view

    def cast(self, view: View, scalar: str) -> View:
        """Return the elements converted to another type."""
        if view.scalar == scalar:
            return view
        target = self.temp(scalar, view.shape)
        x, y = self.collapsed([view, target])
        self.call(
            "cast",
            {
                "x": read(x),
                "y": write(y),
                **nd_fields({"x_stride": x, "y_stride": y}),
                "x_dtype": dtype(x),
                "y_dtype": dtype(y),
            },
            view.elements,
        )
        return target


def kind_of(value: SSAValue) -> TensorType:
    """Return the type of a value."""
    return type_of(value)


def show_results(op: Operation) -> str:
    """Write the types of an operation's results."""
    return ", ".join(f"{show(type_of(r).shape)} {type_of(r).element}" for r in op.results) or op.name


def layer_of(op: Operation) -> str:
    """Name the layer that an operation is, or that the root of a kernel is; empty for all others."""
    layer = kernel_parts(op).root if isinstance(op, KernelOp) else op
    named = None if layer is None else layer.attributes.get(LAYER)
    return named.data if isinstance(named, StringAttr) else ""


def describe(op: Operation) -> str:
    """Say in one line which operation a call comes from."""
    place = location_of(op)
    return f"{op.name} -> {show_types(op)}{f', at {place}' if place else ''}"


def show_types(op: Operation) -> str:
    """Write the types of results briefly, as `[s0, 384] f32`."""
    texts: list[str] = []
    for result in op.results:
        kind = type_of(result)
        texts.append(f"{show(kind.shape)} {kind.qtype or kind.scalar}")
    return ", ".join(texts)
