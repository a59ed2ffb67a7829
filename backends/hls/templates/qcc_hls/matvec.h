/* The matrix-vector unit: N rows of weights times a vector of K elements, PE rows and SIMD columns a cycle
   (Umuroglu et al., "FINN", arXiv 1612.07119). F::bias and F::apply begin and end each sum. */
#ifndef QCC_HLS_MATVEC_H
#define QCC_HLS_MATVEC_H

#include "core.h"

namespace qcc {

/* Weights as a ROM: G::word(nf * K / SIMD + sf) holds PE x SIMD codes. K/SIMD * N/PE cycles for each of G::ROWS. */
template <class G, class F, class X, class Y>
void matvec(hls::stream<vec<X, G::SIMD>> &in, hls::stream<vec<Y, G::PE>> &out) {
  constexpr int SF = G::K / G::SIMD, NF = G::N / G::PE;
  static_assert(G::K % G::SIMD == 0 && G::N % G::PE == 0, "the folding divides the layer");
  vec<X, G::SIMD> row[SF];
  typename F::sum_t sum[G::PE];
#pragma HLS ARRAY_PARTITION variable=sum complete
matvec_rows:
  for (int r = 0; r < G::ROWS; r++) {
  matvec_neurons:
    for (int nf = 0; nf < NF; nf++) {
    matvec_synapses:
      for (int sf = 0; sf < SF; sf++) {
#pragma HLS PIPELINE II=1
        vec<X, G::SIMD> x;
        if (nf == 0) {
          x = in.read();
          row[sf] = x;
        } else {
          x = row[sf];
        }
        const auto word = G::word(nf * SF + sf);
        vec<Y, G::PE> y;
        for (int p = 0; p < G::PE; p++) {
#pragma HLS UNROLL
          typename F::sum_t part = sf == 0 ? F::bias(nf * G::PE + p) : sum[p];
          part = accumulate<typename G::codes>(part, x, word, p * G::SIMD);
          sum[p] = part;
          if (sf == SF - 1) y[p] = F::apply(part, nf * G::PE + p);
        }
        if (sf == SF - 1) out.write(y);
      }
    }
  }
}

/* Read the words of a layer's weights from memory, once for every tile of rows. */
template <int L, int WORDS, int TILES> void load_weights(const lanes<L> *memory, hls::stream<lanes<L>> &out) {
load_tiles:
  for (int tile = 0; tile < TILES; tile++) {
  load_words:
    for (int i = 0; i < WORDS; i++) {
#pragma HLS PIPELINE II=1
      out.write(memory[i]);
    }
  }
}

/* The same unit with weights that arrive as a stream; each word serves G::TILE rows before the next is read. */
template <class G, class F, class X, class Y>
void matvec_streamed(hls::stream<vec<X, G::SIMD>> &in, hls::stream<lanes<G::LANES>> &weights,
                     hls::stream<vec<Y, G::PE>> &out) {
  constexpr int SF = G::K / G::SIMD, NF = G::N / G::PE;
  static_assert(G::K % G::SIMD == 0 && G::N % G::PE == 0, "the folding divides the layer");
  static_assert(G::ROWS % G::TILE == 0, "a tile divides the rows");
  vec<X, G::SIMD> rows[G::TILE * SF];
  vec<Y, G::PE> results[G::TILE * NF];
  vec<typename F::sum_t, G::PE> sums[G::TILE];
streamed_tiles:
  for (int tile = 0; tile < G::ROWS / G::TILE; tile++) {
  streamed_read:
    for (int i = 0; i < G::TILE * SF; i++) {
#pragma HLS PIPELINE II=1
      rows[i] = in.read();
    }
    lanes<G::LANES> word;
  streamed_neurons:
    for (int nf = 0; nf < NF; nf++) {
    streamed_synapses:
      for (int sf = 0; sf < SF; sf++) {
      streamed_rows:
        for (int t = 0; t < G::TILE; t++) {
#pragma HLS PIPELINE II=1
          if (t == 0) word = weights.read();
          vec<X, G::SIMD> x = rows[t * SF + sf];
          vec<typename F::sum_t, G::PE> sum = sums[t];
          vec<Y, G::PE> y;
          for (int p = 0; p < G::PE; p++) {
#pragma HLS UNROLL
            typename F::sum_t part = sf == 0 ? F::bias(nf * G::PE + p) : sum[p];
            part = accumulate<typename G::codes>(part, x, word, p * G::SIMD);
            sum[p] = part;
            if (sf == SF - 1) y[p] = F::apply(part, nf * G::PE + p);
          }
          sums[t] = sum;
          if (sf == SF - 1) results[t * NF + nf] = y;
        }
      }
    }
  streamed_write:
    for (int i = 0; i < G::TILE * NF; i++) {
#pragma HLS PIPELINE II=1
      out.write(results[i]);
    }
  }
}

/* y = F::apply(((x + bias) * multiplier + half) >> shift) with tables by channel that are read from memory with the first
   row: a word holds, for each of P channels, the bias in one lane, multiplier and shift in the next. */
template <class G, class F, class X, class Y, int P>
void rescale(hls::stream<vec<X, P>> &in, hls::stream<lanes<2 * P>> &tables, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the channels");
  lanes<2 * P> kept[G::CHANNELS / P];
rescale_rows:
  for (int row = 0; row < G::ROWS; row++) {
  rescale_tokens:
    for (int c = 0; c < G::CHANNELS / P; c++) {
#pragma HLS PIPELINE II=1
      vec<X, P> x = in.read();
      lanes<2 * P> word;
      if (row == 0) {
        word = tables.read();
        kept[c] = word;
      } else {
        word = kept[c];
      }
      vec<Y, P> y;
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        typename F::biased_t sum = x[p] + typename F::biased_t((long long)word.v[2 * p]);
        ap_int<32> multiplier = ap_int<32>(word.v[2 * p + 1]);
        y[p] = F::apply(sum, multiplier, int(word.v[2 * p + 1] >> 32), c * P + p);
      }
      out.write(y);
    }
  }
}

