// Pillow's resize for 8-bit images, bit for bit: antialiasing filters in its fixed-point arithmetic, and its nearest neighbour.
//
// Formulas and constants: Pillow 13.0, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc, ImagingResampleInner) and
// Geometry.c (ImagingScaleAffine). Older versions always resize along x first, which for tall pictures differs by a grey level or
// two. Only the part of the result that the caller keeps is computed.
#pragma once

#include <edgecnn/spec.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace edgecnn::detail {

/// Pixels in rows of `stride` bytes, `channels` bytes each.
struct Pixels {
    std::uint8_t const* data = nullptr;
    int width = 0;
    int height = 0;
    int channels = 0;
    std::size_t stride = 0;

    std::uint8_t const* row(int y) const noexcept {
        return data + static_cast<std::size_t>(y) * stride;
    }
};

/// One axis of a resize: the part of the source from `from` to `to` becomes `size` pixels, of which [first, last) are wanted.
///
/// Borders are float, as Pillow's are.
struct Axis {
    float from = 0;
    float to = 0;
    int size = 0;
    int first = 0;
    int last = 0;

    int count() const noexcept {
        return last - first;
    }
};

constexpr int kPrecision = 32 - 8 - 2;

inline double sinc(double x) noexcept {
    constexpr double kPi = 3.14159265358979323846;
    return x == 0.0 ? 1.0 : std::sin(x * kPi) / (x * kPi);
}

inline double weight(Interpolation kind, double x) noexcept {
    if (kind == Interpolation::lanczos) {
        return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    }
    x = std::fabs(x);
    if (kind == Interpolation::bilinear) {
        return x < 1.0 ? 1.0 - x : 0.0;
    }
    constexpr double a = -0.5;
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

/// What each wanted pixel of an axis is made of.
struct Taps {
    std::vector<int> start;             ///< first source pixel
    std::vector<int> count;             ///< source pixels
    std::vector<std::int32_t> weights; ///< `stride` for each
    std::size_t stride = 0;
};

inline Taps taps(Interpolation kind, Axis const& axis, int source) {
    double const scale = static_cast<double>(axis.to - axis.from) / axis.size;
    double const filter_scale = std::max(scale, 1.0);
    double const reach = kind == Interpolation::bilinear ? 1.0 : kind == Interpolation::bicubic ? 2.0 : 3.0;
    double const support = reach * filter_scale;
    double const inverse = 1.0 / filter_scale;
    Taps result;
    result.stride = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
    result.weights.assign(result.stride * static_cast<std::size_t>(axis.count()), 0);
    std::vector<double> exact(result.stride);
    for (int i = 0; i < axis.count(); ++i) {
        double const centre = axis.from + (axis.first + i + 0.5) * scale;
        int const low = std::max(0, static_cast<int>(centre - support + 0.5));
        int const count = std::min(source, static_cast<int>(centre + support + 0.5)) - low;
        double sum = 0.0;
        for (int k = 0; k < count; ++k) {
            exact[static_cast<std::size_t>(k)] = weight(kind, (k + low - centre + 0.5) * inverse);
            sum += exact[static_cast<std::size_t>(k)];
        }
        auto* const out = result.weights.data() + result.stride * static_cast<std::size_t>(i);
        for (int k = 0; k < count; ++k) {
            double const share = sum != 0.0 ? exact[static_cast<std::size_t>(k)] / sum : exact[static_cast<std::size_t>(k)];
            out[k] = static_cast<std::int32_t>((share < 0 ? -0.5 : 0.5) + share * (1 << kPrecision));
        }
        result.start.push_back(low);
        result.count.push_back(count);
    }
    return result;
}

inline std::uint8_t clipped(std::int32_t sum) noexcept {
    return static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255));
}

/// Resize along x; `shift` is the column of the original that the source begins with.
inline std::vector<std::uint8_t> resize_rows(Pixels const& source, Taps const& x, int shift) {
    auto const channels = static_cast<std::size_t>(source.channels);
    std::vector<std::uint8_t> result(static_cast<std::size_t>(source.height) * x.start.size() * channels);
    auto* out = result.data();
    for (int y = 0; y < source.height; ++y) {
        auto const* const row = source.row(y);
        for (std::size_t i = 0; i < x.start.size(); ++i) {
            auto const* const weights = x.weights.data() + x.stride * i;
            auto const* const first = row + static_cast<std::size_t>(x.start[i] - shift) * channels;
            for (std::size_t c = 0; c < channels; ++c) {
                std::int32_t sum = 1 << (kPrecision - 1);
                for (int k = 0; k < x.count[i]; ++k) {
                    sum += first[static_cast<std::size_t>(k) * channels + c] * weights[k];
                }
                *out++ = clipped(sum);
            }
        }
    }
    return result;
}

