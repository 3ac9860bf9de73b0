// Processes that train together, as the C++ files of the shim see them.
#pragma once
#include "shim.h"
#include <torch/csrc/distributed/c10d/Backend.hpp>

using Group = c10::intrusive_ptr<c10d::Backend>;

inline const Group &mtl_group(group_t group) { return *static_cast<const Group *>(group); }

// Runs what may fail since another process has failed; Rust tells such errors by their first words.
template <typename F>
auto mtl_together(F &&work) {
  try {
    return work();
  } catch (const c10::Error &e) {
    TORCH_CHECK(false, MTL_LOST, e.what_without_backtrace());
  } catch (const std::exception &e) {
    TORCH_CHECK(false, MTL_LOST, e.what());
  }
}

// The sum or another reduction over all processes, in place.
inline void mtl_reduce(const Group &group, at::Tensor &t, c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM) {
  mtl_together([&] {
    std::vector<at::Tensor> list{t};
    c10d::AllreduceOptions options;
    options.reduceOp = op;
    group->allreduce(list, options)->wait();
  });
}

// The tensors of all processes, one after the other along the first dimension.
inline at::Tensor mtl_gathered(const Group &group, const at::Tensor &t) {
  auto sizes = t.sizes().vec();
  sizes[0] *= group->getSize();
  auto out = at::empty(sizes, t.options().requires_grad(false)), in = t.detach().contiguous();
  mtl_together([&] { group->_allgather_base(out, in)->wait(); });
  return out;
}
