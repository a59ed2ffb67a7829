"""Every HLS template by itself, compiled and run, beside numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.hls_templates import build, execute, lanes_of


def folded(weights: np.ndarray, pe: int, simd: int) -> np.ndarray:
    """Order codes [N, K] as the words that a matrix-vector unit reads: [N/PE * K/SIMD, PE * SIMD]."""
    n, k = weights.shape
    return weights.reshape(n // pe, pe, k // simd, simd).transpose(0, 2, 1, 3).reshape(-1, pe * simd)


MATVEC = """
struct G {{ static constexpr int ROWS = {rows}, K = {k}, N = {n}, SIMD = {simd}, PE = {pe}, TILE = {tile};
  static constexpr int LANES = {lanes};
  typedef {codes} codes;
  static const lanes<LANES> &word(int i) {{ static const lanes<LANES> table[] = {table}; return table[i]; }} }};
struct F {{ typedef ap_int<40> sum_t;
  static sum_t bias(int n) {{ return sum_t(n * 3 - 7); }}
  static ap_int<40> apply(sum_t s, int n) {{ return s; }} }};
int main() {{
  hls::stream<vec<ap_int<8>, {simd}>> in("in"), in2("in2");
  hls::stream<vec<ap_int<40>, {pe}>> out("out"), out2("out2");
  hls::stream<lanes<G::LANES>> w("w");
  feed(in, {rows} * {k});
  while (!in.empty()) {{ auto t = in.read(); in2.write(t); }}
  hls::stream<vec<ap_int<8>, {simd}>> copy("copy");
  duplicate<{rows} * {k} / {simd}>(in2, in, copy);
  matvec<G, F>(in, out);
  load_weights<{lanes}, {k} / {simd} * {n} / {pe}, {rows} / {tile}>(&G::word(0), w);
  matvec_streamed<G, F>(copy, w, out2);
  drain(out);
  drain(out2);
}}
"""


@pytest.mark.parametrize(
    ("rows", "k", "n", "simd", "pe", "tile", "bits"),
    [(1, 6, 4, 1, 1, 1, 4), (6, 15, 9, 5, 3, 3, 3), (4, 64, 32, 64, 16, 2, 8), (2, 7, 1, 7, 1, 2, 2)],
)
def test_matrix_vector_unit(
    tmp_path: Path, rows: int, k: int, n: int, simd: int, pe: int, tile: int, bits: int
) -> None:
    rng = np.random.default_rng(k)
    weights = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k))
    words = folded(weights, pe, simd)
    lanes = -(-pe * simd // (64 // bits))
    text = MATVEC.format(
        rows=rows, k=k, n=n, simd=simd, pe=pe, tile=tile, lanes=lanes,
        codes=f"integer_codes<{bits}>", table=lanes_of(words, bits),
    )  # fmt: skip
    x = rng.integers(-128, 128, (rows, k))
    wanted = x @ weights.T + np.arange(n) * 3 - 7
    # as it is simulated, and as it is synthesised
    for flags in ([], ["-DQCC_EXACT_TYPES"]):
        status, found, said = execute(build(tmp_path, text, flags=flags), x.ravel())
        assert status == 0, said
        assert np.array_equal(found.reshape(2, rows, n), np.stack([wanted, wanted]))


def test_codes_of_one_bit_and_powers_of_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    signs = rng.integers(0, 2, (6, 10))
    # four bits: a sign above three bits of exponent, 0 for zero
    powers = rng.integers(0, 16, (6, 10))
    table = """
struct {name} {{ static constexpr int ROWS = 3, K = 10, N = 6, SIMD = 5, PE = 2; typedef {codes} codes;
  static const lanes<1> &word(int i) {{ static const lanes<1> table[] = {table}; return table[i]; }} }};
"""
    text = table.format(name="S", codes="sign_codes", table=lanes_of(folded(signs, 2, 5), 1))
    text += table.format(name="P", codes="power_codes<4>", table=lanes_of(folded(powers, 2, 5), 4))
    text += """
struct F { typedef ap_int<24> sum_t; static sum_t bias(int) { return 0; }
  static ap_int<24> apply(sum_t s, int) { return s; } };
