#include "shim.h"
#include <map>
#include <sstream>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/cpu/Utils.h>
#include <c10/core/AutogradState.h>
#include <c10/core/Event.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/profiler_legacy.h>
#include <c10/util/ParallelGuard.h>
#include <torch/version.h>

namespace {

// The fused kernels go through the memory of all lists side by side and compare nothing. Two tensors are walked alike if
// shape, kind and device are the same and both are dense with the same strides; those of sides of 1 do not count.
bool walked_alike(const at::Tensor &a, const at::Tensor &b) {
  if (!b.defined() || a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type() || a.device() != b.device() ||
      !b.is_non_overlapping_and_dense())
    return false;
  for (int64_t d = 0; d < a.dim(); d++)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

std::string described(const at::Tensor &t) {
  if (!t.defined()) return "undefined";
  std::ostringstream out;
  out << t.sizes() << " of " << t.scalar_type() << " with strides " << t.strides();
  return out.str();
}

// Lists for a kernel: the parameters, and others that must lie in memory as they do.
std::vector<at::Tensor> like(const std::vector<at::Tensor> &params, tensor_t *tensors, const char *what) {
  auto list = mtl_list(tensors, params.size());
  for (size_t i = 0; i < list.size(); i++)
    TORCH_CHECK(walked_alike(params[i], list[i]), what, " ", i, " is ", described(list[i]), ", and its parameter ",
                described(params[i]));
  return list;
}

// Lists for an operator that walks each tensor by its strides, but would repeat one that is smaller.
std::vector<at::Tensor> shaped(const std::vector<at::Tensor> &params, tensor_t *tensors, const char *what) {
  auto list = mtl_list(tensors, params.size());
  for (size_t i = 0; i < list.size(); i++)
    TORCH_CHECK(list[i].defined() && list[i].sizes() == params[i].sizes(), what, " ", i, " is ", described(list[i]),
                ", and its parameter ", described(params[i]));
  return list;
}

std::vector<at::Tensor> dense(tensor_t *tensors, int64_t n) {
  auto list = mtl_list(tensors, n);
  for (int64_t i = 0; i < n; i++)
    TORCH_CHECK(list[i].defined() && list[i].is_non_overlapping_and_dense(), "parameter ", i, " is ",
                described(list[i]), ", which is not dense");
  return list;
}

std::optional<at::Tensor> flag(tensor_t found_inf) {
  if (!found_inf) return std::nullopt;
  TORCH_CHECK(found_inf->numel() == 1 && found_inf->scalar_type() == at::kFloat, "the flag of overflow is ",
              described(*found_inf), ", expected one float");
  return *found_inf;
}

}  // namespace

extern "C" {

void mtl_free(char *text) { std::free(text); }

char *mtl_version(char **out) {
  MTL_BEGIN
  *out = mtl_message(TORCH_VERSION);
  MTL_END
}

char *mtl_build_config(char **out) {
  MTL_BEGIN
  *out = mtl_message(at::show_config() + at::get_parallel_info());
  MTL_END
}

char *mtl_cpu_capability(char **out) {
  MTL_BEGIN
  *out = mtl_message(at::get_cpu_capability());
  MTL_END
}

// Autocast of one device type. `enabled` and `dtype` are replaced by what was set before, so that the
// caller can put it back; leaving the outermost region drops the cache of cast weights.
char *mtl_autocast_exchange(int device_type, int *enabled, int *dtype, int nesting) {
  MTL_BEGIN
  auto device = static_cast<at::DeviceType>(device_type);
  bool was_enabled = at::autocast::is_autocast_enabled(device);
  auto was_dtype = at::autocast::get_autocast_dtype(device);
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(*dtype));
  at::autocast::set_autocast_enabled(device, *enabled != 0);
  if (nesting > 0) at::autocast::increment_nesting();
  if (nesting < 0 && at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  *enabled = was_enabled;
  *dtype = static_cast<int>(was_dtype);
  MTL_END
}

// Whether autocast is on is part of the dispatch keys.
char *mtl_thread_state(mtl_thread_state_t *out) {
  MTL_BEGIN
  auto keys = c10::impl::tls_local_dispatch_key_set();
  auto &autograd = c10::AutogradState::get_tls_state();
  int nesting = at::autocast::increment_nesting() - 1;
  at::autocast::decrement_nesting();
  *out = {keys.included_.raw_repr(), keys.excluded_.raw_repr(), autograd.get_grad_mode(), autograd.get_fw_grad_mode(),
      autograd.get_inference_mode(), nesting, static_cast<int32_t>(at::autocast::get_autocast_dtype(at::kCPU)),
      static_cast<int32_t>(at::autocast::get_autocast_dtype(at::kCUDA))};
  MTL_END
}

char *mtl_restore_thread_state(const mtl_thread_state_t *state) {
  MTL_BEGIN
  auto keys = [](uint64_t raw) { return c10::DispatchKeySet(c10::DispatchKeySet::RAW, raw); };
  auto local = c10::impl::tls_local_dispatch_key_set();
  local.included_ = keys(state->included);
  local.excluded_ = keys(state->excluded);
  c10::impl::_force_tls_local_dispatch_key_set(local);
  auto &autograd = c10::AutogradState::get_tls_state();
  autograd.set_grad_mode(state->grad_mode != 0);
  autograd.set_fw_grad_mode(state->forward_grad_mode != 0);
  autograd.set_inference_mode(state->inference_mode != 0);
  at::autocast::set_autocast_dtype(at::kCPU, static_cast<at::ScalarType>(state->autocast_dtype_cpu));
  at::autocast::set_autocast_dtype(at::kCUDA, static_cast<at::ScalarType>(state->autocast_dtype_cuda));
  while (at::autocast::increment_nesting() <= state->autocast_nesting) {
  }
  while (at::autocast::decrement_nesting() > state->autocast_nesting) {
  }
  if (state->autocast_nesting == 0) at::autocast::clear_cache();
  MTL_END
}

char *mtl_seed(uint64_t seed) {
  MTL_BEGIN
  at::manual_seed(seed);
  MTL_END
}

char *mtl_set_threads(int intra, int inter) {
  MTL_BEGIN
  at::set_num_threads(intra);
  if (inter > 0) at::set_num_interop_threads(inter);
  MTL_END
}

// Operators called from this thread stay on it, for as long as the thread lives.
char *mtl_disable_intra_op_threads() {
  MTL_BEGIN
  static thread_local c10::ParallelGuard guard(true);
  (void)guard;
  MTL_END
}

// What CUDA's kernels may do. Before CUDA is used: cuBLAS reads its variable once.
char *mtl_cuda_rules(int tf32, int deterministic) {
  MTL_BEGIN
  auto &context = at::globalContext();
  context.setAllowTF32CuBLAS(tf32 != 0);
  context.setAllowTF32CuDNN(tf32 != 0);
  if (deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  context.setDeterministicAlgorithms(deterministic != 0, /*warn_only=*/false);
  context.setDeterministicCuDNN(deterministic != 0);
  context.setBenchmarkCuDNN(deterministic == 0);
  MTL_END
}

// The device that allocations of this thread belong to where none is named, such as those of pinned memory.
char *mtl_use_cuda(int index) {
  MTL_BEGIN
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)));
  MTL_END
}

