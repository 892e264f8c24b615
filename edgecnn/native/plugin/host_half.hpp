// What nvcc brings and a plain C++ compiler does not: half precision, and the wmma calls that deform_conv2d.hpp makes.
// For tests on a CPU; no GPU code includes it.
#pragma once

#include <cstdint>
#include <cstring>

namespace edgecnn {

// IEEE 754 binary16.
struct Half {
    uint16_t bits;
};

inline float to_float(Half value) {
    uint32_t const sign = uint32_t{value.bits & 0x8000u} << 16;
    uint32_t const exponent = value.bits >> 10 & 0x1fu;
    uint32_t const fraction = value.bits & 0x3ffu;
    if (exponent == 0) { // zero and subnormal: fraction * 2^-24
        float const size = static_cast<float>(fraction) * 5.9604644775390625e-8f;
        return sign ? -size : size;
    }
    uint32_t const bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// Rounds to nearest, ties to even.
inline void assign(Half& target, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint32_t const sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    uint32_t half;
    if (bits > 0x7f800000u) {
        half = 0x7e00u;
    } else if (bits >= 0x477ff000u) { // 65520 and above round to infinity
        half = 0x7c00u;
    } else if (bits >= 0x38800000u) { // 2^-14 and above are normal
        half = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13;
    } else {
        float size;
        std::memcpy(&size, &bits, sizeof size);
        size += 0.5f; // a float's last place is 2^-24 there, a half's smallest number: the addition rounds
        std::memcpy(&bits, &size, sizeof bits);
        half = bits - 0x3f000000u;
    }
    target.bits = static_cast<uint16_t>(sign | half);
}

namespace host_wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    float at[16][16];
};

template <class F>
void fill_fragment(F& fragment, float value) {
    for (auto& row : fragment.at) {
        for (float& element : row) {
            element = value;
        }
    }
}

template <class F>
void load_matrix_sync(F& fragment, Half const* source, unsigned row_size) {
    for (unsigned i = 0; i < 256; ++i) {
        fragment.at[i / 16][i % 16] = to_float(source[i / 16 * row_size + i % 16]);
    }
}

template <class D, class A, class B, class C>
void mma_sync(D& result, A const& a, B const& b, C const& c) {
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 16; ++j) {
            float sum = c.at[i][j];
            for (int k = 0; k < 16; ++k) {
                sum += a.at[i][k] * b.at[k][j];
            }
            result.at[i][j] = sum;
        }
    }
}

template <class F>
void store_matrix_sync(float* target, F const& fragment, unsigned row_size, layout_t) {
    for (unsigned i = 0; i < 256; ++i) {
        target[i / 16 * row_size + i % 16] = fragment.at[i / 16][i % 16];
    }
}

} // namespace host_wmma
} // namespace edgecnn
