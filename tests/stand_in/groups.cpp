// The second library of the shim, on the stand-in: groups whose tensors are on the device and travel by gloo, and graphs
// of what has been recorded.
#define USE_C10D_GLOO
#include "cuda/cuda.h"
#include "device.h"
#include "groups.h"
#include "operators.h"
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace {

using Work = c10::intrusive_ptr<c10d::Work>;

struct OnDevice : c10d::Backend {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
  int index;

  OnDevice(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size, int device,
           c10::intrusive_ptr<c10d::ProcessGroupGloo::Options> options)
      : Backend(rank, size), gloo(c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, std::move(options))), index(device) {}
  const std::string getBackendName() const override { return "stand-in for nccl"; }

  at::Tensor host(const at::Tensor &t) const {
    TORCH_CHECK(is_on_device(t) && t.device().index() == index, "expected a tensor on cuda:", index, ", got one on ", t.device());
    TORCH_CHECK(t.is_non_overlapping_and_dense(), "Tensors must be contiguous");
    return on_host(t);
  }
  Work allreduce(std::vector<at::Tensor> &tensors, const c10d::AllreduceOptions &options) override {
    std::vector<at::Tensor> hosts{host(tensors.at(0))};
    return gloo->allreduce(hosts, options);
  }
  Work broadcast(std::vector<at::Tensor> &tensors, const c10d::BroadcastOptions &options) override {
    std::vector<at::Tensor> hosts{host(tensors.at(0))};
    return gloo->broadcast(hosts, options);
  }
  Work _allgather_base(at::Tensor &all, at::Tensor &own, const c10d::AllgatherOptions &options) override {
    auto to = host(all), from = host(own);
    return gloo->_allgather_base(to, from, options);
  }
};

}  // namespace

extern "C" {

int mtl_cuda_interface() { return MTL_CUDA_INTERFACE; }

char *mtl_group_nccl(store_t store, int rank, int size, int device, int64_t timeout, group_t *out) {
  MTL_BEGIN
  auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout));
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  const auto &meeting = *static_cast<const c10::intrusive_ptr<c10d::Store> *>(store);
  *out = new Group(mtl_together([&] { return c10::make_intrusive<OnDevice>(meeting, rank, size, device, options); }));
  MTL_END
}

char *mtl_graphs_begin(int) { return nullptr; }

char *mtl_graph_capture(graph_t *out) {
  MTL_BEGIN
  auto *recording = new Recording;
  record_into(recording);
  *out = recording;
  MTL_END
}

char *mtl_graph_captured(graph_t) {
  record_into(nullptr);
  return nullptr;
}

char *mtl_graph_replay(graph_t graph) {
  MTL_BEGIN
  for (auto &work : *static_cast<Recording *>(graph)) work();
  MTL_END
}

void mtl_graph_free(graph_t graph) { delete static_cast<Recording *>(graph); }

}  // extern "C"
