// Autograd functions that libtorch has no operator for.
#include "shim.h"
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation" (2015), section 3: the identity
// forward, minus the coefficient times the gradient backward.
struct ReverseGradient : Function<ReverseGradient> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &input, double coefficient) {
    ctx->saved_data["coefficient"] = coefficient;
    return input.view_as(input);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return {grads[0] * (-ctx->saved_data["coefficient"].toDouble()), at::Tensor()};
  }
};

// The loops are compiled for several instruction sets; the loader picks the best that the machine has.
#define MTL_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), optimize("O3")))

// bfloat16 is the upper half of a float; back again with rounding to the nearest, ties to even, and NaN kept.
inline float widen(uint16_t v) {
  uint32_t bits = uint32_t(v) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline uint16_t narrow(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return v == v ? uint16_t(rounded) : uint16_t(0x7fc0);
}
inline float widen(float v) { return v; }
inline double widen(double v) { return v; }

// T is the type of features in memory, C that of the sums and of the slopes.
#define PRELU_ROWS(NAME, T, C, NARROW)                                                                   \
  MTL_CLONES void NAME(const T *__restrict x, const T *__restrict g, const C *__restrict w, T *__restrict gx, \
                       C *__restrict gw, int64_t rows, int64_t channels) {                                \
    for (int64_t r = 0; r < rows; r++, x += channels, g += channels, gx += channels)                      \
      for (int64_t c = 0; c < channels; c++) {                                                            \
        C value = widen(x[c]), grad = widen(g[c]);                                                        \
        bool positive = value > 0;                                                                        \
        gx[c] = NARROW(positive ? grad : w[c] * grad);                                                    \
        gw[c] += positive ? C(0) : value * grad;                                                          \
      }                                                                                                   \
  }
PRELU_ROWS(prelu_rows_f32, float, float, )
PRELU_ROWS(prelu_rows_f64, double, double, )
PRELU_ROWS(prelu_rows_bf16, uint16_t, float, narrow)

void prelu_rows(const float *x, const float *g, const float *w, float *gx, float *gw, int64_t rows, int64_t c) {
  prelu_rows_f32(x, g, w, gx, gw, rows, c);
}
void prelu_rows(const double *x, const double *g, const double *w, double *gx, double *gw, int64_t rows, int64_t c) {
  prelu_rows_f64(x, g, w, gx, gw, rows, c);
}
void prelu_rows(const uint16_t *x, const uint16_t *g, const float *w, uint16_t *gx, float *gw, int64_t rows, int64_t c) {
  prelu_rows_bf16(x, g, w, gx, gw, rows, c);
}

// Both gradients in one pass over channels-last memory; libtorch writes the slope's gradient at full size first
// and then sums it. The rows are cut into a fixed number of parts, whose sums are added in order: the result does
// not depend on the number of threads.
template <typename T, typename C>
void prelu_backward(const at::Tensor &x, const at::Tensor &g, const at::Tensor &w, at::Tensor &gx, at::Tensor &gw) {
  constexpr int64_t parts = 64;
  int64_t channels = x.size(1), rows = x.numel() / channels;
  auto sums = at::zeros({parts, channels}, w.options());
  auto from = static_cast<const T *>(x.const_data_ptr()), grads = static_cast<const T *>(g.const_data_ptr());
  auto to = static_cast<T *>(gx.mutable_data_ptr());
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      int64_t first = rows * p / parts, last = rows * (p + 1) / parts, at = first * channels;
      prelu_rows(from + at, grads + at, w.const_data_ptr<C>(), to + at, sums.mutable_data_ptr<C>() + p * channels,
                 last - first, channels);
    }
  });
  gw = sums.sum(0);
}

