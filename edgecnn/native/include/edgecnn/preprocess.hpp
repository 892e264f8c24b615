// From a decoded picture to the network's input, equal to Python's edgecnn.runtime.preprocess.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/resample.hpp>
#include <edgecnn/spec.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace edgecnn {

/// The order of a picture's three channels: cameras and OpenCV give BGR.
enum class PixelOrder { rgb, bgr };

/// A decoded picture of 3 channels and 8 bits, upright; the memory is someone else's.
struct ImageView {
    std::uint8_t const* data = nullptr;
    int width = 0;
    int height = 0;
    std::size_t stride = 0; ///< bytes from one row to the next; 0 is 3 * width
    PixelOrder order = PixelOrder::rgb;
};

namespace detail {

/// Pixels of a resized image from which only the part that survives the crop is computed, as in Python.
constexpr std::int64_t kLargestResized = std::int64_t{1} << 26U;

/// Largest side of a picture, Pillow's and JPEG's: positions beyond float's 24 bits would be inexact.
constexpr int kLargestImage = 1 << 24;

/// Return gray by Pillow's integer weights of ITU-R 601 (Convert.c, L24).
inline std::vector<std::uint8_t> gray_of(Pixels const& image, bool bgr) {
    std::vector<std::uint8_t> result(static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height));
    auto* out = result.data();
    for (int y = 0; y < image.height; ++y) {
        auto const* in = image.row(y);
        for (int x = 0; x < image.width; ++x, in += 3) {
            unsigned const red = in[bgr ? 2 : 0], green = in[1], blue = in[bgr ? 0 : 2];
            *out++ = static_cast<std::uint8_t>((red * 19595U + green * 38470U + blue * 7471U + 0x8000U) >> 16U);
        }
    }
    return result;
}

/// Resize the shorter side, then crop the centre: the rounding is torchvision's, as in Python.
inline std::vector<std::uint8_t> resize_crop(Pixels const& image, Preprocess const& preprocess) {
    std::int64_t const width = image.width, height = image.height, target = preprocess.resize;
    auto const longer = [&](std::int64_t one, std::int64_t other) {
        return static_cast<std::int64_t>(static_cast<double>(target * one) / static_cast<double>(other));
    };
    std::int64_t const new_w = width <= height ? target : longer(width, height);
    std::int64_t const new_h = width <= height ? longer(height, width) : target;
    auto const offset = [](std::int64_t size, int crop) {
        return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(size - crop) / 2)); // half to even
    };
    std::int64_t const left = offset(new_w, preprocess.width), top = offset(new_h, preprocess.height);
    if (new_w * new_h <= kLargestResized) {
        auto const axis = [](std::int64_t from, std::int64_t size, std::int64_t first, int crop) {
            auto const start = static_cast<int>(first);
            return Axis{0.0F, static_cast<float>(from), static_cast<int>(size), start, start + crop};
        };
        return resized(image, axis(width, new_w, left, preprocess.width), axis(height, new_h, top, preprocess.height),
            preprocess.interpolation);
    }
    auto const part = [](std::int64_t from, std::int64_t size, std::int64_t first, int crop) {
        double const scale = static_cast<double>(from) / static_cast<double>(size);
        double const end = std::min(static_cast<double>(first + crop) * scale, static_cast<double>(from));
        return Axis{static_cast<float>(static_cast<double>(first) * scale), static_cast<float>(end), crop, 0, crop};
    };
    return resized(image, part(width, new_w, left, preprocess.width), part(height, new_h, top, preprocess.height),
        preprocess.interpolation);
}

/// Crop size / resize of the shorter side from the centre, then resize: the rounding is TensorFlow's, as in Python.
inline std::vector<std::uint8_t> crop_resize(Pixels const& image, Preprocess const& preprocess) {
    std::int64_t const shorter = std::min(image.width, image.height);
    auto const crop = [&](int side) {
        return static_cast<int>(std::max<std::int64_t>(1, side * shorter / preprocess.resize));
    };
    int const width = crop(preprocess.width), height = crop(preprocess.height);
    int const left = (image.width - width + 1) / 2, top = (image.height - height + 1) / 2;
    auto const* const start
        = image.row(top) + static_cast<std::size_t>(left) * static_cast<std::size_t>(image.channels);
    auto const axis = [](int from, int size) { return Axis{0.0F, static_cast<float>(from), size, 0, size}; };
    return resized(Pixels{start, width, height, image.channels, image.stride}, axis(width, preprocess.width),
        axis(height, preprocess.height), preprocess.interpolation);
}

} // namespace detail

/// Resize and crop a decoded picture to the network's size and colour order: uint8 (height, width, channels), dense.
///
/// Equal bit for bit to Python's, which resizes with Pillow; measured on x86-64. Throws UserError: the picture has no pixels, or
/// its stride is shorter than a row.
inline std::vector<std::uint8_t> fit(ImageView const& image, Preprocess const& preprocess) {
    auto const row = static_cast<std::size_t>(std::max(image.width, 0)) * 3;
    std::size_t const stride = image.stride == 0 ? row : image.stride;
    if (image.data == nullptr || image.width < 1 || image.height < 1 || stride < row) {
        throw UserError("a picture needs data, a width and height of at least 1, and rows of at least 3 * width bytes");
    }
    if (image.width > detail::kLargestImage || image.height > detail::kLargestImage) {
        throw UserError("a picture's sides may be " + std::to_string(detail::kLargestImage) + " pixels at most");
    }
    detail::Pixels pixels{image.data, image.width, image.height, 3, stride};
    bool const bgr = image.order == PixelOrder::bgr;
    std::vector<std::uint8_t> gray;
    if (preprocess.colour == Colour::gray) {
        gray = detail::gray_of(pixels, bgr);
        pixels = detail::Pixels{gray.data(), image.width, image.height, 1, static_cast<std::size_t>(image.width)};
    }
    auto result = preprocess.order == Order::crop_resize ? detail::crop_resize(pixels, preprocess)
                                                         : detail::resize_crop(pixels, preprocess);
    if (pixels.channels == 3 && bgr != (preprocess.colour == Colour::bgr)) {
        for (std::size_t i = 0; i + 2 < result.size(); i += 3) {
            std::swap(result[i], result[i + 2]);
        }
    }
    return result;
}

/// Scale fitted pixels to the network's input, (value / 255 - mean) / std in float32: from (N, H, W, C) to (N, C, H, W).
///
/// `pixels` has `count` pictures of the size that fit() makes. Throws UserError: it has another length.
inline std::vector<float> normalize(std::uint8_t const* pixels, std::size_t count, Preprocess const& preprocess) {
    auto const channels = static_cast<std::size_t>(preprocess.channels());
    auto const area = static_cast<std::size_t>(preprocess.height) * static_cast<std::size_t>(preprocess.width);
    std::vector<float> result(count * area * channels);
    for (std::size_t c = 0; c < channels; ++c) {
        // One step a value, in the order of torchvision's: a multiplication by 1 / std would differ in the last bit.
        std::array<float, 256> table;
        for (std::size_t value = 0; value < table.size(); ++value) {
            float const scaled = static_cast<float>(value) / 255.0F;
            float const centred = scaled - static_cast<float>(preprocess.mean[c]);
            table[value] = centred / static_cast<float>(preprocess.std[c]);
        }
        for (std::size_t n = 0; n < count; ++n) {
            auto const* in = pixels + n * area * channels + c;
            auto* const out = result.data() + (n * channels + c) * area;
            for (std::size_t i = 0; i < area; ++i) {
                out[i] = table[in[i * channels]];
            }
        }
    }
    return result;
}

} // namespace edgecnn
