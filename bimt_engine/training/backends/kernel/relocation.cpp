// Relocation, compiled: the same decisions as bimt_engine/training/relocation.py, for networks without heads and
// without a layer connected to itself. Tables, exchanges and assignments at double precision, whatever the weights are.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#include "vectors.h"

#ifndef NUMBER
#define NUMBER double
#endif

extern "C" {
struct Layer {
  int32_t neurons, movable;
};
struct WeightView {  // one weight layer: a matrix of target_copies · targets rows and source_copies · sources columns
  int64_t offset;
  int32_t source, target, source_copies, target_copies;
  const double* lengths;  // targets × sources, times what a unit of length costs
};
struct Port {  // one axis of one parameter, seen as outer × (copies · neurons) × inner
  int64_t offset, outer, inner;
  int32_t layer, copies;
};
}

namespace {

constexpr double FAR = std::numeric_limits<double>::infinity();

using Numbers = std::vector<double>;
using Order = std::vector<int64_t>;

// Rows are filled up with zeros to whole vectors.
struct Matrix {
  int rows = 0, columns = 0, stride = 0;
  Numbers at;
  Matrix() = default;
  Matrix(int r, int c) { clear(r, c); }
  void clear(int r, int c) {
    constexpr int L = (int)LANES<double>;
    rows = r, columns = c, stride = (c + L - 1) / L * L;
    at.assign((size_t)r * stride, 0.0);
  }
  double* row(int r) { return at.data() + (size_t)r * stride; }
  const double* row(int r) const { return at.data() + (size_t)r * stride; }
  double operator()(int r, int c) const { return at[(size_t)r * stride + c]; }
  double& operator()(int r, int c) { return at[(size_t)r * stride + c]; }
};

Matrix turned(const Matrix& m) {
  Matrix out(m.columns, m.rows);
  for (int r = 0; r < m.rows; r++)
    for (int c = 0; c < m.columns; c++) out(c, r) = m(r, c);
  return out;
}

// The lowest of many numbers, eight at a time.
double lowest(const double* at, int count) {
  double least[8];
  std::fill(least, least + 8, FAR);
  int s = 0;
  for (; s + 8 <= count; s += 8)
    for (int j = 0; j < 8; j++) least[j] = at[s + j] < least[j] ? at[s + j] : least[j];
  for (; s < count; s++) least[0] = at[s] < least[0] ? at[s] : least[0];
  return *std::min_element(least, least + 8);
}

// Linear assignment by shortest augmenting paths: seat[s] is the row that column s gets. Ties go to the lowest index.
class Assignment {
 public:
  double solve(const Matrix& cost, Order& seat) {
    const int n = cost.rows;
    row_price.assign(n, 0.0);
    column_price.assign(n, FAR);
    cheapest.assign(n, 0);
    placed.assign(n, 0);
    seat.assign(n, -1);
    for (int u = 0; u < n; u++)
      for (int s = 0; s < n; s++)
        if (cost(u, s) < column_price[s]) column_price[s] = cost(u, s), cheapest[s] = u;
    for (int s = 0; s < n; s++)
      if (!placed[cheapest[s]]) placed[cheapest[s]] = 1, seat[s] = cheapest[s];
    for (int u = 0; u < n; u++)
      if (!placed[u]) augment(cost, u, seat);
    double sum = 0;
    for (int s = 0; s < n; s++) sum += cost((int)seat[s], s);
    return sum;
  }

 private:
  // Seat one more row, moving others along the path on which the sum rises least.
  void augment(const Matrix& cost, int newcomer, Order& seat) {
    const int n = cost.rows;
    distance.assign(n, FAR);  // of the columns that are still open
    settled.assign(n, 0.0);   // 0 while open, infinite once closed
    reached_from.assign(n, -1);
    closed.clear();
    int row = newcomer, from = -1;
    double travelled = 0;
    for (;;) {
      const double *prices = cost.row(row), *columns = column_price.data(), *shut = settled.data();
      const double start = travelled - row_price[row];
      double* reach = distance.data();
      int32_t* origin = reached_from.data();
      for (int s = 0; s < n; s++) {
        const double through = start + prices[s] - columns[s] + shut[s];
        const bool nearer = through < reach[s];
        reach[s] = nearer ? through : reach[s];
        origin[s] = nearer ? from : origin[s];
      }
      travelled = lowest(reach, n);
      const int s = (int)(std::find(reach, reach + n, travelled) - reach);
      closed.emplace_back(s, travelled);
      distance[s] = settled[s] = FAR;
      if (seat[s] < 0) break;
      row = (int)seat[s], from = s;
    }
    row_price[newcomer] += travelled;
    for (size_t k = 0; k + 1 < closed.size(); k++) {
      const double nearer = travelled - closed[k].second;
      row_price[seat[closed[k].first]] += nearer;
      column_price[closed[k].first] -= nearer;
    }
    for (int s = closed.back().first; s >= 0;) {
      const int before = reached_from[s];
      seat[s] = before < 0 ? newcomer : seat[before];
      s = before;
    }
  }

