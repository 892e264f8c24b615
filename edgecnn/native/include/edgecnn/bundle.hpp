// Reading a bundle: the folder that `edgecnn export` writes and an application embeds.
#pragma once

#include <edgecnn/choice.hpp>
#include <edgecnn/errors.hpp>
#include <edgecnn/files.hpp>
#include <edgecnn/manifest.hpp>
#include <edgecnn/manifest_reader.hpp>
#include <edgecnn/npz.hpp>
#include <edgecnn/text.hpp>

#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgecnn {

/// What is checked when a bundle is opened.
enum class Check {
    full, ///< version, paths, lengths and every file's sha256
    sizes ///< without the hashes: for an application that checked them once already
};

/// How a bundle is opened.
struct OpenOptions {
    bool allow_unverified = false; ///< open it although its verification failed
    Check check = Check::full;
};

namespace detail {

/// Call a function, and turn what is not ours (no memory, a path that the file system refuses) into an error of ours.
template <typename Function>
auto guarded(std::filesystem::path const& path, Function&& function) -> decltype(function()) {
    try {
        return function();
    } catch (Error const&) {
        throw;
    } catch (std::bad_alloc const&) {
        throw BundleCorruptError(path.string() + ": it needs more memory than there is");
    } catch (std::exception const& error) {
        throw BundleCorruptError(path.string() + ": " + one_line(error.what()));
    }
}

/// Split the class names of a labels file, one a line. Throws BundleCorruptError.
inline std::vector<std::string> parse_labels(std::string_view text, std::int64_t count, std::string const& file) {
    auto const continues = [&](std::size_t at) {
        return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U;
    };
    for (std::size_t at = 0; at < text.size();) { // UTF-8, as the Unicode standard's table 3-7 has it
        auto const lead = static_cast<unsigned char>(text[at]);
        std::size_t const more = lead < 0x80 ? 0 : lead < 0xC2 ? 9 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : lead < 0xF5 ? 3 : 9;
        auto const second = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0U;
        bool good = more != 9;
        for (std::size_t i = 1; good && i <= more; ++i) {
            good = continues(at + i);
        }
        good = good && !(lead == 0xE0 && second < 0xA0) && !(lead == 0xED && second > 0x9F)
            && !(lead == 0xF0 && second < 0x90) && !(lead == 0xF4 && second > 0x8F);
        if (!good) {
            throw BundleCorruptError(file + " is not UTF-8 text");
        }
        at += more + 1;
    }
    if (!text.empty() && text.back() == '\n') {
        text.remove_suffix(1);
    }
    std::vector<std::string> names;
    for (std::size_t start = 0;;) {
        std::size_t const end = text.find('\n', start);
        names.emplace_back(text.substr(start, end == std::string_view::npos ? end : end - start));
        if (end == std::string_view::npos) {
            break;
        }
        start = end + 1;
    }
    if (static_cast<std::int64_t>(names.size()) != count) {
        throw BundleCorruptError(
            file + " has " + std::to_string(names.size()) + " lines for " + std::to_string(count) + " classes");
    }
    return names;
}

} // namespace detail

/// A bundle on disk that was checked when it was opened. Its const members may be called from several threads at once.
class Bundle {
public:
    /// Read a bundle and check its version, paths, lengths and (Check::full) every file's hash.
    ///
    /// Throws BundleMissingError: no bundle there, or a file of it is gone. BundleCorruptError: a file is truncated or changed.
    /// BundleSchemaError: written by a newer edgecnn, or not a manifest. BundlePathError: a path or a symbolic link that leaves
    /// the folder. BundleUnverifiedError: its verification failed, and allow_unverified is false.
    static Bundle open(std::filesystem::path const& path, OpenOptions const& options = {}) {
        return detail::guarded(path, [&] { return opened(path, options); });
    }

    std::filesystem::path const& path() const noexcept {
        return path_;
    }

    Manifest const& manifest() const noexcept {
        return manifest_;
    }

    Preprocess const& preprocess() const noexcept {
        return manifest_.preprocess;
    }

    Ordered<Variant> const& variants() const noexcept {
        return manifest_.variants;
    }

    /// Whether the weights are random numbers, so that predictions mean nothing.
    bool untrained() const noexcept {
        return manifest_.weights.untrained;
    }

    /// Return a variant. Throws UserError naming those there are.
    Variant const& variant(std::string const& name) const {
        if (auto const* found = manifest_.variants.find(name)) {
            return *found;
        }
        std::vector<std::string> names;
        for (auto const& item : manifest_.variants) {
            names.push_back(item.first);
        }
        throw UserError(
            path_.string() + " has no variant " + detail::in_quotes(name) + "; it has " + detail::joined(names));
    }

    /// Return a variant's ONNX file. Throws UserError for an unknown variant.
    std::filesystem::path model_path(std::string const& name) const {
        return path_ / variant(name).file;
    }

    /// Return the class names in the order of the logits; empty when the classes have none. Throws BundleError.
    std::vector<std::string> labels() const {
        return detail::guarded(path_, [&]() -> std::vector<std::string> {
            if (!manifest_.labels) {
                return {};
            }
            auto const& record = *manifest_.labels;
            return detail::parse_labels(read(record.file), record.count, path_.string() + ": " + record.file);
        });
    }

    /// Return the arrays of golden.npz: "images" uint8 (K, h, w, 3), "tensors" float32, "logits.<variant>".
    ///
    /// Throws BundleMissingError: the bundle has none. BundleCorruptError: it cannot be read.
    std::map<std::string, Array> golden() const {
        return detail::guarded(path_, [&] {
            try {
                return detail::parse_npz(read("golden.npz"));
            } catch (BundleCorruptError const& error) {
                throw BundleCorruptError(path_.string() + ": golden.npz: " + error.what());
            }
        });
    }

