// The one function between the plugin (host compiler) and the kernels (nvcc).
#pragma once

#include "problem.hpp"
#include <cuda_runtime_api.h>

namespace edgecnn {

// Start the kernel for dense NCHW tensors of float, or of half. No workspace. Returns cudaErrorInvalidValue where fault()
// finds something, else what the launch returned.
cudaError_t launch(Problem const& problem, Pointers const& pointers, bool half, cudaStream_t stream);

} // namespace edgecnn
