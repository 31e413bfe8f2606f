// Many training steps of a small causal transformer in one call.
//
// As in perceptron.cpp activations are kept neuron × column; a column is one example at one time step, and all examples of a
// time step lie side by side, so that attention between two time steps runs along contiguous examples as well.
// Time steps before the first one that is predicted matter only as keys and values; in the last block nothing else of
// them is computed.
#include <algorithm>
#include <vector>

#include "c_api.h"
#include "vectors.h"

extern "C" {
enum { MAX_BLOCKS = 32 };
struct Affine {
  int64_t weight, bias;  // where they begin in the flat vector
};
struct Shape {
  int64_t parameters;
  Affine read_in, attend[MAX_BLOCKS], gather[MAX_BLOCKS], expand[MAX_BLOCKS], contract[MAX_BLOCKS], read_out;
  int32_t inputs, outputs, width, hidden, blocks, heads, activation, time;
  int32_t first_predicted, predicted;   // the first time step that counts in the loss, and how many do
  const uint8_t* counts;                // time: 1 where a time step counts
};
}

namespace {

template <class T> class Machine {
  static constexpr long L = LANES<T>;

  struct Block {  // what the backward pass needs of the forward pass
    Buffer<T> rows;     // queries, keys and values: 3·width × columns
    Buffer<T> weights;  // heads × time × time × lane of examples
    Buffer<T> mixed, middle, hidden, slope, after;
  };

  Shape shape;
  std::vector<uint8_t> counts;
  Examples parts[2];
  std::vector<int64_t> input_slot, output_slot;  // slot of a feature, slot of a target
  std::vector<T> error_weight;                   // of a slot: what its squared error is multiplied by
  long chunk_limit, lane = 0, stride = 0;        // examples in a chunk; its columns for one time step; all its columns
  std::vector<Block> blocks;
  Buffer<T> gradient, masked, inputs, targets, stream, outputs, back, back_rows, back_mixed;

 public:
  Machine(const Shape& s, const Examples* train, const Examples* test)
      : shape(s), counts(s.counts, s.counts + s.time), blocks(s.blocks) {
    parts[0] = *train, parts[1] = *test;
    gradient.need(s.parameters + L);
    // As many examples as keep a block within a usual second-level cache, but enough to fill the vectors.
    const long each = (long)s.time * (6 * s.width + 2 * s.hidden) * (long)sizeof(T);
    chunk_limit = std::clamp<long>((256 << 10) / each, 32, 512) / L * L;
    order(nullptr, nullptr);
  }

  void order(const int64_t* ins, const int64_t* outs) {
    input_slot.resize(shape.inputs), output_slot.resize(shape.outputs);
    for (int i = 0; i < shape.inputs; i++) input_slot[ins ? ins[i] : i] = i;
    for (int i = 0; i < shape.outputs; i++) output_slot[outs ? outs[i] : i] = i;
    error_weight.assign(shape.outputs, T(1));
    const T* weights = (const T*)parts[0].weights;
    for (int i = 0; weights && i < shape.outputs; i++) error_weight[output_slot[i]] = weights[i];
  }

  void advance(T* theta, T* first, T* second, const T* price, const uint8_t* mask, const Rule& rule, int64_t step,
               int64_t steps, const int64_t* batches, int64_t batch) {
    const T* keep = nullptr;
    if (mask) {
      masked.need(shape.parameters + L);
      for (long i = 0; i < shape.parameters; i++) masked[i] = mask[i] ? T(1) : T(0);
      keep = masked;
    }
    const long count = batches ? batch : parts[0].count;
    for (int64_t t = 0; t < steps; t++) {
      for (long done = 0; done < count; done += chunk_limit) {
        const long some = std::min(count - done, chunk_limit);
        bring(parts[0], batches ? batches + t * batch + done : nullptr, done, some);
        forward(theta);
        lose(count, some);
        backward(theta, done > 0);
      }
      update(shape.parameters, theta, first, second, gradient.at, price, keep, pace_of<T>(rule, step + t + 1));
    }
  }

  Score score(int which, const T* theta, int64_t first, int64_t count) {
    Score total{0, 0};
    for (long done = 0; done < count; done += chunk_limit) {
      const long some = std::min<long>(count - done, chunk_limit);
      bring(parts[which], nullptr, first + done, some);
      forward(theta);
      for (int o = 0; o < shape.outputs; o++)
        for (int t = shape.first_predicted; t < shape.time; t++)
          for (long n = 0; counts[t] && n < some; n++) {
            const double miss = (double)outputs[o * stride + t * lane + n] - targets[o * stride + t * lane + n];
            total.loss += miss * miss * error_weight[o];
          }
    }
    total.loss /= (double)count * shape.outputs * shape.predicted;
    return total;
  }

 private:
  // Some examples in the order of slots: inputs × columns, outputs × columns.
  void bring(const Examples& part, const int64_t* which, long first, long count) {
    make_room(count);
    for (long n = 0; n < lane; n++) {
      const long e = n < count ? (which ? which[n] : first + n) : -1;
      for (long t = 0; t < shape.time; t++) {
        const long column = t * lane + n;
        const T* x = (const T*)part.inputs + (e * shape.time + t) * shape.inputs;
        const T* y = (const T*)part.targets + (e * shape.time + t) * shape.outputs;
        for (int i = 0; i < shape.inputs; i++) inputs[input_slot[i] * stride + column] = e < 0 ? T(0) : x[i];
        for (int i = 0; i < shape.outputs; i++) targets[output_slot[i] * stride + column] = e < 0 ? T(0) : y[i];
      }
    }
  }
  void make_room(long count) {
    lane = padded(count, L);
    const long columns = lane * shape.time;
    stride = columns * (long)sizeof(T) % 1024 ? columns : columns + 64 / (long)sizeof(T);
    inputs.need(shape.inputs * stride), targets.need(shape.outputs * stride), outputs.need(shape.outputs * stride);
    for (Buffer<T>* buffer : {&stream, &back, &back_mixed}) buffer->need(shape.width * stride);
    back_rows.need(3 * shape.width * stride);
    for (Block& block : blocks) {
      block.rows.need(3 * shape.width * stride);
      block.weights.need((long)shape.heads * shape.time * shape.time * lane);
      for (Buffer<T>* buffer : {&block.mixed, &block.middle, &block.after}) buffer->need(shape.width * stride);
      block.hidden.need(shape.hidden * stride), block.slope.need(shape.hidden * stride);
    }
  }
  // The first time step whose stream matters after this block.
  long since(int block) const { return block + 1 < shape.blocks ? 0 : shape.first_predicted; }

  // to = W·from + b on the columns of the time steps from `first` on; only some rows of W where `rows` says so.
  void affine(const T* theta, const Affine& at, long rows, long depth, const T* from, T* to, long first, long row = 0) {
    product<T, FROM_BIAS>(rows, (shape.time - first) * lane / L, depth, theta + at.weight + row * depth, depth, 1,
                          from + first * lane, stride, to + row * stride + first * lane, stride,
                          theta + at.bias + row);
  }
  // The same, added to what the stream was.
  void affine_onto(const T* theta, const Affine& at, long depth, const T* from, const T* onto, T* to, long first) {
    for (long w = 0; w < shape.width; w++) {
      const Vec<T> bias = all(theta[at.bias + w]);
      for (long c = first * lane; c < shape.time * lane; c += L) {
        store<T>(to + w * stride + c, load(onto + w * stride + c) + bias);
      }
    }
    product<T, ADD_TO>(shape.width, (shape.time - first) * lane / L, depth, theta + at.weight, depth, 1,
                       from + first * lane, stride, to + first * lane, stride);
  }
  // The gradients of W and b from that of W·from + b.
  void learn(const Affine& at, long rows, long depth, const T* back_to, const T* from, long first, bool add,
             long row = 0) {
    const long vectors = (shape.time - first) * lane / L;
    const T *there = back_to + row * stride + first * lane, *here = from + first * lane;
    for (long r = 0; r < rows; r++) {
      Vec<T> sum = {};
      for (long v = 0; v < vectors; v++) sum += load(there + r * stride + v * L);
      T& bias = gradient[at.bias + row + r];
      bias = add ? bias + lane_sum<T>(sum) : lane_sum<T>(sum);
    }
    dots(rows, depth, vectors, there, stride, here, stride, gradient + at.weight + row * depth, depth, add);
  }
  // onto (+)= Wᵀ·back_to.
  template <int START>
  void return_through(const T* theta, const Affine& at, long rows, long depth, const T* back_to, T* onto, long first,
                      long row = 0) {
    product<T, START>(depth, (shape.time - first) * lane / L, rows, theta + at.weight + row * depth, 1, depth,
                      back_to + row * stride + first * lane, stride, onto + first * lane, stride);
  }

  void forward(const T* theta) {
    affine(theta, shape.read_in, shape.width, shape.inputs, inputs, stream, 0);
    const T* now = stream;
    for (int b = 0; b < shape.blocks; b++) {
      Block& block = blocks[b];
      const long first = since(b);
      affine(theta, shape.attend[b], shape.width, shape.width, now, block.rows, first);
      affine(theta, shape.attend[b], 2 * shape.width, shape.width, now, block.rows, 0, shape.width);
      attend(block, first);
      affine_onto(theta, shape.gather[b], shape.width, block.mixed, now, block.middle, first);
      affine(theta, shape.expand[b], shape.hidden, shape.width, block.middle, block.hidden, first);
      for (long h = 0; h < shape.hidden; h++)
        activate(shape.activation, block.hidden + h * stride + first * lane, block.slope + h * stride + first * lane,
                 (shape.time - first) * lane);
      affine_onto(theta, shape.contract[b], shape.hidden, block.hidden, block.middle, block.after, first);
      now = block.after;
    }
    affine(theta, shape.read_out, shape.outputs, shape.width, now, outputs, shape.first_predicted);
  }

  // The weights of a head from one time step to those up to it, for a vector of examples.
  T* weights_of(Block& block, long head, long to) const {
    return block.weights + (head * shape.time + to) * shape.time * lane;
  }

  void attend(Block& block, long first) {
    const long size = shape.width / shape.heads;
    const T scale = T(1 / std::sqrt((double)size));
    for (long head = 0; head < shape.heads; head++) {
      const T* query = block.rows + head * size * stride;
      const T *key = query + shape.width * stride, *value = key + shape.width * stride;
      for (long to = first; to < shape.time; to++) {
        T* weights = weights_of(block, head, to);
        for (long n = 0; n < lane; n += L) {
          Vec<T> top = all(T(-INFINITY)), sum = {};
          for (long from = 0; from <= to; from++) {
            Vec<T> score = {};
            for (long d = 0; d < size; d++)
              score += load(query + d * stride + to * lane + n) * load(key + d * stride + from * lane + n);
            score *= scale;
            top = score > top ? score : top;
            store<T>(weights + from * lane + n, score);
          }
          for (long from = 0; from <= to; from++) {
            const Pack<T, 1> e = exp_of(Pack<T, 1>{{load(weights + from * lane + n) - top}});
            sum += e.at[0];
            store<T>(weights + from * lane + n, e.at[0]);
          }
          for (long from = 0; from <= to; from++)
            store<T>(weights + from * lane + n, load(weights + from * lane + n) / sum);
          for (long d = 0; d < size; d++) {
            Vec<T> mix = {};
            for (long from = 0; from <= to; from++)
              mix += load(weights + from * lane + n) * load(value + d * stride + from * lane + n);
            store<T>(block.mixed + (head * size + d) * stride + to * lane + n, mix);
          }
        }
      }
    }
  }

  void lose(long examples, long here) {
    for (int o = 0; o < shape.outputs; o++) {
      const T scale = T(2.0 / ((double)examples * shape.outputs * shape.predicted)) * error_weight[o];
      for (long t = shape.first_predicted; t < shape.time; t++)
        for (long n = 0; n < lane; n++) {
          T& at = outputs[o * stride + t * lane + n];
          at = counts[t] && n < here ? (at - targets[o * stride + t * lane + n]) * scale : T(0);
        }
    }
  }

  void backward(const T* theta, bool add) {
    const long last = shape.blocks - 1, width = shape.width;
    const T* top = shape.blocks ? blocks[last].after : stream;
    learn(shape.read_out, shape.outputs, width, outputs, top, shape.first_predicted, add);
    std::fill_n(back.at, width * stride, T(0));
    return_through<FROM_ZERO>(theta, shape.read_out, shape.outputs, width, outputs, back, shape.first_predicted);
    for (long b = last; b >= 0; b--) {
      Block& block = blocks[b];
      const long first = since((int)b);
      const T* before = b ? blocks[b - 1].after : stream;
      learn(shape.contract[b], width, shape.hidden, back, block.hidden, first, add);
      return_through<TIMES>(theta, shape.contract[b], width, shape.hidden, back, block.slope, first);
      learn(shape.expand[b], shape.hidden, width, block.slope, block.middle, first, add);
      return_through<ADD_TO>(theta, shape.expand[b], shape.hidden, width, block.slope, back, first);
      learn(shape.gather[b], width, width, back, block.mixed, first, add);
      return_through<FROM_ZERO>(theta, shape.gather[b], width, width, back, back_mixed, first);
      leave_attention(block, first);
      learn(shape.attend[b], width, width, back_rows, before, first, add);
      learn(shape.attend[b], 2 * width, width, back_rows, before, 0, add, width);
      return_through<ADD_TO>(theta, shape.attend[b], width, width, back_rows, back, first);
      return_through<ADD_TO>(theta, shape.attend[b], 2 * width, width, back_rows, back, 0, width);
    }
    learn(shape.read_in, width, shape.inputs, back, inputs, 0, add);
  }

  // From the gradient of what the heads read to that of queries, keys and values.
  void leave_attention(Block& block, long first) {
    const long size = shape.width / shape.heads;
    const T scale = T(1 / std::sqrt((double)size));
    std::fill_n(back_rows.at, 3 * shape.width * stride, T(0));
    for (long head = 0; head < shape.heads; head++) {
      const long at = head * size * stride, part = shape.width * stride;
      const T *query = block.rows + at, *key = query + part, *value = key + part, *mixed = back_mixed + at;
      T *to_query = back_rows + at, *to_key = to_query + part, *to_value = to_key + part;
      for (long to = first; to < shape.time; to++) {
        const T* weights = weights_of(block, head, to);
        for (long n = 0; n < lane; n += L) {
          // Through the softmax: each weight · (its own gradient − the weighted mean of all).
          Vec<T> mean = {};
          for (long d = 0; d < size; d++) {
            Vec<T> mix = {};
            for (long from = 0; from <= to; from++)
              mix += load(weights + from * lane + n) * load(value + d * stride + from * lane + n);
            mean += mix * load(mixed + d * stride + to * lane + n);
          }
          for (long from = 0; from <= to; from++) {
            const Vec<T> weight = load(weights + from * lane + n);
            const long here = from * lane + n, there = to * lane + n;
            Vec<T> own = {};
            for (long d = 0; d < size; d++) own += load(value + d * stride + here) * load(mixed + d * stride + there);
            const Vec<T> pull = weight * (own - mean) * scale;
            for (long d = 0; d < size; d++) {
              T *q = to_query + d * stride + there, *k = to_key + d * stride + here, *v = to_value + d * stride + here;
              store<T>(q, load(q) + pull * load(key + d * stride + here));
              store<T>(k, load(k) + pull * load(query + d * stride + there));
              store<T>(v, load(v) + weight * load(mixed + d * stride + there));
            }
          }
        }
      }
    }
  }
};

}  // namespace

KERNEL_C_API(Machine<NUMBER>)
