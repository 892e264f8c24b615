// Arrays of a .npz file: a zip (stored or deflated) of .npy files, as numpy.savez and savez_compressed write them.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/spec.hpp>
#include <edgecnn/text.hpp>

#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgecnn {

/// An array in C order; little-endian machines only.
struct Array {
    DType dtype = DType::float32;
    std::vector<std::int64_t> shape;
    std::string bytes;

    /// Copy the values out. Throws UserError: the array has another type.
    template <typename T>
    std::vector<T> values(DType wanted) const {
        if (dtype != wanted || sizeof(T) != size_of(wanted)) {
            throw UserError(std::string("the array has type ") + name_of(dtype) + ", not " + name_of(wanted));
        }
        std::vector<T> result(bytes.size() / sizeof(T));
        if (!result.empty()) {
            std::memcpy(result.data(), bytes.data(), result.size() * sizeof(T));
        }
        return result;
    }
};

namespace detail {

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "edgecnn reads arrays on little-endian machines only"
#endif

/// All arrays of a file together may have this many bytes: golden.npz has a few megabytes.
constexpr std::uint64_t kLargestArrays = 1U << 30U;

[[noreturn]] inline void bad_npz(std::string const& what) {
    throw BundleCorruptError("not a readable .npz: " + what);
}

/// Little-endian numbers at places that are checked.
class Bytes {
public:
    explicit Bytes(std::string_view data)
        : data_(data) {}

    std::uint64_t number(std::size_t at, std::size_t width) const {
        auto const part = slice(at, width);
        std::uint64_t result = 0;
        for (std::size_t i = width; i > 0; --i) {
            result = result << 8U | static_cast<unsigned char>(part[i - 1]);
        }
        return result;
    }

    std::string_view slice(std::size_t at, std::size_t size) const {
        if (at > data_.size() || size > data_.size() - at) {
            bad_npz("it is cut off");
        }
        return data_.substr(at, size);
    }

    std::size_t size() const noexcept {
        return data_.size();
    }

private:
    std::string_view data_;
};

/// Inflate raw deflate data to exactly `size` bytes.
inline std::string inflated(std::string_view packed, std::size_t size) {
    constexpr std::size_t kBest = 1032; // deflate's largest ratio (zlib's technical notes): more is a lie that would cost memory
    if (size / kBest > packed.size()) {
        bad_npz("an entry cannot be inflated");
    }
    std::string result(size, '\0');
    z_stream stream = {};
    if (::inflateInit2(&stream, -MAX_WBITS) != Z_OK) {
        bad_npz("zlib cannot start");
    }
    auto const limit = [](std::size_t count) {
        return static_cast<uInt>(std::min<std::size_t>(count, std::size_t{1} << 30U));
    };
    // zlib reads through a pointer to data that it does not change.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = limit(packed.size());
    stream.next_out = reinterpret_cast<Bytef*>(result.data());
    stream.avail_out = limit(size);
    int const code = packed.size() > stream.avail_in ? Z_DATA_ERROR : ::inflate(&stream, Z_FINISH);
    bool const whole = code == Z_STREAM_END && stream.avail_out == 0;
    ::inflateEnd(&stream);
    if (!whole) {
        bad_npz("an entry cannot be inflated");
    }
    return result;
}

/// An entry of a zip's central directory.
struct ZipEntry {
    std::string name;
    std::uint64_t method = 0, crc = 0, packed = 0, size = 0, offset = 0;
};

/// Read a zip's central directory.
inline std::vector<ZipEntry> zip_entries(Bytes const& zip) {
    constexpr std::size_t kEnd = 22, kHeader = 46;
    if (zip.size() < kEnd) {
        bad_npz("it is no zip");
    }
    std::size_t end = zip.size() - kEnd;
    std::size_t const first = end > 0xFFFF ? end - 0xFFFF : 0; // a comment of up to 65535 bytes may follow
    while (zip.number(end, 4) != 0x06054B50U) {
        if (end == first) {
            bad_npz("it is no zip");
        }
        --end;
    }
    std::uint64_t const count = zip.number(end + 10, 2);
    std::size_t at = zip.number(end + 16, 4);
    std::vector<ZipEntry> entries;
    for (std::uint64_t i = 0; i < count; ++i) {
        if (zip.number(at, 4) != 0x02014B50U) {
            bad_npz("its directory is damaged");
        }
        ZipEntry entry;
        if ((zip.number(at + 8, 2) & 1U) != 0) {
            bad_npz("it is encrypted");
        }
        entry.method = zip.number(at + 10, 2);
        entry.crc = zip.number(at + 16, 4);
        entry.packed = zip.number(at + 20, 4);
        entry.size = zip.number(at + 24, 4);
        entry.offset = zip.number(at + 42, 4);
        auto const length = static_cast<std::size_t>(zip.number(at + 28, 2));
        entry.name = std::string(zip.slice(at + kHeader, length));
        at += kHeader + length + static_cast<std::size_t>(zip.number(at + 30, 2) + zip.number(at + 32, 2));
        entries.push_back(std::move(entry));
    }
    return entries;
}

/// Return the content of an entry, its checksum checked.
inline std::string zip_content(Bytes const& zip, ZipEntry const& entry) {
    auto const at = static_cast<std::size_t>(entry.offset);
    if (zip.number(at, 4) != 0x04034B50U) {
        bad_npz("an entry is damaged");
    }
    std::size_t const start = at + 30 + static_cast<std::size_t>(zip.number(at + 26, 2) + zip.number(at + 28, 2));
    auto const packed = zip.slice(start, static_cast<std::size_t>(entry.packed));
    std::string content;
    if (entry.method == 0 && entry.packed == entry.size) {
        content = std::string(packed);
    } else if (entry.method == 8) {
        content = inflated(packed, static_cast<std::size_t>(entry.size));
    } else {
        bad_npz("an entry is packed in a way that numpy does not write");
    }
    auto const crc = ::crc32(0, reinterpret_cast<Bytef const*>(content.data()), static_cast<uInt>(content.size()));
    if (crc != entry.crc) {
        bad_npz("an entry's checksum differs");
    }
    return content;
}

/// Reads the Python literal of a .npy header: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class NpyHeader {
public:
    explicit NpyHeader(std::string_view text)
        : text_(text) {
        expect('{');
        while (!accept('}')) {
            auto const key = word();
            expect(':');
            if (key == "descr") {
                descr = word();
            } else if (key == "fortran_order") {
                fortran = flag();
            } else if (key == "shape") {
                read_shape();
            } else {
                bad_npz("an array's header has an unknown key");
            }
            if (!accept(',')) {
                expect('}');
                break;
            }
        }
        skip();
        if (at_ != text_.size() || descr.empty() || !shaped_) {
            bad_npz("an array's header is damaged");
        }
    }

