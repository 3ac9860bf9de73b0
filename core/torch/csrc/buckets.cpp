// Gradients summed over processes while the backward pass goes on.
#include "groups.h"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace {

// The first bucket is small, so that communication begins early; the last as well, since nothing is left to compute
// while it travels; those between are large, so that few messages are sent.
constexpr size_t FIRST_BYTES = 1 << 20, MIDDLE_BYTES = 25 << 20, LAST_BYTES = 2 << 20;

struct Buckets;

// Tells the buckets of every phase that a parameter has its gradient; only those of the phase at work listen.
struct Ready : torch::autograd::PostAccumulateGradHook {
  std::vector<std::pair<Buckets *, size_t>> listeners;
  void operator()(const at::Tensor &) override;
};

// The parameters of one phase in buckets of fixed content and order. Buckets start strictly in order, so that all
// processes reduce the same one, and a sum adds in the same order in every run.
struct Buckets {
  struct Bucket {
    std::vector<size_t> params;
    std::vector<at::Tensor> views;
    at::Tensor flat;
    size_t waiting = 0;
    c10::intrusive_ptr<c10d::Work> work;
    // When its last sum was started, and when it was there.
    std::chrono::steady_clock::time_point started;
    std::shared_ptr<std::atomic<std::chrono::steady_clock::rep>> done =
        std::make_shared<std::atomic<std::chrono::steady_clock::rep>>(0);
  };
  Group group;
  std::vector<at::Tensor> params;
  std::vector<Bucket> buckets;
  // The bucket of each parameter, and its place there.
  std::vector<std::pair<size_t, size_t>> places;
  // Which have a gradient in this pass, and which have one in every process: known after the first pass.
  std::vector<char> reached, expected;
  bool agreed = false, armed = false, timed = false;
  size_t next = 0;

  Buckets(Group g, std::vector<at::Tensor> p)
      : group(std::move(g)), params(std::move(p)), places(params.size()), reached(params.size()), expected(params.size(), 1) {
    for (auto &plan : planned(params)) {
      Bucket bucket;
      bucket.params = std::move(plan);
      buckets.push_back(std::move(bucket));
    }
    for (size_t k = 0; k < buckets.size(); k++) {
      auto &bucket = buckets[k];
      int64_t total = 0, at = 0;
      for (auto i : bucket.params) total += params[i].numel();
      bucket.flat = at::zeros({total}, params[bucket.params[0]].options().requires_grad(false));
      for (auto i : bucket.params) {
        places[i] = {k, bucket.views.size()};
        // In the memory layout of the parameter, which fused optimizers need.
        bucket.views.push_back(bucket.flat.as_strided(params[i].sizes(), params[i].strides(), at));
        at += params[i].numel();
      }
    }
  }

  // Parameters from the last made to the first, which is nearly the order of their gradients.
  static std::vector<std::vector<size_t>> planned(const std::vector<at::Tensor> &params) {
    // The bytes of the parameters that were made before each one and itself: what is still to come.
    std::vector<size_t> left(params.size() + 1, 0);
    for (size_t i = 0; i < params.size(); i++) left[i + 1] = left[i] + params[i].nbytes();
    std::vector<std::vector<size_t>> plan;
    std::vector<size_t> bucket;
    size_t bytes = 0;
    auto close = [&] {
      if (!bucket.empty()) plan.push_back(std::exchange(bucket, {}));
      bytes = 0;
    };
    for (size_t i = params.size(); i-- > 0;) {
      if (!bucket.empty() && params[bucket[0]].options().dtype() != params[i].options().dtype()) close();
      bucket.push_back(i);
      bytes += params[i].nbytes();
      size_t most = plan.empty() ? FIRST_BYTES : MIDDLE_BYTES;
      if (bytes >= most || (left[i] <= LAST_BYTES && bytes > LAST_BYTES)) close();
    }
    close();
    return plan;
  }

  // The hook of a parameter, if it has one. A tensor that never recorded gradients has no place for it.
  static Ready *hook_of(const at::Tensor &param) {
    namespace impl = torch::autograd::impl;
    return impl::get_autograd_meta(param) ? dynamic_cast<Ready *>(impl::post_acc_grad_hooks(param).get()) : nullptr;
  }

  void listen() {
    for (size_t i = 0; i < params.size(); i++) {
      auto *ready = hook_of(params[i]);
      if (!ready) {
        auto made = std::make_unique<Ready>();
        ready = made.get();
        torch::autograd::impl::set_post_acc_grad_hooks(params[i], std::move(made));
      }
      ready->listeners.emplace_back(this, i);
    }
  }

  ~Buckets() {
    for (auto &param : params)
      if (auto *ready = hook_of(param)) {
        auto mine = [this](const auto &listener) { return listener.first == this; };
        auto &all = ready->listeners;
        all.erase(std::remove_if(all.begin(), all.end(), mine), all.end());
      }
  }

  // Before the pass that completes the gradients.
  void arm() {
    armed = true;
    next = 0;
    for (auto &bucket : buckets) {
      bucket.waiting = 0;
      for (auto i : bucket.params) bucket.waiting += expected[i];
    }
    std::fill(reached.begin(), reached.end(), 0);
    start_ready();
  }