struct PRelu : Function<PRelu> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &input, const at::Tensor &weight, bool bf16) {
    auto x = bf16 ? input.to(at::kBFloat16) : input;
    ctx->save_for_backward({x, weight});
    ctx->saved_data["kind"] = input.scalar_type();
    c10::impl::ExcludeDispatchKeyGuard plain(c10::autocast_dispatch_keyset);
    return at::prelu(x, weight.to(x.scalar_type()));
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0].contiguous(at::MemoryFormat::ChannelsLast), w = saved[1].contiguous();
    auto g = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    auto gx = at::empty_like(x), gw = at::Tensor();
    if (x.scalar_type() == at::kDouble)
      prelu_backward<double, double>(x, g, w, gx, gw);
    else if (x.scalar_type() == at::kFloat)
      prelu_backward<float, float>(x, g, w, gx, gw);
    else
      prelu_backward<uint16_t, float>(x, g, w, gx, gw);
    return {gx.to(ctx->saved_data["kind"].toScalarType()), gw, at::Tensor()};
  }
};
// Normalisation by statistics and weights that stay as they are multiplies each channel by a number: the gradient needs
// that number alone, and the memory of the input is free.
struct FixedNorm : Function<FixedNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &input, const at::Tensor &weight, const at::Tensor &bias,
                            const at::Tensor &mean, const at::Tensor &var, double eps) {
    std::vector<int64_t> channels(input.dim(), 1);
    channels[1] = -1;
    ctx->save_for_backward({(weight * (var + eps).rsqrt()).view(channels)});
    return at::batch_norm(input, weight, bias, mean, var, false, 0, eps, true);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto none = at::Tensor();
    return {(grads[0] * ctx->get_saved_variables()[0]).to(grads[0].scalar_type()), none, none, none, none, none};
  }
};
// A convolution whose kernel is not trained: the gradient of the input needs the kernel alone, and the memory of the input
// is free. libtorch would keep it.
struct FixedConv : Function<FixedConv> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &input, const at::Tensor &weight,
                            const std::optional<at::Tensor> &bias, int64_t stride, int64_t padding) {
    ctx->save_for_backward({weight});
    ctx->saved_data["size"] = input.sizes().vec();
    ctx->saved_data["format"] = static_cast<int64_t>(input.suggest_memory_format());
    ctx->saved_data["kind"] = input.scalar_type();
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    return at::conv2d(input, weight, bias, stride, padding);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto g = grads[0];
    auto &data = ctx->saved_data;
    auto weight = ctx->get_saved_variables()[0].to(g.scalar_type());
    // Its shape and form are asked for, its numbers are not.
    auto input = at::empty(data["size"].toIntVector(), g.options(), static_cast<at::MemoryFormat>(data["format"].toInt()));
    auto stride = data["stride"].toInt(), padding = data["padding"].toInt();
    auto found = at::convolution_backward(g, input, weight, std::nullopt, {stride, stride}, {padding, padding}, {1, 1}, false,
                                          {0, 0}, 1, {true, false, false});
    auto none = at::Tensor();
    return {std::get<0>(found).to(data["kind"].toScalarType()), none, none, none, none};
  }
};
}  // namespace

extern "C" {

char *mtl_reverse_gradient(tensor_t input, double coefficient, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(ReverseGradient::apply(*input, coefficient));
  MTL_END
}

char *mtl_leaky_relu(tensor_t input, double slope, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(at::leaky_relu(*input, slope));
  MTL_END
}

char *mtl_prelu(tensor_t input, tensor_t weight, tensor_t *out) {
  MTL_BEGIN
  auto kind = input->scalar_type(), slopes = weight->scalar_type();
  bool cast = at::autocast::is_autocast_enabled(at::kCPU);
  // Under autocast to bfloat16 libtorch computes this in bfloat16, and so is it here.
  bool bf16 = cast && at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16 && slopes == at::kFloat &&
              (kind == at::kFloat || kind == at::kBFloat16);
  bool full = !cast && (kind == at::kFloat || kind == at::kDouble) && slopes == kind;
  bool own = (bf16 || full) && input->is_cpu() && input->dim() == 4 && weight->dim() == 1 &&
             weight->size(0) == input->size(1) && input->is_contiguous(at::MemoryFormat::ChannelsLast) &&
             at::GradMode::is_enabled() && (input->requires_grad() || weight->requires_grad());
  *out = new at::Tensor(own ? PRelu::apply(*input, *weight, bf16) : at::prelu(*input, *weight));
  MTL_END
}

char *mtl_fixed_norm(tensor_t input, tensor_t weight, tensor_t bias, tensor_t mean, tensor_t var, double eps, tensor_t *out) {
  MTL_BEGIN
  bool own = at::GradMode::is_enabled() && input->requires_grad() && input->dim() >= 2 && !weight->requires_grad() &&
             !bias->requires_grad();
  *out = new at::Tensor(own ? FixedNorm::apply(*input, *weight, *bias, *mean, *var, eps)
                            : at::batch_norm(*input, *weight, *bias, *mean, *var, false, 0, eps, true));
  MTL_END
}

char *mtl_conv2d(tensor_t input, tensor_t weight, tensor_t bias, int64_t stride, int64_t padding, tensor_t *out) {
  MTL_BEGIN
  auto start = bias ? std::optional(*bias) : std::nullopt;
  bool own = at::GradMode::is_enabled() && input->dim() == 4 && input->requires_grad() && !weight->requires_grad() &&
             !(start && start->requires_grad());
  *out = new at::Tensor(own ? FixedConv::apply(*input, *weight, start, stride, padding)
                            : at::conv2d(*input, *weight, start, stride, padding));
  MTL_END
}

}  // extern "C"
