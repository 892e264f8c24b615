// SHA-256 (FIPS 180-4). Tested against NIST's vectors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace edgecnn {

/// A hash that is fed piece by piece. Use an object in one thread at a time.
class Sha256 {
public:
    void update(void const* data, std::size_t size) noexcept {
        auto const* bytes = static_cast<unsigned char const*>(data);
        length_ += size;
        while (size > 0) {
            std::size_t const part = size < block_.size() - held_ ? size : block_.size() - held_;
            std::memcpy(block_.data() + held_, bytes, part);
            held_ += part;
            bytes += part;
            size -= part;
            if (held_ == block_.size()) {
                compress();
                held_ = 0;
            }
        }
    }

    /// Return 64 lower-case hexadecimal digits. The object is spent afterwards.
    std::string hex() {
        std::uint64_t const bits = length_ * 8;
        unsigned char const one = 0x80, zero = 0;
        update(&one, 1);
        while (held_ != 56) {
            update(&zero, 1);
        }
        std::array<unsigned char, 8> tail = {};
        for (std::size_t i = 0; i < 8; ++i) {
            tail[i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
        }
        update(tail.data(), tail.size());
        std::string result;
        for (std::uint32_t const word : state_) {
            for (int shift = 28; shift >= 0; shift -= 4) {
                result += "0123456789abcdef"[(word >> shift) & 15U];
            }
        }
        return result;
    }

private:
    static std::uint32_t turned(std::uint32_t x, int by) noexcept {
        return (x >> by) | (x << (32 - by));
    }

    void compress() noexcept {
        // The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
        static constexpr std::array<std::uint32_t, 64> k = {
            0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
            0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
            0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
            0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
            0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
            0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
            0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
            0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
        std::array<std::uint32_t, 64> w;
        for (std::size_t i = 0; i < 16; ++i) {
            w[i] = static_cast<std::uint32_t>(block_[4 * i]) << 24 | static_cast<std::uint32_t>(block_[4 * i + 1]) << 16
                | static_cast<std::uint32_t>(block_[4 * i + 2]) << 8 | block_[4 * i + 3];
        }
        for (std::size_t i = 16; i < 64; ++i) {
            std::uint32_t const low = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ (w[i - 15] >> 3);
            std::uint32_t const high = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16] + low + w[i - 7] + high;
        }
        auto [a, b, c, d, e, f, g, h] = state_;
        for (std::size_t i = 0; i < 64; ++i) {
            std::uint32_t const choice = (e & f) ^ (~e & g);
            std::uint32_t const first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + k[i] + w[i];
            std::uint32_t const majority = (a & b) ^ (a & c) ^ (b & c);
            std::uint32_t const second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority;
            h = g;
            g = f;
            f = e;
            e = d + first;
            d = c;
            c = b;
            b = a;
            a = first + second;
        }
        std::array<std::uint32_t, 8> const added = {a, b, c, d, e, f, g, h};
        for (std::size_t i = 0; i < 8; ++i) {
            state_[i] += added[i];
        }
    }

    std::array<std::uint32_t, 8> state_ = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<unsigned char, 64> block_ = {};
    std::size_t held_ = 0;
    std::uint64_t length_ = 0;
};

} // namespace edgecnn
