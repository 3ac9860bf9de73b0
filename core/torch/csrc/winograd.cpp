// 3x3 convolutions with stride 1 and padding 1 in float32 on the CPU, by Winograd's F(4x4, 3x3)
// (Lavin and Gray 2016): 36 matrix products in place of 144 multiplications a tile, four times fewer.
#include "shim.h"
#include "winograd_tiles.h"
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <algorithm>
#include <torch/csrc/autograd/custom_function.h>

namespace {
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using mtl::Picture;

struct Transforms {
  decltype(&mtl::baseline::winograd_input) input;
  decltype(&mtl::baseline::winograd_output) output;
  decltype(&mtl::baseline::winograd_gradient) gradient;
};

const Transforms &transforms() {
  static const Transforms best = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return Transforms{mtl::avx2::winograd_input, mtl::avx2::winograd_output, mtl::avx2::winograd_gradient};
    return Transforms{mtl::baseline::winograd_input, mtl::baseline::winograd_output, mtl::baseline::winograd_gradient};
  }();
  return best;
}

// kron(G, G), [36, 9]: the transform of a 3x3 kernel as one matrix.
at::Tensor kernel_matrix() {
  const double g[6][3] = {{1. / 4, 0, 0},           {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                          {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
  auto out = at::empty({36, 9}, at::kFloat);
  float *p = out.mutable_data_ptr<float>();
  for (int a = 0; a < 36; a++)
    for (int k = 0; k < 9; k++) p[a * 9 + k] = static_cast<float>(g[a / 6][k / 3] * g[a % 6][k % 3]);
  return out;
}

// Tiles of 4x4 outputs, numbered over batch, rows and columns.
struct Tiling {
  int64_t batch, height, width, down, across;
  explicit Tiling(const at::Tensor &x)
      : batch(x.size(0)), height(x.size(2)), width(x.size(3)), down((height + 3) / 4), across((width + 3) / 4) {}
  int64_t count() const { return batch * down * across; }
  // The tiles that are transformed and multiplied together: their matrices should stay in the cache, and be tall
  // enough for a fast product.
  int64_t chunk(int64_t channels) const {
    int64_t most = std::max<int64_t>(128, (1 << 20) / (36 * channels));
    int64_t chunks = (count() + most - 1) / most;
    return (count() + chunks - 1) / chunks;
  }
  // Calls `each(image, row, column, index)` for tiles [from, to), in threads; `index` counts from 0.
  template <typename F>
  void visit(int64_t from, int64_t to, const F &each) const {
    at::parallel_for(0, to - from, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        int64_t tile = from + i, image = tile / (down * across), rest = tile % (down * across);
        each(image, rest / across * 4, rest % across * 4, i);
      }
    });
  }
};

// A tensor in channels-last memory, and room for the transforms of a chunk of its tiles: [36, tiles, channels].
struct Side {
  Picture picture;
  int64_t image;
  at::Tensor memory;
  float *transformed;
  Side(const Tiling &tiles, int64_t channels, int64_t most, at::TensorOptions options)
      : picture{tiles.height, tiles.width, channels}, image(tiles.height * tiles.width * channels),
        memory(at::empty({36 * most * channels}, options)), transformed(memory.mutable_data_ptr<float>()) {}
  at::Tensor matrices(int64_t n) const {
    return memory.narrow(0, 0, 36 * n * picture.channels).view({36, n, picture.channels});
  }
  float *tile(int64_t i) const { return transformed + i * picture.channels; }
};

// The convolution of `x` [batch, in, h, w] with a transformed kernel [36, in, out]; `bias` [out] may be undefined.
at::Tensor convolve(const at::Tensor &x, const at::Tensor &kernel, const at::Tensor &bias = {}) {
  Tiling tiles(x);
  int64_t in = kernel.size(1), out = kernel.size(2), most = tiles.chunk(std::max(in, out));
  Side v(tiles, in, most, x.options()), m(tiles, out, most, x.options());
  auto y = at::empty({tiles.batch, out, tiles.height, tiles.width}, x.options(), at::MemoryFormat::ChannelsLast);
  const float *source = x.const_data_ptr<float>(), *start = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float *target = y.mutable_data_ptr<float>();
  for (int64_t begin = 0; begin < tiles.count(); begin += most) {
    int64_t n = std::min(most, tiles.count() - begin);
    tiles.visit(begin, begin + n, [&](int64_t image, int64_t row, int64_t column, int64_t i) {
      transforms().input(source + image * v.image, v.picture, row, column, v.tile(i), n * in);
    });
    auto products = m.matrices(n);
    at::bmm_out(products, v.matrices(n), kernel);
    tiles.visit(begin, begin + n, [&](int64_t image, int64_t row, int64_t column, int64_t i) {
      transforms().output(m.tile(i), n * out, start, target + image * m.image, m.picture, row, column);
    });
  }
  return y;
}

// The gradient of the kernel [out, in, 3, 3].
at::Tensor kernel_gradient(const at::Tensor &x, const at::Tensor &g) {
  Tiling tiles(x);
  int64_t in = x.size(1), out = g.size(1), most = tiles.chunk(std::max(in, out));
  Side v(tiles, in, most, x.options()), d(tiles, out, most, x.options());
  auto sum = at::zeros({36, in, out}, x.options());
  const float *source = x.const_data_ptr<float>(), *target = g.const_data_ptr<float>();
  for (int64_t begin = 0; begin < tiles.count(); begin += most) {
    int64_t n = std::min(most, tiles.count() - begin);
    tiles.visit(begin, begin + n, [&](int64_t image, int64_t row, int64_t column, int64_t i) {
      transforms().input(source + image * v.image, v.picture, row, column, v.tile(i), n * in);
      transforms().gradient(target + image * d.image, d.picture, row, column, d.tile(i), n * out);
    });
    sum.baddbmm_(v.matrices(n).transpose(1, 2), d.matrices(n));
  }
  auto kernel = kernel_matrix().t().mm(sum.view({36, in * out}));
  return kernel.view({3, 3, in, out}).permute({3, 2, 0, 1}).contiguous(at::MemoryFormat::ChannelsLast);
}

struct Winograd : Function<Winograd> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &input, const at::Tensor &weight,
                            const std::optional<at::Tensor> &bias) {
    // A kernel that is not trained leaves the memory of the input free.
    ctx->save_for_backward({weight.requires_grad() ? input : at::Tensor(), weight});
    ctx->saved_data["bias"] = bias && bias->requires_grad();
    int64_t out = weight.size(0), in = weight.size(1);
    auto kernel = kernel_matrix().mm(weight.permute({2, 3, 1, 0}).reshape({9, in * out}));
    return convolve(input, kernel.view({36, in, out}), bias ? bias->contiguous() : at::Tensor());
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], w = saved[1];
    auto g = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor gx, gw, gb;
    if (ctx->needs_input_grad(0)) {
      // The gradient of the input is the convolution of `g` with the kernel turned by half a turn.
      int64_t out = w.size(0), in = w.size(1);
      auto turned = kernel_matrix().flip({1}).mm(w.permute({2, 3, 0, 1}).reshape({9, out * in}));
      gx = convolve(g, turned.view({36, out, in}));
    }
    if (ctx->needs_input_grad(1)) gw = kernel_gradient(x, g);
    if (ctx->saved_data["bias"].toBool()) gb = g.sum({0, 2, 3});
    return {gx, gw, gb};
  }
};

