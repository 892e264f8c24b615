// Whether a plan fits where it is to be loaded, decided from the manifest before TensorRT is given a byte of it.
#pragma once

#include <edgecnn/choice.hpp>
#include <edgecnn/errors.hpp>
#include <edgecnn/manifest.hpp>
#include <edgecnn/options.hpp>
#include <edgecnn/text.hpp>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <sys/utsname.h>
#include <vector>

namespace edgecnn::detail {

/// Return the numbers of a version, such as 10, 3, 0, 26.
inline std::vector<long> version_numbers(std::string_view version) {
    std::vector<long> numbers;
    for (std::size_t at = 0; at < version.size() && std::isdigit(static_cast<unsigned char>(version[at])) != 0;) {
        std::size_t end = at;
        while (end < version.size() && std::isdigit(static_cast<unsigned char>(version[end])) != 0) {
            ++end;
        }
        numbers.push_back(std::strtol(std::string(version.substr(at, std::min<std::size_t>(end - at, 9))).c_str(), nullptr, 10));
        at = end < version.size() && version[end] == '.' ? end + 1 : version.size();
    }
    return numbers;
}

/// Return operating system and processor as the builder names them, such as linux-x86_64.
inline std::string platform() {
    ::utsname names = {};
    std::string text = ::uname(&names) == 0 ? std::string(names.sysname) + "-" + names.machine : "";
    std::transform(text.begin(), text.end(), text.begin(), [](char c) {
        return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    });
    return text;
}

/// Return the command that builds a plan again, for the device that it is run on.
inline std::string rebuild_line(EngineRecord const& engine) {
    return "edgecnn build BUNDLE --target " + engine.flavour + " --variant " + engine.precision
        + (engine.batch.empty() ? "" : " --batch " + engine.batch);
}

/// Check what needs no GPU: version, platform, and what the session cannot do.
///
/// A version with fewer parts than the other is compared by the parts that both have (Python names TensorRT 10.3.0, the library
/// 10.3.0.26). Throws EngineMisfitError: built with another version, or on another platform. UserError: its weights were
/// stripped, or it brings code that is not allowed.
inline void check_package(
    EngineRecord const& engine, std::string const& version, std::string const& where, bool allow_host_code) {
    auto const here = platform();
    if (!engine.platform.empty() && engine.platform != here) {
        throw EngineMisfitError(
            where + " was built on " + engine.platform + ", and this is " + here + "; here, run: " + rebuild_line(engine));
    }
    auto found = version_numbers(version), wanted = version_numbers(engine.version);
    bool const later = !found.empty() && !wanted.empty() && found[0] == wanted[0] && found >= wanted;
    std::size_t const common = std::min(found.size(), wanted.size());
    found.resize(common);
    wanted.resize(common);
    if (common < 2 || (found != wanted && !(engine.version_compatible && later))) {
        throw EngineMisfitError(where + " needs TensorRT " + engine.version
            + (engine.version_compatible ? " or a later one of the same major version" : "") + ", and " + version
            + " is installed here: install that version, or run: " + rebuild_line(engine));
    }
    if (engine.strip_weights) {
        throw UserError(where
            + " has no weights (it was built with --strip-weights), and this session does not refit: build without it");
    }
    if (engine.version_compatible && !allow_host_code) {
        throw UserError(where + " is version-compatible: it brings code that runs on the host; if you trust it, load it with "
            "allow_host_code");
    }
}

/// Check the GPU. Throws EngineMisfitError: the plan was built for others.
inline void check_device(EngineRecord const& engine, std::string const& capability, std::string const& where) {
    auto const& built = engine.compute_capabilities;
    if (built.empty() || std::find(built.begin(), built.end(), capability) != built.end()) {
        return;
    }
    if (engine.hardware == "ampere+" && version_numbers(capability) >= std::vector<long>{8, 0}) {
        return;
    }
    throw EngineMisfitError(where + " needs a GPU of compute capability " + joined(built) + ", and this one has "
        + capability + "; run: " + rebuild_line(engine));
}

/// Check that the libraries of the plan's own operators are given. Throws UserError.
inline void check_plugins(
    EngineRecord const& engine, std::vector<std::filesystem::path> const& plugins, std::string const& where) {
    for (auto const& name : engine.plugins) {
        if (std::none_of(plugins.begin(), plugins.end(), [&](auto const& path) { return path.filename() == name; })) {
            throw UserError(where + " was built with the plugin library " + name
                + ", which holds operators that it runs: give it in TensorRtOptions::plugins");
        }
    }
    for (auto const& path : plugins) {
        std::error_code code;
        if (!std::filesystem::is_regular_file(path, code)) {
            throw UserError("no plugin library at " + path.string());
        }
    }
}

/// Check a shape against a plan's profile. Throws UserError.
inline void check_shape(std::vector<std::int64_t> const& shape, Profile const& profile, std::string const& where) {
    bool fits = shape.size() == profile.least.size() && shape.size() == profile.most.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i) {
        fits = profile.least[i] <= shape[i] && shape[i] <= profile.most[i];
    }
    if (!fits) {
        throw UserError("the input has shape " + listed(shape) + ", outside of what " + where + " was built for: least "
            + listed(profile.least) + ", best " + listed(profile.best) + ", most " + listed(profile.most)
            + "; run other batches, or build for them: edgecnn build BUNDLE --batch LEAST:BEST:MOST");
    }
}

} // namespace edgecnn::detail