  Numbers row_price, column_price, distance, settled;
  std::vector<int32_t> reached_from;
  Order cheapest;
  std::vector<char> placed;
  std::vector<std::pair<int, double>> closed;
};

constexpr double REL_TOLERANCE = 1e-12;  // as in training/relocation.py: a gain below this is rounding

class Plan {
 public:
  Plan(const Layer* l, int layer_count, const WeightView* k, int view_count, const Port* p, int port_count)
      : layers(l, l + layer_count), views(k, k + view_count), ports(p, p + port_count) {
    for (const WeightView& view : views) {
      Matrix lengths(layers[view.target].neurons, layers[view.source].neurons);
      for (int r = 0; r < lengths.rows; r++)
        std::copy_n(view.lengths + (size_t)r * lengths.columns, lengths.columns, lengths.row(r));
      turned_lengths.push_back(turned(lengths));
      straight_lengths.push_back(std::move(lengths));
    }
    strengths.resize(views.size());
    parts.resize(2 * views.size());
    known.resize(2 * views.size());
    tables.resize(layers.size());
    arrangement.resize(layers.size());
  }

  void load(const NUMBER* theta) {
    for (size_t k = 0; k < views.size(); k++) {
      const WeightView& view = views[k];
      const int targets = layers[view.target].neurons, sources = layers[view.source].neurons;
      Matrix& strength = strengths[k];
      strength.clear(targets, sources);
      const NUMBER* weight = theta + view.offset;
      for (int row_copy = 0; row_copy < view.target_copies; row_copy++)
        for (int t = 0; t < targets; t++) {
          double* to = strength.row(t);
          for (int copy = 0; copy < view.source_copies; copy++)
            for (int s = 0; s < sources; s++) to[s] += std::fabs((double)*weight++);
        }
    }
    for (size_t i = 0; i < layers.size(); i++) {
      arrangement[i].resize(layers[i].neurons);
      std::iota(arrangement[i].begin(), arrangement[i].end(), 0);
    }
    std::fill(known.begin(), known.end(), false);
  }

  double cost() const {
    double sum = 0;
    for (size_t k = 0; k < views.size(); k++)
      sum += std::inner_product(strengths[k].at.begin(), strengths[k].at.end(), straight_lengths[k].at.begin(), 0.0);
    return sum;
  }

  void place(int layer, const Order& order) {
    bool moves = false;
    for (size_t s = 0; s < order.size(); s++) moves |= order[s] != (int64_t)s;
    if (!moves) return;
    Order& arranged = arrangement[layer];
    scratch.resize(order.size());
    for (size_t s = 0; s < order.size(); s++) scratch[s] = arranged[order[s]];
    arranged.swap(scratch);
    for (size_t k = 0; k < views.size(); k++) {
      if (views[k].target == layer) {
        rows_moved(strengths[k], order);
        if (known[2 * k]) rows_moved(parts[2 * k], order);
        known[2 * k + 1] = false;
      }
      if (views[k].source == layer) {
        columns_moved(strengths[k], order);
        if (known[2 * k + 1]) rows_moved(parts[2 * k + 1], order);
        known[2 * k] = false;
      }
    }
  }

