// Deformable convolution of one block of threads: all arithmetic and all indices of the kernel.
//
// Implicit GEMM: the matrix of sampled pixels ("columns", taps x channels by positions) is made tile by tile in shared
// memory and multiplied by the weights at once, so there is no im2col buffer and no workspace, and one launch does all.
// Per block and offset group:
//   locate    for every tap and position, once: where it samples, and the four bilinear weights times the mask. All
//             channels of the offset group read these back from shared memory.
//   load      a tile of weights, contiguous in memory and copied 16 bytes at a time where aligned, and of columns: one
//             thread stays at one position and holds a tap's four weights in registers over the channels of the tile.
//             Neighbouring threads are neighbouring pixels, so smooth offsets read neighbouring addresses.
//   multiply  float: 4x4 sums a thread, operands read 16 bytes at a time. Half: tensor cores (wmma 16x16x16), sums in
//             float; the columns are blended in float and rounded to half once.
// Each step ends with a barrier. Nothing is double-buffered: three blocks on a multiprocessor (shared memory is 29 KiB for
// float, 34 KiB for half; one block of half on Turing's 64 KiB) hide each other's latency. A block has 64 outputs, so that a
// value is sampled outputs / 64 times; wider tiles would sample less but leave few blocks for the small maps of late
// layers. All of this is reasoned, from counts of loads and multiplications; none of it was measured on a GPU. Known to be
// poor: depthwise (64 rows of a tile are computed for the one output of a group).
//
// The code is written as steps of single threads over a Machine, which runs a step for every thread and then waits: in
// deform_conv2d.cu that is the thread itself and __syncthreads(); in tests/native/ it is a loop, so the CPU tests run
// this very code: tiles, edges, groups. Compiled without nvcc, Half is a software type and the fragments are arrays.
//
// A pixel that is infinite or NaN may reach, through a weight of 0, outputs that sample beside it at the border.
#pragma once

#include "problem.hpp"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <mma.h>
#define EDGECNN_FN __device__ __forceinline__
#define EDGECNN_UNROLL _Pragma("unroll")
#define EDGECNN_UNROLL_4 _Pragma("unroll 4")
#else
#include "host_half.hpp"
#include <cmath>
#define EDGECNN_FN inline
#define EDGECNN_UNROLL
#define EDGECNN_UNROLL_4
#endif

namespace edgecnn {

#if defined(__CUDACC__)
using Half = __half;
EDGECNN_FN float to_float(Half value) { return __half2float(value); }
EDGECNN_FN void assign(Half& target, float value) { target = __float2half_rn(value); }
#endif
EDGECNN_FN float to_float(float value) { return value; }
EDGECNN_FN void assign(float& target, float value) { target = value; }

template <class A>
EDGECNN_FN A smaller(A a, A b) {
    return a < b ? a : b;
}

EDGECNN_FN int parts(int whole, int size) { return (whole + size - 1) / size; }

template <class T>
struct Tensors {
    T const* image;
    T const* weight;
    T const* offset;
    T const* bias;
    T const* mask;
    T* output;
};

// Neighbours that move in one instruction.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
    T at[N];
};
template <class T>
using Quad = Pack<T, 4>;

constexpr int kTaps = 9; // located at a time: all of a 3x3 kernel; larger ones go through in parts

// Depth: products that a tile holds, channels times taps, in the weights' memory order. Rows are padded against bank
// conflicts; wmma wants whole steps of 16, rows of a multiple of 8 elements, and 32-byte alignment.
template <class T>
struct Tile;
template <>
struct Tile<float> {
    static constexpr int depth = 36, step = 4, weight_row = 36, column_row = kPositions;
};
template <>
struct Tile<Half> {
    static constexpr int depth = 80, step = 16, weight_row = 88, column_row = kPositions + 8;
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

template <class T>
struct alignas(32) Shared {
    using Sizes = Tile<T>;
    static constexpr int weight_bytes = kOutputs * Sizes::weight_row * int(sizeof(T));
    static constexpr int column_bytes = Sizes::depth * Sizes::column_row * int(sizeof(T));
    static constexpr int sum_bytes = sizeof(T) == 2 ? kOutputs * kPositions * int(sizeof(float)) : 0;

