// The door that ctypes knocks at: the same for every kind of machine, in the one precision that the library is built for.
#pragma once
#include <cstdint>
#include <new>

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
  int32_t sparse;         // inputs are mostly zeros
};
struct Rule {  // bimt_engine/training/optimiser.py
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  int32_t proximal;
};
struct Score {
  double loss, correct;
};
}

// A null machine or a 1 mean: out of memory. Nothing else can fail.
#define KERNEL_DOOR(MACHINE)                                                                                          \
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