int main() {
  hls::stream<vec<ap_int<8>, 5>> a("a"), b("b");
  hls::stream<vec<ap_int<24>, 2>> y("y"), z("z");
  feed(a, 30); feed(b, 30);
  matvec<S, F>(a, y); matvec<P, F>(b, z);
  drain(y); drain(z);
}
"""
    x = rng.integers(-128, 128, (3, 10))
    magnitude = np.where(powers & 7, 1 << np.maximum((powers & 7) - 1, 0), 0)
    wanted = [x @ (2 * signs - 1).T, x @ np.where(powers >> 3, -magnitude, magnitude).T]
    for flags in ([], ["-DQCC_EXACT_TYPES"]):
        status, found, said = execute(build(tmp_path, text, flags=flags), np.concatenate([x.ravel(), x.ravel()]))
        assert status == 0, said
        assert np.array_equal(found.reshape(2, 3, 6), np.stack(wanted))


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "dilation", "channels", "p"),
    [
        ((5, 7), (3, 3), (1, 1), (1, 1), (1, 1), 4, 2),
        ((8, 5), (2, 3), (2, 3), (0, 2), (1, 1), 3, 3),
        ((9, 9), (3, 2), (2, 1), (2, 1), (2, 3), 1, 1),
        ((1, 6), (1, 4), (1, 1), (0, 3), (1, 1), 2, 1),
        ((4, 4), (4, 4), (1, 1), (0, 0), (1, 1), 2, 2),
        ((6, 6), (1, 1), (4, 4), (0, 0), (1, 1), 2, 2),
    ],
)
def test_window_pool_and_depthwise(
    tmp_path: Path,
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels: int,
    p: int,
) -> None:
    frames, rng = 2, np.random.default_rng(channels)
    spans = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    out = [(s + 2 * q - e) // t + 1 for s, q, e, t in zip(size, padding, spans, stride, strict=True)]
    weights = rng.integers(-8, 8, (window[0] * window[1], channels, 2))
    words = weights.reshape(weights.shape[0] * (channels // p), 2 * p)
    count = out[0] * out[1] * frames
    text = f"""
struct G {{ static constexpr int FRAMES = {frames}, H = {size[0]}, W = {size[1]}, C = {channels}, KH = {window[0]},
  KW = {window[1]}, SH = {stride[0]}, SW = {stride[1]}, PH = {padding[0]}, PW = {padding[1]}, DH = {dilation[0]},
  DW = {dilation[1]}, OH = {out[0]}, OW = {out[1]}, PAD = -5; }};
struct R {{ static constexpr int ROWS = {count}, COUNT = {window[0] * window[1]}, CHANNELS = {channels},
  WINDOW = COUNT, MULTIPLE = 2; typedef integer_codes<4> codes;
  static const lanes<1> &word(int i) {{ static const lanes<1> table[] = {lanes_of(words, 4)}; return table[i]; }} }};
struct Max {{ typedef ap_int<8> sum_t; static sum_t first(ap_int<8> x) {{ return x; }}
  static sum_t step(sum_t s, ap_int<8> x) {{ return x > s ? x : s; }}
  static ap_int<8> apply(sum_t s, int) {{ return s; }} }};
struct F {{ typedef ap_int<20> sum_t; static sum_t bias(int n) {{ return n; }}
  static ap_int<20> apply(sum_t s, int) {{ return s; }} }};
