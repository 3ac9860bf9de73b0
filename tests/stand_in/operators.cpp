// Every operator on the device is the CPU's, called on the same memory. What a real device checks is checked here:
// tensors of several devices, and copies that the host waits for.
#include "device.h"
#include "events.h"
#include "operators.h"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <atomic>
#include <mutex>
#include <set>
#include <torch/library.h>

using c10::Device;
using c10::DeviceIndex;

namespace {

const auto CUDA_KEY = c10::DispatchKeySet(c10::DispatchKey::CUDA);

// Copies that a real device may do at any time until the host waits for it.
struct Late {
  // Of the host: what is written, or what is read.
  at::Tensor host;
  // The right values.
  at::Tensor value;
  bool to_host;
};
std::mutex late_mutex;
std::vector<Late> late;

std::atomic<Recording *> recording{nullptr};

// What a real device would not have changed while it records: memory that is written to, with what was there before, and
// the state of the generator.
std::vector<std::pair<at::Tensor, at::Tensor>> unchanged;
at::Tensor generator_state;

void recorded(std::function<void()> work) {
  if (auto *into = recording.load()) into->push_back(std::move(work));
}

void will_change(const at::Tensor &t) {
  if (!recording.load() || !is_on_device(t)) return;
  auto host = on_host(t);
  unchanged.emplace_back(host, host.clone());
}

// A wait of the host, which a graph cannot hold.
void host_waits(const std::string &what) {
  TORCH_CHECK(!recording.load(), "operation not permitted when stream is capturing: ", what);
  noted(what);
  settle();
}

// A result that its operator gave another memory or shape, put into the tensor that was handed to it.
void take_over(const at::Tensor &t, const at::Tensor &host) {
  bool same = t.sizes() == host.sizes() && t.strides() == host.strides();
  if (same && (t.numel() == 0 || t.data_ptr() == host.data_ptr())) return;
  auto fresh = on_device(host, t.device().index());
  auto *impl = t.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(fresh.storage());
  impl->set_storage_offset(fresh.storage_offset());
  impl->set_sizes_and_strides(fresh.sizes(), fresh.strides());
}

const std::set<std::string> WAITING = {"aten::_local_scalar_dense", "aten::nonzero",        "aten::masked_select",
                                       "aten::equal",               "aten::_unique2",       "aten::unique_dim",
                                       "aten::unique_consecutive",  "aten::repeat_interleave", "aten::allclose"};
// Those whose indices may be on the CPU.
const std::set<std::string> INDEXING = {"aten::index", "aten::_index_put_impl_", "aten::index_put_"};

// Calls an operator of the CPU on the memory of its arguments.
struct Call {
  const c10::OperatorHandle &op;
  // Tensors of the device, and those of the host on the same memory.
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
  std::optional<Device> device;
  std::string mixed;

  at::Tensor to_host(const at::Tensor &t) {
    if (!t.defined()) return t;
    if (!is_on_device(t)) {
      if (t.dim() > 0) mixed = c10::str(t.device(), " (", t.sizes(), ")");
      return t;
    }
    if (device && *device != t.device()) mixed = t.device().str();
    device = t.device();
    for (auto &[on, host] : pairs)
      if (on.is_same(t)) return host;
    pairs.emplace_back(t, on_host(t));
    return pairs.back().second;
  }

  at::Tensor to_device(const at::Tensor &t) {
    if (!t.defined() || is_on_device(t)) return t;
    for (auto &[on, host] : pairs)
      if (host.is_same(t)) return on;
    return on_device(t, device ? device->index() : current_device());
  }

  template <typename F>
  static c10::IValue each(const c10::IValue &v, F &&change) {
    if (v.isTensor()) return change(v.toTensor());
    if (v.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const auto &t : v.toTensorVector()) list.push_back(change(t));
      return list;
    }
    if (v.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> t : v.toOptionalTensorList())
        list.push_back(t && t->defined() ? std::optional<at::Tensor>(change(*t)) : t);
      return list;
    }
    return v;
  }

  void run(torch::jit::Stack *stack) {
    const auto &schema = op.schema();
    auto begin = stack->end() - static_cast<long>(schema.arguments().size());
    for (auto v = begin; v != stack->end(); ++v) {
      if (v->isDevice() && v->toDevice().is_cuda()) {
        device = v->toDevice();
        *v = Device(c10::kCPU);
      } else if (v->isGenerator()) {
        *v = c10::IValue();
      } else {
        *v = each(*v, [&](const at::Tensor &t) { return to_host(t); });
      }
    }
    TORCH_CHECK(!device || mixed.empty() || INDEXING.count(schema.name()),
                "Expected all tensors to be on the same device, but ", schema.name(), " got one on ", *device,
                " and one on ", mixed);
    op.callBoxed(*stack);
    for (auto &[on, host] : pairs) take_over(on, host);
    for (auto v = stack->end() - static_cast<long>(schema.returns().size()); v != stack->end(); ++v)
      *v = each(*v, [&](const at::Tensor &t) { return to_device(t); });
  }
};

