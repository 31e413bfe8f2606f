// The C API that ctypes calls, the same for every kind of network, in the one precision that the library is built
// for; and what its steps share: aligned memory and one optimiser step on a flat vector.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

#include "vectors.h"

#ifndef NUMBER
#define NUMBER double
#endif

extern "C" {
struct Examples {
  int64_t count;
  const void* inputs;     // count × inputs (× time, for sequences: count × time × inputs), or null
  const int32_t* tokens;  // count × positions, or null
  const void* targets;    // count × outputs (sequences: count × time × outputs); null with cross entropy
  const int32_t* labels;  // count; null in regression
  const void* weights;    // outputs: what the squared error of each is multiplied by; null: 1 each
  int32_t sparse;         // inputs are mostly zeros
};
struct Rule {  // bimt_engine/training/backends/autograd.py
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  int32_t proximal;
};
struct Score {
  double loss, correct;
};
}

// A null machine or a return value of 1 means: out of memory. Nothing else can fail.
#define KERNEL_C_API(MACHINE)                                                                                          \
  extern "C" {                                                                                                        \
  void* machine_open(const Shape* shape, const Examples* train, const Examples* test) try {                           \
    return new MACHINE(*shape, train, test);                                                                          \
  } catch (const std::bad_alloc&) {                                                                                   \
    return nullptr;                                                                                                   \
  }                                                                                                                   \
  void machine_close(void* machine) { delete (MACHINE*)machine; }                                                     \
  void machine_order(void* machine, const int64_t* inputs, const int64_t* outputs) {                                  \
    ((MACHINE*)machine)->order(inputs, outputs);                                                                      \
  }                                                                                                                   \
  int machine_advance(void* machine, NUMBER* theta, NUMBER* first, NUMBER* second, const NUMBER* price,               \
                      const uint8_t* mask, const Rule* rule, int64_t step, int64_t steps, const int64_t* batches,     \
                      int64_t batch) try {                                                                            \
    ((MACHINE*)machine)->advance(theta, first, second, price, mask, *rule, step, steps, batches, batch);              \
    return 0;                                                                                                         \
  } catch (const std::bad_alloc&) {                                                                                   \
    return 1;                                                                                                         \
  }                                                                                                                   \
  int machine_score(void* machine, int32_t which, const NUMBER* theta, int64_t first, int64_t count,                  \
                    Score* score) try {                                                                               \
    *score = ((MACHINE*)machine)->score(which, theta, first, count);                                                  \
    return 0;                                                                                                         \
  } catch (const std::bad_alloc&) {                                                                                   \
    return 1;                                                                                                         \
  }                                                                                                                   \
  }

template <class T> struct Buffer {  // zeroed memory that starts on a cache line
  T* at = nullptr;
  long size = 0;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  void operator=(const Buffer&) = delete;
  ~Buffer() { std::free(at); }
  void need(long count) {
    if (count <= size) return;
    std::free(at);
    const size_t bytes = ((size_t)count * sizeof(T) + 127) / 64 * 64;
    at = (T*)std::aligned_alloc(64, bytes);
    if (!at) throw std::bad_alloc();
    std::memset((void*)at, 0, bytes);
    size = count;
  }
  operator T*() const { return at; }
};

template <class T> struct Pace {  // the numbers of one optimiser step
  T keep, beta2, to_first, to_second, step, root_scale, epsilon, rate;
  bool proximal;
};

template <class T> Pace<T> pace_of(const Rule& rule, int64_t step) {
  const double first = 1 - std::pow(rule.beta1, (double)step), second = 1 - std::pow(rule.beta2, (double)step);
  return {T(1 - rule.learning_rate * rule.weight_decay), T(rule.beta2), T(1 - rule.beta1),
          T(1 - rule.beta2), T(rule.learning_rate / first), T(1 / std::sqrt(second)), T(rule.epsilon),
          T(rule.learning_rate), rule.proximal != 0};
}

// The same arithmetic as bimt_engine/training/backends/autograd.py, which explains it.
template <bool PROXIMAL, class X, class T> INLINE void move(X& w, X& m, X& v, X gradient, X price, const Pace<T>& pace) {
  const X nothing = price - price;
  const X whole = gradient + (w > nothing ? price : (w < nothing ? -price : nothing));
  m += ((PROXIMAL ? gradient : whole) - m) * pace.to_first;
  v = v * pace.beta2 + whole * whole * pace.to_second;
  const X size = root(v) * pace.root_scale + pace.epsilon;
  w = w * pace.keep - pace.step * m / size;
  if (PROXIMAL) {
    const X cut = price * pace.rate / size;
    w = w > cut ? w - cut : (w < -cut ? w + cut : w - w);
  }
}
template <class T, bool PROXIMAL>
void move_range(long count, T* w, T* m, T* v, const T* g, const T* price, const T* mask, const Pace<T>& pace) {
  long i = 0;
  for (; i + LANES<T> <= count; i += LANES<T>) {
    Vec<T> weight = load(w + i), first = load(m + i), second = load(v + i), gradient = load(g + i);
    if (mask) gradient *= load(mask + i);
    move<PROXIMAL>(weight, first, second, gradient, load(price + i), pace);
    if (mask) weight *= load(mask + i);
    store<T>(w + i, weight), store<T>(m + i, first), store<T>(v + i, second);
  }
  for (; i < count; i++) {
    move<PROXIMAL>(w[i], m[i], v[i], mask ? g[i] * mask[i] : g[i], price[i], pace);
    if (mask) w[i] *= mask[i];
  }
}
template <class T>
void update(long count, T* w, T* m, T* v, const T* g, const T* price, const T* mask, const Pace<T>& pace) {
  if (pace.proximal) move_range<T, true>(count, w, m, v, g, price, mask, pace);
  else move_range<T, false>(count, w, m, v, g, price, mask, pace);
}

inline long padded(long count, long lanes) { return (count + lanes - 1) / lanes * lanes; }
