// Autograd functions that libtorch has no operator for.
#include "shim.h"
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
}  // namespace

extern "C" {

char *mtl_reverse_gradient(tensor_t input, double coefficient, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(ReverseGradient::apply(*input, coefficient));
  MTL_END
}

}  // extern "C"
