// Packed products: weights in panels of PANEL columns, [panel][k][column]; bfloat16 pairs column j with column j + L in a word.
// A weight may be stored in another type than x and the result: it is widened in registers, and the sums are the same.
#pragma once
#include "vectors.h"

static inline void columns(const float *w, int64_t k, vf &a, vf &b) { a = load(w + k * PANEL), b = load(w + k * PANEL + L); }
static inline void columns(const bf16 *w, int64_t k, vf &a, vf &b) {
  const vu u = *(const vu *)(w + k * PANEL);
  a = (vf)(u << 16), b = (vf)(u & 0xffff0000u);
}
static inline void columns(const f16 *w, int64_t k, vf &a, vf &b) { a = load(w + k * PANEL), b = load(w + k * PANEL + L); }
// What an adapter adds to the product of one weight: (x down^T) up^T. Half panel h of the product's columns takes the vectors
// first[h] to first[h + 1] of `up`, the first of them times number begin[h] of x down^T. low_rank.py fills it.
struct LowRank {
  const float *down;  // (rank, inner padded to whole vectors)
  const float *up;    // vectors of L columns
  const int32_t *first, *begin;
  int32_t rank, unused;  // a multiple of 4; 0: this weight is not adapted
};
struct LowRow { const LowRank *of; const float *inner; };  // of a row: its adapter's part of this weight, null where it has none; x down^T
static inline vf low_part(const LowRow &row, int half) {
  const LowRank &l = *row.of;
  const int count = l.first[half + 1] - l.first[half];
  const float *inner = row.inner + l.begin[half], *up = l.up + (int64_t)l.first[half] * L;
  vf even = {}, odd = {};
  int k = 0;
  for (; k + 1 < count; k += 2) even += inner[k] * load(up + k * L), odd += inner[k + 1] * load(up + (k + 1) * L);
  if (k < count) even += inner[k] * load(up + k * L);
  return even + odd;
}
static inline vf totals(const vf *x) {  // lanes 0 to 3: the sums of four vectors
  vf sum = Fold<2>::pair(Fold<1>::pair(x[0], x[1]), Fold<1>::pair(x[2], x[3]));
  for (int half = 4; half < L; half *= 2) {
    vi other;
    for (int j = 0; j < L; j++) other[j] = j ^ half;
    sum += __builtin_shuffle(sum, other);
  }
  return sum;
}
template <class T> static void low_inner(const LowRank &l, const T *x, int width, float *out) {
  const int64_t stride = (width + L - 1) / L * L;
  for (int k = 0; k < l.rank; k += 4) {
    const float *d = l.down + k * stride;
    vf sum[4] = {};
    int i = 0;
    for (; i + L <= width; i += L) {
      const vf v = load(x + i);
      for (int c = 0; c < 4; c++) sum[c] += v * load(d + c * stride + i);
    }
    if (i < width) {
      const vf v = load_part(x + i, width - i);
      for (int c = 0; c < 4; c++) sum[c] += v * load(d + c * stride + i);
    }
    store_part(out + k, totals(sum), 4);
  }
}
struct Linear {
  const float *x; int64_t row;  // widened rows, elements from one to the next
  const void *weight; int inner, outer; const float *bias; void *out; int64_t out_row;
  int gated;  // panels hold L columns of the gate beside L of the up projection: out = silu(gate) * up
  const LowRow *low;  // by row; null: nobody has an adapter
};
// adapter, bias, gate, rounding: the two vectors of a row in a panel become outputs
template <class T> static inline void finish(const Linear &p, int row, int panel, vf a, vf b) {
  T *o = (T *)p.out + row * p.out_row;
  const int at = panel * PANEL;
  if (p.low && p.low[row].of) a += low_part(p.low[row], 2 * panel), b += low_part(p.low[row], 2 * panel + 1);
  if (p.bias) a += load(p.bias + at), b += load(p.bias + at + L);
  if (p.gated) return store_part(o + at / 2, a / (vexp(-a) + 1.f) * b, p.outer - at / 2);
  store_part(o + at, a, p.outer - at);
  if (p.outer - at > L) store_part(o + at + L, b, p.outer - at - L);
}
constexpr int AHEAD = 4096;  // bytes of the weight fetched before they are used: processors themselves look ahead to the end of a page
template <class T, class W, int ROWS, int PANELS> static void product(const Linear &p, int row, int panel) {
  vf acc[ROWS][2 * PANELS] = {};
  const float *x = p.x + row * p.row;
  const W *w = (const W *)p.weight + (int64_t)panel * p.inner * PANEL;
  for (int k = 0; k < p.inner; k++)
    for (int c = 0; c < PANELS; c++) {
      vf a, b;
      const W *part = w + (int64_t)c * p.inner * PANEL;
      for (int i = 0; i < PANEL * (int)sizeof(W); i += 64) __builtin_prefetch((const char *)(part + (int64_t)k * PANEL) + AHEAD + i);
      columns(part, k, a, b);
      for (int r = 0; r < ROWS; r++) acc[r][2 * c] += x[r * p.row + k] * a, acc[r][2 * c + 1] += x[r * p.row + k] * b;
    }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < PANELS; c++) finish<T>(p, row + r, panel + c, acc[r][2 * c], acc[r][2 * c + 1]);
}
constexpr int ROWS = REGISTERS == 32 ? 12 : 6;
// Panels at a time: few rows would wait for their own sums, which eight vectors and more at once hide.
constexpr int panels_of(int rows) { return std::max(1, std::min(4, ROWS / rows)); }
template <class T, class W, int R, int PANELS = panels_of(R)> static void product_panels(const Linear &p, int row, int panel, int panels) {
  for (; panels >= PANELS; panel += PANELS, panels -= PANELS) product<T, W, R, PANELS>(p, row, panel);
  if constexpr (PANELS > 1) product_panels<T, W, R, PANELS / 2>(p, row, panel, panels);
}
template <class T, class W, int R = ROWS> static void product_rows(const Linear &p, int row, int rows, int panel, int panels) {
  if constexpr (R > 1) if (rows < R) return product_rows<T, W, R - 1>(p, row, rows, panel, panels);
  product_panels<T, W, R>(p, row, panel, panels);
}
// Elements of x that one thread prepares while the others wait at no barrier: where a neighbour holds a core, barriers are what costs.
constexpr int LITTLE = 48 * 1024;
template <class T, class W> static void linear_all(Linear p, const T *x, int64_t x_row, int rows, int threads) {
  const int width = p.gated ? L : PANEL, panels = (p.outer + width - 1) / width;
  const int most = std::max(ROWS, (96 * 1024 / p.inner) / ROWS * ROWS);  // rows of x that stay in a core's second-level cache
  static thread_local Room room;
  float *wide = room.take((size_t)std::min(rows, most) * p.inner);
  T *out = (T *)p.out;
  p.x = wide, p.row = p.inner;
  const int at_once = panels_of(std::min(rows, ROWS)), share = std::max(1, std::min(16, panels / (8 * threads)));
  const int few = (share + at_once - 1) / at_once * at_once;
  const bool little = rows <= most && (int64_t)rows * p.inner <= LITTLE;
  if (little)
    for (int r = 0; r < rows; r++) widen_row(wide + (int64_t)r * p.inner, x + r * x_row, p.inner, p.inner);
#pragma omp parallel num_threads((int64_t)rows * p.inner * p.outer < 100000 ? 1 : threads)
  for (int row = 0; row < rows; row += most) {
    const int n = std::min(most, rows - row);
    if (!little) {
      if (row) {  // the rows before are still being read
#pragma omp barrier
      }
#pragma omp for schedule(static)
      for (int r = 0; r < n; r++) widen_row(wide + (int64_t)r * p.inner, x + (row + r) * x_row, p.inner, p.inner);
    }
    Linear q = p;
    q.out = out + row * p.out_row;
    if (p.low) q.low = p.low + row;
#pragma omp for schedule(dynamic, 1) nowait
    for (int first = 0; first < panels; first += few) {
      const int last = std::min(panels, first + few), step = n > ROWS ? 1 : last - first;  // a panel stays in cache for all rows
      for (int c = first; c < last; c += step)
        for (int r = 0; r < n; r += ROWS) product_rows<T, W>(q, r, n - r, c, step);
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
  const bool little = rows * stride <= LITTLE;
  const auto prepare = [=](int r) {  // what lies in the rows of the last tile beyond reaches no other row
    bf16 *to = copy + r * stride;
    memcpy(to, x + r * x_row, p.inner * sizeof(bf16));
    memset(to + p.inner, 0, (stride - p.inner) * sizeof(bf16));
  };
  if (little)
    for (int r = 0; r < rows; r++) prepare(r);
#pragma omp parallel num_threads((int64_t)rows * p.inner * p.outer < 100000 ? 1 : threads)
  {
    _tile_loadconfig(&WHOLE);
    if (!little) {
#pragma omp for schedule(static)
      for (int r = 0; r < rows; r++) prepare(r);
    }
#pragma omp for schedule(dynamic, 1) nowait
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
// Of each row with an adapter x down^T, by that row alone. adapters: by row, which of `low`, negative for none.
template <class T> static const LowRow *low_rows(const LowRank *low, const int32_t *adapters, const T *x, int64_t x_row, int rows, int inner, int threads) {
  static thread_local Room room;
  static thread_local std::vector<LowRow> found;
  int widest = 0;
  for (int r = 0; r < rows; r++)
    if (adapters[r] >= 0) widest = std::max(widest, low[adapters[r]].rank);
  if (!widest) return nullptr;
  float *held = room.take((size_t)rows * widest);
  found.resize(rows);
  LowRow *to = found.data();
#pragma omp parallel for schedule(dynamic, 4) num_threads((int64_t)rows * inner * widest < 300000 ? 1 : threads)
  for (int r = 0; r < rows; r++) {
    const LowRank *of = adapters[r] < 0 ? nullptr : low + adapters[r];
    if (of && !of->rank) of = nullptr;
    if (of) low_inner(*of, x + r * x_row, inner, held + (int64_t)r * widest);
    to[r] = {of, held + (int64_t)r * widest};
  }
  return to;
}
// kind: of x and the result, as in by_kind; stored: of the weight. Half types are stored as they are, float16 where HALVES, else widened.
// adapters, low: see low_rows; null where no row has one.
extern "C" void linear(int kind, int stored, const void *x, int64_t x_row, int rows, const void *weight, int inner, int outer, const float *bias,
                       int gated, void *out, int64_t out_row, int threads, const int32_t *adapters, const LowRank *low) {
  Linear p = {nullptr, 0, weight, inner, outer, bias, out, out_row, gated, nullptr};
  if (adapters && low) by_kind(kind, [&](auto type) { p.low = low_rows(low, adapters, (const decltype(type) *)x, x_row, rows, inner, threads); });
  if (kind == 2) return linear_tiles(p, (const bf16 *)x, x_row, rows, threads);
  if (kind == 1) return linear_all<bf16, bf16>(p, (const bf16 *)x, x_row, rows, threads);
  by_kind(stored, [&](auto weights) {
    typedef decltype(weights) W;
    if (kind == 0) return linear_all<float, W>(p, (const float *)x, x_row, rows, threads);
    if constexpr (!std::is_same_v<W, bf16>) linear_all<f16, W>(p, (const f16 *)x, x_row, rows, threads);
  });
}
extern "C" int halves() { return HALVES; }
