// Does this device compute what the bundle's writer saw? Needs nothing but the bundle's own golden images.
#pragma once

#include <edgecnn/backends.hpp>
#include <edgecnn/bundle.hpp>
#include <edgecnn/classifier.hpp>
#include <edgecnn/preprocess.hpp>
#include <edgecnn/session.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

namespace edgecnn {

/// The outcome; true in a condition when it passed. Tolerances are those of Python's edgecnn.runtime.golden.
struct SelfTest {
    std::string variant;
    std::string backend;
    std::size_t images = 0;
    double tensor_error = 0;     ///< largest difference of a preprocessed value from the golden one, in the input's units
    double tensor_tolerance = 0; ///< one grey level
    double logit_error = 0;      ///< largest difference of a logit, relative to the largest golden logit
    double logit_tolerance = 0;
    std::size_t top1 = 0; ///< images with the golden top-1 class, or one that tied with it within the tolerance
    double seconds = 0;   ///< of the runs

    /// Whether preprocessing, logits and top-1 agree. NaN does not.
    bool passed() const noexcept {
        return tensor_error <= tensor_tolerance && logit_error <= logit_tolerance && top1 == images;
    }

    explicit operator bool() const noexcept {
        return passed();
    }

    /// Return one line.
    std::string text() const {
        return "self-test of " + variant + " on " + backend + ": " + (passed() ? "passed" : "FAILED")
            + "; preprocessing differs by " + detail::number(tensor_error) + " (allowed " + detail::number(tensor_tolerance)
            + "), logits by " + detail::number(logit_error) + " (allowed " + detail::number(logit_tolerance) + "), top-1 "
            + std::to_string(top1) + "/" + std::to_string(images);
    }
};

namespace detail {

/// The golden arrays of a variant, which fit each other.
struct Golden {
    std::size_t count = 0;
    int height = 0;
    int width = 0;
    std::vector<std::uint8_t> images;
    std::vector<float> tensors;
    std::vector<float> logits;
    std::size_t classes = 0;
};

inline Golden golden_of(Bundle const& bundle, std::string const& variant) {
    auto const arrays = bundle.golden();
    std::string const prefix = bundle.path().string() + ": golden.npz";
    auto const get = [&](std::string const& name) -> Array const& {
        auto const found = arrays.find(name);
        if (found == arrays.end()) {
            throw BundleCorruptError(prefix + " has no " + name);
        }
        return found->second;
    };
    auto const &images = get("images"), &tensors = get("tensors"), &logits = get("logits." + variant);
    auto const& preprocess = bundle.preprocess();
    std::vector<std::int64_t> const shape = {images.shape.empty() ? 0 : images.shape[0], preprocess.channels(),
        preprocess.height, preprocess.width};
    bool const fits = images.dtype == DType::uint8 && images.shape.size() == 4 && images.shape[3] == 3
        && !images.bytes.empty() && tensors.dtype == DType::float32 && tensors.shape == shape
        && logits.dtype == DType::float32 && logits.shape.size() == 2 && logits.shape[0] == images.shape[0]
        && logits.shape[1] > 0;
    if (!fits || images.shape[1] > kLargestImage || images.shape[2] > kLargestImage) {
        throw BundleCorruptError(prefix + ": its arrays do not fit the bundle's preprocessing");
    }
    Golden golden;
    golden.count = static_cast<std::size_t>(images.shape[0]);
    golden.height = static_cast<int>(images.shape[1]);
    golden.width = static_cast<int>(images.shape[2]);
    golden.images = images.values<std::uint8_t>(DType::uint8);
    golden.tensors = tensors.values<float>(DType::float32);
    golden.logits = logits.values<float>(DType::float32);
    golden.classes = static_cast<std::size_t>(logits.shape[1]);
    return golden;
}

/// Return the largest absolute difference; NaN if there is one.
inline double furthest(std::vector<float> const& found, std::vector<float> const& expected) {
    double result = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        double const error = std::fabs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
        if (std::isnan(error)) {
            return error;
        }
        result = std::max(result, error);
    }
    return result;
}

/// Whether the best class is the expected one, or was within `tie` of it.
inline bool agrees(float const* found, float const* expected, std::size_t classes, double tie) {
    std::size_t best = 0;
    auto const value = [&](std::size_t i) {
        return std::isnan(found[i]) ? -std::numeric_limits<float>::infinity() : found[i];
    };
    for (std::size_t i = 1; i < classes; ++i) {
        best = value(i) > value(best) ? i : best;
    }
    return static_cast<double>(expected[best]) >= static_cast<double>(*std::max_element(expected, expected + classes)) - tie;
}

/// Largest difference of a logit, relative to the largest logit, by precision.
inline double logit_tolerance(std::string const& precision) {
    return precision == "fp32" ? 1e-3 : precision == "fp16" ? 2e-2 : 0.1;
}

} // namespace detail

/// Compare golden images -> preprocessed tensors -> logits with what a session computes on this device.
///
/// Throws BundleMissingError: the bundle has no golden arrays. BundleCorruptError: they do not fit, or lack this variant.
/// UserError, BackendError: as Session::run.
inline SelfTest selftest(Bundle const& bundle, std::string const& variant, Session& session) {
    auto const golden = detail::golden_of(bundle, variant);
    auto const& preprocess = bundle.preprocess();
    std::size_t const size = golden.images.size() / golden.count;
    std::vector<float> tensors, logits;
    std::vector<std::vector<std::uint8_t>> rows;
    for (std::size_t i = 0; i < golden.count; ++i) {
        rows.push_back(fit({golden.images.data() + i * size, golden.width, golden.height}, preprocess));
        auto const tensor = normalize(rows.back().data(), 1, preprocess);
        tensors.insert(tensors.end(), tensor.begin(), tensor.end());
    }
    auto const start = std::chrono::steady_clock::now();
    for (auto const& row : rows) {
        auto const part = run_pixels(session, row, 1, preprocess);
        logits.insert(logits.end(), part.values.begin(), part.values.end());
    }
    std::chrono::duration<double> const seconds = std::chrono::steady_clock::now() - start;
    if (logits.size() != golden.logits.size()) {
        throw BundleCorruptError(bundle.path().string() + ": golden.npz has " + std::to_string(golden.classes)
            + " classes, the model gives " + std::to_string(logits.size() / golden.count));
    }
    SelfTest result;
    result.variant = variant;
    result.backend = session.backend();
    result.images = golden.count;
    result.seconds = seconds.count();
    result.tensor_error = detail::furthest(tensors, golden.tensors);
    result.tensor_tolerance = 1.01 / 255 / *std::min_element(preprocess.std.begin(), preprocess.std.end());
    result.logit_tolerance = detail::logit_tolerance(bundle.variant(variant).precision);
    double scale = 1e-6;
    for (float const value : golden.logits) {
        scale = std::max(scale, std::fabs(static_cast<double>(value)));
    }
    result.logit_error = detail::furthest(logits, golden.logits) / scale;
    for (std::size_t i = 0; i < golden.count; ++i) {
        auto const* const expected = golden.logits.data() + i * golden.classes;
        result.top1 += detail::agrees(logits.data() + i * golden.classes, expected, golden.classes, result.logit_tolerance * scale);
    }
    return result;
}

/// The same with a session of the bundle; it works on variants that failed verification too, since it answers another question.
inline SelfTest selftest(Bundle const& bundle, LoadOptions options = {}) {
    options.allow_unverified = true;
    auto const variant = choose(bundle, options).variant;
    auto const session = load(bundle, options);
    return selftest(bundle, variant, *session);
}

} // namespace edgecnn