    unsigned char tiles[larger(weight_bytes + column_bytes, sum_bytes)];
    float corner[kTaps][4][kPositions]; // bilinear weights times mask
    int32_t first[kTaps][kPositions];   // top left pixel of the four in a plane, or -1 where the sample is 0

    EDGECNN_FN T* weights() { return reinterpret_cast<T*>(tiles); }
    EDGECNN_FN T* columns() { return reinterpret_cast<T*>(tiles + weight_bytes); }
    EDGECNN_FN float* sums() { return reinterpret_cast<float*>(tiles); } // of the tensor cores, after the last tile
};

// What one block does, and the tile it is at.
struct Work {
    int first_position, positions, pixels, taps;
    int group_channels, group_outputs, first_output, rows; // rows: output channels of the tile that exist
    int offset_group, first_tap, tap_count, first_channel, channel_count;

    EDGECNN_FN int depth() const { return tap_count * channel_count; }
};

// Where along one axis a sample reads: two neighbouring pixels and their weights, both inside the image.
struct Span {
    int first;
    float weight[2];
};

EDGECNN_FN Span span(float at, int size) {
    float const low = floorf(at);
    float const high_weight = at - low;
    int const pixel = static_cast<int>(low); // -1 .. size - 1
    if (pixel < 0) {
        return {0, {high_weight, 0.0f}};
    }
    if (pixel + 1 >= size) { // the pair moves one to the left, if there is one
        return size > 1 ? Span{pixel - 1, {0.0f, 1.0f - high_weight}} : Span{0, {1.0f - high_weight, 0.0f}};
    }
    return {pixel, {1.0f - high_weight, high_weight}};
}

template <class T>
EDGECNN_FN void locate(Problem const& p, Tensors<T> const& x, Work const& w, Shared<T>& shared, int thread) {
    int const column = thread % kPositions;
    int const position = w.first_position + column;
    int const image = position / w.pixels;
    int const pixel = position % w.pixels;
    int const row = pixel / p.out_width;
    int const base_y = row * p.stride_h - p.pad_top;
    int const base_x = (pixel - row * p.out_width) * p.stride_w - p.pad_left;
    for (int t = thread / kPositions; t < w.tap_count; t += kThreads / kPositions) {
        shared.first[t][column] = -1;
        if (position >= w.positions) {
            continue;
        }
        int const tap = w.first_tap + t;
        int64_t const map = (int64_t{image} * p.offset_groups + w.offset_group) * w.taps + tap;
        T const* offset = x.offset + 2 * map * w.pixels + pixel;
        float const y = static_cast<float>(base_y + tap / p.kernel_w * p.dilation_h) + to_float(offset[0]);
        float const at_x = static_cast<float>(base_x + tap % p.kernel_w * p.dilation_w) + to_float(offset[w.pixels]);
        // Written so that NaN is outside.
        if (!(y > -1.0f && y < static_cast<float>(p.height) && at_x > -1.0f && at_x < static_cast<float>(p.width))) {
            continue;
        }
        Span const down = span(y, p.height);
        Span const across = span(at_x, p.width);
        float const factor = x.mask == nullptr ? 1.0f : to_float(x.mask[map * w.pixels + pixel]);
        shared.first[t][column] = down.first * p.width + across.first;
        EDGECNN_UNROLL
        for (int i = 0; i < 4; ++i) {
            shared.corner[t][i][column] = down.weight[i / 2] * across.weight[i % 2] * factor;
        }
    }
}

template <class T>
EDGECNN_FN void load_columns(Problem const& p, Tensors<T> const& x, Work const& w, Shared<T>& shared, int thread) {
    constexpr int kRow = Tile<T>::column_row;
    constexpr int kTeams = kThreads / kPositions;
    int const column = thread % kPositions;
    int const team = thread / kPositions;
    int const image = smaller(w.first_position + column, w.positions - 1) / w.pixels;
    int const plane_size = p.height * p.width;
    int const right = p.width > 1 ? 1 : 0; // where an axis has one pixel, both of a pair are that one
    int const below = p.height > 1 ? p.width : 0;
    T* const columns = shared.columns() + column;
    // Each team of 64 threads takes an equal run of (tap, channel), channels innermost.
    int const share = parts(w.depth(), kTeams);
    int item = team * share;
    int const end = smaller(item + share, w.depth());
    int tap = item / w.channel_count;
    int channel = item - tap * w.channel_count;
    while (item < end) {
        int const stop = smaller(w.channel_count, channel + end - item);
        int const first = shared.first[tap][column];
        float corner[4];
        EDGECNN_UNROLL
        for (int i = 0; i < 4; ++i) {
            corner[i] = shared.corner[tap][i][column];
        }
        T const* plane = x.image + (int64_t{image} * p.channels + w.first_channel + channel) * plane_size + first;
        item += stop - channel;
        EDGECNN_UNROLL_4
        for (; channel < stop; ++channel) {
            float value = 0.0f;
            if (first >= 0) {
                value = corner[0] * to_float(plane[0]) + corner[1] * to_float(plane[right]) +
                        corner[2] * to_float(plane[below]) + corner[3] * to_float(plane[below + right]);
            }
            assign(columns[(channel * w.tap_count + tap) * kRow], value);
            plane += plane_size;
        }
        channel = 0;
        ++tap;
    }
    int const padded = parts(w.depth(), Tile<T>::step) * Tile<T>::step;
    for (int k = w.depth() + team; k < padded; k += kTeams) {
        assign(columns[k * kRow], 0.0f);
    }
}

template <class T>
EDGECNN_FN void load_weights(Tensors<T> const& x, Work const& w, Shared<T>& shared, int thread) {
    constexpr int kRow = Tile<T>::weight_row;
    constexpr int kWide = 16 / int(sizeof(T));
    using Wide = Pack<T, kWide>;
    int const depth = w.depth();
    int const padded = parts(depth, Tile<T>::step) * Tile<T>::step;
    int64_t const row_size = int64_t{w.group_channels} * w.taps;
    int const first_of_group = w.first_channel % w.group_channels;
    T const* const source = x.weight + w.first_output * row_size + int64_t{first_of_group} * w.taps + w.first_tap;
    // With all taps in the tile, its part of a row is contiguous.
    bool const whole = w.tap_count == w.taps && depth % kWide == 0 && row_size % kWide == 0 &&
                       reinterpret_cast<uintptr_t>(source) % sizeof(Wide) == 0;
    if (whole) {
        int const vectors = padded / kWide;
        for (int item = thread; item < kOutputs * vectors; item += kThreads) {
            int const row = item / vectors;
            int const k = (item - row * vectors) * kWide;
            Wide& target = *reinterpret_cast<Wide*>(shared.weights() + row * kRow + k);
            if (row < w.rows && k < depth) {
                target = *reinterpret_cast<Wide const*>(source + row * row_size + k);
            } else {
                EDGECNN_UNROLL
                for (T& element : target.at) {
                    assign(element, 0.0f);
                }
            }
        }
        return;
    }
    for (int item = thread; item < kOutputs * padded; item += kThreads) {
        int const row = item / padded;
        int const k = item - row * padded;
        int const channel = k / w.tap_count;
        T& target = shared.weights()[row * kRow + k];
        if (row < w.rows && k < depth) {
            target = source[row * row_size + int64_t{channel} * w.taps + (k - channel * w.tap_count)];
        } else {
            assign(target, 0.0f);
        }
    }
}

// How a block multiplies its two tiles. A thread ends with four positions of four outputs: outputs 4 * (thread / 16) ..,
// positions 4 * (thread % 16) ...
template <class T>
struct Multiplier;

template <>
struct Multiplier<float> {
    float sum[4][4];

