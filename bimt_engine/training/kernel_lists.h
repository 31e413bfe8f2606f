// A first layer whose inputs are mostly zeros, as lists: for each example the rows of a table that it adds up.
#pragma once
#include <algorithm>
#include <vector>

#include "kernel_vectors.h"

template <class T> struct Entry {
  int32_t who;
  T times;
};

template <class T> struct Lists {  // list i holds entries first[i] … first[i + 1]
  std::vector<int64_t> first;
  std::vector<Entry<T>> entries;
  const Entry<T>* of(int64_t i) const { return entries.data() + first[i]; }
  long size(int64_t i) const { return (long)(first[i + 1] - first[i]); }

  // Bring list i nearer.
  void fetch(int64_t i) const {
    const char *at = (const char*)of(i), *end = (const char*)of(i + 1);
    for (; at < end; at += 64) __builtin_prefetch(at);
  }

  // The same entries listed the other way round: for each of `count` rows, the places in `chosen` whose lists name it.
  void turn(const Lists& from, const std::vector<int64_t>& chosen, long count) {
    first.assign(count + 2, 0);
    long total = 0;
    for (int64_t i : chosen) {
      const Entry<T>* list = from.of(i);
      const long size = from.size(i);
      for (long e = 0; e < size; e++) first[list[e].who + 2]++;
      total += size;
    }
    for (long r = 2; r < count + 2; r++) first[r] += first[r - 1];
    if ((long)entries.size() < total) entries.resize(total);
    for (size_t place = 0; place < chosen.size(); place++) {
      const Entry<T>* list = from.of(chosen[place]);
      const long size = from.size(chosen[place]);
      for (long e = 0; e < size; e++) entries[first[list[e].who + 1]++] = {(int32_t)place, list[e].times};
    }
  }
};

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
