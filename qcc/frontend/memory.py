"""Current values of graph nodes, in a graph that overwrites tensors.

The IR has values only. A write gives the owner of the memory a new value and makes every other view of it stale; a
stale view is computed from its base again when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.fx import Node
from xdsl.ir import SSAValue

from qcc.frontend.refusal import Refusal
from qcc.frontend.views import base_of, base_of_pieces, root_of


class Memory:
    """What each node stands for at this point of the program."""

    def __init__(
        self,
        same: Mapping[Node, Node],
        compute: Callable[[Node], object],
        scatter: Callable[[Node, SSAValue], SSAValue],
    ) -> None:
        self._same = same
        self._compute = compute
        self._scatter = scatter
        self._values: dict[Node, object] = {}
        self._versions: dict[Node, int] = {}
        self._seen: dict[Node, int] = {}
        self._fixed: dict[Node, Refusal] = {}

    def define(self, node: Node, value: object) -> None:
        """Give a node its value."""
        self._values[self._same.get(node, node)] = value
        self._seen[node] = self._versions.get(root_of(node, self._same), 0)

    def fix(self, node: Node, reason: Refusal) -> None:
        """Forbid writes to a node that owns memory."""
        self._fixed[node] = reason

    def knows(self, node: Node) -> bool:
        """Whether a node has a value."""
        return self._same.get(node, node) in self._values

    def read(self, node: Node) -> object:
        """Return the current value of a node."""
        node = self._same.get(node, node)
        owner = base_of(node) or base_of_pieces(node)
        if owner is None:
            return self._values[node]
        version = self._versions.get(root_of(owner, self._same), 0)
        if self._seen[node] != version:
            self._values[node] = self._compute(node)
            self._seen[node] = version
        return self._values[node]

    def write(self, node: Node, value: SSAValue) -> None:
        """Overwrite the memory that a node reads.

        Raises:
            Refusal: if that memory may not be written, or the view cannot be traced to its base.
        """
        node = self._same.get(node, node)
        base = base_of(node)
        if base is None:
            if node in self._fixed:
                raise self._fixed[node]
            self._versions[node] = self._versions.get(node, 0) + 1
        else:
            self.write(base, self._scatter(node, value))
        self.define(node, value)
