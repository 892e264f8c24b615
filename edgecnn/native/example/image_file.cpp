#include "image_file.hpp"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdio> // before jpeglib.h, which needs FILE
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

namespace {

constexpr std::uint64_t kMostPixels = 2 * 89478485ULL; // from which on Pillow refuses a picture as a decompression bomb
constexpr std::uintmax_t kLargestFile = 1ULL << 30U;

// The decoders report errors by jumping out of their C code: between setjmp and the jump only plain data may live.
struct JpegErrors {
    jpeg_error_mgr manager = {};
    std::jmp_buf back = {};
    std::array<char, JMSG_LENGTH_MAX> text = {};
};

[[noreturn]] void jpeg_fails(j_common_ptr info) {
    auto* const errors = reinterpret_cast<JpegErrors*>(info->err);
    (*info->err->format_message)(info, errors->text.data());
    std::longjmp(errors->back, 1);
}

// A file that ends too early is an error, as it is for Pillow; other oddities are not.
void jpeg_warns(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) {
        jpeg_fails(info);
    }
}

// Return EXIF's orientation (1 to 8) of an APP1 segment, 1 where it has none.
int orientation_of(std::uint8_t const* data, std::size_t size) {
    if (size < 14 || std::memcmp(data, "Exif\0\0", 6) != 0) {
        return 1;
    }
    data += 6;
    size -= 6;
    bool const little = data[0] == 'I';
    auto const number = [&](std::size_t at, std::size_t width) {
        std::size_t result = 0;
        for (std::size_t i = 0; i < width; ++i) {
            result = result << 8U | data[at + (little ? width - 1 - i : i)];
        }
        return result;
    };
    std::size_t const directory = number(4, 4);
    if (directory > size - 2) {
        return 1;
    }
    std::size_t const count = number(directory, 2);
    for (std::size_t i = 0; i < count && directory + 2 + 12 * (i + 1) <= size; ++i) {
        std::size_t const entry = directory + 2 + 12 * i;
        if (number(entry, 2) == 0x0112) {
            auto const value = static_cast<int>(number(entry + 8, 2));
            return value >= 1 && value <= 8 ? value : 1;
        }
    }
    return 1;
}

// Turn a picture upright: orientations 2 to 4 mirror, 5 to 8 also swap the axes.
Image turned(Image image, int orientation) {
    if (orientation == 1) {
        return image;
    }
    bool const swaps = orientation >= 5;
    Image result{swaps ? image.height : image.width, swaps ? image.width : image.height, {}};
    result.pixels.resize(image.pixels.size());
    auto* out = result.pixels.data();
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            int const u = swaps ? y : x, v = swaps ? x : y;
            bool const right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
            bool const below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
            auto const from_x = static_cast<std::size_t>(right ? image.width - 1 - u : u);
            auto const from_y = static_cast<std::size_t>(below ? image.height - 1 - v : v);
            auto const* const in = image.pixels.data() + 3 * (from_y * static_cast<std::size_t>(image.width) + from_x);
            out = std::copy(in, in + 3, out);
        }
    }
    return result;
}

// Make room for a picture of this size; false where it has too many pixels.
bool sized(Image& image, std::uint64_t width, std::uint64_t height) {
    if (width == 0 || height == 0 || width > kMostPixels / height) {
        return false;
    }
    image.width = static_cast<int>(width);
    image.height = static_cast<int>(height);
    image.pixels.resize(static_cast<std::size_t>(width * height * 3));
    return true;
}