int main() {{
  typedef vec<ap_int<8>, {p}> V;
  hls::stream<V> in("in"), rows("rows"), a("a"), b("b"), c("c"), d("d"), max("max");
  hls::stream<vec<ap_int<20>, {2 * p}>> deep("deep");
  constexpr int TOKENS = {count * window[0] * window[1] * channels // p};
  feed(in, {frames * size[0] * size[1] * channels});
  window<G>(in, rows);
  duplicate<TOKENS>(rows, a, b);
  duplicate<TOKENS>(b, c, d);
  reduce<R, Max>(c, max);
  depthwise<R, F>(d, deep);
  drain(a); drain(max); drain(deep);
  return in.empty() ? 0 : 5;
}}
"""
    image = rng.integers(-128, 128, (frames, *size, channels))
    status, found, said = execute(build(tmp_path, text), image.ravel())
    assert status == 0, said
    low = [(q, q) for q in padding]
    padded = np.pad(image, [(0, 0), *low, (0, 0)], constant_values=-5)
    rows = np.stack(
        [
            padded[:, y * dilation[0] :, x * dilation[1] :][:, :: stride[0], :: stride[1]][:, : out[0], : out[1]]
            for y in range(window[0])
            for x in range(window[1])
        ],
        3,
    )
    deep = np.einsum("fhwkc,kcm->fhwcm", rows, weights) + np.arange(2 * channels).reshape(channels, 2)
    assert np.array_equal(found, np.concatenate([rows.ravel(), rows.max(3).ravel(), deep.ravel()]))


def test_reorder_transposes_slices_repeats_and_pads(tmp_path: Path) -> None:
    # [3, 4] -> transposed, rows 1..2 only, each twice, one column of padding in front
    text = """
struct G { static constexpr int FRAMES = 2, SIZE = 12;
  struct write { static constexpr int RANK = 2, START = 0, COUNT = 12;
    static constexpr int EXTENT[] = {3, 4}, STRIDE[] = {4, 1}, FIRST[] = {0, 0}, LAST[] = {3, 4}; };
  struct read { static constexpr int RANK = 3, START = 1 - 4, COUNT = 2 * 2 * 4;
    static constexpr int EXTENT[] = {2, 2, 4}, STRIDE[] = {1, 0, 4}, FIRST[] = {0, 0, 1}, LAST[] = {2, 2, 4}; }; };
int main() {
  hls::stream<vec<ap_int<8>, 1>> in("in"), out("out");
  feed(in, 24);
  vec<ap_int<8>, 1> fill; fill[0] = -9;
  reorder<G>(in, out, fill);
  drain(out);
}
"""
    x = np.arange(24).reshape(2, 3, 4)
    status, found, said = execute(build(tmp_path, text), x.ravel())
    assert status == 0, said
    part = x.transpose(0, 2, 1)[:, 1:3]
    wanted = np.pad(np.repeat(part[:, :, None], 2, 2), [(0, 0), (0, 0), (0, 0), (1, 0)], constant_values=-9)
    assert np.array_equal(found, wanted.ravel())


def test_widths_joins_concat_and_elementwise(tmp_path: Path) -> None:
    text = """
struct G { static constexpr int ROWS = 2, CHANNELS = 6; };
struct Add { static ap_int<10> apply(ap_int<8> a, ap_int<8> b, int n) { return a + b * n; } };
struct Half { static ap_int<8> apply(ap_int<10> a, int n) {
  return clamp<ap_int<30>>(scale<30>(a, ap_int<12>(n + 3), n % 4), -100, 101); } };
int main() {
  hls::stream<vec<ap_int<8>, 6>> in("in");
  hls::stream<vec<ap_int<8>, 2>> two("two"), c("c"), d("d"), e("e");
  hls::stream<vec<ap_int<8>, 6>> six("six");
  hls::stream<vec<ap_int<10>, 6>> sum("sum");
  hls::stream<vec<ap_int<8>, 6>> y("y"), back("back");
  feed(in, 24);
  narrow<4>(in, two);
  for (int i = 0; i < 6; i++) c.write(two.read());
  for (int i = 0; i < 6; i++) d.write(two.read());
  concat<2, 3, 3>(c, d, e);
  hls::stream<vec<ap_int<8>, 2>> l("l"), r("r");
  for (int i = 0; i < 6; i++) { l.write(e.read()); }
  for (int i = 0; i < 6; i++) { r.write(e.read()); }
  hls::stream<vec<ap_int<8>, 6>> left("left"), right("right");
  widen<2>(l, left); widen<2>(r, right);
  join<G, Add>(left, right, sum);
  map<G, Half>(sum, y);
  drain(y);
}
"""
    rng = np.random.default_rng(0)
    x = rng.integers(-40, 40, (4, 6))
    status, found, said = execute(build(tmp_path, text), x.ravel())
    assert status == 0, said
    joined = np.stack([x[0], x[2], x[1], x[3]])
    n = np.arange(6)
    total = joined[:2] + joined[2:] * n
    half = np.where(n % 4 > 0, 1 << np.maximum(n % 4 - 1, 0), 0)
    wanted = np.clip((total * (n + 3) + half) >> (n % 4), -100, 101)
    assert np.array_equal(found.reshape(2, 6), wanted)


def test_product_of_two_computed_matrices(tmp_path: Path) -> None:
    text = """
struct G { static constexpr int BATCH = 2, M = 3, K = 5, N = 4, PE = 2; };
struct F { typedef ap_int<24> sum_t; static sum_t bias(int) { return 0; }
  static ap_int<24> apply(sum_t s, int) { return s; } };
int main() {
  hls::stream<vec<ap_int<8>, 1>> a("a"); hls::stream<vec<ap_int<8>, 2>> b("b"); hls::stream<vec<ap_int<24>, 2>> y("y");
  feed(a, 30); feed(b, 40);
  matmul<G, F>(a, b, y);
  drain(y);
}
"""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (2, 3, 5)), rng.integers(-128, 128, (2, 5, 4))
    status, found, said = execute(build(tmp_path, text), np.concatenate([a.ravel(), b.ravel()]))
    assert status == 0, said
    assert np.array_equal(found.reshape(2, 3, 4), a @ b)


def test_softmax_and_norm_of_rows(tmp_path: Path) -> None:
    text = """
struct S { static constexpr int ROWS = 4, CHANNELS = 6, TABLE = 64, UNIT = 127;
  static unsigned exponential(int d) { return (1u << 20) / unsigned(1 + d * d); } };
struct N { static constexpr int ROWS = 4, CHANNELS = 6; static constexpr bool CENTRED = true;
  static constexpr long long EPS = 5; };
struct M { static constexpr int ROWS = 4, CHANNELS = 6; static constexpr bool CENTRED = false;
  static constexpr long long EPS = 0; };
struct F { static ap_int<40> apply(long long z, int) { return z; } };
int main() {
  hls::stream<vec<ap_int<8>, 2>> a("a"), b("b"), c("c"), d("d");
  hls::stream<vec<ap_uint<1>, 2>> m("m");
  hls::stream<vec<ap_int<8>, 2>> s("s"), t("t");
  hls::stream<vec<ap_int<40>, 2>> y("y"), z("z");
  feed(a, 24); feed(b, 24); feed(m, 24); feed(c, 24); feed(d, 24);
  softmax<S>(a, s); softmax_masked<S>(b, m, t); norm<N, F>(c, y); norm<M, F>(d, z);
  drain(s); drain(t); drain(y); drain(z);
}
"""
    rng = np.random.default_rng(3)
    x = rng.integers(-128, 128, (4, 6))
    x[1] = 7  # a row without variance
    x[2] = 0
    keep = rng.integers(0, 2, (4, 6))
    keep[3] = 0
    feed = np.concatenate([one.ravel() for one in (x, x, keep, x, x)])
    status, found, said = execute(build(tmp_path, text), feed)
    assert status == 0, said
    plain, masked, layer, rms = found.reshape(4, 4, 6)
    assert np.array_equal(plain, softmax(x, np.ones_like(x)))
    assert np.array_equal(masked, softmax(x, keep))
    assert np.array_equal(layer, normalised(6 * x - x.sum(1, keepdims=True), 5))
    assert np.array_equal(rms, normalised(x, 0))


def softmax(x: np.ndarray, keep: np.ndarray) -> np.ndarray:
    result = np.zeros_like(x)
    for i, (row, kept) in enumerate(zip(x.tolist(), keep.tolist(), strict=True)):
        chosen = [value for value, one in zip(row, kept, strict=True) if one]
        if chosen:
            apart = [min(max(chosen) - value, 63) for value in row]
            powers = [(1 << 20) // (1 + d * d) if one else 0 for d, one in zip(apart, kept, strict=True)]
            result[i] = [(2 * 127 * e + sum(powers)) // (2 * sum(powers)) for e in powers]
    return result


def normalised(d: np.ndarray, eps: int) -> np.ndarray:
    from math import isqrt

    result = np.zeros_like(d)
    for i, row in enumerate(d.tolist()):
        q, t = max(sum(one * one for one in row) + eps, 1), 0
        while q * 4 ** (t + 1) < 2**62:
            t += 1
        v = 2**61 // isqrt(q * 4**t)
        result[i] = [(one * v + (1 << (36 - t))) >> (37 - t) for one in row]
    return result


def test_quantizer_and_table_of_floats(tmp_path: Path) -> None:
    # codes -2..1 at thresholds -1.5, -0.0 and 2.5; no number is 0
    thresholds = np.array([-1.5, 0.0, 2.5], dtype=np.float32).view(np.uint32)
    keys = np.where(thresholds >> 31, ~thresholds, thresholds | 0x80000000).astype(np.uint32)
    table = ", ".join(f"{key}u" for key in keys)
    text = f"""
struct Q {{ static constexpr int TOKENS = 8, STEPS = 2, LOW = -2, NAN_CODE = 0;
  static unsigned threshold(int i) {{ static const unsigned t[] = {{{table}}}; return t[i]; }} }};
struct D {{ static constexpr int TOKENS = 8, LOW = -2;
  static unsigned value(int i) {{ return 1000u * unsigned(i + 1); }} }};
int main() {{
  hls::stream<vec<ap_uint<32>, 1>> in("in"), out("out");
  hls::stream<vec<ap_int<2>, 1>> code("code"), a("a"), b("b");
  feed(in, 8);
  quantize<Q>(in, code);
  duplicate<8>(code, a, b);
  dequantize<D>(a, out);
  drain(b); drain(out);
}}
"""
    x = np.array([-np.inf, -1.6, -1.5, -0.0, 0.0, 2.4999998, np.inf, np.nan], dtype=np.float32)
    status, found, said = execute(build(tmp_path, text), x.view(np.uint32))
    assert status == 0, said
    codes = [-2, -2, -1, -1, 0, 0, 1, 0]
    assert found[:8].tolist() == codes
    assert found[8:].tolist() == [1000 * (one + 3) for one in codes]
