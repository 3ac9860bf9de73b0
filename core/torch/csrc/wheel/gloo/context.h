#pragma once
#include <chrono>
#include <gloo/transport/device.h>
#include <memory>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds);
};
}  // namespace gloo