void on_the_cpu(const c10::OperatorHandle &op, c10::DispatchKeySet, torch::jit::Stack *stack) {
  const auto &schema = op.schema();
  if (WAITING.count(schema.name())) host_waits("reads values in " + schema.name());
  std::vector<c10::IValue> arguments(stack->end() - static_cast<long>(schema.arguments().size()), stack->end());
  // Batch normalisation changes its running statistics, of which its schema says nothing.
  bool silently = schema.name().find("batch_norm") != std::string::npos;
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto *alias = schema.arguments()[i].alias_info();
    if (silently || (alias && alias->isWrite()))
      Call::each(arguments[i], [](const at::Tensor &t) { return will_change(t), t; });
  }
  Call{op, {}, {}, {}}.run(stack);
  if (!recording.load()) return;
  std::vector<c10::IValue> results(stack->end() - static_cast<long>(schema.returns().size()), stack->end());
  recorded([op, arguments, results] {
    torch::jit::Stack again = arguments;
    Call{op, {}, {}, {}}.run(&again);
    // The same memory receives the new values.
    for (size_t i = 0; i < results.size(); i++) {
      std::vector<at::Tensor> olds, news;
      Call::each(results[i], [&](const at::Tensor &t) { return olds.push_back(t), t; });
      Call::each(again[again.size() - results.size() + i], [&](const at::Tensor &t) { return news.push_back(t), t; });
      for (size_t k = 0; k < olds.size(); k++)
        if (olds[k].defined() && olds[k].data_ptr() != news[k].data_ptr()) on_host(olds[k]).copy_(on_host(news[k]));
    }
  });
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> kind, std::optional<at::Layout>,
                 std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, device_memory(), CUDA_KEY, kind.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> kind,
                         std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, device_memory(), CUDA_KEY, kind.value_or(at::kFloat));
}

at::Tensor &copy_(at::Tensor &self, const at::Tensor &source, bool non_blocking) {
  bool from = is_on_device(source), to = is_on_device(self);
  auto a = to ? on_host(self) : self, b = from ? on_host(source) : source;
  auto words = [&] { return c10::str(source.scalar_type(), source.sizes()); };
  if (from != to && self.numel() > 0) {
    const auto &host = from ? self : source;
    if (!is_pinned(host.storage().data())) {
      host_waits(c10::str("copies ", words(), from ? " to" : " from", " memory that is not pinned"));
    } else if (!non_blocking) {
      host_waits(c10::str("copies ", words(), " and waits"));
    } else if (from) {
      TORCH_CHECK(self.is_non_overlapping_and_dense(), "expected dense memory to copy into");
      std::lock_guard<std::mutex> lock(late_mutex);
      late.push_back({self, b.to(self.scalar_type(), /*non_blocking=*/false, /*copy=*/true), true});
      // NaN, until the host has waited.
      std::memset(self.data_ptr(), 0xff, self.nbytes());
      return self;
    } else {
      TORCH_CHECK(source.is_non_overlapping_and_dense(), "expected dense memory to copy from");
      std::lock_guard<std::mutex> lock(late_mutex);
      late.push_back({source, source.clone(), false});
    }
  }
  will_change(self);
  a.copy_(b);
  if (from || to) recorded([a, b]() mutable { a.copy_(b); });
  return self;
}

const at::Tensor &resize_(const at::Tensor &self, c10::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  if (self.sizes() == size) return self;
  auto fresh = empty(size, self.scalar_type(), {}, self.device(), {}, format);
  auto *impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(fresh.storage());
  impl->set_storage_offset(0);
  impl->set_sizes_and_strides(fresh.sizes(), fresh.strides());
  return self;
}

at::Tensor &set_(at::Tensor &self, c10::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto *impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  impl->set_sizes_and_strides(size, stride);
  return self;
}

at::Tensor as_strided(const at::Tensor &t, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> at) {
  return at::native::as_strided_tensorimpl(t, size, stride, at);
}
at::Tensor view(const at::Tensor &t, c10::IntArrayRef size) { return at::native::view(t, size); }
at::Tensor reshape_alias(const at::Tensor &t, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::_reshape_alias(t, size, stride);
}
at::Tensor unfold(const at::Tensor &t, int64_t dim, int64_t size, int64_t step) {
  return at::native::unfold(t, dim, size, step);
}

}  // namespace

void record_into(Recording *into) {
  auto generator = at::detail::getDefaultCPUGenerator();
  if (into) {
    generator_state = generator.get_state();
    recording = into;
    return;
  }
  recording = nullptr;
  generator.set_state(generator_state);
  for (auto of = unchanged.rbegin(); of != unchanged.rend(); ++of) of->first.copy_(of->second);
  unchanged.clear();
}

void settle() {
  std::vector<Late> done;
  {
    std::lock_guard<std::mutex> lock(late_mutex);
    done.swap(late);
  }
  for (auto &copy : done) {
    if (copy.to_host) {
      copy.host.copy_(copy.value);
    } else {
      bool same = std::memcmp(copy.host.data_ptr(), copy.value.data_ptr(), copy.value.nbytes()) == 0;
      if (!same) noted("changed pinned memory while it was being copied");
    }
  }
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Storage_storage_offset", &set_);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("unfold", &unfold);
  // libtorch has these in terms of others, of which the CPU has none.
  for (auto name : {"convolution", "convolution_backward", "embedding_dense_backward", "mse_loss"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
}
