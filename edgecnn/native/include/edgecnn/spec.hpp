// What a tensor and a preprocessing are, as data.
#pragma once

#include <edgecnn/errors.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edgecnn {

/// Types of a tensor's values, named as numpy names them.
enum class DType { float32, float16, uint8, int8, int32, int64, boolean, float64 };

namespace detail {

struct DTypeFacts {
    DType dtype;
    char const* name;
    std::size_t bytes;
};

constexpr std::array<DTypeFacts, 8> kDTypes = {{{DType::float32, "float32", 4}, {DType::float16, "float16", 2},
    {DType::uint8, "uint8", 1}, {DType::int8, "int8", 1}, {DType::int32, "int32", 4}, {DType::int64, "int64", 8},
    {DType::boolean, "bool", 1}, {DType::float64, "float64", 8}}};

} // namespace detail

/// Return numpy's name of a type.
constexpr char const* name_of(DType dtype) noexcept {
    return detail::kDTypes[static_cast<std::size_t>(dtype)].name;
}

/// Return the bytes of one value.
constexpr std::size_t size_of(DType dtype) noexcept {
    return detail::kDTypes[static_cast<std::size_t>(dtype)].bytes;
}

/// A named tensor at a model's border.
struct TensorSpec {
    std::string name;
    std::vector<std::int64_t> shape; ///< -1 is a dynamic length
    DType dtype = DType::float32;
};

enum class Interpolation { nearest, bilinear, bicubic, lanczos };
enum class Order { resize_crop, crop_resize };
enum class Colour { rgb, bgr, gray };

/// From a decoded image to the network's input; the steps are documented in Python's edgecnn.spec.Preprocess.
struct Preprocess {
    int height = 224; ///< of the network's input, pixels
    int width = 224;
    int resize = 256;
    Order order = Order::resize_crop;
    Interpolation interpolation = Interpolation::bilinear;
    std::vector<double> mean = {0.485, 0.456, 0.406}; ///< one a channel, in units of the [0, 1] range
    std::vector<double> std = {0.229, 0.224, 0.225};
    Colour colour = Colour::rgb;

    int channels() const noexcept {
        return colour == Colour::gray ? 1 : 3;
    }
};

/// Memory of someone else as a tensor: dense, in C order.
struct TensorView {
    DType dtype = DType::float32;
    std::vector<std::int64_t> shape;
    void const* data = nullptr;
};

/// An output: float32, dense, in C order.
struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};

namespace detail {

/// Return the product of a shape whose lengths are not negative. Throws UserError where it overflows.
inline std::size_t elements(std::vector<std::int64_t> const& shape) {
    std::size_t count = 1;
    for (auto const length : shape) {
        auto const size = static_cast<std::size_t>(length);
        if (length < 0 || (size != 0 && count > (std::size_t{1} << 48U) / size)) {
            throw UserError("a tensor of this shape does not fit into memory");
        }
        count *= size;
    }
    return count;
}

} // namespace detail
} // namespace edgecnn