    /// Return why the bundle's predictions must not be relied on, one line each; empty when there is no reason.
    std::vector<std::string> alarms() const {
        std::vector<std::string> found;
        if (untrained()) {
            found.emplace_back("UNTRAINED: the weights are random numbers, so predictions mean nothing");
        }
        if (!manifest_.verified) {
            found.emplace_back("UNVERIFIED: verification failed when it was written (see parity.json)");
        }
        return found;
    }

    /// Return what whoever uses the bundle should know, one line each: first alarms(), then variants and notes.
    std::vector<std::string> warnings() const {
        auto found = alarms();
        for (auto const& [name, variant] : manifest_.variants) {
            if (manifest_.verified && !variant.verified) {
                found.push_back("variant " + name + " is not verified");
            }
            for (char const* backend : {"onnxruntime", "openvino"}) {
                if (auto const ratio = detail::slower(manifest_.variants, name, backend)) {
                    found.push_back("variant " + name + " took " + detail::fixed(*ratio) + "x fp32's time on " + backend
                        + " when it was measured: not faster there");
                }
            }
        }
        found.insert(found.end(), manifest_.notes.begin(), manifest_.notes.end());
        return found;
    }

    /// Return the variant and backend that run where `variant` or `backend` is empty.
    ///
    /// OpenVINO takes the fastest verified variant by what was measured when the bundle was written, fp32 where nothing was;
    /// tensorrt and tensorrt-rtx take the bundle's engine of the lowest verified precision. Throws UserError: an unknown
    /// variant, or no engine for it.
    Choice choose(std::string const& variant, std::string const& backend) const {
        if (!variant.empty()) {
            this->variant(variant);
        }
        if (backend == "tensorrt" || backend == "tensorrt-rtx") {
            return {detail::choose_engine(manifest_, variant, backend), backend};
        }
        return {variant.empty() ? detail::choose_graph(manifest_.variants, backend) : variant, backend};
    }

    /// Check that a choice passed verification. Throws BundleUnverifiedError.
    void require_verified(Choice const& choice) const {
        auto const& chosen = variant(choice.variant);
        if (!chosen.verified_on(choice.backend)) {
            throw BundleUnverifiedError(path_.string() + ": variant " + choice.variant + " failed verification"
                + (chosen.verified ? " on " + choice.backend : "")
                + " when it was written (see parity.json); loading it all the same needs allow_unverified=true");
        }
    }

private:
    static constexpr std::uint64_t kLargestManifest = 64U << 20U;
    static constexpr std::uint64_t kLargestRead = 1U << 30U;

    Bundle(std::filesystem::path path, Manifest manifest)
        : path_(std::move(path))
        , manifest_(std::move(manifest)) {}

    static Bundle opened(std::filesystem::path const& path, OpenOptions const& options) {
        Bundle bundle(path, read_manifest(path));
        for (auto const& [name, record] : bundle.manifest_.files) {
            auto const place = detail::regular_file(path, name);
            if (place.bytes != static_cast<std::uint64_t>(record.bytes)) {
                throw BundleCorruptError(path.string() + ": " + name + " has " + std::to_string(place.bytes)
                    + " bytes, and had " + std::to_string(record.bytes) + " when it was written");
            }
            if (options.check == Check::full && detail::sha256_of(place.path) != record.sha256) {
                throw BundleCorruptError(
                    path.string() + ": " + name + " was changed after it was written (its sha256 differs)");
            }
        }
        if (!bundle.manifest_.verified && !options.allow_unverified) {
            throw BundleUnverifiedError(path.string() + " failed verification when it was written: see its parity.json, or "
                "`edgecnn verify " + path.string() + "`; loading it all the same needs allow_unverified=true");
        }
        return bundle;
    }

    static Manifest read_manifest(std::filesystem::path const& root) {
        std::error_code code;
        if (!std::filesystem::is_directory(root, code)) {
            bool const there = std::filesystem::exists(root, code);
            throw BundleMissingError(
                "no bundle at " + root.string() + ": " + (there ? "a file, not a bundle's folder" : "not there"));
        }
        detail::Place place;
        try {
            place = detail::regular_file(root, detail::kManifest);
        } catch (BundleMissingError const&) {
            throw BundleMissingError(root.string() + " is not a bundle: it has no readable " + detail::kManifest);
        }
        if (place.bytes > kLargestManifest) {
            throw BundleCorruptError(root.string() + ": " + detail::kManifest + " has " + std::to_string(place.bytes)
                + " bytes: that is no manifest");
        }
        return named(root, [&] { return detail::parse_manifest(detail::content_of(place)); });
    }

    /// Call a function; errors name the bundle.
    template <typename Function>
    static auto named(std::filesystem::path const& root, Function&& function) -> decltype(function()) {
        auto const prefix = root.string() + ": ";
        try {
            return function();
        } catch (BundleSchemaError const& error) {
            throw BundleSchemaError(prefix + error.what());
        } catch (BundlePathError const& error) {
            throw BundlePathError(prefix + error.what());
        } catch (BundleCorruptError const& error) {
            throw BundleCorruptError(prefix + error.what());
        }
    }

    /// Read a listed file, so that its hash was checked.
    std::string read(std::string const& name) const {
        if (!manifest_.files.has(name)) {
            throw BundleMissingError(path_.string() + " has no " + name);
        }
        auto const place = detail::regular_file(path_, name);
        if (place.bytes > kLargestRead) {
            throw BundleCorruptError(path_.string() + ": " + name + " has " + std::to_string(place.bytes) + " bytes");
        }
        return detail::content_of(place);
    }

    std::filesystem::path path_;
    Manifest manifest_;
};

} // namespace edgecnn
