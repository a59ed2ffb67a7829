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

/* AXI4-Stream to tokens. A frame is TOKENS tokens, whatever TLAST says. */
template <int TOKENS, int BEATS, int B, class X, int P, int W>
void enter_stream(hls::stream<ap_axiu<W, 0, 0, 0>> &in, hls::stream<vec<X, P>> &out) {
  vec<X, P> token;
enter_tokens:
  for (int i = 0; i < TOKENS; i++) {
  enter_beats:
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS PIPELINE II=1
      ap_axiu<W, 0, 0, 0> word = in.read();
      take_beat<B>(token, word.data, beat);
      if (beat == BEATS - 1) out.write(token);
    }
  }
}

/* Tokens to AXI4-Stream; TLAST marks the last beat of a frame. */
template <int TOKENS, int BEATS, int B, class X, int P, int W>
void leave_stream(hls::stream<vec<X, P>> &in, hls::stream<ap_axiu<W, 0, 0, 0>> &out) {
  vec<X, P> token;
leave_tokens:
  for (int i = 0; i < TOKENS; i++) {
  leave_beats:
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS PIPELINE II=1
      if (beat == 0) token = in.read();
      ap_axiu<W, 0, 0, 0> word;
      word.data = give_beat<B, W>(token, beat);
      word.keep = -1;
      word.strb = -1;
      word.last = i == TOKENS - 1 && beat == BEATS - 1;
      out.write(word);
    }
  }
}

/* A buffer in memory to tokens. */
template <int TOKENS, int BEATS, int B, class X, int P, int W>
void enter_memory(const ap_uint<W> *memory, hls::stream<vec<X, P>> &out) {
  vec<X, P> token;
fetch_tokens:
  for (int i = 0; i < TOKENS; i++) {
  fetch_beats:
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS PIPELINE II=1
      take_beat<B>(token, memory[i * BEATS + beat], beat);
      if (beat == BEATS - 1) out.write(token);
    }
  }
}

/* Tokens to a buffer in memory. */
template <int TOKENS, int BEATS, int B, class X, int P, int W>
void leave_memory(hls::stream<vec<X, P>> &in, ap_uint<W> *memory) {
  vec<X, P> token;
store_tokens:
  for (int i = 0; i < TOKENS; i++) {
  store_beats:
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS PIPELINE II=1
      if (beat == 0) token = in.read();
      memory[i * BEATS + beat] = give_beat<B, W>(token, beat);
    }
  }
}

} // namespace qcc

#endif
