/* Processes that move tokens: copies for several readers, width changes, buffers that change the order. */
#ifndef QCC_HLS_FLOW_H
#define QCC_HLS_FLOW_H

#include "core.h"

namespace qcc {

/* Give every token to two readers. */
template <int TOKENS, class V> void duplicate(hls::stream<V> &in, hls::stream<V> &a, hls::stream<V> &b) {
duplicate_tokens:
  for (int i = 0; i < TOKENS; i++) {
#pragma HLS PIPELINE II=1
    V token = in.read();
    a.write(token);
    b.write(token);
  }
}

/* Cut tokens of A elements into tokens of B elements; B divides A. */
template <int TOKENS, class T, int A, int B> void narrow(hls::stream<vec<T, A>> &in, hls::stream<vec<T, B>> &out) {
  static_assert(A % B == 0, "the narrow width divides the wide one");
  vec<T, A> wide;
narrow_tokens:
  for (int i = 0; i < TOKENS; i++) {
  narrow_parts:
    for (int part = 0; part < A / B; part++) {
#pragma HLS PIPELINE II=1
      if (part == 0) wide = in.read();
      vec<T, B> token;
      for (int p = 0; p < B; p++) {
#pragma HLS UNROLL
        token[p] = wide[part * B + p];
      }
      out.write(token);
    }
  }
}

/* Join tokens of A elements to TOKENS tokens of B elements; A divides B. */
template <int TOKENS, class T, int A, int B> void widen(hls::stream<vec<T, A>> &in, hls::stream<vec<T, B>> &out) {
  static_assert(B % A == 0, "the narrow width divides the wide one");
  vec<T, B> wide;
widen_tokens:
  for (int i = 0; i < TOKENS; i++) {
  widen_parts:
    for (int part = 0; part < B / A; part++) {
#pragma HLS PIPELINE II=1
      vec<T, A> token = in.read();
      for (int p = 0; p < A; p++) {
#pragma HLS UNROLL
        wide[part * A + p] = token[p];
      }
      if (part == B / A - 1) out.write(wide);
    }
  }
}

/* Counts through nested loops, innermost last, and keeps the address that their strides give. */
template <class L> struct odometer {
  int index[L::RANK];
  int address;

  odometer() : address(L::START) {
    for (int d = 0; d < L::RANK; d++) index[d] = 0;
  }

  /* Whether every index is where the buffer has an element, and not padding. */
  bool inside() const {
    bool all = true;
    for (int d = 0; d < L::RANK; d++) {
#pragma HLS UNROLL
      all = all && index[d] >= L::FIRST[d] && index[d] < L::LAST[d];
    }
    return all;
  }

  void next() {
    bool carry = true;
    for (int d = L::RANK - 1; d >= 0; d--) {
#pragma HLS UNROLL
      if (carry) {
        if (index[d] == L::EXTENT[d] - 1) {
          address -= (L::EXTENT[d] - 1) * L::STRIDE[d];
          index[d] = 0;
        } else {
          address += L::STRIDE[d];
          index[d] += 1;
          carry = false;
        }
      }
    }
  }
};

/* Read a tensor into a buffer in the order of the loops G::write, and give it out in the order of G::read: transposes,
   slices, repeated and padded axes are loops with their strides. One buffer of G::SIZE tokens for each of G::FRAMES. */
template <class G, class V> void reorder(hls::stream<V> &in, hls::stream<V> &out, const V fill) {
  V buffer[G::SIZE];
reorder_frames:
  for (int frame = 0; frame < G::FRAMES; frame++) {
    odometer<typename G::write> put;
  reorder_write:
    for (int i = 0; i < G::write::COUNT; i++) {
#pragma HLS PIPELINE II=1
      buffer[put.address] = in.read();
      put.next();
    }
    odometer<typename G::read> get;
  reorder_read:
    for (int i = 0; i < G::read::COUNT; i++) {
#pragma HLS PIPELINE II=1
      out.write(get.inside() ? buffer[get.address] : fill);
      get.next();
    }
  }
}

/* Give out A tokens of one stream, then B tokens of another, OUTER times: two tensors joined along an axis. */
template <int OUTER, int A, int B, class V>
void concat(hls::stream<V> &a, hls::stream<V> &b, hls::stream<V> &out) {
concat_outer:
  for (int i = 0; i < OUTER; i++) {
  concat_tokens:
    for (int k = 0; k < A + B; k++) {
#pragma HLS PIPELINE II=1
      out.write(k < A ? a.read() : b.read());
    }
  }
}

/* Rows of a table by their numbers: memory[id * G::COLUMNS / P + c] holds P codes. A number beyond the table is taken for
   the first or the last row, so that no address leaves the memory. */
template <class G, class X, class Y, int P>
void embedding(const lanes<G::LANES> *memory, hls::stream<vec<X, 1>> &ids, hls::stream<vec<Y, P>> &out) {
  static_assert(G::COLUMNS % P == 0, "a token stays within a row");
  constexpr int CF = G::COLUMNS / P;
  int row = 0;
embedding_ids:
  for (int i = 0; i < G::IDS; i++) {
  embedding_columns:
    for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
      if (c == 0) {
        long long id = ids.read()[0].to_int64();
        row = int(clamp<long long>(id, 0, G::ROWS - 1));
      }
      const lanes<G::LANES> word = memory[row * CF + c];
      vec<Y, P> token;
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        token[p] = Y(G::codes::code(word, p));
      }
      out.write(token);
    }
  }
}

/* Give out a constant tensor, token by token. */
template <class G, class T, int P> void constant(hls::stream<vec<T, P>> &out) {
constant_tokens:
  for (int i = 0; i < G::COUNT / P; i++) {
#pragma HLS PIPELINE II=1
    vec<T, P> token;
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      token[p] = T(G::values(i * P + p));
    }
    out.write(token);
  }
}

} // namespace qcc

#endif
