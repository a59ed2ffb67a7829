"""Orders of travel, foldings, widths and depths of FPGA designs, on drawn sizes."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qcc.backends.hls.codes import choose_codes, fold_words
from qcc.backends.hls.elements import Element, width_of
from qcc.backends.hls.folding import all_choices, fold_within, intervals, join, slowest
from qcc.backends.hls.lower_boundary import floats_of, thresholds
from qcc.backends.hls.order import axes_order, row_major
from qcc.backends.hls.simulate import least_depths, run, with_depths
from qcc.backends.hls.units_matvec import sum_range
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from qcc.numerics.tensor import Chain, Parameters
from tests.hls_graphs import drawn_graph, skip_graph

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(shapes, st.data())
@settings(max_examples=100, deadline=None)
def test_a_transposed_order_visits_the_transposed_tensor(shape: list[int], data: st.DataObject) -> None:
    first = data.draw(st.permutations(range(len(shape))))
    axes = data.draw(st.permutations(range(len(shape))))
    tensor = np.arange(prod(shape)).reshape(shape)
    order = axes_order(shape, first)
    travelling = tensor.ravel()[order.indices()]
    assert np.array_equal(travelling, tensor.transpose(first).ravel())
    turned = order.transposed(shape, axes)
    assert turned is not None, "loops over whole axes can always be turned"
    assert np.array_equal(tensor.transpose(axes).ravel()[turned.indices()], travelling)


@given(st.integers(1, 6), st.integers(1, 6), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_split_and_spread(rows: int, columns: int, data: st.DataObject) -> None:
    shape = (rows, columns)
    order = axes_order(shape, data.draw(st.permutations(range(2))))
    split = order.rows(columns)
    if split is None:
        # what does not travel row by row has two loops, columns outside
        assert min(rows, columns) > 1
        return
    assert split[0].spread(split[1], columns) == order
    assert sorted(split[1].indices()) == list(range(columns))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=100, deadline=None)
def test_packed_codes_give_the_weights_back(bits: int, n: int, pe: int, simd: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kind = data.draw(st.sampled_from(["plain", "signs", "powers", "zeros"]))
    values = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n * pe, simd * 2))
    if kind == "signs":
        values = np.where(values < 0, -1, 1)
    elif kind == "powers":
        values = (
            np.where(values < 0, -1, 1) * (1 << rng.integers(0, bits, values.shape)) * rng.integers(0, 2, values.shape)
        )
    elif kind == "zeros":
        values = np.zeros_like(values)
    codes = choose_codes(values)
    words = fold_words(values, pe, simd)
    packed = codes.pack(words)
    per, mask = codes.per_lane, (1 << codes.bits) - 1
    for word, lanes in zip(words.tolist(), packed.tolist(), strict=True):
        found = [(lanes[i // per] >> (i % per * codes.bits)) & mask for i in range(len(word))]
        assert [decode(codes.kind, codes.bits, one) for one in found] == word


def decode(kind: str, bits: int, code: int) -> int:
    if kind == "qcc::sign_codes":
        return 1 if code else -1
    if kind == "qcc::power_codes":
        exponent = code & ((1 << (bits - 1)) - 1)
        value = 1 << (exponent - 1) if exponent else 0
        return -value if code >> (bits - 1) else value
    return code - (1 << bits) if code >> (bits - 1) else code


@given(st.integers(0, 2**32 - 1), st.integers(-300, 0), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_partial_sums_stay_in_their_range(seed: int, low: int, high: int) -> None:
    rng = np.random.default_rng(seed)
    weights, bias = rng.integers(-9, 10, (3, 7)), rng.integers(-50, 50, 3)
    reach = sum_range(weights, bias, Element(low, high))
    x = rng.integers(low, high + 1, (40, 7))
    partial = bias + np.cumsum(weights * x[:, None], 2).transpose(2, 0, 1)
    assert reach.low <= partial.min()
    assert partial.max() <= reach.high
    assert -(2 ** (reach.bits - 1)) <= reach.low
    assert reach.high < 2 ** (reach.bits - 1)


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
@settings(max_examples=60, deadline=None)
def test_widths_hold_their_ranges(one: int, other: int) -> None:
    low, high = min(one, other), max(one, other)
    if (low, high) == (0, 1):
        assert width_of(low, high) == 1
        return
    bits = width_of(low, high)
    assert -(2 ** (bits - 1)) <= low <= high < 2 ** (bits - 1)
    assert bits == 1 or not -(2 ** (bits - 2)) <= low <= high < 2 ** (bits - 2)


@given(
    st.sampled_from(["int8", "int8n", "uint8", "int4", "int2", "int1 mid_rise", "uint8 | tensor f32 | pre u8"]),
    st.floats(2.0**-100, 2.0**100, width=32),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_thresholds_are_the_quantizer(text: str, scale: float, seed: int) -> None:
    import torch

    pre = "pre" in text
    qtype = parse_qtype(f"{text} | static" if pre else f"{text} | tensor f32 | static")
    parts = (np.array([scale], np.float32), *((np.array([3], np.uint8),) if pre else ()))
    keys, nan_code = thresholds(qtype, parts)
    rng = np.random.default_rng(seed)
    near = floats_of(np.concatenate([keys.astype(np.int64) + offset for offset in (-1, 0, 1)]))
    drawn = (rng.standard_normal(200) * scale * 60).astype(np.float32)
    values = np.concatenate([near, drawn, np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)])
    own = Parameters(
        Chain((torch.tensor(parts[0]),), (None,)), Chain((torch.tensor(parts[1]),), (None,)) if pre else None
    )
    wanted = quantize(torch.from_numpy(values), qtype, own).codes.numpy().astype(np.int64)
    bits = values.view(np.uint32)
    order = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    found = qtype.decode.minimum + (order[:, None] >= keys[None]).sum(1)  # type: ignore[union-attr]
    found = np.where(np.isnan(values), nan_code, found)
    assert np.array_equal(found, wanted)


@given(st.integers(1, 6), st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_depths_are_enough_and_not_more(frames: int, buffered: int) -> None:
    graph = skip_graph(frames * buffered, buffered)
    choices = all_choices(graph, {})
    for interval in intervals(choices)[-3:]:
        folds = fold_within(graph, choices, interval)
        if folds is None:
            continue
        design = join(graph, folds)
        found = least_depths(design)
        depths = found.depths
        again = run(design, depths, 2)
        assert again.finished
        assert found.work.end == again.ends[0] or not found.on_time
        for name, depth in depths.items():
            if depth > 2:
                assert not run(design, {**depths, name: depth - 1}, 1).finished
        sized = with_depths(design, depths)
        assert {one.name for one in sized.fifos if one.needed} == {name for name, depth in depths.items() if depth > 2}
        # the skip holds what the buffer takes in, less what waits in the FIFOs around it
        narrow = [one for one in sized.fifos if one.width == 1]
        if buffered > 12 and len(narrow) == len(sized.fifos):
            assert max(depths.values()) >= buffered - 4


@given(st.integers(0, 10**6), st.sampled_from([6, 12]))
@example(9, 12)  # the circle of a FIFO's last place does not prove it, a run with one less does
@example(210, 12)  # two FIFOs share a circle, and one grew more than it needs
@settings(max_examples=100, deadline=None)
def test_depths_of_skips_that_share_circles_are_enough_and_not_more(seed: int, count: int) -> None:
    graph = drawn_graph(seed, count)
    design = join(graph, slowest(all_choices(graph, {}), graph))
    depths = least_depths(design).depths
    assert run(design, depths, 2).finished
    for name, depth in depths.items():
        assert depth >= 2
        if depth > 2:
            assert not run(design, {**depths, name: depth - 1}, 1).finished


@given(st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_every_stream_has_one_width_one_writer_and_one_reader(count: int, buffered: int) -> None:
    graph = skip_graph(count * buffered, buffered)
    choices = all_choices(graph, {})
    for interval in intervals(choices):
        folds = fold_within(graph, choices, interval)
        if folds is None:
            continue
        design = join(graph, folds)
        writers: dict[str, int] = {}
        readers: dict[str, int] = {}
        for built in design.nodes:
            inputs, outputs = built.node.unit.widths(built.fold)
            for name, width in zip(built.node.inputs, inputs, strict=True):
                readers[name] = readers.get(name, 0) + 1
                assert design.streams[name].width == width
            for name, width in zip(built.node.outputs, outputs, strict=True):
                writers[name] = writers.get(name, 0) + 1
                assert design.streams[name].width == width
        ports = {one.edge for one in (*design.inputs, *design.outputs)}
        for name in design.streams:
            assert writers.get(name, 0) == (0 if name in {one.edge for one in design.inputs} else 1)
            assert readers.get(name, 0) == (0 if name in {one.edge for one in design.outputs} else 1)
            assert (design.streams[name].depth == 0) == (name in ports)


def test_row_major_is_one_loop() -> None:
    assert row_major(12).is_row_major
    assert row_major(1).loops == ()
