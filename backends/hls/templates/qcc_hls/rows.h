/* Operations on whole rows: softmax and normalisation in integers. */
#ifndef QCC_HLS_ROWS_H
#define QCC_HLS_ROWS_H

#include "core.h"

namespace qcc {

typedef long long wide_t;
typedef unsigned long long uwide_t;

/* The floor of the square root of a number below 2^62, digit by digit. */
inline uwide_t integer_root(uwide_t value) {
  uwide_t root = 0, bit = uwide_t(1) << 60;
root_digits:
  for (int i = 0; i < 31; i++) {
#pragma HLS UNROLL
    bool take = value >= root + bit;
    if (take) value -= root + bit;
    root = (root >> 1) + (take ? bit : 0);
    bit >>= 2;
  }
  return root;
}

/* What follows the maximum of a row: e = G::exponential(max - x), y = floor((2 unit e + s) / 2 s), s the sum of the e. */
template <class G, class X, class Y, int P>
void softmax_row(const vec<X, P> row[G::CHANNELS / P], const vec<ap_uint<1>, P> kept[G::CHANNELS / P], int most,
                 bool any, hls::stream<vec<Y, P>> &out) {
#pragma HLS INLINE
  constexpr int CF = G::CHANNELS / P;
  vec<unsigned, P> powers[CF];
  uwide_t sum = 0;
softmax_sum:
  for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
    vec<unsigned, P> power;
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      int distance = most - int(row[c][p]);
      power[p] = kept[c][p] == 1 ? unsigned(G::exponential(distance < G::TABLE ? distance : G::TABLE - 1)) : 0u;
      sum += power[p];
    }
    powers[c] = power;
  }
  uwide_t divisor = any ? 2 * sum : 2;
softmax_divide:
  for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
    vec<Y, P> y;
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      y[p] = Y(int((2 * uwide_t(G::UNIT) * powers[c][p] + sum) / divisor));
    }
    out.write(y);
  }
}

/* Keep a token of a row, what its mask says, and the greatest element that counts. */
template <class X, int P>
inline void softmax_take(const vec<X, P> &x, const vec<ap_uint<1>, P> &mask, vec<X, P> &row, vec<ap_uint<1>, P> &kept,
                         int &most, bool &any) {
#pragma HLS INLINE
  row = x;
  kept = mask;
  for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
    if (mask[p] == 1 && (!any || int(x[p]) > most)) {
      most = int(x[p]);
      any = true;
    }
  }
}

/* Softmax of rows of G::CHANNELS integers. */
template <class G, class X, class Y, int P> void softmax(hls::stream<vec<X, P>> &in, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the row");
  constexpr int CF = G::CHANNELS / P;
  vec<X, P> row[CF];
  vec<ap_uint<1>, P> kept[CF], all;
  for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
    all[p] = 1;
  }
softmax_rows:
  for (int r = 0; r < G::ROWS; r++) {
    int most = 0;
    bool any = false;
  softmax_max:
    for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
      softmax_take(in.read(), all, row[c], kept[c], most, any);
    }
    softmax_row<G, X, Y, P>(row, kept, most, any, out);
  }
}

/* The same where a second stream says which elements count; the others give 0, as does a row that keeps none. */
template <class G, class X, class Y, int P>
void softmax_masked(hls::stream<vec<X, P>> &in, hls::stream<vec<ap_uint<1>, P>> &keep, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the row");
  constexpr int CF = G::CHANNELS / P;
  vec<X, P> row[CF];
  vec<ap_uint<1>, P> kept[CF];
masked_rows:
  for (int r = 0; r < G::ROWS; r++) {
    int most = 0;
    bool any = false;
  masked_max:
    for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
      softmax_take(in.read(), keep.read(), row[c], kept[c], most, any);
    }
    softmax_row<G, X, Y, P>(row, kept, most, any, out);
  }
}

/* Normalisation of rows of n = G::CHANNELS integers. d = n x - sum x (G::CENTRED) or x; q = max(sum d^2 + eps, 1);
   1 / sqrt(q) as v 2^(t - 61) by an integer root and one division; F::apply takes d / sqrt(q) with 24 fraction bits. */
template <class G, class F, class X, class Y, int P>
void norm(hls::stream<vec<X, P>> &in, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the row");
  constexpr int CF = G::CHANNELS / P;
  vec<X, P> row[CF];
norm_rows:
  for (int r = 0; r < G::ROWS; r++) {
    wide_t sum = 0;
  norm_sum:
    for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
      vec<X, P> x = in.read();
      row[c] = x;
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        sum += G::CENTRED ? wide_t(int(x[p])) : 0;
      }
    }
    wide_t squares = G::EPS;
  norm_squares:
    for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        wide_t d = G::CENTRED ? wide_t(G::CHANNELS) * int(row[c][p]) - sum : wide_t(int(row[c][p]));
        squares += d * d;
      }
    }
    uwide_t normal = squares < 1 ? 1 : uwide_t(squares);
    int exponent = 0;
  norm_exponent:
    for (int step = 16; step > 0; step >>= 1) {
#pragma HLS UNROLL
      if (normal < uwide_t(1) << (62 - 2 * step)) {
        normal <<= 2 * step;
        exponent += step;
      }
    }
    wide_t inverse = wide_t((uwide_t(1) << 61) / integer_root(normal));
    int shift = 37 - exponent;
  norm_apply:
    for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
      vec<Y, P> y;
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        wide_t d = G::CENTRED ? wide_t(G::CHANNELS) * int(row[c][p]) - sum : wide_t(int(row[c][p]));
        y[p] = F::apply((d * inverse + (wide_t(1) << (shift - 1))) >> shift, c * P + p);
      }
      out.write(y);
    }
  }
}

} // namespace qcc

#endif
