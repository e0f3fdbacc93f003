// CPU kernels of the live engine: attention over block tables, writes into the paged cache, packed products, norms.
//
// Vectors are the compiler's own (LANES floats wide), so one text serves every instruction set that -march=native gives.
// Storage is float or bfloat16, arithmetic is always float. Every sum runs in an order that depends on its own row alone:
// neither the batch, nor the chunking of a prompt, nor the number of threads changes a bit of a row's result.
// Must be compiled without -ffast-math: vexp and the masks rely on IEEE rules.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifndef LANES
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
#if defined(__AMX_BF16__) && LANES == 16 && !defined(TILES)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TILES 1
#define ASK_FOR_TILES syscall(SYS_arch_prctl, 0x1023, 18)  // Linux hands out the tile registers on request, once a process
#endif
constexpr int L = LANES, PANEL = 2 * L;

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
struct bf16 { uint16_t bits; };

static inline vf splat(float x) { return x - vf{}; }
static inline vf load(const float *p) { return *(const vf *)p; }
static inline vf load(const bf16 *p) { return (vf)(__builtin_convertvector(*(const vh *)p, vu) << 16); }
static inline float widen(float x) { return x; }
static inline float widen(bf16 x) {
  const uint32_t u = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline void store(float *p, vf x) { *(vf *)p = x; }
static inline void store(bf16 *p, vf x) {  // to the nearest, ties to even; a NaN stays one
  const vu u = (vu)x, r = u + 0x7fff + ((u >> 16) & 1);
  *(vh *)p = __builtin_convertvector((x == x ? r : (u | 0x400000)) >> 16, vh);
}
template <class T> static void store_part(T *p, vf x, int n) {  // the first n lanes
  if (n >= L) return store(p, x);
  T t[L];
  store(t, x);
  memcpy(p, t, n * sizeof(T));
}
template <class T> static inline vf load_part(const T *p, int n) {  // the first n lanes, zeros in the others
  if (n >= L) return load(p);
  T t[L] = {};
  memcpy(t, p, n * sizeof(T));
  return load(t);
}
template <class T> static inline void widen_row(float *__restrict out, const T *__restrict in, int n, int padded) {  // zeros from n up to padded
  for (int i = 0; i < n; i++) out[i] = widen(in[i]);  // a plain loop: compilers widen it better than their own vectors
  for (int i = n; i < padded; i++) out[i] = 0;
}
static vi count() {
  vi x;
  for (int i = 0; i < L; i++) x[i] = i;
  return x;
}
static inline vf vexp(vf x) {  // e^x within about two units of the last place; x is held between -87 and 88
  x = x < -87.f ? splat(-87.f) : x;
  x = x > 88.f ? splat(88.f) : x;
  const vf n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // the nearest integer, by the last bits of 1.5 * 2^23
  vf r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

// ---- reduction of L accumulators to one vector whose lane i is the sum of x[i]
template <int H> struct Fold {
  static inline vf pair(vf a, vf b) {  // lanes with bit H come from b, the others from a, each plus its partner H away
    vi own, other;
    for (int j = 0; j < L; j++) own[j] = j & H ? L + j : j, other[j] = j & H ? L + (j ^ H) : (j ^ H);
    return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
  }
  static inline vf all(vf *x) {
    for (int i = 0; i < H; i++) x[i] = pair(x[i], x[i + H]);
    return Fold<H / 2>::all(x);
  }
};
template <> struct Fold<0> { static inline vf all(vf *x) { return x[0]; } };
static float total(vf x) {
  float s = 0;
  for (int i = 0; i < L; i++) s += x[i];
  return s;
}

// ---- attention over block tables
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

struct Room {  // grows, never shrinks; on a cache line, since loads across lines cost twice
  std::vector<float> held;
  float *take(size_t floats) {
    if (held.size() < floats + 16) held.resize(floats + 16);
    return (float *)(((uintptr_t)held.data() + 63) / 64 * 64);
  }
};
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
extern "C" void attend(int half, const void *query, int64_t query_row, int64_t query_head, const void *keys, int64_t block, int64_t values,
                       const int32_t *starts, const int32_t *lengths, const int32_t *tables, int64_t table, int sequences, int heads,
                       int kv_heads, int dim, int tokens, int window, float scale, float softcap, const float *sinks, void *out, int threads) {
  const Attend a = {query, query_row, query_head, keys, block, values, starts, lengths, tables, table, heads, kv_heads, dim,
                    (dim + L - 1) / L * L, tokens, window, scale, softcap, sinks, out};
  half ? attend_all<bf16>(a, sequences, threads) : attend_all<float>(a, sequences, threads);
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

// ---- packed products: weights in panels of PANEL columns, [panel][k][column]; bfloat16 pairs column j with column j + L in a word
static inline void columns(const float *w, int64_t k, vf &a, vf &b) { a = load(w + k * PANEL), b = load(w + k * PANEL + L); }
static inline void columns(const bf16 *w, int64_t k, vf &a, vf &b) {
  const vu u = *(const vu *)(w + k * PANEL);
  a = (vf)(u << 16), b = (vf)(u & 0xffff0000u);
}
struct Linear {
  const float *x; int64_t row;  // widened rows, elements from one to the next
  const void *weight; int inner, outer; const float *bias; void *out; int64_t out_row;
  int gated;  // panels hold L columns of the gate beside L of the up projection: out = silu(gate) * up
};
// bias, gate, rounding: the two vectors of a row in a panel become outputs
template <class T> static inline void finish(const Linear &p, int row, int panel, vf a, vf b) {
  T *o = (T *)p.out + row * p.out_row;
  const int at = panel * PANEL;
  if (p.bias) a += load(p.bias + at), b += load(p.bias + at + L);
  if (p.gated) return store_part(o + at / 2, a / (vexp(-a) + 1.f) * b, p.outer - at / 2);
  store_part(o + at, a, p.outer - at);
  if (p.outer - at > L) store_part(o + at + L, b, p.outer - at - L);
}
template <class T, int ROWS, int PANELS> static void product(const Linear &p, int row, int panel) {
  vf acc[ROWS][2 * PANELS] = {};
  const float *x = p.x + row * p.row;
  const T *w = (const T *)p.weight + (int64_t)panel * p.inner * PANEL;
  for (int k = 0; k < p.inner; k++)
    for (int c = 0; c < PANELS; c++) {
      vf a, b;
      columns(w + (int64_t)c * p.inner * PANEL, k, a, b);
      for (int r = 0; r < ROWS; r++) acc[r][2 * c] += x[r * p.row + k] * a, acc[r][2 * c + 1] += x[r * p.row + k] * b;
    }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < PANELS; c++) finish<T>(p, row + r, panel + c, acc[r][2 * c], acc[r][2 * c + 1]);
}
constexpr int ROWS = REGISTERS == 32 ? 12 : 6;
template <class T, int R = ROWS> static void product_rows(const Linear &p, int row, int rows, int panel) {
  if constexpr (R > 1) if (rows < R) return product_rows<T, R - 1>(p, row, rows, panel);
  product<T, R, 1>(p, row, panel);
}
template <class T> static void linear_all(Linear p, const T *x, int64_t x_row, int rows, int threads) {
  const int width = p.gated ? L : PANEL, panels = (p.outer + width - 1) / width;
  const int most = std::max(ROWS, (96 * 1024 / p.inner) / ROWS * ROWS);  // rows of x that stay in a core's second-level cache
  static thread_local Room room;
  float *wide = room.take((size_t)std::min(rows, most) * p.inner);
  T *out = (T *)p.out;
  p.x = wide, p.row = p.inner;
  const int few = std::max(1, std::min(16, panels / (8 * threads)));
#pragma omp parallel num_threads((int64_t)rows * p.inner * p.outer < 100000 ? 1 : threads)
  for (int row = 0; row < rows; row += most) {
    const int n = std::min(most, rows - row);
#pragma omp for schedule(static)
    for (int r = 0; r < n; r++) widen_row(wide + (int64_t)r * p.inner, x + (row + r) * x_row, p.inner, p.inner);
    Linear q = p;
    q.out = out + row * p.out_row;
#pragma omp for schedule(dynamic, 1)
    for (int first = 0; first < panels; first += few)
      for (int c = first; c < std::min(panels, first + few);) {
        const bool pair = n <= 2 && c + 2 <= std::min(panels, first + few);  // one row alone would wait for its own sums
        if (pair) n == 1 ? product<T, 1, 2>(q, 0, c) : product<T, 2, 2>(q, 0, c);
        else for (int r = 0; r < n; r += ROWS) product_rows<T>(q, r, n - r, c);
        c += pair ? 2 : 1;
      }
  }
}
#ifdef TILES
// ---- the same by AMX: weights in panels of 32 columns, [panel][k / 32][half of the panel][pair of k][16 columns][2]; k padded to 32
struct TileConfig {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};
alignas(64) static const TileConfig WHOLE = {  // eight tiles of 16 rows; constant, since compilers lose stores to what ldtilecfg reads
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
static void tile_product(const Linear &p, const bf16 *x, int64_t stride, int row, int rows, int panel) {  // up to 32 rows
  const int depth = (p.inner + 31) / 32;
  const bf16 *w = (const bf16 *)p.weight + (int64_t)panel * depth * 1024;
  // clang-format off
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int k = 0; k < depth; k++, w += 1024, x += 32) {
    _tile_loadd(6, w, 64); _tile_loadd(7, w + 512, 64);
    _tile_loadd(4, x, stride * 2);
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
    if (rows <= 16) continue;
    _tile_loadd(5, x + 16 * stride, stride * 2);
    _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
  }
  float sum[32][32];
  _tile_stored(0, sum[0], 128); _tile_stored(1, sum[0] + 16, 128);
  _tile_stored(2, sum[16], 128); _tile_stored(3, sum[16] + 16, 128);
  // clang-format on
  for (int r = 0; r < rows; r++) finish<bf16>(p, row + r, panel, load(sum[r]), load(sum[r] + 16));
}
static void linear_tiles(const Linear &p, const bf16 *x, int64_t x_row, int rows, int threads) {
  const int width = p.gated ? L : PANEL, panels = (p.outer + width - 1) / width, few = std::max(1, std::min(8, panels / (8 * threads)));
  const int64_t stride = (p.inner + 31) / 32 * 32 + 32;  // the last 32 keep rows of 2^n off one cache set
  const int whole = (rows + 31) / 32 * 32;
  static thread_local Room room;
  bf16 *copy = (bf16 *)room.take((size_t)(whole * stride / 2));
#pragma omp parallel num_threads((int64_t)rows * p.inner * p.outer < 100000 ? 1 : threads)
  {
    _tile_loadconfig(&WHOLE);
#pragma omp for schedule(static)
    for (int r = 0; r < rows; r++) {  // what lies in the rows of the last tile beyond reaches no other row
      bf16 *to = copy + r * stride;
      memcpy(to, x + r * x_row, p.inner * sizeof(bf16));
      memset(to + p.inner, 0, (stride - p.inner) * sizeof(bf16));
    }
#pragma omp for schedule(dynamic, 1)
    for (int first = 0; first < panels; first += few)
      for (int row = 0; row < rows; row += 32)
        for (int c = first; c < std::min(panels, first + few); c++)
          tile_product(p, copy + row * stride, stride, row, std::min(32, rows - row), c);
    _tile_release();
  }
}
extern "C" int tiles() { return ASK_FOR_TILES == 0; }
#else
static void linear_tiles(const Linear &, const bf16 *, int64_t, int, int) {}
extern "C" int tiles() { return 0; }
#endif
// kind: 0 float, 1 bfloat16, 2 bfloat16 in tiles
extern "C" void linear(int kind, const void *x, int64_t x_row, int rows, const void *weight, int inner, int outer, const float *bias, int gated,
                       void *out, int64_t out_row, int threads) {
  const Linear p = {nullptr, 0, weight, inner, outer, bias, out, out_row, gated};
  if (kind == 2) return linear_tiles(p, (const bf16 *)x, x_row, rows, threads);
  kind ? linear_all(p, (const bf16 *)x, x_row, rows, threads) : linear_all(p, (const float *)x, x_row, rows, threads);
}

// ---- x / sqrt(mean(x^2) + epsilon) * weight, row by row
template <class T> static void rms_norm_row(const T *x, const T *weight, T *out, int width, float epsilon) {
  vf squares = {};
  for (int i = 0; i < width; i += L) {
    const vf v = load_part(x + i, width - i);
    squares += v * v;
  }
  const float scale = 1 / sqrtf(total(squares) / width + epsilon);
  for (int i = 0; i < width; i += L)
    store_part(out + i, load_part(x + i, width - i) * scale * load_part(weight + i, width - i), width - i);
}
template <class T> static void rms_norm_all(const T *x, int64_t x_row, int rows, const T *weight, int width, float epsilon, T *out, int threads) {
#pragma omp parallel for schedule(static) num_threads((int64_t)rows * width < 30000 ? 1 : threads)
  for (int r = 0; r < rows; r++) rms_norm_row(x + r * x_row, weight, out + (int64_t)r * width, width, epsilon);
}
extern "C" void rms_norm(int half, const void *x, int64_t x_row, int rows, const void *weight, int width, float epsilon, void *out, int threads) {
  half ? rms_norm_all((const bf16 *)x, x_row, rows, (const bf16 *)weight, width, epsilon, (bf16 *)out, threads)
       : rms_norm_all((const float *)x, x_row, rows, (const float *)weight, width, epsilon, (float *)out, threads);
}

extern "C" int lanes() { return L; }
