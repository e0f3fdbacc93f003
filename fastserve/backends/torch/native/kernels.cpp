// CPU kernels of the live engine: attention over block tables, writes into the paged cache, packed products, norms,
// and all decoder layers of the Llama kind in one call.
//
// Vectors are the compiler's own (LANES floats wide), so one text serves every instruction set that -march=native gives.
// Storage is float, bfloat16 or float16, of weights of float too; arithmetic is always float. Every sum runs in an order that depends on its own row alone:
// neither the batch, nor the chunking of a prompt, nor the number of threads changes a bit of a row's result.
// Must be compiled without -ffast-math: vexp and the masks rely on IEEE rules.
#include "attention.h"
#include "products.h"

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
extern "C" void rms_norm(int kind, const void *x, int64_t x_row, int rows, const void *weight, int width, float epsilon, void *out, int threads) {
  by_kind(kind, [&](auto type) {
    typedef decltype(type) T;
    rms_norm_all((const T *)x, x_row, rows, (const T *)weight, width, epsilon, (T *)out, threads);
  });
}

// ---- the decoder layers of the Llama kind, as transformers' modules compute them on these kernels: the same bits
struct Weight { const void *data; const float *bias; int32_t inner, outer, stored, unused; };
struct Layer {  // fastserve/backends/torch/native/stack.py fills it
  const void *norm_in, *norm_mlp, *norm_q, *norm_k;  // weights; norm_q and norm_k, over a head, may be null
  float epsilon_in, epsilon_mlp, epsilon_q, epsilon_k;
  Weight qkv, out, gated, down;
  int32_t window, unused;
};
// What a tensor of PyTorch would hold: no product is fused with the sum that follows.
template <class T> static inline vf kept(vf x) {
  T t[L];
  store(t, x);
  asm("" : "+m"(t));
  return load(t);
}
// One head of queries or keys: its norm, then the rotation of the pairs (i, i + half) by cosine and sine (dim each).
template <class T> static void rotate(T *x, const T *cosine, const T *sine, int dim, const void *norm, float epsilon) {
  if (norm) rms_norm_row(x, (const T *)norm, x, dim, epsilon);
  for (int half = dim / 2, i = 0; i < half; i += L) {
    const int n = half - i;
    const vf a = load_part(x + i, n), b = load_part(x + half + i, n);
    store_part(x + i, kept<T>(a * load_part(cosine + i, n)) + kept<T>(-b * load_part(sine + i, n)), n);
    store_part(x + half + i, kept<T>(b * load_part(cosine + half + i, n)) + kept<T>(a * load_part(sine + half + i, n)), n);
  }
}
template <class T> static void add(T *x, const T *more, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(n < 100000 ? 1 : threads)
  for (int64_t i = 0; i < n; i += L) store_part(x + i, load_part(x + i, (int)std::min<int64_t>(L, n - i)) + load_part(more + i, (int)std::min<int64_t>(L, n - i)), (int)std::min<int64_t>(L, n - i));
}
// x (rows, hidden) becomes the result. cosine, sine (rows, dim). keys: layer 0 of the pool; layer_bytes from one layer to the next.
// work: rows times (hidden + (2 heads + 2 kv_heads) dim + intermediate) elements. adapters: by row, see low_rows; low: of each layer
// those of its four products, `most` each.
template <class T> static void stack_all(int kind, const Layer *layers, int count, T *x, const T *cosine, const T *sine, const int64_t *slots, int rows,
                                         Attend a, int sequences, int64_t layer_bytes, T *work, int threads, const int32_t *adapters,
                                         const LowRank *low, int most) {
  const int hidden = layers->qkv.inner, width = layers->qkv.outer, queries = a.heads * a.dim, keys = a.kv_heads * a.dim;
  T *normed = work, *qkv = normed + (int64_t)rows * hidden, *seen = qkv + (int64_t)rows * width, *inner = seen + (int64_t)rows * queries;
  char *pool = (char *)a.keys;
  const auto product = [&](const T *in, const Weight &w, bool gated, T *out) {
    linear(kind, w.stored, in, w.inner, rows, w.data, w.inner, w.outer, w.bias, gated, out, w.outer, threads, adapters, low);
    if (low) low += most;
  };
  a.query = qkv, a.query_row = width, a.query_head = a.dim, a.out = seen;
  for (const Layer *l = layers; l < layers + count; l++, pool += layer_bytes) {
    rms_norm_all(x, hidden, rows, (const T *)l->norm_in, hidden, l->epsilon_in, normed, threads);
    product(normed, l->qkv, false, qkv);
#pragma omp parallel for schedule(static) num_threads((int64_t)rows * width < 30000 ? 1 : threads)
    for (int r = 0; r < rows; r++) {
      T *row = qkv + (int64_t)r * width;
      const T *c = cosine + (int64_t)r * a.dim, *s = sine + (int64_t)r * a.dim;
      for (int h = 0; h < a.heads; h++) rotate(row + h * a.dim, c, s, a.dim, l->norm_q, l->epsilon_q);
      for (int h = 0; h < a.kv_heads; h++) rotate(row + queries + h * a.dim, c, s, a.dim, l->norm_k, l->epsilon_k);
    }
    const int64_t size = sizeof(T), head = a.dim * size;
    write_slots((char *)(qkv + queries), width * size, head, (char *)(qkv + queries + keys), width * size, head, slots, rows, pool, a.block * size,
                a.values * size, a.kv_heads, head, a.tokens);
    a.keys = pool, a.window = l->window;
    attend_all<T>(a, sequences, threads);
    product(seen, l->out, false, normed);
    add(x, normed, (int64_t)rows * hidden, threads);
    rms_norm_all(x, hidden, rows, (const T *)l->norm_mlp, hidden, l->epsilon_mlp, normed, threads);
    product(normed, l->gated, true, inner);
    product(inner, l->down, false, normed);
    add(x, normed, (int64_t)rows * hidden, threads);
  }
}
// block and values in elements, layer_bytes in bytes
extern "C" void stack(int kind, const Layer *layers, int count, void *x, const void *cosine, const void *sine, const int64_t *slots, int rows,
                      const void *keys, int64_t block, int64_t values, int64_t layer_bytes, const int32_t *starts, const int32_t *lengths,
                      const int32_t *tables, int64_t table, int sequences, int heads, int kv_heads, int dim, int tokens, float scale, void *work,
                      int threads, const int32_t *adapters, const LowRank *low, int most) {
  const Attend a = {nullptr, 0, 0, keys, block, values, starts, lengths, tables, table, heads, kv_heads, dim,
                    (dim + L - 1) / L * L, tokens, 0, scale, 0, nullptr, nullptr};
  by_kind(kind, [&](auto type) {
    typedef decltype(type) T;
    stack_all(kind, layers, count, (T *)x, (const T *)cosine, (const T *)sine, slots, rows, a, sequences, layer_bytes, (T *)work, threads, adapters,
                 low, most);
  });
}

extern "C" int lanes() { return L; }
