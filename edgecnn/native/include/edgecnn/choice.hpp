// Which variant of a bundle runs, on which backend, when the caller leaves it open: what was measured decides.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/manifest.hpp>
#include <edgecnn/text.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <sys/utsname.h>
#include <utility>
#include <vector>

namespace edgecnn {

/// What to run, on what.
struct Choice {
    std::string variant;
    std::string backend;
};

namespace detail {

/// A candidate must take less than this share of a preferred one's time; less is what measurements scatter by.
constexpr double kClearly = 0.95;

/// Return this processor's architecture as Python's platform.machine() does.
inline std::string machine() {
    ::utsname names = {};
    return ::uname(&names) == 0 ? names.machine : "";
}

/// Return the time of one image on a backend relative to that of fp32 on onnxruntime, if it was measured.
inline std::optional<double> measured(Variant const& variant, std::string const& backend) {
    if (!variant.speed) {
        return std::nullopt;
    }
    if (backend == variant.speed->backend) {
        return variant.speed->ratio;
    }
    auto const* other = variant.speed->backends.find(backend);
    return other == nullptr ? std::nullopt : std::optional<double>(other->ratio);
}

/// Return a variant's time as a multiple of fp32's on the same backend, if it was measured to be no faster.
inline std::optional<double> slower(Ordered<Variant> const& variants, std::string const& name, std::string const& backend) {
    auto const* base = variants.find("fp32");
    auto const own = measured(*variants.find(name), backend);
    auto const first = base == nullptr ? std::nullopt : measured(*base, backend);
    if (name == "fp32" || !own) {
        return std::nullopt;
    }
    double const ratio = first && *first != 0 ? *own / *first : *own;
    return ratio >= 1 ? std::optional<double>(ratio) : std::nullopt;
}

/// Return the measured time of a variant, if it was verified and measured on a processor like this one.
inline std::optional<double> trusted(Variant const& variant, std::string const& backend) {
    bool const here = variant.speed && (variant.speed->machine.empty() || variant.speed->machine == machine());
    return here && variant.verified_on(backend) ? measured(variant, backend) : std::nullopt;
}

/// Choose the variant that a backend of graphs runs: the fastest verified one by what was measured, within 5 % the more exact
/// one; fp32 where nothing was measured on a processor like this.
inline std::string choose_graph(Ordered<Variant> const& variants, std::string const& backend) {
    std::vector<std::pair<std::string, double>> candidates;
    for (char const* name : {"fp32", "fp16", "int8", "int8-cpu", "int8-fp16"}) {
        auto const* variant = variants.find(name);
        if (auto const ratio = variant == nullptr ? std::nullopt : trusted(*variant, backend)) {
            candidates.emplace_back(name, *ratio);
        }
    }
    if (candidates.empty()) {
        return variants.has("fp32") ? "fp32" : variants.begin()->first;
    }
    double best = candidates.front().second;
    for (auto const& candidate : candidates) {
        best = std::min(best, candidate.second);
    }
    return std::find_if(candidates.begin(), candidates.end(), [&](auto const& one) {
        return kClearly * one.second <= best;
    })->first;
}

/// Return the variant whose engine takes the least time, of at least one; an INT8 one must take clearly less than each float one does.
inline std::string fastest_engine(std::vector<std::pair<std::string, double>> const& ratios) {
    auto best = ratios.front().second;
    for (auto const& item : ratios) {
        best = std::min(best, item.second);
    }
    for (char const* name : {"fp16", "fp32", "int8-fp16", "int8"}) {
        for (auto const& item : ratios) {
            if (item.first == name && kClearly * item.second <= best) {
                return item.first;
            }
        }
    }
    return ratios.front().first;
}

/// Choose the variant whose engine a flavour of TensorRT runs: without a name the verified one that was measured to be the fastest,
/// or where fewer than two were measured, the one of the lowest precision.
///
/// Throws UserError: there is no such engine.
inline std::string choose_engine(Manifest const& manifest, std::string const& variant, std::string const& flavour) {
    std::vector<std::string> order = {"int8-fp16", "int8", "fp16", "fp32"};
    for (auto const& item : manifest.variants) {
        order.push_back(item.first);
    }
    std::vector<std::string> there;
    for (auto const& name : order) {
        if (manifest.engines.has(name + "." + flavour)) {
            there.push_back(name);
        }
    }
    if (!there.empty() && (variant.empty() || std::find(there.begin(), there.end(), variant) != there.end())) {
        auto const is_verified = [&](auto const& name) { return manifest.variants.find(name)->verified; };
        auto const verified = std::find_if(there.begin(), there.end(), is_verified);
        std::vector<std::pair<std::string, double>> ratios;
        for (auto const& name : there) {
            auto const ratio = manifest.engines.find(name + "." + flavour)->ratio;
            auto const known = std::any_of(ratios.begin(), ratios.end(), [&](auto const& item) { return item.first == name; });
            if (ratio && !known && (verified == there.end() || is_verified(name))) {
                ratios.emplace_back(name, *ratio);
            }
        }
        std::string const best = ratios.size() > 1 ? fastest_engine(ratios) : verified != there.end() ? *verified : there.front();
        return variant.empty() ? best : variant;
    }
    std::vector<std::string> held;
    for (auto const& item : manifest.engines) {
        held.push_back(item.first);
    }
    throw UserError("the bundle has " + (variant.empty() ? "no engine" : "no engine of " + variant) + " for " + flavour
        + (held.empty() ? "" : "; it has " + joined(held)) + ": build one with 'edgecnn build BUNDLE --target " + flavour
        + (variant.empty() ? "" : " --variant " + variant) + "'");
}

} // namespace detail
} // namespace edgecnn
