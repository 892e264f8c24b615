// The sizes of one deformable convolution, and whether they fit each other. Plain C++17, no CUDA.
//
// A position is one output pixel of one image, a tap one element of the kernel. All tensors are dense NCHW:
//   image  (batch, channels, height, width)            weight (outputs, channels / groups, kernel_h, kernel_w)
//   offset (batch, 2 * offset_groups * taps, out_height, out_width), pixels, y before x
//   mask   (batch, offset_groups * taps, out_height, out_width), or none
//   bias   (outputs), or none                           output (batch, outputs, out_height, out_width)
// Tap t of offset group G sees the bilinear value at y = row * stride_h - pad_top + (t / kernel_w) * dilation_h +
// offset[2 * (G * taps + t)], x likewise with the next offset, times the mask. It is 0 unless -1 < y < height and
// -1 < x < width; corners outside the image count as 0. (Dai et al. 2017, arXiv:1703.06211; Zhu et al. 2018,
// arXiv:1811.11168; ONNX DeformConv-19.)
#pragma once

#include <cstdint>

namespace edgecnn {

struct Problem {
    int32_t batch, channels, height, width;
    int32_t outputs, out_height, out_width;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t groups, offset_groups;
};

// Device pointers, all of one type; bias and mask may be null.
struct Pointers {
    void const* image;
    void const* weight;
    void const* offset;
    void const* bias;
    void const* mask;
    void* output;
};

// A block of threads computes kOutputs output channels of one group at kPositions positions.
constexpr int32_t kOutputs = 64;
constexpr int32_t kPositions = 64;
constexpr int32_t kThreads = 256;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t blocks_x(Problem const& p) {
    return ceil_div(int64_t{p.batch} * p.out_height * p.out_width, kPositions);
}

constexpr int64_t blocks_y(Problem const& p) { return p.groups * ceil_div(p.outputs / p.groups, kOutputs); }

// The output's length along an axis, by the formula of a convolution. Below 1 where the kernel does not fit.
constexpr int32_t out_length(int32_t size, int32_t pads, int32_t kernel, int32_t stride, int32_t dilation) {
    int32_t const room = size + pads - dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

// Null, or what is wrong with the sizes. The kernel counts positions, and pixels of one plane, in 32 bits.
constexpr char const* fault(Problem const& p) {
    if (p.batch < 0 || p.channels < 1 || p.height < 1 || p.width < 1 || p.outputs < 1) {
        return "input and weight need channels and pixels";
    }
    if (p.kernel_h < 1 || p.kernel_w < 1 || p.stride_h < 1 || p.stride_w < 1 || p.dilation_h < 1 || p.dilation_w < 1) {
        return "kernel, stride and dilation must be at least 1";
    }
    if (p.pad_top < 0 || p.pad_left < 0) {
        return "padding must be at least 0";
    }
    if (p.groups < 1 || p.channels % p.groups != 0 || p.outputs % p.groups != 0) {
        return "input channels and output channels must divide into the groups";
    }
    if (p.offset_groups < 1 || p.channels % p.offset_groups != 0) {
        return "input channels must divide into the offset groups";
    }
    if (p.out_height < 1 || p.out_width < 1) {
        return "the kernel with its dilation must fit into the padded input";
    }
    int64_t const limit = INT32_MAX - kPositions;
    if (int64_t{p.height} * p.width > limit || int64_t{p.out_height} * p.out_width > limit / (p.batch < 1 ? 1 : p.batch)) {
        return "an image plane and the output positions of a batch must stay below 2^31";
    }
    if (blocks_y(p) > 65535) {
        return "more groups and output channels than the grid of a kernel holds";
    }
    return nullptr;
}

} // namespace edgecnn
