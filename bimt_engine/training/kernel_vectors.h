// Vectors of numbers, as wide as this processor's registers, and the few functions that a network needs of them.
//
// Written in the vector extension of GCC and Clang, so that one text serves AVX-512, AVX2, SSE2 and NEON.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))

template <class T> struct Wide;
template <> struct Wide<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
};
template <> struct Wide<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T> using Vec = typename Wide<T>::V;
template <class T> constexpr long LANES = VECTOR_BYTES / (long)sizeof(T);

template <class T> INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T> INLINE void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }
template <class T> INLINE Vec<T> all(T x) { return x - Vec<T>{}; }

// Keep a vector in a register that several products read, where the compiler would load it anew for each of them.
template <class V> INLINE V held(V v) {
#if defined(__SSE2__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

template <class T> INLINE T lane_sum(Vec<T> v) {
  // Halves are added to halves: always in this order, so always the same bits.
  T x[LANES<T>];
  store<T>(x, v);
  for (long half = LANES<T> / 2; half; half /= 2)
    for (long i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}

// The sums of four vectors, side by side.
template <class T> struct Four {
  typedef T V __attribute__((vector_size(4 * sizeof(T))));
};
template <class T> INLINE typename Four<T>::V lane_sums(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  return typename Four<T>::V{lane_sum<T>(a), lane_sum<T>(b), lane_sum<T>(c), lane_sum<T>(d)};
}
#if VECTOR_BYTES == 32
template <> INLINE Four<double>::V lane_sums<double>(Vec<double> a, Vec<double> b, Vec<double> c, Vec<double> d) {
  const __m256d ab = _mm256_hadd_pd((__m256d)a, (__m256d)b), cd = _mm256_hadd_pd((__m256d)c, (__m256d)d);
  const __m256d low = _mm256_permute2f128_pd(ab, cd, 0x20), high = _mm256_permute2f128_pd(ab, cd, 0x31);
  return (Four<double>::V)(low + high);
}
template <> INLINE Four<float>::V lane_sums<float>(Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
  const __m256 ab = _mm256_hadd_ps((__m256)a, (__m256)b), cd = _mm256_hadd_ps((__m256)c, (__m256)d);
  const __m256 each = _mm256_hadd_ps(ab, cd);
  return (Four<float>::V)(_mm256_castps256_ps128(each) + _mm256_extractf128_ps(each, 1));
}
#elif VECTOR_BYTES == 64
template <> INLINE Four<double>::V lane_sums<double>(Vec<double> a, Vec<double> b, Vec<double> c, Vec<double> d) {
  const __m512d A = (__m512d)a, B = (__m512d)b, C = (__m512d)c, D = (__m512d)d;
  const __m512d ab = _mm512_unpacklo_pd(A, B) + _mm512_unpackhi_pd(A, B);
  const __m512d cd = _mm512_unpacklo_pd(C, D) + _mm512_unpackhi_pd(C, D);
  const __m256d two = _mm512_castpd512_pd256(ab) + _mm512_extractf64x4_pd(ab, 1);
  const __m256d more = _mm512_castpd512_pd256(cd) + _mm512_extractf64x4_pd(cd, 1);
  return (Four<double>::V)(_mm256_permute2f128_pd(two, more, 0x20) + _mm256_permute2f128_pd(two, more, 0x31));
}
template <> INLINE Four<float>::V lane_sums<float>(Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
  const __m512 A = (__m512)a, B = (__m512)b, C = (__m512)c, D = (__m512)d;
  const __m512 ab = _mm512_unpacklo_ps(A, B) + _mm512_unpackhi_ps(A, B);
  const __m512 cd = _mm512_unpacklo_ps(C, D) + _mm512_unpackhi_ps(C, D);
  const __m512 each = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xEE);
  const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(each), 1));
  const __m256 half = _mm512_castps512_ps256(each) + upper;
  return (Four<float>::V)(_mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1));
}
#endif

