// Groups of NCCL, and CUDA graphs.
#define USE_C10D_NCCL
#include "cuda.h"
#include "groups.h"
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

extern "C" {

int mtl_cuda_interface() { return MTL_CUDA_INTERFACE; }

// The processes meet at the store with the first collective.
char *mtl_group_nccl(store_t store, int rank, int size, int device, int64_t timeout, group_t *out) {
  MTL_BEGIN
  c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout);
  const auto &meeting = *static_cast<const c10::intrusive_ptr<c10d::Store> *>(store);
  *out = new Group(mtl_together([&] {
    auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(meeting, rank, size, options);
    group->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    return group;
  }));
  MTL_END
}

// The default stream cannot be captured, and what is captured must have been warmed up on its own stream.
char *mtl_graphs_begin(int device) {
  MTL_BEGIN
  auto index = static_cast<c10::DeviceIndex>(device);
  c10::cuda::getDefaultCUDAStream(index).synchronize();
  c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index));
  MTL_END
}

// From here on nothing is computed: what would be is put into the graph.
char *mtl_graph_capture(graph_t *out) {
  MTL_BEGIN
  // What the steps before have left for their own kind of work cannot be used by the graph.
  c10::cuda::CUDACachingAllocator::emptyCache();
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  // Threads that load data go on using the device.
  graph->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  *out = graph.release();
  MTL_END
}

char *mtl_graph_captured(graph_t graph) {
  MTL_BEGIN
  static_cast<at::cuda::CUDAGraph *>(graph)->capture_end();
  MTL_END
}

char *mtl_graph_replay(graph_t graph) {
  MTL_BEGIN
  static_cast<at::cuda::CUDAGraph *>(graph)->replay();
  MTL_END
}

void mtl_graph_free(graph_t graph) { delete static_cast<at::cuda::CUDAGraph *>(graph); }

}  // extern "C"
