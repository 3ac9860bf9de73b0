// What libtorch's headers need of cuBLAS, cuSPARSE and cuSOLVER: names of types. Nothing of them is called from here.
#pragma once
typedef struct cublasContext *cublasHandle_t;
typedef struct cublasLtContext *cublasLtHandle_t;
typedef struct cusparseContext *cusparseHandle_t;
typedef struct cusolverDnContext *cusolverDnHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS } cublasStatus_t;
typedef enum { CUSPARSE_STATUS_SUCCESS } cusparseStatus_t;
typedef enum { CUSOLVER_STATUS_SUCCESS } cusolverStatus_t;
