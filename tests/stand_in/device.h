// A device of CUDA's kind whose memory is that of the host.
#pragma once
#include <ATen/ATen.h>

// The allocator of the device's memory. Fresh memory is full of NaN.
c10::Allocator *device_memory();

// Whether a pointer is to memory that a real device could read by itself.
bool is_pinned(const void *data);

// The current device of this thread.
c10::DeviceIndex current_device();

inline bool is_on_device(const at::Tensor &t) { return t.defined() && t.device().is_cuda(); }

// A tensor of the CPU on the memory of one of the device, which it keeps alive, and the other way round.
at::Tensor on_host(const at::Tensor &t);
at::Tensor on_device(const at::Tensor &t, c10::DeviceIndex index);