    EDGECNN_FN void clear(int) {
        for (auto& row : sum) {
            for (float& value : row) {
                value = 0.0f;
            }
        }
    }

    EDGECNN_FN void multiply(Shared<float>& shared, int depth, int thread) {
        float const* weights = shared.weights() + thread / 16 * 4 * Tile<float>::weight_row;
        float const* columns = shared.columns() + thread % 16 * 4;
        for (int k = 0; k < depth; k += 4) {
            Quad<float> a[4], b[4]; // four outputs over k .. k + 3, and k .. k + 3 over four positions
            EDGECNN_UNROLL
            for (int i = 0; i < 4; ++i) {
                a[i] = *reinterpret_cast<Quad<float> const*>(weights + i * Tile<float>::weight_row + k);
                b[i] = *reinterpret_cast<Quad<float> const*>(columns + (k + i) * Tile<float>::column_row);
            }
            EDGECNN_UNROLL
            for (int l = 0; l < 4; ++l) {
                EDGECNN_UNROLL
                for (int i = 0; i < 4; ++i) {
                    EDGECNN_UNROLL
                    for (int j = 0; j < 4; ++j) {
                        sum[i][j] += a[i].at[l] * b[l].at[j];
                    }
                }
            }
        }
    }

    EDGECNN_FN void collect(Shared<float>&, int) {}