/// Resize along y; `shift` is the row of the original that the source begins with.
inline std::vector<std::uint8_t> resize_columns(Pixels const& source, Taps const& y, int shift) {
    auto const width = static_cast<std::size_t>(source.width) * static_cast<std::size_t>(source.channels);
    std::vector<std::uint8_t> result(y.start.size() * width);
    std::vector<std::int32_t> sums(width);
    for (std::size_t i = 0; i < y.start.size(); ++i) {
        std::fill(sums.begin(), sums.end(), 1 << (kPrecision - 1));
        for (int k = 0; k < y.count[i]; ++k) {
            auto const* const row = source.row(y.start[i] - shift + k);
            std::int32_t const by = y.weights[y.stride * i + static_cast<std::size_t>(k)];
            for (std::size_t x = 0; x < width; ++x) {
                sums[x] += row[x] * by;
            }
        }
        std::transform(sums.begin(), sums.end(), result.begin() + static_cast<std::ptrdiff_t>(i * width), clipped);
    }
    return result;
}

/// Return the source pixel of each wanted pixel by Pillow's nearest neighbour, which adds steps up; -1 is outside.
inline std::vector<int> nearest(Axis const& axis, int source) {
    double const step = static_cast<double>(axis.to - axis.from) / axis.size;
    double at = axis.from + step * 0.5;
    std::vector<int> result;
    for (int i = 0; i < axis.last; ++i) {
        if (i >= axis.first) {
            result.push_back(at < 0.0 || at >= source ? -1 : static_cast<int>(at));
        }
        at += step;
    }
    return result;
}

/// Return the source's pixels at these rows and columns; -1 is black.
inline std::vector<std::uint8_t> gathered(Pixels const& source, std::vector<int> const& rows, std::vector<int> const& columns) {
    auto const channels = static_cast<std::size_t>(source.channels);
    std::vector<std::uint8_t> result(rows.size() * columns.size() * channels);
    auto* out = result.data();
    for (int const y : rows) {
        for (int const x : columns) {
            for (std::size_t c = 0; c < channels; ++c) {
                *out++ = y < 0 || x < 0 ? std::uint8_t{0} : source.row(y)[static_cast<std::size_t>(x) * channels + c];
            }
        }
    }
    return result;
}

/// Whether an axis keeps every pixel as it is.
inline bool is_identity(Axis const& axis, int source) noexcept {
    return axis.size == source && axis.from == 0.0F && axis.to == static_cast<float>(axis.size);
}

/// What an axis needs of the source: how its pixels are made, and from where to where they lie.
struct Need {
    bool same = false; ///< every pixel is kept as it is
    Taps taps;
    int from = 0;
    int to = 0;
};

inline Need need_of(Interpolation kind, Axis const& axis, int source) {
    if (is_identity(axis, source)) {
        return {true, {}, axis.first, axis.last};
    }
    Taps found = taps(kind, axis, source);
    int const from = found.start.front(), to = found.start.back() + found.count.back();
    return {false, std::move(found), from, to};
}

/// Resize, and return the wanted part: dense rows of x.count() pixels.
inline std::vector<std::uint8_t> resized(Pixels const& source, Axis const& x, Axis const& y, Interpolation kind) {
    if (kind == Interpolation::nearest) {
        return gathered(source, nearest(y, source.height), nearest(x, source.width));
    }
    Need const across = need_of(kind, x, source.width), down = need_of(kind, y, source.height);
    auto const channels = static_cast<std::size_t>(source.channels);
    auto const* const start = source.row(down.from) + static_cast<std::size_t>(across.from) * channels;
    Pixels part = {start, across.to - across.from, down.to - down.from, source.channels, source.stride};
    std::vector<std::uint8_t> first, second;
    auto const resize_x = [&](std::vector<std::uint8_t>& into) {
        if (!across.same) {
            into = resize_rows(part, across.taps, across.from);
            part = {into.data(), x.count(), part.height, part.channels, static_cast<std::size_t>(x.count()) * channels};
        }
    };
    auto const resize_y = [&](std::vector<std::uint8_t>& into) {
        if (!down.same) {
            into = resize_columns(part, down.taps, down.from);
            part = {into.data(), part.width, y.count(), part.channels, static_cast<std::size_t>(part.width) * channels};
        }
    };
    std::int64_t const lower = std::int64_t{source.height} - y.size, narrower = std::int64_t{source.width} - x.size;
    if (lower > 0 && lower > narrower * 2) { // Pillow 13 then begins with y, which is rounded before x
        resize_y(first);
        resize_x(second);
    } else {
        resize_x(first);
        resize_y(second);
    }
    std::vector<std::uint8_t> result(static_cast<std::size_t>(part.height) * static_cast<std::size_t>(part.width) * channels);
    auto* out = result.data();
    for (int row = 0; row < part.height; ++row) {
        out = std::copy_n(part.row(row), static_cast<std::size_t>(part.width) * channels, out);
    }
    return result;
}

} // namespace edgecnn::detail
