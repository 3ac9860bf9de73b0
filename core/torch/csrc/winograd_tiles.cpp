// Compiled with MTL_ISA=baseline and MTL_ISA=avx2 (see winograd_tiles.h). It includes nothing of the standard
// library: an inline function compiled for AVX2 here could be the copy that the linker keeps for everybody.
#include "winograd_tiles.h"

namespace mtl {
namespace MTL_ISA {
namespace {
// Eight channels at a time; aligned to a float only.
typedef float lane __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t LANE = 8;

inline __attribute__((always_inline)) void rows_of_b(const lane *d, int step, lane *out) {
  lane d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  lane even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, near = d4 - d2, far = 2.0f * (d3 - d1);
  out[0] = 4.0f * d0 - 5.0f * d2 + d4;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = near + far;
  out[4] = near - far;
  out[5] = 4.0f * d1 - 5.0f * d3 + d5;
}

inline __attribute__((always_inline)) void rows_of_a(const lane *m, int step, lane *out) {
  lane m0 = m[0], m5 = m[5 * step];
  lane sum1 = m[step] + m[2 * step], dif1 = m[step] - m[2 * step];
  lane sum2 = m[3 * step] + m[4 * step], dif2 = m[3 * step] - m[4 * step];
  out[0] = m0 + sum1 + sum2;
  out[1] = dif1 + 2.0f * dif2;
  out[2] = sum1 + 4.0f * sum2;
  out[3] = dif1 + 8.0f * dif2 + m5;
}

inline __attribute__((always_inline)) void columns_of_a(const lane *g, int step, lane *out) {
  lane g0 = g[0], g1 = g[step], g2 = g[2 * step], g3 = g[3 * step];
  lane even1 = g0 + g2, odd1 = g1 + g3, even2 = g0 + 4.0f * g2, odd2 = 2.0f * g1 + 8.0f * g3;
  out[0] = g0;
  out[1] = even1 + odd1;
  out[2] = even1 - odd1;
  out[3] = even2 + odd2;
  out[4] = even2 - odd2;
  out[5] = g3;
}

inline const lane *at(const float *p) { return reinterpret_cast<const lane *>(p); }
inline lane *at(float *p) { return reinterpret_cast<lane *>(p); }
}  // namespace

void winograd_input(const float *x, Picture p, int64_t row, int64_t column, float *v, int64_t plane) {
  for (int64_t c = 0; c < p.channels; c += LANE) {
    lane window[36], half[36];
    for (int i = 0; i < 6; i++)
      for (int j = 0; j < 6; j++) {
        int64_t y = row - 1 + i, z = column - 1 + j;
        bool inside = y >= 0 && y < p.height && z >= 0 && z < p.width;
        window[i * 6 + j] = inside ? *at(x + (y * p.width + z) * p.channels + c) : lane{};
      }
    for (int j = 0; j < 6; j++) {
      lane out[6];
      rows_of_b(window + j, 6, out);
      for (int i = 0; i < 6; i++) half[i * 6 + j] = out[i];
    }
    for (int i = 0; i < 6; i++) {
      lane out[6];
      rows_of_b(half + i * 6, 1, out);
      for (int j = 0; j < 6; j++) *at(v + (i * 6 + j) * plane + c) = out[j];
    }
  }
}

void winograd_output(const float *m, int64_t plane, const float *bias, float *y, Picture p, int64_t row, int64_t column) {
  int rows = p.height - row < 4 ? p.height - row : 4, columns = p.width - column < 4 ? p.width - column : 4;
  for (int64_t c = 0; c < p.channels; c += LANE) {
    lane half[24];
    for (int j = 0; j < 6; j++) {
      lane products[6], out[4];
      for (int i = 0; i < 6; i++) products[i] = *at(m + (i * 6 + j) * plane + c);
      rows_of_a(products, 1, out);
      for (int i = 0; i < 4; i++) half[i * 6 + j] = out[i];
    }
    lane start = bias ? *at(bias + c) : lane{};
    for (int i = 0; i < rows; i++) {
      lane out[4];
      rows_of_a(half + i * 6, 1, out);
      for (int j = 0; j < columns; j++) *at(y + ((row + i) * p.width + column + j) * p.channels + c) = out[j] + start;
    }
  }
}

void winograd_gradient(const float *g, Picture p, int64_t row, int64_t column, float *d, int64_t plane) {
  for (int64_t c = 0; c < p.channels; c += LANE) {
    lane tile[16], half[24];
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 4; j++) {
        bool inside = row + i < p.height && column + j < p.width;
        tile[i * 4 + j] = inside ? *at(g + ((row + i) * p.width + column + j) * p.channels + c) : lane{};
      }
    for (int j = 0; j < 4; j++) {
      lane out[6];
      columns_of_a(tile + j, 4, out);
      for (int i = 0; i < 6; i++) half[i * 4 + j] = out[i];
    }
    for (int i = 0; i < 6; i++) {
      lane out[6];
      columns_of_a(half + i * 4, 1, out);
      for (int j = 0; j < 6; j++) *at(d + (i * 6 + j) * plane + c) = out[j];
    }
  }
}

}  // namespace MTL_ISA
}  // namespace mtl
