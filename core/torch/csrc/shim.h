// The C interface of the shim.
//
// Every function returns nullptr on success and else a message on the C heap that the caller frees with
// mtl_free; no C++ exception crosses. Tensors are the `at::Tensor *` that torch-sys hands out; a returned
// tensor is owned by the caller and freed through torch-sys.
#pragma once
#include <ATen/ATen.h>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

typedef at::Tensor *tensor_t;
// A store, a group of processes, a collective under way and the buckets of a phase: each is made and freed by the shim.
typedef void *store_t, *group_t, *work_t, *buckets_t;
// A moment in the work of a device.
typedef void *mark_t;

// How an error begins that is the fault of another process; `LOST` in Rust is the same.
#define MTL_LOST "communication between the ranks failed: "

inline char *mtl_message(const std::string &text) {
  char *out = static_cast<char *>(std::malloc(text.size() + 1));
  if (out) std::memcpy(out, text.c_str(), text.size() + 1);
  return out;
}

#define MTL_BEGIN try {
#define MTL_END                                                     \
  return nullptr;                                                   \
  }                                                                 \
  catch (const c10::Error &e) {                                     \
    return mtl_message(e.what_without_backtrace());                 \
  }                                                                 \
  catch (const std::exception &e) {                                 \
    return mtl_message(e.what());                                   \
  }                                                                 \
  catch (...) {                                                     \
    return mtl_message("an unknown C++ exception");                 \
  }

inline std::vector<at::Tensor> mtl_list(tensor_t *tensors, int64_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (int64_t i = 0; i < n; i++) out.push_back(*tensors[i]);
  return out;
}

// What libtorch keeps for each thread and a computation may change. `RawThreadState` in Rust has the same fields.
typedef struct {
  uint64_t included, excluded;
  int32_t grad_mode, forward_grad_mode, inference_mode, autocast_nesting;
  int32_t autocast_dtype_cpu, autocast_dtype_cuda;
} mtl_thread_state_t;

// What `src/ffi.rs` mirrors; the definitions include this header, so that the compiler compares them.
extern "C" {

void mtl_free(char *text);
char *mtl_version(char **out);
char *mtl_build_config(char **out);
char *mtl_cpu_capability(char **out);
char *mtl_autocast_exchange(int device_type, int *enabled, int *dtype, int nesting);
char *mtl_thread_state(mtl_thread_state_t *out);
char *mtl_restore_thread_state(const mtl_thread_state_t *state);
char *mtl_seed(uint64_t seed);
char *mtl_set_threads(int intra, int inter);
char *mtl_disable_intra_op_threads();
char *mtl_cuda_rules(int tf32, int deterministic);
char *mtl_use_cuda(int index);
char *mtl_cuda_config(char **out);
char *mtl_mark_now(int index, mark_t *out);
char *mtl_mark_between(mark_t from, mark_t to, double *milliseconds);
void mtl_mark_free(mark_t mark);
char *mtl_copy_to(tensor_t input, int device_type, int index, tensor_t *out);
char *mtl_copy_beside(tensor_t input, int index, tensor_t *out);
char *mtl_arange(tensor_t out, int64_t end);
char *mtl_pin(tensor_t input, tensor_t *out);
char *mtl_set_requires_grad(tensor_t *tensors, int64_t n, int on);
char *mtl_backward(tensor_t loss, tensor_t *leaves, int64_t n, int keep_graph);
char *mtl_gradients(tensor_t loss, tensor_t *leaves, int64_t n, int keep_graph, tensor_t *out);
char *mtl_take_grad(tensor_t tensor, tensor_t *out);
char *mtl_set_grad(tensor_t tensor, tensor_t grad);
char *mtl_channels_last(tensor_t input, tensor_t *out);
char *mtl_add_decay(tensor_t *grads, tensor_t *params, int64_t n, double decay);
char *mtl_scale(tensor_t *tensors, int64_t n, double factor);
char *mtl_lerp(tensor_t *averages, tensor_t *params, int64_t n, double weight);
char *mtl_total_norm(tensor_t *tensors, int64_t n, tensor_t *out);
char *mtl_clip(tensor_t *grads, int64_t n, tensor_t norm, double max_norm);
char *mtl_unscale(tensor_t *grads, int64_t n, tensor_t found_inf, tensor_t inv_scale);
char *mtl_fused_sgd(tensor_t *params, tensor_t *grads, tensor_t *momenta, int64_t n, double lr, double decay,
    double momentum, double dampening, int nesterov, int first, tensor_t found_inf);
char *mtl_fused_adam(tensor_t *params, tensor_t *grads, tensor_t *first, tensor_t *second, tensor_t *steps,
    int64_t n, double lr, double beta1, double beta2, double decay, double eps, int decoupled, tensor_t found_inf);
char *mtl_reverse_gradient(tensor_t input, double coefficient, tensor_t *out);
char *mtl_prelu(tensor_t input, tensor_t weight, tensor_t *out);
char *mtl_leaky_relu(tensor_t input, double slope, tensor_t *out);
char *mtl_conv3x3(tensor_t input, tensor_t weight, tensor_t bias, tensor_t *out);
char *mtl_conv2d(tensor_t input, tensor_t weight, tensor_t bias, int64_t stride, int64_t padding, tensor_t *out);
char *mtl_fixed_norm(tensor_t input, tensor_t weight, tensor_t bias, tensor_t mean, tensor_t var, double eps,
    tensor_t *out);

char *mtl_store_local(store_t *out);
char *mtl_store_tcp(const char *host, int *port, int serves, int64_t timeout, store_t *out);
char *mtl_store_under(store_t store, const char *prefix, store_t *out);
void mtl_store_free(store_t store);
char *mtl_store_set(store_t store, const char *key, const char *value, int64_t n);
char *mtl_store_get(store_t store, const char *key, char **out, int64_t *n);
char *mtl_store_add(store_t store, const char *key, int64_t n, int64_t *out);
char *mtl_group_gloo(store_t store, int rank, int size, const char *interface, const char *host, int64_t timeout,
    group_t *out);
char *mtl_group_fake(int rank, int size, group_t *out);
void mtl_group_free(group_t group);
char *mtl_all_reduce(group_t group, tensor_t tensor, int op);
char *mtl_all_reduce_start(group_t group, tensor_t tensor, int op, work_t *out);
char *mtl_work_wait(work_t work);
void mtl_work_free(work_t work);
char *mtl_all_gather(group_t group, tensor_t tensor, tensor_t *out);
char *mtl_broadcast(group_t group, tensor_t *tensors, int64_t n, int root);
char *mtl_gather_rows(group_t group, tensor_t tensor, tensor_t *out);
char *mtl_class_cross_entropy(group_t group, tensor_t logits, tensor_t column, tensor_t known, tensor_t divisor,
    tensor_t *out);
char *mtl_sync_batch_norm(group_t group, tensor_t x, tensor_t weight, tensor_t bias, tensor_t running_mean,
    tensor_t running_var, double momentum, double eps, tensor_t *out);
char *mtl_buckets_new(group_t group, tensor_t *params, int64_t n, buckets_t *out);
void mtl_buckets_free(buckets_t buckets);
char *mtl_buckets_arm(buckets_t buckets);
char *mtl_buckets_finish(buckets_t buckets, int64_t *unexpected);
void mtl_buckets_disarm(buckets_t buckets);
int64_t mtl_buckets_times(buckets_t buckets, double *out, int64_t n);
int64_t mtl_buckets_bytes(buckets_t buckets, int64_t *out, int64_t n);

}  // extern "C"
