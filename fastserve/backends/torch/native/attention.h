// Attention over block tables, and writes into the paged cache.
#pragma once
#include "vectors.h"

struct Attend {
  const void *query; int64_t query_row, query_head;  // in elements
  const void *keys; int64_t block, values;           // one layer's K in block 0; elements from block to block, from K to V
  const int32_t *starts, *lengths, *tables; int64_t table;
  int heads, kv_heads, dim, padded, tokens, window;  // window 0: none
  float scale, softcap; const float *sinks;          // softcap 0: none; sinks null: none
  void *out;
};
struct Task { int sequence, kv_head, row, rows; };
constexpr int TILE = 16, VECTORS = 32;  // cached tokens widened at a time; query vectors (rows times heads of a group) of a task

struct Scratch {
  Room query, sum, tile, score;
  std::vector<float> inverse;
  std::vector<int> low, high;
};
static Scratch &scratch() {
  static thread_local Scratch s;
  return s;
}
// Calls visit(first token, tokens in the tile, their rows of K (part 0) or V (part 1), widened and padded; at least L can be read).
template <class T, int DIM, class F> static inline void each_tile(const Attend &a, const Task &t, int part, int from, int to, float *tile, F visit) {
  const int32_t *table = a.tables + t.sequence * a.table;
  const T *base = (const T *)a.keys + part * a.values + (int64_t)t.kv_head * a.tokens * a.dim;
  for (int first = from; first < to;) {
    const int at = first % a.tokens, n = std::min({TILE, a.tokens - at, to - first});
    const T *rows = base + table[first / a.tokens] * a.block + (int64_t)at * a.dim;
    const int ahead = first + n < to ? first + n : first;
    const char *next = (const char *)(base + table[ahead / a.tokens] * a.block + (int64_t)(ahead % a.tokens) * a.dim);
    const int dim = DIM ? DIM : a.dim, padded = DIM ? DIM : a.padded;
    for (int i = 0; i < n; i++)
      for (int b = 0; b < dim * (int)sizeof(T); b += 64) __builtin_prefetch(next + (int64_t)i * dim * sizeof(T) + b);
    if constexpr (sizeof(T) == sizeof(float))
      if (n % L == 0 && dim == padded) {
        visit(first, n, rows);
        first += n;
        continue;
      }
    for (int i = 0; i < n; i++) widen_row(tile + i * padded, rows + (int64_t)i * dim, dim, padded);
    visit(first, n, (const float *)tile);
    first += n;
  }
}
// lane j: the dot product of one query vector with row j of the tile
static inline vf dots(const float *q, const float *k, int d) {
  vf x[L] = {};
  for (int i = 0; i < d; i += L) {
    const vf v = load(q + i);
    for (int j = 0; j < L; j++) x[j] += v * load(k + j * d + i);
  }
  return Fold<L / 2>::all(x);
}
// sum[0..C*L) += weight[t] * tile[t][..], t ascending
template <int C> static inline void blend(float *sum, const float *weight, const float *tile, int stride, int n) {
  vf acc[C];
  for (int c = 0; c < C; c++) acc[c] = load(sum + c * L);
  for (int t = 0; t < n; t++)
    for (int c = 0; c < C; c++) acc[c] += weight[t] * load(tile + t * stride + c * L);
  for (int c = 0; c < C; c++) store(sum + c * L, acc[c]);
}
// Turns scores into weights for tokens low..high-1 of one query vector; s[0] is token `base`, a multiple of L. Returns 1 / their sum.
static float softmax(float *s, int base, int low, int high, const Attend &a, int head) {
  const int from = low / L * L;
  const vi lane = count();
  vf top = splat(-INFINITY);
  for (int t = from; t < high; t += L) {
    vf x = load(s + t - base) * a.scale;
    if (a.softcap > 0) {  // softcap * tanh(x / softcap)
      const vf e = vexp(x * (2 / a.softcap));
      x = a.softcap - 2 * a.softcap / (e + 1.f);
    }
    const vi token = lane + t;
    x = ((token >= low) & (token < high)) ? x : splat(-INFINITY);
    store(s + t - base, x);
    top = x > top ? x : top;
  }
  float most = a.sinks ? a.sinks[head] : -INFINITY;
  for (int i = 0; i < L; i++) most = std::max(most, (float)top[i]);
  vf sum = {};
  for (int t = from; t < high; t += L) {
    const vf x = load(s + t - base), e = x > -INFINITY ? vexp(x - most) : vf{};
    store(s + t - base, e);
    sum += e;
  }
  float all = total(sum);
  if (a.sinks) all += vexp(splat(a.sinks[head] - most))[0];
  return 1 / all;
}
template <class T, int DIM> static void attend_task(const Attend &a, const Task &t) {
  const int group = a.heads / a.kv_heads, vectors = t.rows * group, d = DIM ? DIM : a.padded;
  const int new_rows = a.starts[t.sequence + 1] - a.starts[t.sequence], row = a.starts[t.sequence] + t.row;
  const int position = a.lengths[t.sequence] - new_rows + t.row, to = position + t.rows;
  const int from = a.window ? std::max(0, position + 1 - a.window) : 0, base = from / L * L;
  const int64_t width = (to - base + TILE + L) / L * L;  // room for a last tile's spill
  Scratch &s = scratch();
  float *query = s.query.take((size_t)vectors * d), *sum = s.sum.take((size_t)vectors * d), *tile = s.tile.take((TILE + L) * d);
  float *score = s.score.take(vectors * width);
  s.inverse.resize(vectors), s.low.resize(vectors), s.high.resize(vectors);
  const int *low = s.low.data(), *high = s.high.data();
  for (int i = 0; i < vectors; i++) {  // row by row, the heads of the group within
    const T *q = (const T *)a.query + (row + i / group) * a.query_row + (t.kv_head * group + i % group) * a.query_head;
    widen_row(query + (size_t)i * d, q, a.dim, d);
    s.high[i] = position + i / group + 1;
    s.low[i] = a.window ? std::max(0, s.high[i] - a.window) : 0;
  }
  each_tile<T, DIM>(a, t, 0, from, to, tile, [=](int first, int n, const float *k) {
    for (int i = 0; i < vectors; i++)
      if (first < high[i] && first + n > low[i])
        for (int j = 0; j < n; j += L)  // lanes past n spill and are overwritten by the next tile or masked
          store(score + i * width + first - base + j, dots(query + (size_t)i * d, k + j * d, d));
  });
  for (int i = 0; i < vectors; i++)
    s.inverse[i] = softmax(score + i * width, base, low[i], high[i], a, t.kv_head * group + i % group);
  memset(sum, 0, (size_t)vectors * d * sizeof(float));
  each_tile<T, DIM>(a, t, 1, from, to, tile, [=](int first, int n, const float *rows) {
    for (int i = 0; i < vectors; i++) {
      const int begin = std::max(first, low[i]), m = std::min(first + n, high[i]) - begin;
      if (m <= 0) continue;
      const float *w = score + i * width + begin - base, *v = rows + (begin - first) * d;
      float *o = sum + (size_t)i * d;
      int c = 0;
      for (; c + 8 * L <= d; c += 8 * L) blend<8>(o + c, w, v + c, d, m);
      for (; c + 4 * L <= d; c += 4 * L) blend<4>(o + c, w, v + c, d, m);
      for (; c < d; c += L) blend<1>(o + c, w, v + c, d, m);
    }
  });
  for (int i = 0; i < vectors; i++) {
    T *o = (T *)a.out + ((int64_t)(row + i / group) * a.heads + t.kv_head * group + i % group) * a.dim;
    for (int c = 0; c < a.dim; c += L) store_part(o + c, load(sum + (size_t)i * d + c) * s.inverse[i], a.dim - c);
  }
}
template <class T> static void attend_all(const Attend &a, int sequences, int threads) {
  std::vector<Task> tasks;
  const int step = std::max(1, VECTORS / (a.heads / a.kv_heads));
  for (int i = 0; i < sequences; i++)
    for (int rows = a.starts[i + 1] - a.starts[i], r = 0; r < rows; r += step)
      for (int h = 0; h < a.kv_heads; h++) tasks.push_back({i, h, r, std::min(step, rows - r)});
  const int n = (int)tasks.size();
#pragma omp parallel for schedule(dynamic, 1) num_threads(n < 4 ? 1 : threads)
  for (int i = 0; i < n; i++) {
    if (a.dim == 64) attend_task<T, 64>(a, tasks[i]);
    else if (a.dim == 128) attend_task<T, 128>(a, tasks[i]);
    else attend_task<T, 0>(a, tasks[i]);
  }
}
extern "C" void attend(int kind, const void *query, int64_t query_row, int64_t query_head, const void *keys, int64_t block, int64_t values,
                       const int32_t *starts, const int32_t *lengths, const int32_t *tables, int64_t table, int sequences, int heads,
                       int kv_heads, int dim, int tokens, int window, float scale, float softcap, const float *sinks, void *out, int threads) {
  const Attend a = {query, query_row, query_head, keys, block, values, starts, lengths, tables, table, heads, kv_heads, dim,
                    (dim + L - 1) / L * L, tokens, window, scale, softcap, sinks, out};
  by_kind(kind, [&](auto type) { attend_all<decltype(type)>(a, sequences, threads); });
}

// ---- the paged cache: all sizes and strides here are bytes
extern "C" void write_slots(const char *key, int64_t key_row, int64_t key_head, const char *value, int64_t value_row, int64_t value_head,
                            const int64_t *slots, int rows, char *keys, int64_t block, int64_t values, int kv_heads, int64_t size, int tokens) {
  for (int r = 0; r < rows; r++)
    for (int h = 0; h < kv_heads; h++) {
      char *to = keys + slots[r] / tokens * block + (h * tokens + slots[r] % tokens) * size;
      memcpy(to, key + r * key_row + h * key_head, size);
      memcpy(to + values, value + r * value_row + h * value_head, size);
    }
}