// Whether the function above can and should stand in: the transforms work on eight channels at a time, and below
// some size they cost more than they save.
bool applies(const at::Tensor &x, const at::Tensor &w) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && w.scalar_type() == at::kFloat && x.dim() == 4 && w.dim() == 4 &&
         w.size(2) == 3 && w.size(3) == 3 && x.size(1) == w.size(1) && w.size(0) % 8 == 0 && w.size(1) % 8 == 0 &&
         w.size(0) * w.size(1) >= 2048 && Tiling(x).count() >= 48 &&
         x.is_contiguous(at::MemoryFormat::ChannelsLast) && !at::autocast::is_autocast_enabled(at::kCPU);
}

// What is added is read by address, a number for each output.
bool can_start(const at::Tensor &bias, const at::Tensor &w) {
  return bias.is_cpu() && bias.scalar_type() == at::kFloat && bias.dim() == 1 && bias.size(0) == w.size(0);
}
}  // namespace

char *mtl_conv3x3(tensor_t input, tensor_t weight, tensor_t bias, tensor_t *out) {
  MTL_BEGIN
  if (!applies(*input, *weight) || (bias && !can_start(*bias, *weight))) return mtl_conv2d(input, weight, bias, 1, 1, out);
  *out = new at::Tensor(Winograd::apply(*input, *weight, bias ? std::optional(*bias) : std::nullopt));
  MTL_END
}