    EDGECNN_FN Quad<float> result(Shared<float>&, int, int i) const {
        return {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}};
    }
};

#if defined(__CUDACC__)
namespace wmma = nvcuda::wmma;
#else
namespace wmma = host_wmma;
#endif

// Eight warps; each has 16 outputs and two neighbouring blocks of 16 positions.
template <>
struct Multiplier<Half> {
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[2];

    EDGECNN_FN void clear(int thread) {
        if (collective(thread)) {
            wmma::fill_fragment(sum[0], 0.0f);
            wmma::fill_fragment(sum[1], 0.0f);
        }
    }

    EDGECNN_FN void multiply(Shared<Half>& shared, int depth, int thread) {
        if (!collective(thread)) {
            return;
        }
        Half const* weights = shared.weights() + output(thread) * Tile<Half>::weight_row;
        Half const* columns = shared.columns() + position(thread);
        for (int k = 0; k < depth; k += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, Half, wmma::row_major> a;
            wmma::load_matrix_sync(a, weights + k, Tile<Half>::weight_row);
            EDGECNN_UNROLL
            for (int j = 0; j < 2; ++j) {
                wmma::fragment<wmma::matrix_b, 16, 16, 16, Half, wmma::row_major> b;
                wmma::load_matrix_sync(b, columns + k * Tile<Half>::column_row + j * 16, Tile<Half>::column_row);
                wmma::mma_sync(sum[j], a, b, sum[j]);
            }
        }
    }

    EDGECNN_FN void collect(Shared<Half>& shared, int thread) {
        if (!collective(thread)) {
            return;
        }
        EDGECNN_UNROLL
        for (int j = 0; j < 2; ++j) {
            float* target = shared.sums() + output(thread) * kPositions + position(thread) + j * 16;
            wmma::store_matrix_sync(target, sum[j], kPositions, wmma::mem_row_major);
        }
    }

    EDGECNN_FN Quad<float> result(Shared<Half>& shared, int thread, int i) const {
        int const row = thread / 16 * 4 + i;
        return *reinterpret_cast<Quad<float> const*>(shared.sums() + row * kPositions + thread % 16 * 4);
    }

private:
    EDGECNN_FN static int output(int thread) { return thread / 32 % 4 * 16; }
    EDGECNN_FN static int position(int thread) { return thread / 32 / 4 * 32; }

    // On a GPU a warp does these together; on a CPU its first thread does them alone.
    EDGECNN_FN static bool collective([[maybe_unused]] int thread) {
#if defined(__CUDACC__)
        return true;
#else
        return thread % 32 == 0;
#endif
    }
};

