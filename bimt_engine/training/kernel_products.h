// Products of small matrices, held in registers tile by tile.
//
// Every sum runs in one fixed order, so the same numbers give the same bits.
#pragma once
#include "kernel_vectors.h"

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
