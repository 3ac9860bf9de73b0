// The store that processes meet at, their groups, and collectives on tensors: libtorch's c10d.
#define USE_C10D_GLOO
#include "groups.h"
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/FakeProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace {
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Store = c10::intrusive_ptr<c10d::Store>;
using Work = c10::intrusive_ptr<c10d::Work>;

const Store &store_of(store_t store) { return *static_cast<const Store *>(store); }

std::chrono::milliseconds milliseconds(int64_t n) { return std::chrono::milliseconds(n); }

// Rows of all processes. The gradient of the own rows is the sum of what every process finds for them.
struct GatherRows : Function<GatherRows> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, int64_t group) {
    ctx->saved_data["group"] = group;
    return mtl_gathered(mtl_group(reinterpret_cast<group_t>(group)), x);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto &group = mtl_group(reinterpret_cast<group_t>(ctx->saved_data["group"].toInt()));
    auto all = grads[0].clone(at::MemoryFormat::Contiguous);
    mtl_reduce(group, all);
    int64_t rows = all.size(0) / group->getSize();
    return {all.narrow(0, group->getRank() * rows, rows), at::Tensor()};
  }
};

// The sum of cross-entropies of logits whose columns are some classes of all, divided by a number. `column` is that of a
// sample's true class, or negative where it is not here; `known` is whether the sample counts.
//
// The sum over classes needs the largest logit, the sum of exponentials and the true logit of each sample from all
// processes; the gradient `(softmax - 1[true]) / divisor` needs none of them again. Where classes are cut, every process
// has the same loss, and gradients are summed over processes after their loss was divided by the number of processes:
// hence the factor.
struct ClassCrossEntropy : Function<ClassCrossEntropy> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &logits, const at::Tensor &column,
                            const at::Tensor &known, const at::Tensor &divisor, int64_t group) {
    int64_t columns = logits.size(1);
    auto here = column.ge(0);
    auto index = column.clamp_min(0).unsqueeze(1);
    bool whole = columns > 0;
    auto largest = whole ? logits.amax(1) : at::full({logits.size(0)}, -std::numeric_limits<double>::infinity(), logits.options());
    if (group) mtl_reduce(mtl_group(reinterpret_cast<group_t>(group)), largest, c10d::ReduceOp::MAX);
    auto p = (logits - largest.unsqueeze(1)).exp_();
    auto truth = whole ? logits.gather(1, index).squeeze(1).mul_(here) : at::zeros_like(largest);
    auto both = at::stack({p.sum(1), truth});
    if (group) mtl_reduce(mtl_group(reinterpret_cast<group_t>(group)), both);
    auto sum = both[0];
    p.div_(sum.unsqueeze(1));
    int64_t size = group ? mtl_group(reinterpret_cast<group_t>(group))->getSize() : 1;
    ctx->save_for_backward(
        {p, index, here.to(logits.scalar_type()), known.to(logits.scalar_type()).mul_(double(size)).div_(divisor)});
    return (sum.log() + largest - both[1]).mul_(known).sum().div_(divisor);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto p = saved[0], index = saved[1], here = saved[2], share = saved[3];
    auto out = p.size(1) ? p.scatter_add(1, index, here.neg().unsqueeze(1)) : p.clone();
    out.mul_((share * grads[0]).unsqueeze(1));
    return {out, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Batch normalisation with the statistics of all processes, each of which has equally many values a channel.
//
// The statistics are exchanged as mean and variance of each process; then the native kernels of given statistics do the
// rest, forward and backward, and the terms of the gradient that come from the statistics are added.
struct SyncBatchNorm : Function<SyncBatchNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias,
                            at::Tensor running_mean, at::Tensor running_var, double momentum, double eps, int64_t group) {
    const auto &g = mtl_group(reinterpret_cast<group_t>(group));
    int64_t channels = x.size(1);
    double count = double(x.numel() / channels) * g->getSize();
    // Statistics in the kind of the parameters, also where the input is of a shorter one.
    auto [own_mean, own_var] =
        at::batch_norm_update_stats(x, at::zeros_like(running_mean), at::zeros_like(running_var), momentum);
    auto all = mtl_gathered(g, at::cat({own_mean, own_var}).unsqueeze(0));
    auto means = all.narrow(1, 0, channels), vars = all.narrow(1, channels, channels);
    auto mean = means.mean(0), var = (vars + (means - mean).square()).mean(0);
    running_mean.lerp_(mean, momentum);
    running_var.lerp_(var * (count / (count - 1)), momentum);
    ctx->save_for_backward({x, weight, mean, var});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["count"] = count;
    ctx->saved_data["group"] = group;
    return std::get<0>(at::native_batch_norm(x, weight, bias, mean, var, /*training=*/false, momentum, eps));
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], weight = saved[1], mean = saved[2], var = saved[3];
    double eps = ctx->saved_data["eps"].toDouble(), count = ctx->saved_data["count"].toDouble();
    const auto &group = mtl_group(reinterpret_cast<group_t>(ctx->saved_data["group"].toInt()));
    auto dy = grads[0].contiguous(x.suggest_memory_format());
    auto [gx, gw, gb] =
        at::native_batch_norm_backward(dy, x, weight, mean, var, {}, {}, /*train=*/false, eps, {true, true, true});
    auto sums = at::cat({gw, gb});
    mtl_reduce(group, sums);
    int64_t channels = x.size(1);
    auto sw = sums.narrow(0, 0, channels) / count, sb = sums.narrow(0, channels, channels) / count;
    auto inverse = (var + eps).rsqrt();
    auto slope = -(weight * inverse * inverse * sw);
    auto shift = -(weight * inverse * sb) - mean * slope;
    std::vector<int64_t> shape(x.dim(), 1);
    shape[1] = channels;
    gx.addcmul_(x, slope.view(shape)).add_(shift.view(shape));
    return {gx, gw, gb, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// c10d writes what it throws to the standard error stream as well, with addresses of its own code.
void be_quiet() {
  if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
}

c10d::ReduceOp::RedOpType operation(int op) { return op == 0 ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX; }

}  // namespace

extern "C" {

// A store of the processes of one program, for tests with threads in the place of processes.
char *mtl_store_local(store_t *out) {
  MTL_BEGIN
  *out = new Store(c10::make_intrusive<c10d::HashStore>());
  MTL_END
}

// Connects to the store at a host and port, or serves it there; port 0 takes any that is free. `port` says which.
char *mtl_store_tcp(const char *host, int *port, int serves, int64_t timeout, store_t *out) {
  MTL_BEGIN
  be_quiet();
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(*port);
  options.isServer = serves != 0;
  options.waitWorkers = false;
  options.timeout = milliseconds(timeout);
  auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
  *port = store->getPort();
  *out = new Store(std::move(store));
  MTL_END
}

// The same store with a prefix before each key.
char *mtl_store_under(store_t store, const char *prefix, store_t *out) {
  MTL_BEGIN
  *out = new Store(c10::make_intrusive<c10d::PrefixStore>(prefix, store_of(store)));
  MTL_END
}

void mtl_store_free(store_t store) { delete static_cast<Store *>(store); }

char *mtl_store_set(store_t store, const char *key, const char *value, int64_t n) {
  MTL_BEGIN
  mtl_together([&] { store_of(store)->set(key, std::vector<uint8_t>(value, value + n)); });
  MTL_END
}

// The value of a key, or null where there is none yet. The value is freed with mtl_free.
char *mtl_store_get(store_t store, const char *key, char **out, int64_t *n) {
  MTL_BEGIN
  mtl_together([&] {
    *out = nullptr;
    if (!store_of(store)->check({key})) return;
    auto value = store_of(store)->get(key);
    *n = static_cast<int64_t>(value.size());
    *out = mtl_message(std::string(value.begin(), value.end()));
  });
  MTL_END
}

char *mtl_store_add(store_t store, const char *key, int64_t n, int64_t *out) {
  MTL_BEGIN
  mtl_together([&] { *out = store_of(store)->add(key, n); });
  MTL_END
}

// A group of gloo, whose sockets are those of an interface or of the address `host`.
char *mtl_group_gloo(store_t store, int rank, int size, const char *interface, const char *host, int64_t timeout, group_t *out) {
  MTL_BEGIN
  auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout));
  options->devices.push_back(interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                       : c10d::ProcessGroupGloo::createDeviceForHostname(host));
  *out = new Group(mtl_together(
      [&] { return c10::make_intrusive<c10d::ProcessGroupGloo>(store_of(store), rank, size, options); }));
  MTL_END
}

