// Files of a bundle, read without trusting its paths: nothing outside of the folder, no links, no pipes.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/sha256.hpp>
#include <edgecnn/text.hpp>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace edgecnn::detail {

namespace fs = std::filesystem;

/// Split at slashes; empty parts are kept.
inline std::vector<std::string_view> parts_of(std::string_view path) {
    std::vector<std::string_view> parts;
    for (std::size_t start = 0;;) {
        std::size_t const end = path.find('/', start);
        parts.push_back(path.substr(start, end == std::string_view::npos ? end : end - start));
        if (end == std::string_view::npos) {
            return parts;
        }
        start = end + 1;
    }
}

/// Check that a path of a manifest names something inside of the bundle.
///
/// Allowed is a relative path with forward slashes whose parts are plain names. Throws BundlePathError.
inline void check_path(std::string_view path) {
    std::string const shown = in_quotes(path);
    if (path.empty() || path.front() == '/') {
        throw BundlePathError("manifest path " + shown + " must be relative to the bundle");
    }
    auto const parts = parts_of(path);
    for (auto const part : parts) {
        if (part == "..") {
            throw BundlePathError("manifest path " + shown + " leaves the bundle's folder");
        }
    }
    std::size_t length = 0; // in characters, as Python counts them
    for (char const c : path) {
        length += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
    }
    for (auto const part : parts) {
        if (part.empty() || part == ".") {
            throw BundlePathError("manifest path " + shown + " has an empty or '.' part");
        }
    }
    for (char const c : path) {
        auto const byte = static_cast<unsigned char>(c);
        if (byte < 32 || byte == 127 || std::strchr("\\:*?\"<>|", c) != nullptr) {
            throw BundlePathError("manifest path " + shown + " has a character that is not allowed in a bundle");
        }
    }
    for (auto const part : parts) {
        if (part.size() > 255 || length > 1024) {
            throw BundlePathError("manifest path " + shown + "... is too long");
        }
    }
}

/// Where a file lies, and how many bytes it has.
struct Place {
    fs::path path;
    std::uint64_t bytes = 0;
};

/// Return where a checked relative path lies.
///
/// Throws BundleMissingError: it is not there. BundlePathError: it, or a folder on the way, is a symbolic link.
/// BundleCorruptError: it is not a regular file.
inline Place regular_file(fs::path const& root, std::string const& path) {
    Place place{root, 0};
    struct ::stat status = {};
    for (auto const part : parts_of(path)) {
        place.path /= std::string(part);
        if (::lstat(place.path.c_str(), &status) != 0) {
            int const code = errno;
            if (code == ENOENT || code == ENOTDIR) {
                throw BundleMissingError(
                    root.string() + ": " + path + " is missing: copy the whole folder, or export again");
            }
            throw BundleMissingError(root.string() + ": " + path + " cannot be read: " + std::strerror(code));
        }
        if (S_ISLNK(status.st_mode)) {
            throw BundlePathError(root.string() + ": " + path
                + " is, or lies behind, a symbolic link, which a bundle must not hold");
        }
    }
    if (!S_ISREG(status.st_mode)) {
        throw BundleCorruptError(root.string() + ": " + path + " is not a regular file");
    }
    place.bytes = static_cast<std::uint64_t>(status.st_size);
    return place;
}

/// A file that is open for reading; closed with the object.
class OpenFile {
public:
    /// Open a regular file; a link or pipe that was put in its place meanwhile is refused. Throws BundleMissingError.
    explicit OpenFile(fs::path path)
        : path_(std::move(path))
        , descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {
        struct ::stat status = {};
        if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
            int const code = descriptor_ < 0 ? errno : EINVAL;
            close();
            fail(code);
        }
    }

    OpenFile(OpenFile const&) = delete;
    OpenFile& operator=(OpenFile const&) = delete;

    ~OpenFile() {
        close();
    }

    /// Read up to so many bytes; 0 is the end. Throws BundleMissingError.
    std::size_t read(void* into, std::size_t most) {
        for (;;) {
            auto const got = ::read(descriptor_, into, most);
            if (got >= 0) {
                return static_cast<std::size_t>(got);
            }
            if (errno != EINTR) {
                fail(errno);
            }
        }
    }

private:
    void close() noexcept {
        if (descriptor_ >= 0) {
            ::close(descriptor_);
            descriptor_ = -1;
        }
    }

    [[noreturn]] void fail(int code) const {
        throw BundleMissingError(path_.string() + " cannot be read: " + std::strerror(code));
    }

    fs::path path_;
    int descriptor_;
};

/// Return a file's sha256. Throws BundleMissingError.
inline std::string sha256_of(fs::path const& path) {
    OpenFile file(path);
    Sha256 hash;
    std::vector<char> buffer(1U << 16U);
    while (std::size_t const got = file.read(buffer.data(), buffer.size())) {
        hash.update(buffer.data(), got);
    }
    return hash.hex();
}

/// Return a file's content, of exactly `bytes`. Throws BundleMissingError, and BundleCorruptError where it has another length.
inline std::string content_of(Place const& place) {
    OpenFile file(place.path);
    std::string content(static_cast<std::size_t>(place.bytes), '\0');
    std::size_t filled = 0;
    while (filled < content.size()) {
        std::size_t const got = file.read(content.data() + filled, content.size() - filled);
        if (got == 0) {
            break;
        }
        filled += got;
    }
    char more = 0;
    if (filled != content.size() || file.read(&more, 1) != 0) {
        throw BundleCorruptError(place.path.string() + " changed while it was read");
    }
    return content;
}

} // namespace edgecnn::detail
