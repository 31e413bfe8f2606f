// A first layer whose inputs are mostly zeros, as lists: for each example the rows of a table that it adds up.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "kernel_vectors.h"

template <class T> struct Entry {
  int32_t who;
  T times;
};

constexpr long SLACK = 16;  // entries: lists are written a vector at a time, and so past their ends

template <class T> struct Lists {  // list i holds entries first[i] … first[i + 1]
  std::vector<int64_t> first{0};
  const Entry<T>* of(long i) const { return entries.get() + first[i]; }
  long size(long i) const { return (long)(first[i + 1] - first[i]); }

  // Start over, with room for so many entries; memory that no entry reaches is never touched.
  void clear(long count) {
    first.assign(1, 0);
    count += SLACK;
    if (count > room) entries.reset(new Entry<T>[count]), room = count;
  }
  Entry<T>* end() { return entries.get() + first.back(); }
  void close(const Entry<T>* at) { first.push_back(at - entries.get()); }

  // The same entries listed the other way round: for each of `count` rows, the lists that name it.
  void turn(const Lists& from, long count) {
    clear(from.first.back());
    first.assign(count + 2, 0);
    const Entry<T>* all = from.entries.get();
    for (int64_t e = 0; e < from.first.back(); e++) first[all[e].who + 2]++;
    for (long r = 2; r < count + 2; r++) first[r] += first[r - 1];
    for (size_t i = 0; i + 1 < from.first.size(); i++)
      for (int64_t e = from.first[i]; e < from.first[i + 1]; e++)
        entries[first[all[e].who + 1]++] = {(int32_t)i, all[e].times};
  }

 private:
  std::unique_ptr<Entry<T>[]> entries;
  long room = 0;
};

// The numbers of a line that are not 0, with their places from `at` on. Returns the end of the list.
template <class T> Entry<T>* list_numbers(const T* line, long from, long to, Entry<T>* list) {
  constexpr long PIECE = 32 / sizeof(T);
  long i = from;
  for (; i + PIECE <= to; i += PIECE) {
    uint64_t bits[4];
    std::memcpy(bits, line + i, sizeof bits);
    if (!(bits[0] | bits[1] | bits[2] | bits[3])) continue;
    for (long j = i; j < i + PIECE; j++) *list = {(int32_t)j, line[j]}, list += line[j] != T(0);
  }
  for (; i < to; i++) *list = {(int32_t)i, line[i]}, list += line[i] != T(0);
  return list;
}
#if VECTOR_BYTES == 64
// Sixteen at a time: those that are not 0 close ranks, and each gets its place beside it.
template <> inline Entry<float>* list_numbers<float>(const float* line, long from, long to, Entry<float>* list) {
  const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (long i = from; i < to; i += 16) {
    const __mmask16 here = to - i < 16 ? (__mmask16)((1 << (to - i)) - 1) : (__mmask16)-1;
    const __m512 some = _mm512_maskz_loadu_ps(here, line + i);
    const __mmask16 wanted = _mm512_cmp_ps_mask(some, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i who = _mm512_maskz_compress_epi32(wanted, _mm512_add_epi32(places, _mm512_set1_epi32((int)i)));
    const __m512i times = _mm512_castps_si512(_mm512_maskz_compress_ps(wanted, some));
    _mm512_storeu_si512(list, _mm512_permutex2var_epi32(who, first, times));
    _mm512_storeu_si512(list + 8, _mm512_permutex2var_epi32(who, last, times));
    list += __builtin_popcount(wanted);
  }
  return list;
}
#endif

template <class T> void bring_nearer(const T* from, long count) {
  for (long i = 0; i < count; i += 64 / (long)sizeof(T)) __builtin_prefetch(from + i);
}

// to = start + Σ of listed table rows, each times its number; start null: from zero.
template <class T, int VECTORS>
void add_vectors(long count, const Entry<T>* list, const T* table, long row, const T* start, T* to) {
  Vec<T> sum[VECTORS];
  for (int j = 0; j < VECTORS; j++) sum[j] = start ? load(start + j * LANES<T>) : Vec<T>{};
  for (long k = 0; k < count; k++) {
    const Vec<T> x = all(list[k].times);
    const T* from = table + list[k].who * row;
    for (int j = 0; j < VECTORS; j++) sum[j] += x * load(from + j * LANES<T>);
  }
  for (int j = 0; j < VECTORS; j++) store<T>(to + j * LANES<T>, sum[j]);
}

// So many vectors of a row are added up at once; the sums fill the registers.
constexpr long MOST_VECTORS = 13;

template <class T>
void add_rows(long vectors, long count, const Entry<T>* list, const T* table, long row, const T* start, T* to) {
  switch (vectors) {
#define CASE(N) \
  case N: return add_vectors<T, N>(count, list, table, row, start, to);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
#undef CASE
  }
}
