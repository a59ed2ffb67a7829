"""The report as data: what `report.json` holds and every view of it shows."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

REPORT = "report.json"
PAGE = "report.html"
VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Histogram(_Strict):
    """Counts of values in bins of equal width over `low`..`high`."""

    low: float
    high: float
    counts: tuple[int, ...]


class Values(_Strict):
    """What the values of a tensor are like, and what its format makes of them.

    `clip_low`..`clip_high` is the range that codes stand for, `clipped` the share of values outside it. `outliers` is
    the largest magnitude over the root mean square; `channel_outliers` the largest magnitude of the largest channel
    (last axis) over that of the median channel. `sqnr_db` is that of the codes; None where nothing was lost.
    """

    histogram: Histogram
    peak: float
    rms: float
    outliers: float
    channel_outliers: float
    clip_low: float | None = None
    clip_high: float | None = None
    clipped: float = 0.0
    sqnr_db: float | None = None


class LayerReport(_Strict):
    """One layer: its formats and costs, and its errors against the float model.

    `sqnr_db` is of the layer's output with this layer quantized on float inputs, `cumulative_sqnr_db` with all before
    it quantized too, `mse` the mean squared error of the former. None stands for no error at all where `measured`, for
    no measurement elsewhere.
    """

    name: str
    where: str = ""
    shape: tuple[int, ...]
    scheme: str
    weights_format: str
    activations_format: str
    bits_per_weight: float
    bytes: int
    plan: str
    predicted: str = ""
    left_in_float: str = ""
    measured: bool = False
    sqnr_db: float | None = None
    cumulative_sqnr_db: float | None = None
    mse: float | None = None
    weights: Values | None = None
    input: Values | None = None


class Section(_Strict):
    """A table that a backend adds: it writes a list of these as `sections.json` into its folder of the artifact."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    note: str = ""


class Report(_Strict):
    """All of it. `edges` are pairs of indices into `layers`: the second reads what the first computed."""

    version: int = VERSION
    target: str
    recipe: str = ""
    quantized: int
    total: int
    bytes_before: int
    bytes_after: int
    bits_per_weight: float
    data: str = ""
    samples: int = 0
    notes: tuple[str, ...] = ()
    layers: tuple[LayerReport, ...]
    edges: tuple[tuple[int, int], ...] = ()
    output_sqnr_db: float | None = None
    outputs: dict[str, float | None] = {}
    perplexity: dict[str, float] | None = None
    latency_ms: float | None = None
    protect: str = ""
    sections: tuple[Section, ...] = ()

    def json_object(self) -> dict[str, Any]:
        """Return plain data for `--json` and `report.json`."""
        return self.model_dump(mode="json")
