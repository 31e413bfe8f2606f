// Linear assignment: who gets which seat, so that the sum of the costs is least, and the matrices it is asked with.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kernel_vectors.h"

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

}  // namespace
