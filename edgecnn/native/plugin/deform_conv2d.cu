// The kernels of edgecnn::DeformConv2d; the arithmetic is in deform_conv2d.hpp, which the CPU tests compile too.
//
// Four kernels with C names: float and half, with a mask and without. Their arguments are in the order that TensorRT gives
// to a kernel baked into an engine: inputs, integers, outputs (edgecnn/engine/plugins/deform_conv2d.py). The library of the
// C++ plugin launches the same ones.
#include "deform_conv2d.hpp"
#include "launch.hpp"

namespace {

using namespace edgecnn;

template <class T>
struct Thread {
    Multiplier<T> sums;

    template <class Step>
    __device__ __forceinline__ void each(Step const& step) {
        step(static_cast<int>(threadIdx.x), sums);
        __syncthreads();
    }
};

template <class T>
__device__ __forceinline__ void run(Problem const& problem, Tensors<T> const& tensors) {
    __shared__ Shared<T> shared;
    Thread<T> thread;
    deform_block(problem, tensors, shared, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), thread);
}

} // namespace

#define EDGECNN_SIZES                                                                                                  \
    int32_t batch, int32_t channels, int32_t height, int32_t width, int32_t outputs, int32_t out_height,               \
        int32_t out_width, int32_t kernel_h, int32_t kernel_w, int32_t stride_h, int32_t stride_w, int32_t pad_top,    \
        int32_t pad_left, int32_t dilation_h, int32_t dilation_w, int32_t groups, int32_t offset_groups
#define EDGECNN_PROBLEM                                                                                                \
    Problem {                                                                                                          \
        batch, channels, height, width, outputs, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w,        \
            pad_top, pad_left, dilation_h, dilation_w, groups, offset_groups                                           \
    }

// Three blocks on a multiprocessor: at most 80 registers a thread, which ptxas of CUDA 13.0 keeps with 0 to 3 words spilled.
#define EDGECNN_KERNELS(name, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 3) edgecnn_deform_conv2d_##name(T const* image, T const* weight, \
        T const* offset, T const* bias, EDGECNN_SIZES, T* output) {                                                    \
        run<T>(EDGECNN_PROBLEM, {image, weight, offset, bias, nullptr, output});                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 3) edgecnn_modulated_deform_conv2d_##name(T const* image,        \
        T const* weight, T const* offset, T const* bias, T const* mask, EDGECNN_SIZES, T* output) {                    \
        run<T>(EDGECNN_PROBLEM, {image, weight, offset, bias, mask, output});                                          \
    }

EDGECNN_KERNELS(float, float)
EDGECNN_KERNELS(half, __half)

namespace edgecnn {

namespace {

template <class T, class Kernel, class... Inputs>
void start(Problem const& p, T* output, cudaStream_t stream, Kernel kernel, Inputs... inputs) {
    dim3 const grid(static_cast<unsigned>(blocks_x(p)), static_cast<unsigned>(blocks_y(p)));
    kernel<<<grid, kThreads, 0, stream>>>(inputs..., p.batch, p.channels, p.height, p.width, p.outputs, p.out_height,
        p.out_width, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.pad_top, p.pad_left, p.dilation_h, p.dilation_w,
        p.groups, p.offset_groups, output);
}

template <class T, class Plain, class Modulated>
cudaError_t launch_as(Problem const& p, Pointers const& x, cudaStream_t stream, Plain plain, Modulated modulated) {
    auto* image = static_cast<T const*>(x.image);
    auto* weight = static_cast<T const*>(x.weight);
    auto* offset = static_cast<T const*>(x.offset);
    auto* bias = static_cast<T const*>(x.bias);
    auto* mask = static_cast<T const*>(x.mask);
    auto* output = static_cast<T*>(x.output);
    if (mask == nullptr) {
        start(p, output, stream, plain, image, weight, offset, bias);
    } else {
        start(p, output, stream, modulated, image, weight, offset, bias, mask);
    }
    return cudaGetLastError();
}

} // namespace

cudaError_t launch(Problem const& p, Pointers const& x, bool half, cudaStream_t stream) {
    if (fault(p) != nullptr) {
        return cudaErrorInvalidValue;
    }
    if (p.batch == 0) {
        return cudaSuccess;
    }
    if (half) {
        return launch_as<__half>(p, x, stream, edgecnn_deform_conv2d_half, edgecnn_modulated_deform_conv2d_half);
    }
    return launch_as<float>(p, x, stream, edgecnn_deform_conv2d_float, edgecnn_modulated_deform_conv2d_float);
}

} // namespace edgecnn
