// A C name for the plugin's launch function, so that a test can call it with PyTorch's pointers and stream.
#include "launch.hpp"

extern "C" char const* deform_conv2d(
    edgecnn::Problem const* problem, edgecnn::Pointers const* pointers, bool half, void* stream) {
    cudaError_t const status = edgecnn::launch(*problem, *pointers, half, static_cast<cudaStream_t>(stream));
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}
