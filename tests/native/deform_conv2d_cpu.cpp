// The plugin's kernel on a CPU: the blocks of the grid one after the other, and in each step all threads one after the other.
#include "deform_conv2d.hpp"

#include <cstring>
#include <memory>
#include <vector>

namespace {

using namespace edgecnn;

// Threads of a step may run in any order, so no step may read what another thread writes in it.
bool backwards = false;

template <class T>
struct Threads {
    std::vector<Multiplier<T>> sums = std::vector<Multiplier<T>>(kThreads);

    template <class Step>
    void each(Step const& step) {
        for (int i = 0; i < kThreads; ++i) {
            int const thread = backwards ? kThreads - 1 - i : i;
            step(thread, sums[thread]);
        }
    }
};

template <class T>
void run(Problem const& p, Pointers const& x) {
    Tensors<T> const tensors = {static_cast<T const*>(x.image), static_cast<T const*>(x.weight),
        static_cast<T const*>(x.offset), static_cast<T const*>(x.bias), static_cast<T const*>(x.mask),
        static_cast<T*>(x.output)};
    auto shared = std::make_unique<Shared<T>>();
    for (int64_t y = 0; y < blocks_y(p); ++y) {
        for (int64_t column = 0; column < blocks_x(p); ++column) {
            // What an earlier block left in shared memory is anything: here NaN, and pixels far outside the image.
            std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(Shared<T>));
            std::memset(shared->first, 0x7f, sizeof shared->first);
            Threads<T> threads;
            deform_block(p, tensors, *shared, static_cast<int>(column), static_cast<int>(y), threads);
        }
    }
}

} // namespace

extern "C" {

// Null, or what fault() says; then nothing is computed.
char const* deform_conv2d(Problem const* problem, Pointers const* pointers, bool half) {
    if (char const* what = fault(*problem)) {
        return what;
    }
    half ? run<Half>(*problem, *pointers) : run<float>(*problem, *pointers);
    return nullptr;
}

void run_backwards(bool value) { backwards = value; }

void grid(Problem const* problem, int64_t* blocks) {
    blocks[0] = blocks_x(*problem);
    blocks[1] = blocks_y(*problem);
}

void to_half(float const* from, uint16_t* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        Half value;
        assign(value, from[i]);
        to[i] = value.bits;
    }
}

void from_half(uint16_t const* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        to[i] = to_float(Half{from[i]});
    }
}

int out_length(int size, int pads, int kernel, int stride, int dilation) {
    return edgecnn::out_length(size, pads, kernel, stride, dilation);
}

}