  // Copies a gradient into its bucket, and lets its own memory go at once: the rest of the pass can use it, which is
  // faster than to keep it until the end.
  void take(size_t i, const at::Tensor &view) {
    auto &grad = params[i].mutable_grad();
    view.copy_(grad);
    grad = view;
  }

  void ready(size_t i) {
    if (!armed || reached[i]) return;
    at::NoGradGuard guard;
    reached[i] = 1;
    auto [k, v] = places[i];
    take(i, buckets[k].views[v]);
    if (expected[i]) buckets[k].waiting--;
    start_ready();
  }

  void start_ready() {
    while (next < buckets.size() && buckets[next].waiting == 0) start(buckets[next++]);
  }

  void start(Bucket &bucket) {
    at::NoGradGuard guard;
    for (size_t v = 0; v < bucket.params.size(); v++) {
      auto i = bucket.params[v];
      // Gradients of earlier batches of the step count also where the last batch adds none.
      if (!reached[i] && params[i].grad().defined()) {
        take(i, bucket.views[v]);
        reached[i] = 1;
      } else if (!reached[i]) {
        bucket.views[v].zero_();
      }
    }
    std::vector<at::Tensor> list{bucket.flat};
    bucket.started = std::chrono::steady_clock::now();
    bucket.work = mtl_together([&] { return group->allreduce(list); });
    if (auto future = timed ? bucket.work->getFuture() : nullptr)
      future->addCallback(
          [done = bucket.done](c10::ivalue::Future &) { *done = std::chrono::steady_clock::now().time_since_epoch().count(); });
  }

  // After that pass: what is left starts, all are awaited, and the gradients are those of the buckets. The index of a
  // parameter that has a gradient though no process had one in the first pass, or -1.
  int64_t finish() {
    armed = false;
    for (; next < buckets.size(); next++) start(buckets[next]);
    if (!agreed) {
      at::NoGradGuard guard;
      auto map = at::zeros({int64_t(params.size())}, at::TensorOptions(at::kInt));
      for (size_t i = 0; i < params.size(); i++) map.data_ptr<int>()[i] = reached[i];
      auto there = params.empty() ? map : map.to(params[0].device());
      if (!params.empty()) mtl_reduce(group, there, c10d::ReduceOp::MAX);
      map = there.cpu();
      for (size_t i = 0; i < params.size(); i++) expected[i] = map.data_ptr<int>()[i] != 0;
      agreed = true;
    }
    for (auto &bucket : buckets) {
      mtl_together([&] { bucket.work->wait(); });
      bucket.work.reset();
      for (size_t v = 0; v < bucket.params.size(); v++) {
        auto i = bucket.params[v];
        if (reached[i] && !expected[i]) return i;
        if (expected[i]) params[i].mutable_grad() = bucket.views[v];
      }
    }
    return -1;
  }
};

void Ready::operator()(const at::Tensor &) {
  for (auto &[buckets, i] : listeners) buckets->ready(i);
}

}  // namespace

extern "C" {

char *mtl_buckets_new(group_t group, tensor_t *params, int64_t n, buckets_t *out) {
  MTL_BEGIN
  auto made = std::make_unique<Buckets>(mtl_group(group), mtl_list(params, n));
  made->listen();
  *out = made.release();
  MTL_END
}

void mtl_buckets_free(buckets_t buckets) { delete static_cast<Buckets *>(buckets); }

char *mtl_buckets_arm(buckets_t buckets) {
  MTL_BEGIN
  static_cast<Buckets *>(buckets)->arm();
  MTL_END
}

char *mtl_buckets_finish(buckets_t buckets, int64_t *unexpected) {
  MTL_BEGIN
  *unexpected = static_cast<Buckets *>(buckets)->finish();
  MTL_END
}

// After an error: nothing listens until the next arm.
void mtl_buckets_disarm(buckets_t buckets) { static_cast<Buckets *>(buckets)->armed = false; }

// For each bucket of the last pass how many seconds ago its sum was started, and how many seconds ago it was there; at most
// `n` pairs are written. The first call lets the following passes be timed.
int64_t mtl_buckets_times(buckets_t buckets, double *out, int64_t n) {
  auto *own = static_cast<Buckets *>(buckets);
  auto now = std::chrono::steady_clock::now();
  auto ago = [&](std::chrono::steady_clock::time_point then) { return std::chrono::duration<double>(now - then).count(); };
  int64_t count = own->timed ? std::min<int64_t>(n, own->buckets.size()) : 0;
  for (int64_t k = 0; k < count; k++) {
    std::chrono::steady_clock::duration done(own->buckets[k].done->load());
    out[2 * k] = ago(own->buckets[k].started);
    out[2 * k + 1] = ago(std::chrono::steady_clock::time_point(done));
  }
  own->timed = true;
  return count;
}

// How many bytes each bucket holds; at most `n` are written.
int64_t mtl_buckets_bytes(buckets_t buckets, int64_t *out, int64_t n) {
  auto &all = static_cast<Buckets *>(buckets)->buckets;
  for (int64_t k = 0; k < n && k < int64_t(all.size()); k++) out[k] = int64_t(all[k].flat.nbytes());
  return int64_t(all.size());
}

}  // extern "C"
