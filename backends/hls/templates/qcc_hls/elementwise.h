/* Elementwise processes. A step F says what one element becomes; channel is its place along the innermost axis. */
#ifndef QCC_HLS_ELEMENTWISE_H
#define QCC_HLS_ELEMENTWISE_H

#include "core.h"

namespace qcc {

/* y = F::apply(x, channel): requantization, tables, clamps, constants by channel. */
template <class G, class F, class X, class Y, int P>
void map(hls::stream<vec<X, P>> &in, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the channels");
map_rows:
  for (int row = 0; row < G::ROWS; row++) {
  map_tokens:
    for (int i = 0; i < G::CHANNELS / P; i++) {
#pragma HLS PIPELINE II=1
      vec<X, P> x = in.read();
      vec<Y, P> y;
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        y[p] = F::apply(x[p], i * P + p);
      }
      out.write(y);
    }
  }
}

/* y = F::apply(a, b, channel): where a residual stream meets its branch, gates, products of two tensors. */
template <class G, class F, class A, class B, class Y, int P>
void join(hls::stream<vec<A, P>> &left, hls::stream<vec<B, P>> &right, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the channels");
join_rows:
  for (int row = 0; row < G::ROWS; row++) {
  join_tokens:
    for (int i = 0; i < G::CHANNELS / P; i++) {
#pragma HLS PIPELINE II=1
      vec<A, P> a = left.read();
      vec<B, P> b = right.read();
      vec<Y, P> y;
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        y[p] = F::apply(a[p], b[p], i * P + p);
      }
      out.write(y);
    }
  }
}

} // namespace qcc

#endif
