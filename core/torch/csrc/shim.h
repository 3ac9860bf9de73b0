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
