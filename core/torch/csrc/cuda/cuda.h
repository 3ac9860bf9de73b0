// The C interface of the second library of the shim: what needs CUDA's own headers.
//
// It is loaded after libtorch_cuda, whose symbols it finds in the program, and follows the rules of shim.h.
#pragma once
#include "shim.h"

// Raised with each change of this file; the program refuses a library of another number.
#define MTL_CUDA_INTERFACE 1

// The kernels of a stretch of work, which can be started again all at once.
typedef void *graph_t;

extern "C" {

int mtl_cuda_interface();
char *mtl_group_nccl(store_t store, int rank, int size, int device, int64_t timeout, group_t *out);
// Lets this thread's work go to a stream that graphs can be taken of.
char *mtl_graphs_begin(int device);
char *mtl_graph_capture(graph_t *out);
char *mtl_graph_captured(graph_t graph);
char *mtl_graph_replay(graph_t graph);
void mtl_graph_free(graph_t graph);

}  // extern "C"
