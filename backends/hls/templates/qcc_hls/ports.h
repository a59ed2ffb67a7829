/* Where tensors enter and leave: beats of a bus, in the order of memory, to tokens of elements and back. */
#ifndef QCC_HLS_PORTS_H
#define QCC_HLS_PORTS_H

#include "core.h"
#include <ap_axi_sdata.h>

namespace qcc {

/* Put the elements of beat number `beat` into a token; an element takes B bits of the bus. */
template <int B, class X, int P, int W> inline void take_beat(vec<X, P> &token, const ap_uint<W> &data, int beat) {
#pragma HLS INLINE
  for (int e = 0; e < W / B; e++) {
#pragma HLS UNROLL
    ap_uint<B> bits = data.range(e * B + B - 1, e * B);
    token[beat * (W / B) + e] = X(bits);
  }
}

/* Beat number `beat` of a token; elements are extended by their sign. */
template <int B, int W, class X, int P> inline ap_uint<W> give_beat(const vec<X, P> &token, int beat) {
#pragma HLS INLINE
  ap_uint<W> data = 0;
  for (int e = 0; e < W / B; e++) {
#pragma HLS UNROLL
    ap_int<B> wide = token[beat * (W / B) + e];
    data.range(e * B + B - 1, e * B) = ap_uint<B>(wide);
  }
  return data;
}

/* One beat from or to a port: the next word of an AXI4-Stream, or word number `at` of a buffer in memory. TLAST marks the
   last beat of a frame that leaves; of one that enters it is not looked at, since a frame has a fixed number of words. */
template <int W> inline ap_uint<W> port_read(hls::stream<ap_axiu<W, 0, 0, 0>> &port, int) {
#pragma HLS INLINE
  ap_axiu<W, 0, 0, 0> word = port.read();
  return word.data;
}
template <int W> inline ap_uint<W> port_read(const ap_uint<W> *port, int at) {
#pragma HLS INLINE
  return port[at];
}
template <int B, class X, int P, int W>
inline void port_write(hls::stream<ap_axiu<W, 0, 0, 0>> &port, int, const vec<X, P> &token, int beat, bool last) {
#pragma HLS INLINE
  ap_axiu<W, 0, 0, 0> word;
  word.data = give_beat<B, W>(token, beat);
  word.keep = -1;
  word.strb = -1;
  word.last = last;
  port.write(word);
}
template <int B, class X, int P, int W>
inline void port_write(ap_uint<W> *port, int at, const vec<X, P> &token, int beat, bool) {
#pragma HLS INLINE
  port[at] = give_beat<B, W>(token, beat);
}

/* A port to TOKENS tokens of BEATS beats; PORT is a reference to a stream, or a pointer. */
template <class PORT, int TOKENS, int BEATS, int B, class X, int P> void enter(PORT port, hls::stream<vec<X, P>> &out) {
  vec<X, P> token;
enter_tokens:
  for (int i = 0; i < TOKENS; i++) {
  enter_beats:
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS PIPELINE II=1
      take_beat<B>(token, port_read(port, i * BEATS + beat), beat);
      if (beat == BEATS - 1) out.write(token);
    }
  }
}

/* Tokens to a port. */
template <class PORT, int TOKENS, int BEATS, int B, class X, int P> void leave(hls::stream<vec<X, P>> &in, PORT port) {
  vec<X, P> token;
leave_tokens:
  for (int i = 0; i < TOKENS; i++) {
  leave_beats:
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS PIPELINE II=1
      if (beat == 0) token = in.read();
      port_write<B>(port, i * BEATS + beat, token, beat, i == TOKENS - 1 && beat == BEATS - 1);
    }
  }
}

} // namespace qcc

#endif
