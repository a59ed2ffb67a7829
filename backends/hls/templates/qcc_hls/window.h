/* Sliding windows over images whose channels are innermost, and what is computed per channel inside a window. */
#ifndef QCC_HLS_WINDOW_H
#define QCC_HLS_WINDOW_H

#include "core.h"

namespace qcc {

/* Give out, for every output position, the elements under its window in the order (row, column, channel); G::PAD where
   the window leaves the image. Line buffers keep the rows that windows still need. */
template <class G, class X, int P> void window(hls::stream<vec<X, P>> &in, hls::stream<vec<X, P>> &out) {
  static_assert(G::C % P == 0, "a token stays within the channels of a pixel");
  constexpr int CF = G::C / P, SPAN = (G::KH - 1) * G::DH + 1;
  vec<X, P> lines[SPAN][G::W * CF];
  vec<X, P> fill;
  for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
    fill[p] = X(G::PAD);
  }
window_frames:
  for (int frame = 0; frame < G::FRAMES; frame++) {
    int have = 0; /* rows of the image read so far */
  window_rows:
    for (int oy = 0; oy < G::OH; oy++) {
      int bottom = oy * G::SH - G::PH + SPAN; /* one past the last row that this window touches */
      int needed = oy == G::OH - 1 || bottom > G::H ? G::H : bottom;
    window_load:
      for (int y = 0; y < G::H; y++) {
        if (y >= have && y < needed) {
        window_line:
          for (int i = 0; i < G::W * CF; i++) {
#pragma HLS PIPELINE II=1
            vec<X, P> token = in.read();
            /* rows below the last window are read and dropped */
            if (y < bottom) lines[y % SPAN][i] = token;
          }
        }
      }
      if (needed > have) have = needed;
    window_columns:
      for (int ox = 0; ox < G::OW; ox++) {
      window_ky:
        for (int ky = 0; ky < G::KH; ky++) {
        window_kx:
          for (int kx = 0; kx < G::KW; kx++) {
          window_channels:
            for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
              int y = oy * G::SH - G::PH + ky * G::DH, x = ox * G::SW - G::PW + kx * G::DW;
              bool inside = y >= 0 && y < G::H && x >= 0 && x < G::W;
              out.write(inside ? lines[y % SPAN][x * CF + c] : fill);
            }
          }
        }
      }
    }
  }
}

/* Reduce G::COUNT rows of G::CHANNELS elements to one row, G::ROWS times: F::first, F::step, then F::apply. */
template <class G, class F, class X, class Y, int P>
void reduce(hls::stream<vec<X, P>> &in, hls::stream<vec<Y, P>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the channels");
  constexpr int CF = G::CHANNELS / P;
  vec<typename F::sum_t, P> sums[CF];
reduce_rows:
  for (int row = 0; row < G::ROWS; row++) {
  reduce_count:
    for (int k = 0; k < G::COUNT; k++) {
    reduce_channels:
      for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
        vec<X, P> x = in.read();
        vec<typename F::sum_t, P> sum = sums[c];
        vec<Y, P> y;
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          sum[p] = k == 0 ? F::first(x[p]) : F::step(sum[p], x[p]);
          y[p] = F::apply(sum[p], c * P + p);
        }
        sums[c] = sum;
        if (k == G::COUNT - 1) out.write(y);
      }
    }
  }
}

/* A convolution of each channel by itself: windows in, G::MULTIPLE outputs a channel; G::word(k * CF + c) holds the
   P x MULTIPLE codes of window element k. */
template <class G, class F, class X, class Y, int P>
void depthwise(hls::stream<vec<X, P>> &in, hls::stream<vec<Y, P * G::MULTIPLE>> &out) {
  static_assert(G::CHANNELS % P == 0, "a token stays within the channels");
  constexpr int CF = G::CHANNELS / P, PM = P * G::MULTIPLE;
  vec<typename F::sum_t, PM> sums[CF];
depthwise_rows:
  for (int row = 0; row < G::ROWS; row++) {
  depthwise_window:
    for (int k = 0; k < G::WINDOW; k++) {
    depthwise_channels:
      for (int c = 0; c < CF; c++) {
#pragma HLS PIPELINE II=1
        vec<X, P> x = in.read();
        const auto word = G::word(k * CF + c);
        vec<typename F::sum_t, PM> sum = sums[c];
        vec<Y, PM> y;
        for (int p = 0; p < PM; p++) {
#pragma HLS UNROLL
          typename F::sum_t part = k == 0 ? F::bias(c * PM + p) : sum[p];
          part += G::codes::multiply(x[p / G::MULTIPLE], word, p);
          sum[p] = part;
          y[p] = F::apply(part, c * PM + p);
        }
        sums[c] = sum;
        if (k == G::WINDOW - 1) out.write(y);
      }
    }
  }
}

} // namespace qcc

#endif