    std::string descr;
    bool fortran = false;
    std::vector<std::int64_t> shape;

private:
    void skip() noexcept {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) {
            ++at_;
        }
    }

    bool accept(char c) noexcept {
        skip();
        if (at_ < text_.size() && text_[at_] == c) {
            ++at_;
            return true;
        }
        return false;
    }

    void expect(char c) {
        if (!accept(c)) {
            bad_npz("an array's header is damaged");
        }
    }

    std::string word() {
        expect('\'');
        std::size_t const end = text_.find('\'', at_);
        if (end == std::string_view::npos) {
            bad_npz("an array's header is damaged");
        }
        std::string const result(text_.substr(at_, end - at_));
        at_ = end + 1;
        return result;
    }

    bool flag() {
        skip();
        for (bool const value : {true, false}) {
            std::string_view const name = value ? "True" : "False";
            if (text_.substr(at_, name.size()) == name) {
                at_ += name.size();
                return value;
            }
        }
        bad_npz("an array's header is damaged");
    }

    void read_shape() {
        shape.clear();
        shaped_ = true;
        expect('(');
        while (!accept(')')) {
            std::int64_t length = 0;
            std::size_t const start = at_;
            for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
                length = length * 10 + (text_[at_] - '0');
                if (length > static_cast<std::int64_t>(kLargestArrays)) {
                    bad_npz("an array is too large");
                }
            }
            if (at_ == start || shape.size() == 32) {
                bad_npz("an array's header is damaged");
            }
            shape.push_back(length);
            if (!accept(',')) {
                expect(')');
                break;
            }
        }
    }

    std::string_view text_;
    std::size_t at_ = 0;
    bool shaped_ = false;
};

/// Read a .npy file.
inline Array parse_npy(std::string_view content) {
    Bytes const file(content);
    if (file.slice(0, 6) != "\x93NUMPY") {
        bad_npz("an entry is no array");
    }
    std::size_t const width = file.number(6, 1) == 1 ? 2 : 4;
    auto const length = static_cast<std::size_t>(file.number(8, width));
    NpyHeader const header(file.slice(8 + width, length));
    static constexpr std::pair<char const*, DType> kTypes[] = {{"<f4", DType::float32}, {"<f2", DType::float16},
        {"|u1", DType::uint8}, {"|i1", DType::int8}, {"<i4", DType::int32}, {"<i8", DType::int64}, {"|b1", DType::boolean},
        {"<f8", DType::float64}};
    auto const* found = std::find_if(
        std::begin(kTypes), std::end(kTypes), [&](auto const& one) { return header.descr == one.first; });
    if (found == std::end(kTypes) || header.fortran) {
        bad_npz("an array has type " + in_quotes(header.descr, 20) + (header.fortran ? " in Fortran's order" : ""));
    }
    Array array;
    array.dtype = found->second;
    array.shape = header.shape;
    auto const data = content.substr(8 + width + length);
    std::uint64_t bytes = size_of(array.dtype);
    for (auto const side : array.shape) { // both factors are at most 2^30
        bytes = std::min<std::uint64_t>(bytes * static_cast<std::uint64_t>(side), kLargestArrays + 1);
    }
    if (std::find(array.shape.begin(), array.shape.end(), 0) != array.shape.end()) {
        bytes = 0;
    }
    if (bytes != data.size()) {
        bad_npz("an array has " + std::to_string(data.size()) + " bytes, which its shape does not explain");
    }
    array.bytes = std::string(data);
    return array;
}

/// Read the arrays of a .npz file, by name. Throws BundleCorruptError.
inline std::map<std::string, Array> parse_npz(std::string_view content) {
    Bytes const zip(content);
    std::map<std::string, Array> arrays;
    std::uint64_t total = 0;
    for (auto const& entry : zip_entries(zip)) {
        total += entry.size;
        if (total > kLargestArrays) {
            bad_npz("its arrays are too large");
        }
        std::string name = entry.name;
        if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) {
            name.resize(name.size() - 4);
        }
        arrays[name] = parse_npy(zip_content(zip, entry));
    }
    return arrays;
}

} // namespace detail
} // namespace edgecnn
