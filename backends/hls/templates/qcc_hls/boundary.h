/* Where real numbers enter and leave: float32 as its 32 bits, integers inside. */
#ifndef QCC_HLS_BOUNDARY_H
#define QCC_HLS_BOUNDARY_H

#include "core.h"

namespace qcc {

/* The code of a float32 from its bits. Quantization never decreases, so that a code is the number of thresholds at or
   below a value: G::threshold(i) is the least float32, in the total order of its bits, whose code exceeds G::LOW + i.
   There are 2^G::STEPS - 1 thresholds, those beyond the highest code above all numbers. G::NAN_CODE is the code of what is no number. */
template <class G, class Y, int P>
void quantize(hls::stream<vec<ap_uint<32>, P>> &in, hls::stream<vec<Y, P>> &out) {
quantize_tokens:
  for (int i = 0; i < G::TOKENS; i++) {
#pragma HLS PIPELINE II=1
    vec<ap_uint<32>, P> x = in.read();
    vec<Y, P> y;
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      unsigned bits = x[p].to_uint();
      /* bits of negative numbers order backwards; this puts all numbers in one rising order */
      unsigned key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
      int below = 0;
      for (int step = G::STEPS - 1; step >= 0; step--) {
#pragma HLS UNROLL
        if (key >= G::threshold(below + (1 << step) - 1)) below += 1 << step;
      }
      bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
      y[p] = number ? Y(G::LOW + below) : Y(G::NAN_CODE);
    }
    out.write(y);
  }
}

/* The bits of the float32 that a code stands for, from a table. */
template <class G, class X, int P>
void dequantize(hls::stream<vec<X, P>> &in, hls::stream<vec<ap_uint<32>, P>> &out) {
dequantize_tokens:
  for (int i = 0; i < G::TOKENS; i++) {
#pragma HLS PIPELINE II=1
    vec<X, P> x = in.read();
    vec<ap_uint<32>, P> y;
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      y[p] = ap_uint<32>(G::value(int(x[p]) - G::LOW));
    }
    out.write(y);
  }
}

} // namespace qcc

#endif