// Square root and bounds, by the instruction: there is no portable spelling that every compiler turns into it.
// `bounded` keeps x within low … high, and lets not-a-number pass.
INLINE double root(double x) { return std::sqrt(x); }
INLINE float root(float x) { return std::sqrt(x); }
#if defined(__SSE2__)
#if VECTOR_BYTES == 64
#define X86(NAME) _mm512_##NAME
typedef __m512d Doubles;
typedef __m512 Floats;
#elif VECTOR_BYTES == 32
#define X86(NAME) _mm256_##NAME
typedef __m256d Doubles;
typedef __m256 Floats;
#else
#define X86(NAME) _mm_##NAME
typedef __m128d Doubles;
typedef __m128 Floats;
#endif
INLINE Vec<double> root(Vec<double> x) { return (Vec<double>)X86(sqrt_pd)((Doubles)x); }
INLINE Vec<float> root(Vec<float> x) { return (Vec<float>)X86(sqrt_ps)((Floats)x); }
INLINE Vec<double> bounded(Vec<double> x, double low, double high) {
  return (Vec<double>)X86(min_pd)((Doubles)all(high), X86(max_pd)((Doubles)all(low), (Doubles)x));
}
INLINE Vec<float> bounded(Vec<float> x, float low, float high) {
  return (Vec<float>)X86(min_ps)((Floats)all(high), X86(max_ps)((Floats)all(low), (Floats)x));
}
#else
template <class V> INLINE V root(V x) {
  for (unsigned i = 0; i < sizeof x / sizeof x[0]; i++) x[i] = std::sqrt(x[i]);
  return x;
}
template <class V, class T> INLINE V bounded(V x, T low, T high) {
  x = x < low ? all(low) : x;
  return x > high ? all(high) : x;
}
#endif

// Some vectors that take every step together: a long chain of steps on one would leave the processor waiting.
template <class T, int N> struct Pack {
  Vec<T> at[N];
};
template <class T, int N> INLINE Pack<T, N> load_pack(const T* from) {
  Pack<T, N> p;
  for (int i = 0; i < N; i++) p.at[i] = load(from + i * LANES<T>);
  return p;
}
template <class T, int N> INLINE void store_pack(T* to, const Pack<T, N>& p) {
  for (int i = 0; i < N; i++) store<T>(to + i * LANES<T>, p.at[i]);
}
#define PACK_OPERATOR(OP)                                                             \
  template <class T, int N> INLINE Pack<T, N> operator OP(Pack<T, N> a, const Pack<T, N>& b) { \
    for (int i = 0; i < N; i++) a.at[i] = a.at[i] OP b.at[i];                         \
    return a;                                                                         \
  }                                                                                   \
  template <class T, int N> INLINE Pack<T, N> operator OP(Pack<T, N> a, T b) {        \
    for (int i = 0; i < N; i++) a.at[i] = a.at[i] OP b;                               \
    return a;                                                                         \
  }                                                                                   \
  template <class T, int N> INLINE Pack<T, N> operator OP(T a, Pack<T, N> b) {        \
    for (int i = 0; i < N; i++) b.at[i] = a OP b.at[i];                               \
    return b;                                                                         \
  }
PACK_OPERATOR(+)
PACK_OPERATOR(-)
PACK_OPERATOR(*)
PACK_OPERATOR(/)

// How e^x is taken at each precision: x = n·ln 2 + r with |r| ≤ ln 2 / 2, and e^r − 1 = r + r²·q(r).
// q interpolates at Chebyshev points: relative error 1.7e-17 and 1.0e-8. Falling powers.
template <class T> struct Exp;
template <> struct Exp<double> {
  static constexpr double LOW = -708, HIGH = 709;  // where 2ⁿ is an ordinary number
  static constexpr double ROUND = 0x1.8p52;        // adding it rounds to a whole number, kept in the low bits
  static constexpr int SHIFT = 52;
  static constexpr double LN2 = 6.93145751953125e-1, LN2_REST = 1.42860682030941723212e-6;  // n·LN2 is exact
  static constexpr double Q[] = {2.510038549551031908e-8, 2.762008844540974816e-7, 2.755726845999706477e-6,
                                 2.480152129595437513e-5, 1.984126986305361688e-4, 1.38888889172137169e-3,
                                 8.333333333330061833e-3, 4.166666666662412787e-2, 1.666666666666666745e-1, 0.5};
};
template <> struct Exp<float> {
  static constexpr float LOW = -87, HIGH = 88;
  static constexpr float ROUND = 0x1.8p23f;
  static constexpr int SHIFT = 23;
  static constexpr float LN2 = 0.693359375f, LN2_REST = -2.12194440e-4f;
  static constexpr float Q[] = {1.392618358771349e-3f, 8.363179052722578e-3f, 4.166655461720457e-2f,
                                1.666657696989878e-1f, 0.5f};
};

