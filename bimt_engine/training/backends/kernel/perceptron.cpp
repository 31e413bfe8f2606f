// Many training steps of a multilayer perceptron in one call: forward, backward and AdamW on flat memory.
//
// Activations are kept neuron × example, so that every inner loop runs along contiguous examples; examples pass through
// all layers chunk by chunk, and a chunk fits the cache. A first layer whose inputs are mostly zeros (images), or are
// tokens, is a list of table rows to add up for each example instead: for tokens the rows are embedding × first layer,
// made once per token and step. No memory is taken during a step. All sums run in a fixed order. The three kinds of
// first layer are in one file because everything after it is shared.
#include <algorithm>
#include <memory>
#include <vector>

#include "c_api.h"
#include "vectors.h"

extern "C" {
enum { MAX_LAYERS = 32 };
struct Shape {               // a network in one flat vector; offsets count numbers
  int64_t parameters, embedding_at, weight_at[MAX_LAYERS], bias_at[MAX_LAYERS];
  int32_t layers, activation, cross_entropy;
  int32_t tokens, positions, embedding;  // tokens 0: the inputs are numbers
  int32_t widths[MAX_LAYERS + 1];        // widths[0]: columns of the first weight matrix
};
}

namespace {

// --- a first layer whose inputs are mostly zeros, as lists: for each example the rows of a table that it adds up ---

template <class T> struct Entry {
  int32_t row;
  T times;
};

constexpr long SLACK = 16;  // entries: lists are written a vector at a time, and so past their ends

template <class T> struct Lists {  // list i holds entries first[i] … first[i + 1]
  std::vector<int64_t> first{0};
  const Entry<T>* of(long i) const { return entries.get() + first[i]; }
  long size(long i) const { return (long)(first[i + 1] - first[i]); }

  // Start over, with capacity for so many entries; memory that no entry reaches is never touched.
  void clear(long count) {
    first.assign(1, 0);
    count += SLACK;
    if (count > capacity) entries.reset(new Entry<T>[count]), capacity = count;
  }
  Entry<T>* end() { return entries.get() + first.back(); }
  void close(const Entry<T>* at) { first.push_back(at - entries.get()); }

  // The same entries listed the other way round: for each of `count` rows, the lists that name it.
  void turn(const Lists& from, long count) {
    clear(from.first.back());
    first.assign(count + 2, 0);
    const Entry<T>* all = from.entries.get();
    for (int64_t e = 0; e < from.first.back(); e++) first[all[e].row + 2]++;
    for (long r = 2; r < count + 2; r++) first[r] += first[r - 1];
    for (size_t i = 0; i + 1 < from.first.size(); i++)
      for (int64_t e = from.first[i]; e < from.first[i + 1]; e++)
        entries[first[all[e].row + 1]++] = {(int32_t)i, all[e].times};
  }

 private:
  std::unique_ptr<Entry<T>[]> entries;
  long capacity = 0;
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
// Sixteen at a time: those that are not 0 are compressed, and each is stored beside its place.
template <> inline Entry<float>* list_numbers<float>(const float* line, long from, long to, Entry<float>* list) {
  const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (long i = from; i < to; i += 16) {
    const __mmask16 here = to - i < 16 ? (__mmask16)((1 << (to - i)) - 1) : (__mmask16)-1;
    const __m512 some = _mm512_maskz_loadu_ps(here, line + i);
    const __mmask16 wanted = _mm512_cmp_ps_mask(some, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i row = _mm512_maskz_compress_epi32(wanted, _mm512_add_epi32(places, _mm512_set1_epi32((int)i)));
    const __m512i times = _mm512_castps_si512(_mm512_maskz_compress_ps(wanted, some));
    _mm512_storeu_si512(list, _mm512_permutex2var_epi32(row, first, times));
    _mm512_storeu_si512(list + 8, _mm512_permutex2var_epi32(row, last, times));
    list += __builtin_popcount(wanted);
  }
  return list;
}
#endif

template <class T> void prefetch(const T* from, long count) {
  for (long i = 0; i < count; i += 64 / (long)sizeof(T)) __builtin_prefetch(from + i);
}

// to = start + Σ of listed table rows, each times its number; start null: from zero.
template <class T, int VECTORS>
void add_vectors(long count, const Entry<T>* list, const T* table, long row, const T* start, T* to) {
  Vec<T> sum[VECTORS];
  for (int j = 0; j < VECTORS; j++) sum[j] = start ? load(start + j * LANES<T>) : Vec<T>{};
  for (long k = 0; k < count; k++) {
    const Vec<T> x = all(list[k].times);
    const T* from = table + list[k].row * row;
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

// --- the network ---

constexpr long NEAREST_CACHE = 24 << 10;  // bytes; most of a usual first-level cache
constexpr long NEAR_CACHE = 448 << 10;    // the better part of a usual second-level cache

template <class T> class Machine {
  enum { DENSE, SPARSE, TOKENS } kind;
  static constexpr long L = LANES<T>;

  struct Chunk {  // some examples of this step, in the order of slots
    long count = 0, first = 0;
    Buffer<T> inputs, targets;
    std::vector<int32_t> labels;
  };

  Shape shape;
  Examples parts[2];
  long outputs, hidden, row;        // hidden: width after the first layer; row: the same, in whole vectors
  long chunk_limit, stride = 0;     // examples in a chunk; distance between neurons in memory
  long table_rows = 0, strip = 0, strips = 1;    // a strip of so many table rows fits the near cache
  std::vector<int32_t> input_slot, output_slot, label_slot;  // slot of a feature; feature of a slot; slot of a label
  std::vector<T> error_weight;                               // of a slot: what its squared error is multiplied by
  std::vector<int64_t> chosen;                               // the examples of this step
  Lists<T> rows, columns;        // place in this step -> table rows that it adds up; table row -> places in this step
  std::vector<int32_t> marks;    // place × strip: how many entries of its list come before the strip
  std::vector<Chunk> chunks;
  std::vector<Buffer<T>> value, slope;  // by neuron layer: neuron × example
  Buffer<T> gradient, masked, entering, leaving, table, table_gradient, bias_row;
  Buffer<T> first_weights, second_weights, side[5];

 public:
  Machine(const Shape& s, const Examples* train, const Examples* test)
      : shape(s), value(s.layers + 1), slope(s.layers + 1) {
    kind = s.tokens ? TOKENS : train->sparse ? SPARSE : DENSE;
    outputs = s.widths[s.layers], hidden = s.widths[1], row = padded(hidden, L);
    table_rows = kind == TOKENS ? (long)s.tokens * s.positions : kind == SPARSE ? s.widths[0] : 0;
    parts[0] = *train, parts[1] = *test;
    if (kind == SPARSE) {
      strip = std::max<long>(16, NEAR_CACHE / (row * (long)sizeof(T)));
      strips = (table_rows + strip - 1) / strip;
    }
    long neurons = 0;
    for (int l = 0; l <= s.layers; l++) neurons += s.widths[l] * (l && l < s.layers ? 2 : 1);
    // A chunk's activations and slopes take about 256 KiB, half of a usual second-level cache.
    chunk_limit = std::clamp<long>((256 << 10) / (neurons * (long)sizeof(T)), 48, 512) / L * L;
    gradient.need(s.parameters + L);
    table.need(table_rows * row), table_gradient.need(kind == TOKENS ? table_rows * row : row), bias_row.need(row);
    if (kind == TOKENS) {
      first_weights.need((long)s.positions * s.embedding * row);
      second_weights.need(((long)s.positions * hidden + s.tokens) * padded(s.embedding, L));
    }
    order(nullptr, nullptr);
  }

  // Slot i of the inputs reads feature inputs[i]; slot i of the outputs answers target outputs[i]. Null: as they come.
  void order(const int64_t* ins, const int64_t* outs) {
    input_slot.resize(shape.widths[0]), output_slot.resize(outputs), label_slot.resize(outputs);
    error_weight.assign(outputs, T(1));
    for (int i = 0; i < shape.widths[0]; i++) input_slot[ins && kind != TOKENS ? ins[i] : i] = i;
    for (int i = 0; i < outputs; i++) output_slot[i] = outs ? (int32_t)outs[i] : i, label_slot[output_slot[i]] = i;
    const T* weights = (const T*)parts[0].weights;
    for (int i = 0; weights && i < outputs; i++) error_weight[i] = weights[output_slot[i]];
  }

  // `batches`: steps × batch examples; null: all examples at every step. The first step is number `step` + 1.
  void advance(T* theta, T* first, T* second, const T* price, const uint8_t* mask, const Rule& rule, int64_t step,
               int64_t steps, const int64_t* batches, int64_t batch) {
    const T* keep = nullptr;
    if (mask) {
      masked.need(shape.parameters + L);
      for (long i = 0; i < shape.parameters; i++) masked[i] = mask[i] ? T(1) : T(0);
      keep = masked;
    }
    T* flat[5] = {theta, first, second, const_cast<T*>(price), masked};
    if (kind == SPARSE) lay_aside(flat, keep ? 5 : 4, false);
    if (!batches) choose(parts[0], nullptr, parts[0].count), turn();
    for (int64_t t = 0; t < steps; t++) {
      if (batches) choose(parts[0], batches + t * batch, batch), turn();
      begin(theta);
      for (size_t c = 0; c < chunks.size(); c++) {
        forward(chunks[c], theta);
        lose(chunks[c]);
        backward(chunks[c], theta, c > 0);
      }
      const Pace<T> pace = pace_of<T>(rule, step + t + 1);
      const long at = shape.weight_at[0], after = at + (long)shape.widths[0] * hidden;
      if (kind == TOKENS) spread(theta);
      if (kind == SPARSE) {
        update_table(keep != nullptr, pace);
        update(at, theta, first, second, gradient.at, price, keep, pace);
        update(shape.parameters - after, theta + after, first + after, second + after, gradient + after, price + after,
               keep ? keep + after : keep, pace);
      } else {
        update(shape.parameters, theta, first, second, gradient.at, price, keep, pace);
      }
    }
    if (kind == SPARSE) lay_aside(flat, 3, true);
  }

  // Mean loss over examples first … first + count of a part, and how many of them are classified rightly.
  Score score(int which, const T* theta, int64_t first, int64_t count) {
    const Examples& part = parts[which];
    T* flat[1] = {const_cast<T*>(theta)};
    if (kind == SPARSE) lay_aside(flat, 1, false);
    begin(theta);
    Score total{0, 0};
    std::vector<int64_t> some;
    for (int64_t done = 0; done < count; done += chunk_limit) {
      const int64_t end = std::min<int64_t>(count, done + chunk_limit);
      some.clear();
      for (int64_t i = done; i < end; i++) some.push_back(first + i);
      choose(part, some.data(), (long)some.size());
      forward(chunks[0], theta);
      judge(part, chunks[0], total);
    }
    total.loss /= count ? (double)count * (shape.cross_entropy ? 1 : outputs) : 1;
    return total;
  }

 private:
  // For each chosen example, the rows of the table that it adds up.
  void list_rows(const Examples& part) {
    if (kind == DENSE) return;
    const long width = kind == TOKENS ? shape.positions : shape.widths[0];
    rows.clear((long)chosen.size() * width), marks.clear();
    for (size_t i = 0; i < chosen.size(); i++) {
      const int64_t n = chosen[i];
      Entry<T>* at = rows.end();
      if (kind == TOKENS) {
        for (int32_t p = 0; p < width; p++) *at++ = {p * shape.tokens + part.tokens[n * width + p], T(1)};
      } else {
        // Examples lie in no order in far memory: one that is soon needed sets out early.
        if (i + 2 < chosen.size()) prefetch((const T*)part.inputs + chosen[i + 2] * width, width);
        for (long s = 0; s < strips; s++) {
          marks.push_back((int32_t)(at - rows.end()));
          at = list_numbers((const T*)part.inputs + n * width, s * strip, std::min((s + 1) * strip, width), at);
        }
        marks.push_back((int32_t)(at - rows.end()));
      }
      rows.close(at);
    }
  }

  // Cut the chosen examples into even chunks and bring inputs and targets into the order of slots.
  void choose(const Examples& part, const int64_t* which, long count) {
    chosen.resize(count);
    for (long i = 0; i < count; i++) chosen[i] = which ? which[i] : i;
    list_rows(part);
    const long pieces = std::max<long>(1, (count + chunk_limit - 1) / chunk_limit);
    const long each = padded((count + pieces - 1) / pieces, L);
    make_room(each, count);
    if ((long)chunks.size() != pieces) chunks = std::vector<Chunk>(pieces);
    for (long c = 0; c < pieces; c++) {
      Chunk& chunk = chunks[c];
      chunk.first = std::min(c * each, count), chunk.count = std::min(each, count - chunk.first);
      const int64_t* mine = chosen.data() + chunk.first;
      if (kind == DENSE) {
        bring(chunk, mine, (const T*)part.inputs, shape.widths[0], chunk.inputs, input_slot.data());
      }
      if (part.labels) {
        chunk.labels.resize(chunk.count);
        for (long n = 0; n < chunk.count; n++) chunk.labels[n] = label_slot[part.labels[mine[n]]];
      }
      if (part.targets) {
        bring(chunk, mine, (const T*)part.targets, outputs, chunk.targets, label_slot.data());
      }
    }
  }
  void bring(const Chunk& chunk, const int64_t* mine, const T* from, long width, Buffer<T>& to, const int32_t* slot) {
    to.need(width * stride);
    const long end = padded(chunk.count, L);
    for (long n = 0; n < chunk.count; n++)
      for (long i = 0; i < width; i++) to[slot[i] * stride + n] = from[mine[n] * width + i];
    for (long i = 0; i < width; i++)
      for (long n = chunk.count; n < end; n++) to[i * stride + n] = T(0);
  }
  void make_room(long each, long count) {
    if (each > stride) {
      // A distance of whole kilobytes would send neighbouring neurons to the same few cache lines.
      stride = each * (long)sizeof(T) % 1024 ? each : each + 64 / (long)sizeof(T);
      chunks.clear();
      for (int l = 1; l <= shape.layers; l++)
        value[l].need(shape.widths[l] * stride), slope[l].need(l < shape.layers ? shape.widths[l] * stride : 0);
    }
    if (kind != DENSE) entering.need(stride * row), leaving.need(padded(count, L) * row);
  }

  void turn() {
    if (kind != DENSE) columns.turn(rows, table_rows);
  }

  // First weights, their moments, price and mask as one row for each feature, or back again.
  void lay_aside(T** flat, int count, bool back) {
    const long at = shape.weight_at[0], width = shape.widths[0];
    std::vector<T> line(width);
    for (int i = 0; i < count; i++) {
      T* to = i ? (side[i].need(table_rows * row), side[i].at) : table.at;
      for (long o = 0; o < hidden; o++) {
        T* from = flat[i] + at + o * width;
        for (long f = 0; f < width; f++)
          if (back) from[input_slot[f]] = to[f * row + o];
          else to[f * row + o] = from[input_slot[f]];
      }
    }
  }

  void begin(const T* theta) {
    if (kind == DENSE) return;
    std::copy_n(theta + shape.bias_at[0], hidden, bias_row.at);
    if (kind != TOKENS) return;
    const T* embedding = theta + shape.embedding_at;
    for (int p = 0; p < shape.positions; p++) {
      T* turned = first_weights + (long)p * shape.embedding * row;
      transpose(theta + shape.weight_at[0] + (long)p * shape.embedding, (long)shape.widths[0], turned, row, hidden,
                (long)shape.embedding);
      product<T, FROM_ZERO>(shape.tokens, row / L, shape.embedding, embedding, shape.embedding, 1, turned, row,
                            table + (long)p * shape.tokens * row, row);
    }
  }

  void forward(Chunk& chunk, const T* theta) {
    const long vectors = padded(chunk.count, L) / L;
    const long together = vectors * L == stride ? 16 : 1;  // rows without a gap are activated in one go
    for (int l = 0; l < shape.layers; l++) {
      const long rows = shape.widths[l + 1], depth = shape.widths[l];
      T* to = value[l + 1];
      if (l == 0 && kind != DENSE) {
        add_up(chunk);
        transpose(entering.at, row, to, stride, chunk.count, rows);
        for (long o = 0; o < rows; o++)
          for (long n = chunk.count; n < vectors * L; n++) to[o * stride + n] = T(0);
      } else {
        product<T, FROM_BIAS>(rows, vectors, depth, theta + shape.weight_at[l], depth, 1,
                              l ? value[l].at : chunk.inputs.at, stride, to, stride, theta + shape.bias_at[l]);
      }
      if (l + 1 < shape.layers)
        for (long o = 0; o < rows; o += together)
          activate(shape.activation, to + o * stride, slope[l + 1] + o * stride,
                   together == 1 ? vectors * L : std::min(together, rows - o) * stride);
    }
  }

  // The first layer's sums, example × neuron, before they are transposed.
  void add_up(const Chunk& chunk) {
    for (long s = 0; s < strips; s++)
      for (long n = 0; n < chunk.count; n++) {
        const long place = chunk.first + n;
        const Entry<T>* list = rows.of(place);
        long size = rows.size(place);
        if (kind == SPARSE) {
          const int32_t* mark = marks.data() + place * (strips + 1) + s;
          list += mark[0], size = mark[1] - mark[0];
        }
        T* to = entering + n * row;
        for (long v = 0; v < row / L; v += MOST_VECTORS)
          add_rows<T>(std::min(MOST_VECTORS, row / L - v), size, list, table + v * L, row,
                      (s ? to : bias_row.at) + v * L, to + v * L);
      }
  }

  // The outputs become the gradient of the mean loss with respect to them.
  void lose(const Chunk& chunk) {
    T* out = value[shape.layers];
    const long end = padded(chunk.count, L), total = (long)chosen.size();
    if (!shape.cross_entropy) {
      for (long o = 0; o < outputs; o++) {
        const T scale = T(2.0 / ((double)total * outputs)) * error_weight[o];
        for (long n = 0; n < end; n += L) {
          T* at = out + o * stride + n;
          store<T>(at, (load(at) - load(chunk.targets + o * stride + n)) * scale);
        }
      }
    } else {
      const T scale = T(1.0 / (double)total);
      long n = 0;
      for (; n + 3 * L <= end; n += 3 * L) soften<T, 3>(out + n, outputs, stride, scale);
      for (; n < end; n += L) soften<T, 1>(out + n, outputs, stride, scale);
      for (long n = 0; n < chunk.count; n++) out[chunk.labels[n] * stride + n] -= scale;
    }
    for (long o = 0; o < outputs; o++)
      for (long n = chunk.count; n < end; n++) out[o * stride + n] = T(0);
  }

  void backward(const Chunk& chunk, const T* theta, bool add) {
    const long vectors = padded(chunk.count, L) / L;
    for (int l = shape.layers - 1; l >= 0; l--) {
      const long rows = shape.widths[l + 1], depth = shape.widths[l];
      T* here = l + 1 < shape.layers ? slope[l + 1] : value[l + 1];
      for (long o = 0; o < rows; o++) {
        Vec<T> sum = {};
        for (long v = 0; v < vectors; v++) sum += load(here + o * stride + v * L);
        T& bias = gradient[shape.bias_at[l] + o];
        bias = add ? bias + lane_sum<T>(sum) : lane_sum<T>(sum);
      }
      if (l == 0 && kind != DENSE) {
        transpose(here, stride, leaving + chunk.first * row, row, rows, chunk.count);
      } else {
        dots(rows, depth, vectors, here, stride, l ? value[l].at : chunk.inputs.at, stride,
             gradient + shape.weight_at[l], depth, add);
      }
      if (l) {
        product<T, TIMES>(depth, vectors, rows, theta + shape.weight_at[l], 1, depth, here, stride, slope[l], stride);
      }
    }
  }

  // The gradient of some vectors of a table row, from those of the examples that added it up.
  void gather(long r, long from, long vectors, T* to) {
    add_rows<T>(vectors, columns.size(r), columns.of(r), leaving + from * L, row, (const T*)nullptr, to + from * L);
  }

  void update_table(bool mask, const Pace<T>& pace) {
    // Few enough vectors at a time that the part of the gradients which is read stays in the nearest cache.
    const long all_of = row / L, fits = NEAREST_CACHE / ((long)chosen.size() * VECTOR_BYTES);
    const long most = std::clamp<long>(fits, 4, MOST_VECTORS), passes = (all_of + most - 1) / most;
    const long each = (all_of + passes - 1) / passes;
    for (long from = 0; from < all_of; from += each) {
      const long vectors = std::min(each, all_of - from);
      for (long r = 0; r < table_rows; r++) {
        gather(r, from, vectors, table_gradient);
        const long at = r * row + from * L;
        update(vectors * L, table + at, side[1] + at, side[2] + at, table_gradient + from * L, side[3] + at,
               mask ? side[4] + at : nullptr, pace);
      }
    }
  }

  // From the gradient of the table of tokens to those of embedding and first weights.
  void spread(const T* theta) {
    const long width = shape.embedding, wide = padded(width, L), columns_of = shape.widths[0];
    T* to_embedding = second_weights + (long)shape.positions * hidden * wide;
    for (long r = 0; r < table_rows; r++)
      for (long v = 0; v < row / L; v += MOST_VECTORS)
        gather(r, v, std::min(MOST_VECTORS, row / L - v), table_gradient + r * row);
    for (int p = 0; p < shape.positions; p++) {
      const T* mine = table_gradient + (long)p * shape.tokens * row;
      T* turned = first_weights + (long)p * width * row;
      product<T, FROM_ZERO>(width, row / L, shape.tokens, theta + shape.embedding_at, 1, width, mine, row, turned, row);
      transpose(turned, row, gradient + shape.weight_at[0] + p * width, columns_of, width, hidden);
      T* weights = second_weights + (long)p * hidden * wide;
      for (long o = 0; o < hidden; o++)
        std::copy_n(theta + shape.weight_at[0] + o * columns_of + p * width, width, weights + o * wide);
      if (p) product<T, ADD_TO>(shape.tokens, wide / L, hidden, mine, row, 1, weights, wide, to_embedding, wide);
      else product<T, FROM_ZERO>(shape.tokens, wide / L, hidden, mine, row, 1, weights, wide, to_embedding, wide);
    }
    for (long t = 0; t < shape.tokens; t++)
      std::copy_n(to_embedding + t * wide, width, gradient + shape.embedding_at + t * width);
  }

  void judge(const Examples& part, const Chunk& chunk, Score& total) {
    const T* out = value[shape.layers];
    for (long n = 0; n < chunk.count; n++) {
      // Ties go to the class that the data names first, whatever slot it sits in.
      double top = -INFINITY, sum = 0, error = 0;
      int best = -1;
      for (long label = 0; label < outputs; label++) {
        const double z = out[label_slot[label] * stride + n];
        if (!(z <= top)) top = z, best = (int)label;
      }
      if (part.labels) total.correct += best == output_slot[chunk.labels[n]];
      if (shape.cross_entropy) {
        for (long o = 0; o < outputs; o++) sum += std::exp(out[o * stride + n] - top);
        total.loss += std::log(sum) + top - out[chunk.labels[n] * stride + n];
      } else {
        for (long o = 0; o < outputs; o++) {
          const double miss = (double)out[o * stride + n] - chunk.targets[o * stride + n];
          error += miss * miss * error_weight[o];
        }
        total.loss += error;
      }
    }
  }
};

}  // namespace

KERNEL_C_API(Machine<NUMBER>)