// A group whose collectives do nothing, to see what one process of any number would do.
char *mtl_group_fake(int rank, int size, group_t *out) {
  MTL_BEGIN
  *out = new Group(c10d::FakeProcessGroup::_create_internal(rank, size));
  MTL_END
}

void mtl_group_free(group_t group) {
  // NCCL warns of communicators that are not closed.
  try {
    mtl_group(group)->shutdown();
  } catch (const std::exception &) {
    // It is gone in any case.
  }
  delete static_cast<Group *>(group);
}

char *mtl_all_reduce(group_t group, tensor_t tensor, int op) {
  MTL_BEGIN
  at::NoGradGuard guard;
  mtl_reduce(mtl_group(group), *tensor, operation(op));
  MTL_END
}

// Starts a reduction in place; the tensor may be read after mtl_work_wait.
char *mtl_all_reduce_start(group_t group, tensor_t tensor, int op, work_t *out) {
  MTL_BEGIN
  at::NoGradGuard guard;
  c10d::AllreduceOptions options;
  options.reduceOp = operation(op);
  std::vector<at::Tensor> list{*tensor};
  *out = new Work(mtl_together([&] { return mtl_group(group)->allreduce(list, options); }));
  MTL_END
}

char *mtl_work_wait(work_t work) {
  MTL_BEGIN
  mtl_together([&] { (*static_cast<Work *>(work))->wait(); });
  MTL_END
}

