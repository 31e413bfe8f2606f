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

// --- products of small matrices, held in registers tile by tile ---
//
// Every sum runs in one fixed order, so the same numbers give the same bits.

// What a product starts from, or what is done with it.
enum Start { FROM_ZERO, FROM_BIAS, ADD_TO, TIMES };  // TIMES: the product is multiplied by what C holds

// C[m, n] = Σ_k A[m, k]·B[k, n] for ROWS rows and COLUMNS vectors. A has any strides; rows of B and C are contiguous.
template <class T, int ROWS, int COLUMNS, int START>
INLINE void tile(long depth, const T* a, long a_row, long a_column, const T* b, long b_row, T* c, long c_row,
                 const T* bias) {
  constexpr long L = LANES<T>;
  Vec<T> sum[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++)
      sum[i][j] = START == FROM_BIAS ? all(bias[i]) : START == ADD_TO ? load(c + i * c_row + j * L) : Vec<T>{};
  for (long k = 0; k < depth; k++) {
    Vec<T> row[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) row[j] = held(load(b + j * L));
    for (int i = 0; i < ROWS; i++) {
      const Vec<T> x = all(a[i * a_row]);
      for (int j = 0; j < COLUMNS; j++) sum[i][j] += x * row[j];
    }
    a += a_column;
    b += b_row;
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) {
      T* to = c + i * c_row + j * L;
      store<T>(to, START == TIMES ? sum[i][j] * load(to) : sum[i][j]);
    }
}

// Twelve running sums fill sixteen registers: 4 rows × 3 vectors, and wider where fewer rows are left.
template <class T, int ROWS, int START>
void band(long vectors, long depth, const T* a, long a_row, long a_column, const T* b, long b_row, T* c, long c_row,
          const T* bias) {
  constexpr long L = LANES<T>;
  constexpr int WIDE = ROWS == 4 ? 3 : ROWS == 3 ? 4 : ROWS == 2 ? 6 : 8;
  long n = 0;
  while (vectors - n >= WIDE && vectors - n != WIDE + 1) {
    tile<T, ROWS, WIDE, START>(depth, a, a_row, a_column, b + n * L, b_row, c + n * L, c_row, bias);
    n += WIDE;
  }
  if (vectors - n == WIDE + 1) {  // two even tiles rather than a full one and a sliver
    constexpr int HALF = (WIDE + 1) / 2;
    tile<T, ROWS, HALF, START>(depth, a, a_row, a_column, b + n * L, b_row, c + n * L, c_row, bias);
    n += HALF;
  }
  for (; vectors - n >= 4 && WIDE > 4; n += 4)
    tile<T, ROWS, 4, START>(depth, a, a_row, a_column, b + n * L, b_row, c + n * L, c_row, bias);
  for (; vectors - n >= 2; n += 2)
    tile<T, ROWS, 2, START>(depth, a, a_row, a_column, b + n * L, b_row, c + n * L, c_row, bias);
  for (; n < vectors; n++)
    tile<T, ROWS, 1, START>(depth, a, a_row, a_column, b + n * L, b_row, c + n * L, c_row, bias);
}
template <class T, int START>
void product(long rows, long vectors, long depth, const T* a, long a_row, long a_column, const T* b, long b_row, T* c,
             long c_row, const T* bias = nullptr) {
  long m = 0;
  for (; rows - m >= 4; m += 4)
    band<T, 4, START>(vectors, depth, a + m * a_row, a_row, a_column, b, b_row, c + m * c_row, c_row, bias + m);
  a += m * a_row, c += m * c_row, bias += m;
  if (rows - m == 3) band<T, 3, START>(vectors, depth, a, a_row, a_column, b, b_row, c, c_row, bias);
  if (rows - m == 2) band<T, 2, START>(vectors, depth, a, a_row, a_column, b, b_row, c, c_row, bias);
  if (rows - m == 1) band<T, 1, START>(vectors, depth, a, a_row, a_column, b, b_row, c, c_row, bias);
}

