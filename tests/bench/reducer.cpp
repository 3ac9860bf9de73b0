// Times the buckets of mtlrun beside c10d's Reducer as DistributedDataParallel drives it: two processes with one thread
// each, a residual network of 90 MB, both ways in every round and in random order, so that what else the machine does
// falls on both alike.
//
//   tests/bench/reducer.sh
//
// Both sum the same gradients; the last lines compare seconds of whole passes, forward and backward.
#define USE_C10D_GLOO
#include "../../core/torch/csrc/buckets.cpp"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <random>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <torch/torch.h>

using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;

struct Unit {
  Conv2d first, second;
  torch::nn::BatchNorm2d norm;
  Conv2d shortcut{nullptr};
};

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int main(int argc, char **argv) {
  int rank = std::atoi(argv[1]), rounds = argc > 3 ? std::atoi(argv[3]) : 30;
  at::set_num_threads(1);
  c10d::TCPStoreOptions options;
  options.port = std::atoi(argv[2]);
  options.isServer = rank == 0;
  options.numWorkers = 2;
  auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  auto gloo_options = c10d::ProcessGroupGloo::Options::create(std::chrono::seconds(60));
  gloo_options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface("lo"));
  auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, 2, gloo_options);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, 2);
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, backend);

  torch::manual_seed(1);
  std::vector<at::Tensor> params;
  auto add = [&](auto &module) {
    for (auto &p : module->parameters()) {
      if (p.dim() == 4) p.set_data(p.contiguous(at::MemoryFormat::ChannelsLast));
      params.push_back(p);
    }
  };
  Conv2d stem(Conv2dOptions(3, 64, 3).padding(1).bias(false));
  add(stem);
  std::vector<Unit> net;
  int in = 64;
  for (auto [out, count] : std::vector<std::pair<int, int>>{{64, 3}, {128, 4}, {256, 14}, {512, 3}})
    for (int i = 0; i < count; i++) {
      Unit unit{Conv2d(Conv2dOptions(in, out, 3).padding(1).bias(false)),
          Conv2d(Conv2dOptions(out, out, 3).padding(1).stride(i == 0 ? 2 : 1).bias(false)),
          torch::nn::BatchNorm2d(out)};
      if (i == 0) unit.shortcut = Conv2d(Conv2dOptions(in, out, 1).stride(2).bias(false));
      add(unit.first), add(unit.norm), add(unit.second);
      if (!unit.shortcut.is_empty()) add(unit.shortcut);
      net.push_back(unit);
      in = out;
    }
  torch::nn::Linear last(512 * 4 * 4, 512);
  add(last);
  auto x = at::randn({4, 3, 64, 64}).contiguous(at::MemoryFormat::ChannelsLast);
  auto forward = [&] {
    auto y = stem(x);
    for (auto &unit : net) {
      auto shortcut = unit.shortcut.is_empty() ? y : unit.shortcut(y);
      y = unit.second(at::relu(unit.norm(unit.first(y)))) + shortcut;
    }
    return last(y.flatten(1)).square().mean();
  };

  Buckets own(backend, params);
  own.listen();
  auto [plan, caps] = c10d::compute_bucket_assignment_by_size(params, {1 << 20, 25 << 20});
  std::reverse(plan.begin(), plan.end());
  std::vector<int64_t> sizes(caps.rbegin(), caps.rend());
  c10d::Reducer reducer(params, plan, group, std::vector<bool>(params.size(), false), 25 << 20, false, true, {}, 1 << 20,
      false, false, sizes);

  std::map<std::string, std::vector<double>> found;
  std::mt19937 draw(7);
  std::vector<std::string> ways{"alone", "own buckets", "Reducer"};
  for (int round = 0; round < rounds + 2; round++) {
    std::shuffle(ways.begin(), ways.end(), draw);
    for (const auto &how : ways) {
      group->barrier()->wait();
      double start = now();
      auto loss = forward();
      // Each way of taking the mean over processes belongs to its time.
      if (how == "own buckets") loss = loss * 0.5, own.arm();
      if (how == "Reducer") {
        if (reducer.should_rebuild_buckets()) reducer.rebuild_buckets();
        reducer.prepare_for_backward({});
      }
      torch::autograd::backward({loss}, {}, false, false, params);
      if (how == "own buckets") own.finish();
      group->barrier()->wait();
      double seconds = now() - start;
      for (auto &p : params) p.mutable_grad() = at::Tensor();
      if (round > 1) found[how].push_back(seconds);
    }
  }
  if (rank == 0) {
    for (auto &[how, times] : found) std::printf("%-12s median %.3f s, least %.3f s\n", how.c_str(), median(times), *std::min_element(times.begin(), times.end()));
    std::vector<double> apart;
    for (size_t i = 0; i < found["Reducer"].size(); i++) apart.push_back(found["own buckets"][i] - found["Reducer"][i]);
    int slower = std::count_if(apart.begin(), apart.end(), [](double d) { return d > 0; });
    std::printf("own buckets - Reducer: median %+.4f s, slower in %d of %zu rounds, ratio of medians %.3f\n", median(apart), slower,
        apart.size(), median(found["own buckets"]) / median(found["Reducer"]));
  }
  std::fflush(stdout);
  std::_Exit(0);
}
