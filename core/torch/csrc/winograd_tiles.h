// The tile transforms of F(4x4, 3x3), compiled once for any x86-64 and once for AVX2.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.3: a tile of 4x4
// outputs is A' [(G w G') * (B' x B)] A, where * multiplies element by element and is summed over the channels.
// Memory is channels-last; a transformed tile has its 36 numbers `plane` floats apart, so that each of the 36
// places is a matrix [tiles, channels].
#pragma once
#include <cstdint>

namespace mtl {

// One image's share of a tensor [batch, height, width, channels].
struct Picture {
  int64_t height, width, channels;
};

#define MTL_TILES(ISA)                                                                                   \
  namespace ISA {                                                                                        \
  /* B' x B of the 6x6 window that starts one row and one column before (row, column); zero outside. */  \
  void winograd_input(const float *x, Picture p, int64_t row, int64_t column, float *v, int64_t plane);  \
  /* A' m A plus the bias, if there is one, written to the part of the 4x4 tile at (row, column) that is inside. */ \
  void winograd_output(const float *m, int64_t plane, const float *bias, float *y, Picture p, int64_t row, int64_t column); \
  /* A g A': how the gradient of an output tile reaches the 36 products. */                              \
  void winograd_gradient(const float *g, Picture p, int64_t row, int64_t column, float *d, int64_t plane); \
  }
MTL_TILES(baseline)
MTL_TILES(avx2)
#undef MTL_TILES

}  // namespace mtl