  void greedy(int candidates) {
    for (int layer = 0; layer < (int)layers.size(); layer++) {
      const int n = layers[layer].neurons;
      if (!movable(layer)) continue;
      const Order chosen = most_important(layer, candidates);
      const Matrix& t = table(layer);
      const double rounding = REL_TOLERANCE * *std::max_element(t.at.begin(), t.at.end());
      Order occupant(n);
      std::iota(occupant.begin(), occupant.end(), 0);
      Numbers own(n), change(n);
      for (int s = 0; s < n; s++) own[s] = t(s, s);
      for (int64_t slot : chosen) {
        const int64_t mover = occupant[slot];
        for (int s = 0; s < n; s++) change[s] = t((int)mover, s) + t((int)occupant[s], (int)slot) - own[s] - own[slot];
        const double least = *std::min_element(change.begin(), change.end());
        int other = 0;
        while (change[other] > least + rounding) other++;
        std::swap(occupant[slot], occupant[other]);
        own[slot] = t((int)occupant[slot], (int)slot), own[other] = t((int)occupant[other], other);
      }
      place(layer, occupant);
    }
  }

  void optimal() {
    std::vector<int> queue;
    for (int layer = 0; layer < (int)layers.size(); layer++)
      if (movable(layer)) queue.push_back(layer);
    while (!queue.empty()) {
      const int layer = queue.front();
      queue.erase(queue.begin());
      if (!improve(layer)) continue;
      for (int near = 0; near < (int)layers.size(); near++)
        if (movable(near) && touches(layer, near) && std::find(queue.begin(), queue.end(), near) == queue.end())
          queue.push_back(near);
      // Onward first, then from the beginning, as a sweep goes.
      std::sort(queue.begin(), queue.end(), [layer](int a, int b) {
        return std::make_pair(a <= layer, a) < std::make_pair(b <= layer, b);
      });
    }
  }

  void permute(void* flat, size_t size, const int64_t* const* orders) {
    for (const Port& port : ports) {
      const int64_t* order = orders[port.layer];
      const int64_t n = layers[port.layer].neurons;
      bool moves = false;
      for (int64_t s = 0; s < n; s++) moves |= order[s] != s;
      if (!moves) continue;
      const size_t piece = size * port.inner, run = piece * n;
      buffer.resize(run);
      char* at = (char*)flat + size * port.offset;
      for (int64_t copy = 0; copy < port.outer * port.copies; copy++, at += run) {
        std::memcpy(buffer.data(), at, run);
        for (int64_t s = 0; s < n; s++) std::memcpy(at + s * piece, buffer.data() + order[s] * piece, piece);
      }
    }
  }

  std::vector<Layer> layers;
  std::vector<Order> arrangement;

 private:
  bool movable(int layer) const { return layers[layer].movable && layers[layer].neurons > 1; }

  bool touches(int layer, int near) const {
    for (const WeightView& view : views)
      if ((view.source == layer && view.target == near) || (view.target == layer && view.source == near)) return true;
    return false;
  }

  const Matrix& table(int layer) {
    Matrix& t = tables[layer];
    t.clear(layers[layer].neurons, layers[layer].neurons);
    for (size_t k = 0; k < views.size(); k++) {
      const Matrix& strength = strengths[k];
      if (views[k].target == layer) add_part(t, 2 * k, strength.stride, 1, turned_lengths[k]);
      if (views[k].source == layer) add_part(t, 2 * k + 1, 1, strength.stride, straight_lengths[k]);
    }
    return t;
  }

  // One view's part of a table, made anew only after its far end has moved: strengths, turned where our slots are its
  // columns, times lengths.
  void add_part(Matrix& t, size_t which, int row, int column, const Matrix& lengths) {
    Matrix& part = parts[which];
    if (!known[which]) {
      part.clear(t.rows, t.columns);
      product<double, FROM_ZERO>(t.rows, t.stride / LANES<double>, lengths.rows, strengths[which / 2].at.data(), row,
                                 column, lengths.at.data(), lengths.stride, part.at.data(), part.stride);
      known[which] = true;
    }
    for (size_t i = 0; i < t.at.size(); i++) t.at[i] += part.at[i];
  }

  // The most important slots, falling; of equals the highest first, as in the published code.
  Order most_important(int layer, int candidates) const {
    const int n = layers[layer].neurons;
    Numbers importance(n);
    for (size_t k = 0; k < views.size(); k++) {
      const Matrix& strength = strengths[k];
      if (views[k].target == layer)
        for (int t = 0; t < n; t++)
          importance[t] += std::accumulate(strength.row(t), strength.row(t) + strength.columns, 0.0);
      if (views[k].source == layer)
        for (int t = 0; t < strength.rows; t++)
          for (int s = 0; s < n; s++) importance[s] += strength(t, s);
    }
    Order slots(n);
    std::iota(slots.begin(), slots.end(), 0);
    std::sort(slots.begin(), slots.end(), [&](int64_t a, int64_t b) {
      return importance[a] != importance[b] ? importance[a] > importance[b] : a > b;
    });
    slots.resize(std::min(candidates, n));
    return slots;
  }