// C[m, n] (+)= Σ_k A[m, k]·B[n, k]: both run along contiguous k, a whole number of vectors. C is dense scalars.
template <class T, int ROWS, int COLUMNS>
INLINE void dot_tile(long vectors, const T* a, long a_row, const T* b, long b_row, T* c, long c_row, bool add) {
  constexpr long L = LANES<T>;
  Vec<T> sum[ROWS][COLUMNS] = {};
  for (long k = 0; k < vectors * L; k += L) {
    Vec<T> mine[ROWS];
    for (int i = 0; i < ROWS; i++) mine[i] = held(load(a + i * a_row + k));
    for (int j = 0; j < COLUMNS; j++) {
      const Vec<T> x = held(load(b + j * b_row + k));
      for (int i = 0; i < ROWS; i++) sum[i][j] += mine[i] * x;
    }
  }
  for (int i = 0; i < ROWS; i++) {
    T* to = c + i * c_row;
    int j = 0;
    for (; j + 4 <= COLUMNS; j += 4) {
      typename Four<T>::V had = {}, total = lane_sums<T>(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]);
      if (add) std::memcpy(&had, to + j, sizeof had);
      total += had;
      std::memcpy(to + j, &total, sizeof total);
    }
    for (; j < COLUMNS; j++) to[j] = lane_sum<T>(sum[i][j]) + (add ? to[j] : T(0));
  }
}
// Three rows × four columns fill the registers; fewer rows take more columns.
template <class T, int ROWS>
void dot_band(long columns, long vectors, const T* a, long a_row, const T* b, long b_row, T* c, long c_row, bool add) {
  constexpr int WIDE = ROWS == 3 ? 4 : 8;
  long n = 0;
  for (; columns - n >= WIDE; n += WIDE)
    dot_tile<T, ROWS, WIDE>(vectors, a, a_row, b + n * b_row, b_row, c + n, c_row, add);
  for (; columns - n >= 4; n += 4) dot_tile<T, ROWS, 4>(vectors, a, a_row, b + n * b_row, b_row, c + n, c_row, add);
  for (; columns - n >= 2; n += 2) dot_tile<T, ROWS, 2>(vectors, a, a_row, b + n * b_row, b_row, c + n, c_row, add);
  if (n < columns) dot_tile<T, ROWS, 1>(vectors, a, a_row, b + n * b_row, b_row, c + n, c_row, add);
}
template <class T>
void dots(long rows, long columns, long vectors, const T* a, long a_row, const T* b, long b_row, T* c, long c_row,
          bool add) {
  long m = 0;
  // Four rows left are two and two: a single row has too few sums to keep the processor busy.
  for (; rows - m >= 3 && rows - m != 4; m += 3)
    dot_band<T, 3>(columns, vectors, a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, add);
  for (; rows - m >= 2; m += 2)
    dot_band<T, 2>(columns, vectors, a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, add);
  if (m < rows) dot_band<T, 1>(columns, vectors, a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, add);
}