// 2ⁿ, and in `rest` e^r − 1.
template <class T, int N> INLINE Pack<T, N> split_exp(Pack<T, N> x, Pack<T, N>& rest) {
  typedef Exp<T> E;
  typedef typename Wide<T>::I I;
  for (int i = 0; i < N; i++) x.at[i] = bounded(x.at[i], E::LOW, E::HIGH);
  const Pack<T, N> shifted = x * T(1.4426950408889634) + E::ROUND;
  const Pack<T, N> n = shifted - E::ROUND;
  const Pack<T, N> r = (x - n * E::LN2) - n * E::LN2_REST;
  Pack<T, N> q = r * E::Q[0] + E::Q[1];
  for (unsigned k = 2; k < sizeof E::Q / sizeof(T); k++) q = q * r + E::Q[k];
  rest = q * (r * r) + r;
  Pack<T, N> power;
  for (int i = 0; i < N; i++) power.at[i] = (Vec<T>)(((I)shifted.at[i] << E::SHIFT) + (I)all(T(1)));
  return power;
}
template <class T, int N> INLINE Pack<T, N> exp_of(Pack<T, N> x) {
  Pack<T, N> rest;
  const Pack<T, N> power = split_exp(x, rest);
  return power * rest + power;
}
template <class T, int N> INLINE Pack<T, N> sigmoid_of(Pack<T, N> x) { return T(1) / (exp_of(T(0) - x) + T(1)); }
template <class T, int N> INLINE Pack<T, N> tanh_of(Pack<T, N> x) {
  // Through e^2x − 1, which keeps its leading digits when x is small.
  Pack<T, N> rest;
  const Pack<T, N> power = split_exp(x + x, rest);
  const Pack<T, N> less_one = power * rest + (power - T(1));
  return less_one / (less_one + T(2));
}

enum Activation { SILU, RELU, TANH, GELU, GELU_TANH };

// The activation of z, and in `slope` its derivative there.
template <class T, int KIND, int N> INLINE Pack<T, N> activation_of(Pack<T, N> z, Pack<T, N>& slope) {
  typedef Pack<T, N> P;
  if (KIND == SILU) {
    const P s = sigmoid_of(z), h = z * s;
    slope = s + (h - h * s);
    return h;
  }
  if (KIND == RELU) {
    for (int i = 0; i < N; i++) {
      const Vec<T> x = z.at[i];
      slope.at[i] = x > T(0) ? all(T(1)) : Vec<T>{};
      z.at[i] = x <= T(0) ? Vec<T>{} : x;  // not-a-number passes
    }
    return z;
  }
  if (KIND == TANH) {
    const P t = tanh_of(z);
    slope = T(1) - t * t;
    return t;
  }
  if (KIND == GELU) {
    P below;  // the normal distribution's share below z; rare enough for the library's erfc
    for (int i = 0; i < N; i++)
      for (long j = 0; j < LANES<T>; j++) below.at[i][j] = T(0.5) * std::erfc(z.at[i][j] * T(-0.70710678118654752440));
    slope = below + z * exp_of(z * z * T(-0.5)) * T(0.39894228040143267794);
    return z * below;
  }
  // 0.5·z·(1 + tanh u) = z·sigmoid(2u), u = √(2/π)·(z + 0.044715 z³)
  const T twice = T(1.5957691216057307118);
  const P square = z * z, s = sigmoid_of(z * (square * T(0.044715) + T(1)) * twice);
  const P h = z * s;
  slope = s + (h - h * s) * (square * T(3 * 0.044715) + T(1)) * twice;
  return h;
}
template <class T, int KIND> void activate_as(T* z, T* slope, long count) {
  constexpr long L = LANES<T>;
  long i = 0;
  Pack<T, 3> three;
  for (; i + 3 * L <= count; i += 3 * L) {
    store_pack(z + i, activation_of<T, KIND, 3>(load_pack<T, 3>(z + i), three));
    store_pack(slope + i, three);
  }
  Pack<T, 1> one;
  for (; i < count; i += L) {
    store_pack(z + i, activation_of<T, KIND, 1>(load_pack<T, 1>(z + i), one));
    store_pack(slope + i, one);
  }
}
// z becomes its activation; count is a whole number of vectors.
template <class T> void activate(int kind, T* z, T* slope, long count) {
  switch (kind) {
    case SILU: return activate_as<T, SILU>(z, slope, count);
    case RELU: return activate_as<T, RELU>(z, slope, count);
    case TANH: return activate_as<T, TANH>(z, slope, count);
    case GELU: return activate_as<T, GELU>(z, slope, count);
    default: return activate_as<T, GELU_TANH>(z, slope, count);
  }
}

// Softmax down `count` rows that lie `stride` apart, times `scale`, for N vectors of columns.
template <class T, int N> void soften(T* z, long count, long stride, T scale) {
  Pack<T, N> top = load_pack<T, N>(z), sum = top - top;
  for (long o = 1; o < count; o++) {
    const Pack<T, N> here = load_pack<T, N>(z + o * stride);
    for (int i = 0; i < N; i++) top.at[i] = here.at[i] > top.at[i] ? here.at[i] : top.at[i];
  }
  for (long o = 0; o < count; o++) {
    const Pack<T, N> e = exp_of(load_pack<T, N>(z + o * stride) - top);
    sum = sum + e;
    store_pack(z + o * stride, e);
  }
  const Pack<T, N> share = scale / sum;
  for (long o = 0; o < count; o++) store_pack(z + o * stride, load_pack<T, N>(z + o * stride) * share);
}
