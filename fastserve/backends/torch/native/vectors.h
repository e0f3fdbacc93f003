// Vectors of LANES floats, storage in float, bfloat16 or float16, arithmetic in float.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
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
// HALVES: instructions widen and round float16. Emulated tiles go without, so that the rest is tested.
#if ((LANES == 16 && defined(__AVX512F__)) || (LANES == 8 && defined(__F16C__))) && !defined(TILES)
#include <immintrin.h>
#define HALVES 1
#elif LANES == 4 && defined(__aarch64__)
#include <arm_neon.h>
#define HALVES 1
#else
#define HALVES 0
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
struct f16 { uint16_t bits; };
// Calls f with a value of the type that tensors of this kind hold: 0 float, 1 bfloat16, 2 bfloat16 with products in tiles, 3 float16.
template <class F> static void by_kind(int kind, F f) { kind == 0 ? f(float{}) : kind == 3 ? f(f16{}) : f(bf16{}); }

static inline vf splat(float x) { return x - vf{}; }
static inline vf load(const float *p) { return *(const vf *)p; }
static inline vf load(const bf16 *p) { return (vf)(__builtin_convertvector(*(const vh *)p, vu) << 16); }
#if HALVES
#if LANES == 16
static inline vf load(const f16 *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void store(f16 *p, vf x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT)); }
#elif LANES == 8
static inline vf load(const f16 *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void store(f16 *p, vf x) { _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT)); }
#else
static inline vf load(const f16 *p) { return (vf)vcvt_f32_f16(vld1_f16((const __fp16 *)p)); }
static inline void store(f16 *p, vf x) { vst1_f16((__fp16 *)p, vcvt_f16_f32((float32x4_t)x)); }
#endif
#else
static inline vf load(const f16 *p) {  // 2^112: the exponents' offset
  const vu h = __builtin_convertvector(*(const vh *)p, vu), sign = (h & 0x8000) << 16;
  const vu u = (vu)((vf)((h & 0x7fff) << 13) * 0x1p112f);
  return (vf)(((h & 0x7c00) == 0x7c00 ? u | 0x7f800000 : u) | sign);
}
static inline void store(f16 *p, vf x) {  // to the nearest, ties to even; what is too large becomes infinite
  const vu u = (vu)x & 0x7fffffff, sign = ((vu)x >> 16) & 0x8000;
  const vu normal = (u - (112 << 23) + 0xfff + ((u >> 13) & 1)) >> 13;
  const vu small = (vu)((vf)u + 0.5f) - 0x3f000000;  // below 2^-14 the sum with 0.5 rounds to the steps of float16
  vu h = u < (113u << 23) ? small : normal;
  h = u >= 0x477ff000u ? vu{} + 0x7c00 : h;
  h = u > 0x7f800000u ? vu{} + 0x7e00 : h;
  *(vh *)p = __builtin_convertvector(h | sign, vh);
}
#endif
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
  if constexpr (std::is_same_v<T, f16>)
    for (int i = 0; i < n; i += L) store_part(out + i, load_part(in + i, n - i), n - i);
  else
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
struct Room {  // grows, never shrinks; on a cache line, since loads across lines cost twice
  std::vector<float> held;
  float *take(size_t floats) {
    if (held.size() < floats + 16) held.resize(floats + 16);
    return (float *)(((uintptr_t)held.data() + 63) / 64 * 64);
  }
};