/* Products of two computed matrices, G::BATCH times [M, K] x [K, N]: the right one is kept, PE columns a cycle. */
template <class G, class F, class A, class B, class Y>
void matmul(hls::stream<vec<A, 1>> &left, hls::stream<vec<B, G::PE>> &right, hls::stream<vec<Y, G::PE>> &out) {
  constexpr int NF = G::N / G::PE;
  static_assert(G::N % G::PE == 0, "the folding divides the columns");
  vec<B, G::PE> kept[G::K * NF];
  vec<typename F::sum_t, G::PE> sums[NF];
matmul_batch:
  for (int batch = 0; batch < G::BATCH; batch++) {
  matmul_keep:
    for (int i = 0; i < G::K * NF; i++) {
#pragma HLS PIPELINE II=1
      kept[i] = right.read();
    }
  matmul_rows:
    for (int m = 0; m < G::M; m++) {
      vec<A, 1> x;
    matmul_inner:
      for (int k = 0; k < G::K; k++) {
      matmul_columns:
        for (int nf = 0; nf < NF; nf++) {
#pragma HLS PIPELINE II=1
          if (nf == 0) x = left.read();
          vec<B, G::PE> w = kept[k * NF + nf];
          vec<typename F::sum_t, G::PE> sum = sums[nf];
          vec<Y, G::PE> y;
          for (int p = 0; p < G::PE; p++) {
#pragma HLS UNROLL
            typename F::sum_t part = k == 0 ? typename F::sum_t(0) : sum[p];
            part += x[0] * w[p];
            sum[p] = part;
            y[p] = F::apply(part, nf * G::PE + p);
          }
          sums[nf] = sum;
          if (k == G::K - 1) out.write(y);
        }
      }
    }
  }
}

} // namespace qcc

#endif
