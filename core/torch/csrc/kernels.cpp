// Autograd functions that libtorch has no operator for.
#include "shim.h"
#include <ATen/Parallel.h>
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
#define MTL_CLONES __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))

#define PRELU_ROWS(NAME, T)                                                                              \
  MTL_CLONES void NAME(const T *x, const T *g, const T *w, T *gx, T *gw, int64_t rows, int64_t channels) { \
    for (int64_t r = 0; r < rows; r++, x += channels, g += channels, gx += channels)                      \
      for (int64_t c = 0; c < channels; c++) {                                                            \
        bool positive = x[c] > 0;                                                                         \
        gx[c] = positive ? g[c] : w[c] * g[c];                                                            \
        gw[c] += positive ? T(0) : x[c] * g[c];                                                           \
      }                                                                                                   \
  }
PRELU_ROWS(prelu_rows_f32, float)
PRELU_ROWS(prelu_rows_f64, double)

void prelu_rows(const float *x, const float *g, const float *w, float *gx, float *gw, int64_t rows, int64_t c) {
  prelu_rows_f32(x, g, w, gx, gw, rows, c);
}
void prelu_rows(const double *x, const double *g, const double *w, double *gx, double *gw, int64_t rows, int64_t c) {
  prelu_rows_f64(x, g, w, gx, gw, rows, c);
}

// Both gradients in one pass over channels-last memory; libtorch writes the slope's gradient at full size first
// and then sums it. The rows are cut into a fixed number of parts, whose sums are added in order: the result does
// not depend on the number of threads.
template <typename T>
void prelu_backward(const at::Tensor &x, const at::Tensor &g, const at::Tensor &w, at::Tensor &gx, at::Tensor &gw) {
  constexpr int64_t parts = 64;
  int64_t channels = x.size(1), rows = x.numel() / channels;
  auto sums = at::zeros({parts, channels}, w.options());
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      int64_t from = rows * p / parts, to = rows * (p + 1) / parts, at = from * channels;
      prelu_rows(x.const_data_ptr<T>() + at, g.const_data_ptr<T>() + at, w.const_data_ptr<T>(),
                 gx.mutable_data_ptr<T>() + at, sums.mutable_data_ptr<T>() + p * channels, to - from, channels);
    }
  });
  gw = sums.sum(0);
}

struct PRelu : Function<PRelu> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &input, const at::Tensor &weight) {
    ctx->save_for_backward({input, weight});
    return at::prelu(input, weight);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0].contiguous(at::MemoryFormat::ChannelsLast), w = saved[1].contiguous();
    auto g = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    auto gx = at::empty_like(x), gw = at::Tensor();
    if (x.scalar_type() == at::kDouble)
      prelu_backward<double>(x, g, w, gx, gw);
    else
      prelu_backward<float>(x, g, w, gx, gw);
    return {gx, gw};
  }
};
}  // namespace

extern "C" {

char *mtl_reverse_gradient(tensor_t input, double coefficient, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(ReverseGradient::apply(*input, coefficient));
  MTL_END
}

char *mtl_prelu(tensor_t input, tensor_t weight, tensor_t *out) {
  MTL_BEGIN
  auto kind = input->scalar_type();
  bool own = input->is_cpu() && input->dim() == 4 && weight->dim() == 1 && weight->size(0) == input->size(1) &&
             (kind == at::kFloat || kind == at::kDouble) && weight->scalar_type() == kind &&
             input->is_contiguous(at::MemoryFormat::ChannelsLast) && at::GradMode::is_enabled() &&
             weight->requires_grad();
  *out = new at::Tensor(own ? PRelu::apply(*input, *weight) : at::prelu(*input, *weight));
  MTL_END
}

}  // extern "C"
