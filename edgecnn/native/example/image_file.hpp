// JPEG and PNG files as pictures, decoded as Pillow does: upright by EXIF, 8 bits, RGB, without alpha.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/preprocess.hpp>

#include <cstdint>
#include <filesystem>
#include <vector>

/// A decoded picture that holds its pixels.
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> pixels; ///< RGB, rows of 3 * width bytes

    edgecnn::ImageView view() const noexcept {
        return {pixels.data(), width, height};
    }
};

/// Decode a file. Throws edgecnn::DataError: it cannot be read, is neither JPEG nor PNG, is damaged, or has too many pixels.
Image read_image(std::filesystem::path const& path);
