// The device itself: memory, streams, events, generators, and how libtorch finds it.
#include "device.h"
#include "events.h"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <chrono>
#include <mutex>
#include <set>

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

namespace {

thread_local DeviceIndex current = 0;

// STAND_IN_DEVICES of them; one unless given.
DeviceIndex count() {
  const char *text = std::getenv("STAND_IN_DEVICES");
  return static_cast<DeviceIndex>(text ? std::atoi(text) : 1);
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    auto *held = new c10::DataPtr(c10::GetAllocator(c10::kCPU)->allocate(n));
    // What is read before it is written is NaN in every kind of number with a fraction.
    if (n) std::memset(held->get(), 0xff, n);
    return {held->get(), held, [](void *p) { delete static_cast<c10::DataPtr *>(p); }, Device(c10::kCUDA, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *to, const void *from, size_t n) const override { std::memcpy(to, from, n); }
};

// Memory of the host that the device could read: like other memory, but known by its address.
struct PinnedMemory final : c10::Allocator {
  std::mutex mutex;
  std::set<const void *> live;

  struct Held {
    PinnedMemory *owner;
    c10::DataPtr data;
  };
  c10::DataPtr allocate(size_t n) override {
    auto *held = new Held{this, c10::GetAllocator(c10::kCPU)->allocate(n)};
    std::lock_guard<std::mutex> lock(mutex);
    live.insert(held->data.get());
    return {held->data.get(), held, forget, Device(c10::kCPU)};
  }
  static void forget(void *p) {
    auto *held = static_cast<Held *>(p);
    {
      std::lock_guard<std::mutex> lock(held->owner->mutex);
      held->owner->live.erase(held->data.get());
    }
    delete held;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *to, const void *from, size_t n) const override { std::memcpy(to, from, n); }
};

// Never destroyed: tensors outlive everything else of the program.
PinnedMemory &pinned() {
  static auto *memory = new PinnedMemory;
  return *memory;
}

// Operators draw from the CPU's generator, which is seeded with the same number; this one only has to be there.
struct Generator final : c10::GeneratorImpl {
  explicit Generator(DeviceIndex index) : GeneratorImpl(Device(c10::kCUDA, index), c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t value) override { kept = value; }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return kept; }
  uint64_t seed() override { return kept; }
  void set_state(const c10::TensorImpl &) override {}
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return at::zeros({16}, at::kByte).getIntrusivePtr(); }
  Generator *clone_impl() const override { return new Generator(device().index()); }
  uint64_t kept = 0;
};

// One stream, and events at which all of its work is done.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Clock = std::chrono::steady_clock;
  DeviceType type() const override { return c10::kCUDA; }
  Device exchangeDevice(Device d) const override { return Device(c10::kCUDA, std::exchange(current, d.index())); }
  Device getDevice() const override { return Device(c10::kCUDA, current); }
  void setDevice(Device d) const override { current = d.index(); }
  void uncheckedSetDevice(Device d) const noexcept override { current = d.index(); }
  Stream getStream(Device d) const override { return Stream(Stream::DEFAULT, d); }
  Stream getDefaultStream(Device d) const override { return Stream(Stream::DEFAULT, d); }
  Stream getStreamFromGlobalPool(Device d, bool) const override { return Stream(Stream::DEFAULT, d); }
  Stream exchangeStream(Stream s) const override { return s; }
  // An event is the moment of the host at which it was recorded, when all work was done.
  void record(void **event, const Stream &, const DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new Clock::time_point;
    *static_cast<Clock::time_point *>(*event) = Clock::now();
  }
  double elapsedTime(void *from, void *to, const DeviceIndex) const override {
    auto time = *static_cast<Clock::time_point *>(to) - *static_cast<Clock::time_point *>(from);
    return std::chrono::duration<double, std::milli>(time).count();
  }
  void block(void *, const Stream &) const override {}
  bool queryEvent(void *) const override {
    settle();
    return true;
  }
  void destroyEvent(void *event, const DeviceIndex) const noexcept override { delete static_cast<Clock::time_point *>(event); }
  DeviceIndex deviceCount() const noexcept override { return count(); }
  bool queryStream(const Stream &) const override { return queryEvent(nullptr); }
  void synchronizeStream(const Stream &) const override { wait("waits for a stream"); }
  void synchronizeEvent(void *) const override { wait("waits for an event"); }
  void synchronizeDevice(DeviceIndex) const override { wait("waits for the device"); }
  static void wait(const char *what) {
    noted(what);
    settle();
  }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// A tensor on the memory of another, which it keeps alive.
at::Tensor on_memory_of(const at::Tensor &t, Device device, c10::Allocator *allocator) {
  auto storage = t.storage();
  c10::DataPtr data(storage.mutable_data(), new at::Tensor(t), [](void *p) { delete static_cast<at::Tensor *>(p); }, device);
  auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  c10::Storage same(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), allocator, /*resizable=*/true);
  auto out = at::detail::make_tensor<c10::TensorImpl>(std::move(same), c10::DispatchKeySet(key), t.dtype());
  out.unsafeGetTensorImpl()->set_storage_offset(t.storage_offset());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides());
  return out;
}

}  // namespace

c10::Allocator *device_memory() {
  static auto *memory = new DeviceMemory;
  return memory;
}

bool is_pinned(const void *data) {
  std::lock_guard<std::mutex> lock(pinned().mutex);
  return pinned().live.count(data) > 0;
}

DeviceIndex current_device() { return current; }

at::Tensor on_host(const at::Tensor &t) { return on_memory_of(t, Device(c10::kCPU), c10::GetAllocator(c10::kCPU)); }

at::Tensor on_device(const at::Tensor &t, DeviceIndex index) {
  return on_memory_of(t, Device(c10::kCUDA, index), device_memory());
}

namespace at {
// The registry of hooks is asked for a class of this name.
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  const at::Generator &getDefaultGenerator(DeviceIndex index = -1) const override {
    static auto *all = [] {
      auto *made = new std::vector<at::Generator>;
      for (DeviceIndex i = 0; i < count(); i++) made->push_back(at::make_generator<::Generator>(i));
      return made;
    }();
    return all->at(index < 0 ? current : index);
  }
  at::Generator getNewGenerator(DeviceIndex index = -1) const override {
    return at::make_generator<::Generator>(index < 0 ? current : index);
  }
  Device getDeviceFromPtr(void *) const override { return Device(c10::kCUDA, current); }
  bool isPinnedPtr(const void *data) const override { return is_pinned(data); }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex deviceCount() const override { return count(); }
  int getNumGPUs() const override { return count(); }
  void setCurrentDevice(DeviceIndex index) const override { current = index; }
  DeviceIndex getCurrentDevice() const override { return current; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return std::exchange(current, index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return std::exchange(current, index); }
  Allocator *getPinnedMemoryAllocator() const override { return &pinned(); }
  Allocator *getCUDADeviceAllocator() const override { return device_memory(); }
  void deviceSynchronize(DeviceIndex) const override { Guard::wait("waits for the device"); }
  std::string showConfig() const override { return "a stand-in for CUDA in the host's memory"; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

namespace {
[[maybe_unused]] const bool installed = (c10::SetAllocator(c10::kCUDA, device_memory()), true);
}
