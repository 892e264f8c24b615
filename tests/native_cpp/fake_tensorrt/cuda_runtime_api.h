// A stand-in for CUDA's runtime: what edgecnn/tensorrt.hpp calls of it, on the host's memory. Counts what is held.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorNoDevice,
    cudaErrorInsufficientDriver,
    cudaErrorSystemDriverMismatch,
    cudaErrorIllegalAddress
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
struct CUstream_st {};
using cudaStream_t = CUstream_st*;
constexpr unsigned cudaStreamNonBlocking = 1;

namespace fake {
inline std::atomic<int> held{0};             // allocations and streams
inline std::atomic<int> made{0};             // since the program began
inline std::size_t largest = std::size_t(-1); // that an allocation may have
inline int devices = 1;
inline cudaError_t count_fails = cudaSuccess;
inline cudaError_t finish_fails = cudaSuccess;

inline cudaError_t get(void** into, std::size_t size) {
    if (size > largest) {
        return cudaErrorMemoryAllocation;
    }
    *into = std::malloc(size);
    ++held;
    ++made;
    return cudaSuccess;
}

inline cudaError_t release(void* address) {
    std::free(address);
    --held;
    return cudaSuccess;
}
} // namespace fake

inline char const* cudaGetErrorName(cudaError_t code) {
    return code == cudaErrorNoDevice ? "cudaErrorNoDevice" : "cudaErrorIllegalAddress";
}
inline char const* cudaGetErrorString(cudaError_t) {
    return "an illegal memory access was encountered";
}
inline cudaError_t cudaMalloc(void** into, std::size_t size) {
    return fake::get(into, size);
}
inline cudaError_t cudaMallocHost(void** into, std::size_t size) {
    return fake::get(into, size);
}
inline cudaError_t cudaFree(void* address) {
    return fake::release(address);
}
inline cudaError_t cudaFreeHost(void* address) {
    return fake::release(address);
}
inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t size, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(to, from, size);
    return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new CUstream_st;
    ++fake::held;
    return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    --fake::held;
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return fake::finish_fails;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
    *count = fake::devices;
    return fake::count_fails;
}
inline cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrComputeCapabilityMajor ? 8 : 7;
    return cudaSuccess;
}
