// The AMX instructions that kernels.cpp uses, in plain C++, so that the code around them runs on any processor.
// Per Intel's definition: C[m][n] += A[m][2k] * B[k][2n] + A[m][2k+1] * B[k][2n+1], sums in float. All tiles are 16 x 64 bytes.
#include <cstdint>
#include <cstring>
#define TILES 1
#define ASK_FOR_TILES 0

static thread_local unsigned char tile[8][16][64];
static inline void _tile_loadconfig(const void *config) { memset(tile, *(const unsigned char *)config == 1 ? 0 : 0xff, sizeof tile); }
static inline void _tile_release() { memset(tile, 0xff, sizeof tile); }
static inline void _tile_zero(int t) { memset(tile[t], 0, sizeof tile[t]); }
static inline void _tile_loadd(int t, const void *from, int64_t stride) {
  for (int r = 0; r < 16; r++) memcpy(tile[t][r], (const char *)from + r * stride, 64);
}
static inline void _tile_stored(int t, void *to, int64_t stride) {
  for (int r = 0; r < 16; r++) memcpy((char *)to + r * stride, tile[t][r], 64);
}
static inline float tile_half(const unsigned char *at) {
  uint16_t h;
  memcpy(&h, at, 2);
  const uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline void _tile_dpbf16ps(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      float sum;
      memcpy(&sum, tile[c][m] + 4 * n, 4);
      for (int k = 0; k < 16; k++)
        for (int i = 0; i < 2; i++) sum += tile_half(tile[a][m] + 4 * k + 2 * i) * tile_half(tile[b][k] + 4 * n + 2 * i);
      memcpy(tile[c][m] + 4 * n, &sum, 4);
    }
}
