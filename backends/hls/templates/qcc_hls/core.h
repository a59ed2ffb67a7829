/* Tokens, dataflow macros and integer arithmetic that all templates share. Integers only. */
#ifndef QCC_HLS_CORE_H
#define QCC_HLS_CORE_H

#include <ap_int.h>
#include <hls_stream.h>

/* A DATAFLOW region: under synthesis and in plain simulation a process is a call; with QCC_BOUNDED, a coroutine. */
#if defined(QCC_BOUNDED) && !defined(__SYNTHESIS__)
#define QCC_REGION qcc_sim::Region qcc_region;
#define QCC_PROCESS(name, call) qcc_region.add(name, [&] { call; });
#define QCC_DEPTH(stream, depth) stream.set_depth(depth);
#define QCC_JOIN qcc_region.run();
#else
#define QCC_REGION
#define QCC_PROCESS(name, call) call;
#define QCC_DEPTH(stream, depth)
#define QCC_JOIN
#endif

namespace qcc {

/* P elements that travel together. */
template <class T, int P> struct vec {
  T e[P];
  T &operator[](int i) { return e[i]; }
  const T &operator[](int i) const { return e[i]; }
};

/* One word of packed weights: L lanes of 64 bits. */
template <int L> struct lanes {
  unsigned long long v[L];
};

/* Clamp to [low, high]. */
template <class A> inline A clamp(A value, A low, A high) {
  return value < low ? low : (value > high ? high : value);
}

/* (value * multiplier + half) >> shift, half = 2^(shift-1) or 0: rounds halves up (Jacob et al., arXiv 1712.05877).
   WIDE holds the product and the half. */
template <int WIDE, class A, class M> inline ap_int<WIDE> scale(A value, M multiplier, int shift) {
  ap_int<WIDE> product = ap_int<WIDE>(value) * ap_int<WIDE>(multiplier);
  ap_int<WIDE> half = shift > 0 ? ap_int<WIDE>(ap_int<WIDE>(1) << (shift > 0 ? shift - 1 : 0)) : ap_int<WIDE>(0);
  return ap_int<WIDE>(product + half) >> shift;
}

/* Two's complement codes of B bits, PER of them in a lane. */
template <int B> struct integer_codes {
  static constexpr int PER = 64 / B;
  template <int L> static ap_int<B> code(const lanes<L> &word, int i) {
    return ap_int<B>(word.v[i / PER] >> ((i % PER) * B));
  }
  template <class X, int L> static ap_int<B + X::width> multiply(const X &x, const lanes<L> &word, int i) {
    return x * code(word, i);
  }
  static long long number(unsigned long long lane, int i) { return (long long)(lane << (64 - B - i * B)) >> (64 - B); }
};

/* Codes of one bit: 1 stands for +1, 0 for -1. */
struct sign_codes {
  static constexpr int PER = 64;
  template <class X, int L> static ap_int<X::width + 1> multiply(const X &x, const lanes<L> &word, int i) {
    ap_int<X::width + 1> wide = x;
    return ((word.v[i / PER] >> (i % PER)) & 1) ? wide : ap_int<X::width + 1>(-wide);
  }
  static long long number(unsigned long long lane, int i) { return (lane >> i) & 1 ? 1 : -1; }
};

/* Powers of two: a sign bit above an exponent of B - 1 bits; exponent code 0 stands for zero, e for 2^(e - 1). */
template <int B> struct power_codes {
  static constexpr int PER = 64 / B;
  static constexpr int REACH = (1 << (B - 1)) - 2;
  template <class X, int L> static ap_int<X::width + REACH + 1> multiply(const X &x, const lanes<L> &word, int i) {
    ap_uint<B> code = ap_uint<B>(word.v[i / PER] >> ((i % PER) * B));
    int exponent = int(code & ((1 << (B - 1)) - 1));
    ap_int<X::width + REACH + 1> wide = x;
    wide = exponent ? ap_int<X::width + REACH + 1>(wide << (exponent - 1)) : ap_int<X::width + REACH + 1>(0);
    return (code >> (B - 1)) ? ap_int<X::width + REACH + 1>(-wide) : wide;
  }
  static long long number(unsigned long long lane, int i) {
    int code = int(lane >> (i * B)) & ((1 << B) - 1), exponent = code & ((1 << (B - 1)) - 1);
    long long value = exponent ? 1ll << (exponent - 1) : 0;
    return code >> (B - 1) ? -value : value;
  }
};

/* sum + x[0] * code(first) + x[1] * code(first + 1) + ... Simulation adds in the machine's integers, which hold every sum
   that S holds, and is several times faster; with QCC_EXACT_TYPES it runs what synthesis reads. */
template <class C, class S, class X, int SIMD, int L>
inline S accumulate(S sum, const vec<X, SIMD> &x, const lanes<L> &word, int first) {
#if defined(__SYNTHESIS__) || defined(QCC_EXACT_TYPES)
  for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
    sum += C::multiply(x[s], word, first + s);
  }
  return sum;
#else
  long long total = sum.to_int64();
  int lane = first / C::PER, place = first % C::PER;
  for (int s = 0; s < SIMD; s++) {
    total += x[s].to_int() * C::number(word.v[lane], place);
    if (++place == C::PER) {
      place = 0;
      lane++;
    }
  }
  return S(total);
#endif
}

} // namespace qcc

#endif