template <class T>
EDGECNN_FN void store(
    Problem const& p, Tensors<T> const& x, Work const& w, Shared<T>& shared, Multiplier<T> const& sums, int thread) {
    int const column = thread % 16 * 4;
    int const position = w.first_position + column;
    // Then four positions are of one image, and their address is a multiple of four elements.
    bool const whole = w.pixels % 4 == 0 && reinterpret_cast<uintptr_t>(x.output) % sizeof(Quad<T>) == 0;
    for (int i = 0; i < 4; ++i) {
        int const row = thread / 16 * 4 + i;
        if (row >= w.rows) {
            return;
        }
        int const output = w.first_output + row;
        float const bias = x.bias == nullptr ? 0.0f : to_float(x.bias[output]);
        Quad<float> const values = sums.result(shared, thread, i);
        Quad<T> rounded;
        for (int j = 0; j < 4; ++j) {
            assign(rounded.at[j], values.at[j] + bias);
        }
        if (whole && position < w.positions) {
            int64_t const target = (int64_t{position / w.pixels} * p.outputs + output) * w.pixels + position % w.pixels;
            *reinterpret_cast<Quad<T>*>(x.output + target) = rounded;
            continue;
        }
        for (int j = 0; j < 4 && position + j < w.positions; ++j) {
            int const image = (position + j) / w.pixels;
            x.output[(int64_t{image} * p.outputs + output) * w.pixels + (position + j) % w.pixels] = rounded.at[j];
        }
    }
}

// The block at (block_x, block_y) of a grid of blocks_x by blocks_y. `machine.each(step)` calls step(thread, sums) for all
// threads and waits for them.
template <class T, class Machine>
EDGECNN_FN void deform_block(
    Problem const& p, Tensors<T> const& x, Shared<T>& shared, int block_x, int block_y, Machine& machine) {
    Work w = {};
    w.pixels = p.out_height * p.out_width;
    w.positions = p.batch * w.pixels;
    w.first_position = block_x * kPositions;
    w.taps = p.kernel_h * p.kernel_w;
    w.group_channels = p.channels / p.groups;
    w.group_outputs = p.outputs / p.groups;
    int const tiles = parts(w.group_outputs, kOutputs);
    int const group = block_y / tiles;
    int const tile = block_y - group * tiles;
    w.first_output = group * w.group_outputs + tile * kOutputs;
    w.rows = smaller(kOutputs, w.group_outputs - tile * kOutputs);
    int const per_offset_group = p.channels / p.offset_groups;
    int const last_channel = (group + 1) * w.group_channels;

    machine.each([&](int thread, Multiplier<T>& sums) { sums.clear(thread); });
    // A group of the convolution and an offset group may begin and end anywhere in each other.
    for (int channel = group * w.group_channels; channel < last_channel;) {
        w.offset_group = channel / per_offset_group;
        int const next = smaller(last_channel, (w.offset_group + 1) * per_offset_group);
        for (w.first_tap = 0; w.first_tap < w.taps; w.first_tap += kTaps) {
            w.tap_count = smaller(kTaps, w.taps - w.first_tap);
            machine.each([&](int thread, Multiplier<T>&) { locate(p, x, w, shared, thread); });
            int const most = Tile<T>::depth / w.tap_count;
            for (w.first_channel = channel; w.first_channel < next; w.first_channel += most) {
                w.channel_count = smaller(most, next - w.first_channel);
                machine.each([&](int thread, Multiplier<T>&) {
                    load_weights(x, w, shared, thread);
                    load_columns(p, x, w, shared, thread);
                });
                machine.each([&](int thread, Multiplier<T>& sums) { sums.multiply(shared, w.depth(), thread); });
            }
        }
        channel = next;
    }
    machine.each([&](int thread, Multiplier<T>& sums) { sums.collect(shared, thread); });
    machine.each([&](int thread, Multiplier<T>& sums) { store(p, x, w, shared, sums, thread); });
}

} // namespace edgecnn