// What libtorch's CUDA half says of its own and the driver's versions.
char *mtl_cuda_config(char **out) {
  MTL_BEGIN
  *out = mtl_message(at::detail::getCUDAHooks().showConfig());
  MTL_END
}

// The moment at which the device has done all that this thread has asked of it so far.
char *mtl_mark_now(int index, mark_t *out) {
  MTL_BEGIN
  at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  // The default flags of libtorch's Python half would leave the time out.
  auto mark = std::make_unique<c10::Event>(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
  mark->record(c10::impl::VirtualGuardImpl(at::kCUDA).getStream(device));
  *out = mark.release();
  MTL_END
}

// Both must have been reached.
char *mtl_mark_between(mark_t from, mark_t to, double *milliseconds) {
  MTL_BEGIN
  *milliseconds = static_cast<c10::Event *>(from)->elapsedTime(*static_cast<c10::Event *>(to));
  MTL_END
}

void mtl_mark_free(mark_t mark) { delete static_cast<c10::Event *>(mark); }

// A copy of a tensor elsewhere that the host does not wait for: between the CPU's pinned memory and
// a device.
char *mtl_copy_to(tensor_t input, int device_type, int index, tensor_t *out) {
  MTL_BEGIN
  at::NoGradGuard guard;
  at::Device device(static_cast<at::DeviceType>(device_type), static_cast<c10::DeviceIndex>(index));
  *out = new at::Tensor(input->to(device, input->scalar_type(), /*non_blocking=*/true));
  MTL_END
}

// A copy of pinned memory to a GPU on a stream of its own, which goes on beside what the device computes. What this thread
// asks for next waits for the copy, on the device.
char *mtl_copy_beside(tensor_t input, int index, tensor_t *out) {
  MTL_BEGIN
  at::NoGradGuard guard;
  c10::impl::VirtualGuardImpl cuda(at::kCUDA);
  at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  // One stream for each device, so that copies come in their order.
  static thread_local std::map<int, c10::Stream> streams;
  auto known = streams.find(index);
  if (known == streams.end()) known = streams.emplace(index, cuda.getStreamFromGlobalPool(device)).first;
  auto own = known->second;
  auto current = cuda.exchangeStream(own);
  struct Back {
    c10::impl::VirtualGuardImpl &cuda;
    c10::Stream stream;
    ~Back() { cuda.exchangeStream(stream); }
  } back{cuda, current};
  auto copy = input->to(device, input->scalar_type(), /*non_blocking=*/true);
  c10::Event done(at::kCUDA);
  done.record(own);
  done.block(current);
  // Its memory is not used again before the work that reads it is done.
  cuda.recordDataPtrOnStream(copy.storage().data_ptr(), current);
  *out = new at::Tensor(std::move(copy));
  MTL_END
}

// Makes a tensor hold 0, 1, … below `end`, on its own device.
char *mtl_arange(tensor_t out, int64_t end) {
  MTL_BEGIN
  at::arange_out(*out, end);
  MTL_END
}

char *mtl_pin(tensor_t input, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(input->pin_memory());
  MTL_END
}

char *mtl_set_requires_grad(tensor_t *tensors, int64_t n, int on) {
  MTL_BEGIN
  for (int64_t i = 0; i < n; i++) tensors[i]->set_requires_grad(on != 0);
  MTL_END
}

// Backward of one scalar into the `.grad` of the given leaves only.
char *mtl_backward(tensor_t loss, tensor_t *leaves, int64_t n, int keep_graph) {
  MTL_BEGIN
  torch::autograd::backward({*loss}, {}, keep_graph != 0, false, mtl_list(leaves, n));
  MTL_END
}

// Gradients of one scalar with respect to the leaves; an unreached leaf gives an undefined tensor.
char *mtl_gradients(tensor_t loss, tensor_t *leaves, int64_t n, int keep_graph, tensor_t *out) {
  MTL_BEGIN
  auto grads = torch::autograd::grad({*loss}, mtl_list(leaves, n), {}, keep_graph != 0, false, true);
  for (int64_t i = 0; i < n; i++) out[i] = new at::Tensor(grads[i]);
  MTL_END
}

// The tensor's `.grad` (undefined if it has none), taken out of it.
char *mtl_take_grad(tensor_t tensor, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(tensor->grad());
  tensor->mutable_grad() = at::Tensor();
  MTL_END
}

// Lets a tensor be the `.grad` of another.
char *mtl_set_grad(tensor_t tensor, tensor_t grad) {
  MTL_BEGIN
  tensor->mutable_grad() = *grad;
  MTL_END
}

char *mtl_channels_last(tensor_t input, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(input->contiguous(at::MemoryFormat::ChannelsLast));
  MTL_END
}

// grads[i] += decay[i] * params[i]: the L2 term of coupled weight decay.
char *mtl_add_decay(tensor_t *grads, tensor_t *params, int64_t n, double decay) {
  MTL_BEGIN
  at::NoGradGuard guard;
  if (n == 0) return nullptr;
  auto p = mtl_list(params, n);
  at::_foreach_add_(shaped(p, grads, "gradient"), p, decay);
  MTL_END
}

char *mtl_scale(tensor_t *tensors, int64_t n, double factor) {
  MTL_BEGIN
  at::NoGradGuard guard;
  if (n) at::_foreach_mul_(mtl_list(tensors, n), at::Scalar(factor));
  MTL_END
}

// average[i] = decay * average[i] + (1 - decay) * params[i].
char *mtl_lerp(tensor_t *averages, tensor_t *params, int64_t n, double weight) {
  MTL_BEGIN
  at::NoGradGuard guard;
  if (n == 0) return nullptr;
  auto p = mtl_list(params, n);
  at::_foreach_lerp_(shaped(p, averages, "average"), p, at::Scalar(weight));
  MTL_END
}

// The 2-norm over all tensors, as a tensor: nothing waits for the device.
char *mtl_total_norm(tensor_t *tensors, int64_t n, tensor_t *out) {
  MTL_BEGIN
  at::NoGradGuard guard;
  auto norms = at::_foreach_norm(mtl_list(tensors, n), 2);
  *out = new at::Tensor(at::linalg_vector_norm(at::stack(norms)));
  MTL_END
}

// Scales every gradient by min(1, max_norm / norm), as torch.nn.utils.clip_grad_norm_ does.
char *mtl_clip(tensor_t *grads, int64_t n, tensor_t norm, double max_norm) {
  MTL_BEGIN
  at::NoGradGuard guard;
  auto factor = at::clamp_max(max_norm / (*norm + 1e-6), 1.0);
  if (n) at::_foreach_mul_(mtl_list(grads, n), factor);
  MTL_END
}

// Multiplies by inv_scale and sets found_inf to 1 where a gradient is not finite.
char *mtl_unscale(tensor_t *grads, int64_t n, tensor_t found_inf, tensor_t inv_scale) {
  MTL_BEGIN
  at::NoGradGuard guard;
  if (n) at::_amp_foreach_non_finite_check_and_unscale_(mtl_list(grads, n), *found_inf, *inv_scale);
  MTL_END
}

char *mtl_fused_sgd(tensor_t *params, tensor_t *grads, tensor_t *momenta, int64_t n, double lr, double decay,
                    double momentum, double dampening, int nesterov, int first, tensor_t found_inf) {
  MTL_BEGIN
  at::NoGradGuard guard;
  if (n == 0) return nullptr;
  auto p = dense(params, n), g = like(p, grads, "gradient");
  std::vector<at::Tensor> buffers;
  if (momentum != 0) buffers = like(p, momenta, "momentum");
  at::_fused_sgd_(p, g, buffers, decay, momentum, lr, dampening, nesterov != 0, /*maximize=*/false, first != 0,
                  std::nullopt, flag(found_inf));
  MTL_END
}

char *mtl_fused_adam(tensor_t *params, tensor_t *grads, tensor_t *first, tensor_t *second, tensor_t *steps, int64_t n,
                     double lr, double beta1, double beta2, double decay, double eps, int decoupled,
                     tensor_t found_inf) {
  MTL_BEGIN
  at::NoGradGuard guard;
  if (n == 0) return nullptr;
  auto inf = flag(found_inf);
  auto p = dense(params, n), g = like(p, grads, "gradient"), m = like(p, first, "first moment"),
       v = like(p, second, "second moment"), s = mtl_list(steps, n);
  for (const auto &step : s)
    TORCH_CHECK(step.defined() && step.numel() == 1 && step.scalar_type() == at::kFloat, "a count of steps is ",
                described(step), ", expected one float");
  // One launch for all counts; a step that the device skips is not counted.
  at::_foreach_add_(s, at::Scalar(1));
  if (decoupled)
    at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, decay, eps, false, false, std::nullopt, inf);
  else
    at::_fused_adam_(p, g, m, v, {}, s, lr, beta1, beta2, decay, eps, false, false, std::nullopt, inf);
  if (inf) at::_foreach_sub_(s, std::vector<at::Tensor>(s.size(), inf->squeeze()));
  MTL_END
}

}  // extern "C"