void mtl_work_free(work_t work) { delete static_cast<Work *>(work); }

char *mtl_all_gather(group_t group, tensor_t tensor, tensor_t *out) {
  MTL_BEGIN
  at::NoGradGuard guard;
  *out = new at::Tensor(mtl_gathered(mtl_group(group), *tensor));
  MTL_END
}

// What one process holds goes to all, in place.
char *mtl_broadcast(group_t group, tensor_t *tensors, int64_t n, int root) {
  MTL_BEGIN
  at::NoGradGuard guard;
  mtl_together([&] {
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (int64_t i = 0; i < n; i++) {
      std::vector<at::Tensor> list{*tensors[i]};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      works.push_back(mtl_group(group)->broadcast(list, options));
    }
    for (auto &work : works) work->wait();
  });
  MTL_END
}

char *mtl_gather_rows(group_t group, tensor_t tensor, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(GatherRows::apply(*tensor, reinterpret_cast<int64_t>(group)));
  MTL_END
}

char *mtl_class_cross_entropy(group_t group, tensor_t logits, tensor_t column, tensor_t known, tensor_t divisor,
                              tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(
      ClassCrossEntropy::apply(*logits, *column, *known, *divisor, reinterpret_cast<int64_t>(group)));
  MTL_END
}

char *mtl_sync_batch_norm(group_t group, tensor_t x, tensor_t weight, tensor_t bias, tensor_t running_mean,
                          tensor_t running_var, double momentum, double eps, tensor_t *out) {
  MTL_BEGIN
  *out = new at::Tensor(SyncBatchNorm::apply(*x, *weight, *bias, *running_mean, *running_var, momentum, eps,
                                             reinterpret_cast<int64_t>(group)));
  MTL_END
}

}  // extern "C"