  bool improve(int layer) {
    const Matrix& t = table(layer);
    const int n = t.rows;
    double now = 0;
    for (int s = 0; s < n; s++) now += t(s, s);
    Order seat;
    if (!(assignment.solve(t, seat) < now * (1 - REL_TOLERANCE))) return false;
    // Neurons without a connection take the free slots in rising order.
    std::vector<char> idle(n);
    for (int u = 0; u < n; u++) idle[u] = std::all_of(t.row(u), t.row(u) + n, [](double c) { return c == 0; });
    int next = 0;
    for (int s = 0; s < n; s++)
      if (idle[seat[s]]) {
        while (!idle[next]) next++;
        scratch_seat.push_back(next++);
      } else {
        scratch_seat.push_back(seat[s]);
      }
    seat.swap(scratch_seat);
    scratch_seat.clear();
    place(layer, seat);
    return true;
  }

  void rows_moved(Matrix& m, const Order& order) {
    spare.resize(m.at.size());
    for (int r = 0; r < m.rows; r++) {
      const double* from = m.row((int)order[r]);
      std::copy(from, from + m.stride, spare.begin() + (size_t)r * m.stride);
    }
    m.at.swap(spare);
  }

  void columns_moved(Matrix& m, const Order& order) {
    spare.resize(m.columns);
    for (int r = 0; r < m.rows; r++) {
      double* at = m.row(r);
      for (int c = 0; c < m.columns; c++) spare[c] = at[order[c]];
      std::copy(spare.begin(), spare.begin() + m.columns, at);
    }
  }

  std::vector<WeightView> views;
  std::vector<Port> ports;
  std::vector<Matrix> straight_lengths, turned_lengths, strengths, tables;
  std::vector<Matrix> parts;  // of view k: 2k of its target's table, 2k + 1 of its source's
  std::vector<char> known;
  Assignment assignment;
  Numbers spare;
  Order scratch, scratch_seat;
  std::vector<char> buffer;
};

}  // namespace

// A null plan or a negative answer: out of memory. Nothing else can fail.
extern "C" {

void* relocation_open(const Layer* layers, int32_t layer_count, const WeightView* views, int32_t view_count,
                      const Port* ports, int32_t port_count) try {
  return new Plan(layers, layer_count, views, view_count, ports, port_count);
} catch (const std::bad_alloc&) {
  return nullptr;
}

void relocation_close(void* plan) { delete (Plan*)plan; }

// arrangement: all layers' orders end to end; in: where to start from, out: the orders to apply.
// candidates 0: no greedy pass. costs: before and after.
int32_t relocation_decide(void* opened, const NUMBER* theta, int32_t candidates, int32_t optimal, int64_t* arrangement,
                          double* costs) try {
  Plan& plan = *(Plan*)opened;
  plan.load(theta);
  const int64_t* at = arrangement;
  for (size_t i = 0; i < plan.layers.size(); i++) {
    plan.place((int)i, Order(at, at + plan.layers[i].neurons));
    at += plan.layers[i].neurons;
  }
  costs[0] = plan.cost();
  if (candidates) plan.greedy(candidates);
  if (optimal) plan.optimal();
  costs[1] = plan.cost();
  for (const Order& order : plan.arrangement) arrangement = std::copy(order.begin(), order.end(), arrangement);
  return 0;
} catch (const std::bad_alloc&) {
  return -1;
}

// The same list for every port of a flat vector of so many bytes an entry.
int32_t relocation_permute(void* opened, void* flat, int64_t size, const int64_t* arrangement) try {
  Plan& plan = *(Plan*)opened;
  std::vector<const int64_t*> orders;
  for (const Layer& layer : plan.layers) {
    orders.push_back(arrangement);
    arrangement += layer.neurons;
  }
  plan.permute(flat, (size_t)size, orders.data());
  return 0;
} catch (const std::bad_alloc&) {
  return -1;
}
}
