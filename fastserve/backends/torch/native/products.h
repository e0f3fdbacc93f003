// Packed products: weights in panels of PANEL columns, [panel][k][column]; bfloat16 pairs column j with column j + L in a word,
// float16 is widened when it is packed.
#pragma once
#include "vectors.h"

static inline void columns(const float *w, int64_t k, vf &a, vf &b) { a = load(w + k * PANEL), b = load(w + k * PANEL + L); }
static inline void columns(const bf16 *w, int64_t k, vf &a, vf &b) {
  const vu u = *(const vu *)(w + k * PANEL);
  a = (vf)(u << 16), b = (vf)(u & 0xffff0000u);
}
template <class T> struct Stored { typedef T type; };
template <> struct Stored<f16> { typedef float type; };
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
  const auto *w = (const typename Stored<T>::type *)p.weight + (int64_t)panel * p.inner * PANEL;
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
// Elements of x that one thread prepares while the others wait at no barrier: where a neighbour holds a core, barriers are what costs.
constexpr int LITTLE = 48 * 1024;
template <class T> static void linear_all(Linear p, const T *x, int64_t x_row, int rows, int threads) {
  const int width = p.gated ? L : PANEL, panels = (p.outer + width - 1) / width;
  const int most = std::max(ROWS, (96 * 1024 / p.inner) / ROWS * ROWS);  // rows of x that stay in a core's second-level cache
  static thread_local Room room;
  float *wide = room.take((size_t)std::min(rows, most) * p.inner);
  T *out = (T *)p.out;
  p.x = wide, p.row = p.inner;
  const int few = std::max(1, std::min(16, panels / (8 * threads)));
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
#pragma omp for schedule(dynamic, 1) nowait
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
extern "C" void linear(int kind, const void *x, int64_t x_row, int rows, const void *weight, int inner, int outer, const float *bias, int gated,
                       void *out, int64_t out_row, int threads) {
  const Linear p = {nullptr, 0, weight, inner, outer, bias, out, out_row, gated};
  if (kind == 2) return linear_tiles(p, (const bf16 *)x, x_row, rows, threads);
  by_kind(kind, [&](auto type) { linear_all(p, (const decltype(type) *)x, x_row, rows, threads); });
}