// A square of vectors, as many as they are long: column i becomes row i.
template <class T> INLINE void turn_square(const T* from, long from_row, T* to, long to_row) {
  for (long j = 0; j < LANES<T>; j++)
    for (long i = 0; i < LANES<T>; i++) to[j * to_row + i] = from[i * from_row + j];
}
#if VECTOR_BYTES == 32
template <> INLINE void turn_square<double>(const double* from, long from_row, double* to, long to_row) {
  const __m256d a = _mm256_loadu_pd(from), b = _mm256_loadu_pd(from + from_row);
  const __m256d c = _mm256_loadu_pd(from + 2 * from_row), d = _mm256_loadu_pd(from + 3 * from_row);
  const __m256d ab = _mm256_unpacklo_pd(a, b), AB = _mm256_unpackhi_pd(a, b);
  const __m256d cd = _mm256_unpacklo_pd(c, d), CD = _mm256_unpackhi_pd(c, d);
  _mm256_storeu_pd(to, _mm256_permute2f128_pd(ab, cd, 0x20));
  _mm256_storeu_pd(to + to_row, _mm256_permute2f128_pd(AB, CD, 0x20));
  _mm256_storeu_pd(to + 2 * to_row, _mm256_permute2f128_pd(ab, cd, 0x31));
  _mm256_storeu_pd(to + 3 * to_row, _mm256_permute2f128_pd(AB, CD, 0x31));
}
template <> INLINE void turn_square<float>(const float* from, long from_row, float* to, long to_row) {
  __m256 row[8], pair[4];
  for (int i = 0; i < 4; i++) {  // rows i and i + 4 side by side, four numbers of each
    const __m256 a = _mm256_loadu_ps(from + i * from_row), b = _mm256_loadu_ps(from + (i + 4) * from_row);
    row[i] = _mm256_permute2f128_ps(a, b, 0x20), row[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
  }
  for (int half = 0; half < 8; half += 4) {  // then four by four within each half
    pair[0] = _mm256_unpacklo_ps(row[half], row[half + 1]), pair[1] = _mm256_unpackhi_ps(row[half], row[half + 1]);
    pair[2] = _mm256_unpacklo_ps(row[half + 2], row[half + 3]), pair[3] = _mm256_unpackhi_ps(row[half + 2], row[half + 3]);
    _mm256_storeu_ps(to + (half + 0) * to_row, _mm256_shuffle_ps(pair[0], pair[2], 0x44));
    _mm256_storeu_ps(to + (half + 1) * to_row, _mm256_shuffle_ps(pair[0], pair[2], 0xEE));
    _mm256_storeu_ps(to + (half + 2) * to_row, _mm256_shuffle_ps(pair[1], pair[3], 0x44));
    _mm256_storeu_ps(to + (half + 3) * to_row, _mm256_shuffle_ps(pair[1], pair[3], 0xEE));
  }
}
#elif VECTOR_BYTES == 64
template <> INLINE void turn_square<double>(const double* from, long from_row, double* to, long to_row) {
  __m512d pair[8];  // pair[2i + j]: of rows 2i and 2i + 1 the columns j, j + 2, j + 4 and j + 6
  for (int i = 0; i < 8; i += 2) {
    const __m512d a = _mm512_loadu_pd(from + i * from_row), b = _mm512_loadu_pd(from + (i + 1) * from_row);
    pair[i] = _mm512_unpacklo_pd(a, b), pair[i + 1] = _mm512_unpackhi_pd(a, b);
  }
  for (int j = 0; j < 2; j++) {  // then a 4 × 4 square of pairs
    const __m512d above = pair[j], near = pair[2 + j], far = pair[4 + j], below = pair[6 + j];
    const __m512d a = _mm512_shuffle_f64x2(above, near, 0x88), b = _mm512_shuffle_f64x2(far, below, 0x88);
    const __m512d c = _mm512_shuffle_f64x2(above, near, 0xDD), d = _mm512_shuffle_f64x2(far, below, 0xDD);
    _mm512_storeu_pd(to + (j + 0) * to_row, _mm512_shuffle_f64x2(a, b, 0x88));
    _mm512_storeu_pd(to + (j + 2) * to_row, _mm512_shuffle_f64x2(c, d, 0x88));
    _mm512_storeu_pd(to + (j + 4) * to_row, _mm512_shuffle_f64x2(a, b, 0xDD));
    _mm512_storeu_pd(to + (j + 6) * to_row, _mm512_shuffle_f64x2(c, d, 0xDD));
  }
}
template <> INLINE void turn_square<float>(const float* from, long from_row, float* to, long to_row) {
  __m512 four[16];  // four[4i + j]: of rows 4i … 4i + 3 the columns j, j + 4, j + 8 and j + 12
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_loadu_ps(from + i * from_row), b = _mm512_loadu_ps(from + (i + 1) * from_row);
    const __m512 c = _mm512_loadu_ps(from + (i + 2) * from_row), d = _mm512_loadu_ps(from + (i + 3) * from_row);
    const __m512 ab = _mm512_unpacklo_ps(a, b), AB = _mm512_unpackhi_ps(a, b);
    const __m512 cd = _mm512_unpacklo_ps(c, d), CD = _mm512_unpackhi_ps(c, d);
    four[i] = _mm512_shuffle_ps(ab, cd, 0x44), four[i + 1] = _mm512_shuffle_ps(ab, cd, 0xEE);
    four[i + 2] = _mm512_shuffle_ps(AB, CD, 0x44), four[i + 3] = _mm512_shuffle_ps(AB, CD, 0xEE);
  }
  for (int j = 0; j < 4; j++) {  // then a 4 × 4 square of fours
    const __m512 above = four[j], near = four[4 + j], far = four[8 + j], below = four[12 + j];
    const __m512 a = _mm512_shuffle_f32x4(above, near, 0x88), b = _mm512_shuffle_f32x4(far, below, 0x88);
    const __m512 c = _mm512_shuffle_f32x4(above, near, 0xDD), d = _mm512_shuffle_f32x4(far, below, 0xDD);
    _mm512_storeu_ps(to + (j + 0) * to_row, _mm512_shuffle_f32x4(a, b, 0x88));
    _mm512_storeu_ps(to + (j + 4) * to_row, _mm512_shuffle_f32x4(c, d, 0x88));
    _mm512_storeu_ps(to + (j + 8) * to_row, _mm512_shuffle_f32x4(a, b, 0xDD));
    _mm512_storeu_ps(to + (j + 12) * to_row, _mm512_shuffle_f32x4(c, d, 0xDD));
  }
}
#endif

// to[c, r] = from[r, c].
template <class T> void transpose(const T* from, long from_row, T* to, long to_row, long rows, long columns) {
  constexpr long L = LANES<T>;
  for (long r = 0; r < rows; r += L)
    for (long c = 0; c < columns; c += L)
      if (r + L <= rows && c + L <= columns) {
        turn_square(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
      } else {
        for (long j = c; j < c + L && j < columns; j++)
          for (long i = r; i < r + L && i < rows; i++) to[j * to_row + i] = from[i * from_row + j];
      }
}