// Decode into `image`; return what is wrong with the file, "" where nothing is.
std::string read_jpeg(std::vector<std::uint8_t> const& file, Image& image, int& orientation) {
    JpegErrors errors;
    jpeg_decompress_struct info = {};
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = jpeg_fails;
    errors.manager.emit_message = jpeg_warns;
    if (setjmp(errors.back) != 0) { // NOLINT: libjpeg's way
        jpeg_destroy_decompress(&info);
        return errors.text.data();
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, file.data(), static_cast<unsigned long>(file.size()));
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    for (auto const* marker = info.marker_list; marker != nullptr && orientation == 1; marker = marker->next) {
        orientation = orientation_of(marker->data, marker->data_length);
    }
    char const* fault = nullptr;
    if (info.num_components != 1 && info.num_components != 3) {
        fault = "has CMYK colours: convert it to RGB";
    } else if (!sized(image, info.image_width, info.image_height)) {
        fault = "has too many pixels";
    } else {
        info.out_color_space = JCS_RGB;
        jpeg_start_decompress(&info);
        while (info.output_scanline < info.output_height) {
            auto* row = image.pixels.data() + std::size_t{info.output_scanline} * 3 * static_cast<std::size_t>(image.width);
            jpeg_read_scanlines(&info, &row, 1);
        }
        jpeg_finish_decompress(&info);
    }
    jpeg_destroy_decompress(&info);
    return fault != nullptr ? fault : "";
}

struct PngInput {
    std::uint8_t const* data;
    std::size_t left;
    std::array<char, 128> text;
};

void png_takes(png_structp png, png_bytep into, png_size_t size) {
    auto* const input = static_cast<PngInput*>(png_get_io_ptr(png));
    if (size > input->left) {
        png_error(png, "the file is cut off");
    }
    std::memcpy(into, input->data, size);
    input->data += size;
    input->left -= size;
}

[[noreturn]] void png_fails(png_structp png, png_const_charp text) {
    auto* const input = static_cast<PngInput*>(png_get_error_ptr(png));
    std::snprintf(input->text.data(), input->text.size(), "%s", text);
    png_longjmp(png, 1);
}

void png_warns(png_structp, png_const_charp) {}

// Decode into `image`; return what is wrong with the file, "" where nothing is.
std::string read_png(std::vector<std::uint8_t> const& file, Image& image) {
    PngInput input = {file.data(), file.size(), {}};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input, png_fails, png_warns);
    png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
    if (info == nullptr) {
        png_destroy_read_struct(&png, nullptr, nullptr);
        return "libpng cannot start";
    }
    if (setjmp(png_jmpbuf(png)) != 0) { // NOLINT: libpng's way
        png_destroy_read_struct(&png, &info, nullptr);
        return input.text.data();
    }
    png_set_read_fn(png, &input, png_takes);
    png_read_info(png, info);
    png_set_expand(png);
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    int const passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    char const* fault = nullptr;
    if (!sized(image, png_get_image_width(png, info), png_get_image_height(png, info))) {
        fault = "has too many pixels";
    } else if (png_get_rowbytes(png, info) != 3 * static_cast<std::size_t>(image.width)) {
        fault = "has pixels of a kind that is not supported";
    } else {
        for (int pass = 0; pass < passes; ++pass) {
            for (int y = 0; y < image.height; ++y) {
                png_read_row(png, image.pixels.data() + 3 * static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width), nullptr);
            }
        }
        png_read_end(png, nullptr);
    }
    png_destroy_read_struct(&png, &info, nullptr);
    return fault != nullptr ? fault : "";
}

} // namespace

Image read_image(std::filesystem::path const& path) {
    std::error_code code;
    auto const bytes = std::filesystem::is_regular_file(path, code) ? std::filesystem::file_size(path, code) : 0;
    std::ifstream stream(path, std::ios::binary);
    if (code || bytes == 0 || bytes > kLargestFile || !stream) {
        throw edgecnn::DataError(path.string() + ": no such file, or it is empty, too large or not readable");
    }
    std::vector<std::uint8_t> const file((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    Image image;
    int orientation = 1;
    std::string fault = "neither a JPEG nor a PNG file";
    if (file.size() > 3 && file[0] == 0xFF && file[1] == 0xD8) {
        fault = read_jpeg(file, image, orientation);
    } else if (file.size() > 8 && png_sig_cmp(file.data(), 0, 8) == 0) {
        fault = read_png(file, image);
    }
    if (!fault.empty()) {
        throw edgecnn::DataError(path.string() + ": " + fault);
    }
    return turned(std::move(image), orientation);
}
