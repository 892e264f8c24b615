// From pictures to class names in one call: what most applications need of a bundle.
#pragma once

#include <edgecnn/backends.hpp>
#include <edgecnn/bundle.hpp>
#include <edgecnn/preprocess.hpp>
#include <edgecnn/session.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace edgecnn {

/// One guess.
struct Prediction {
    std::size_t index = 0;   ///< of the class, from 0
    std::string label;       ///< its name, or its number as text when the bundle has no names
    double probability = 0; ///< 0 to 1
};

/// Return the softmax in double, shifted by the maximum so that no logit overflows.
inline std::vector<double> softmax(float const* logits, std::size_t count) {
    std::vector<double> result(logits, logits + count);
    double const most = result.empty() ? 0 : *std::max_element(result.begin(), result.end());
    double sum = 0;
    for (double& value : result) {
        value = std::exp(value - most);
        sum += value;
    }
    for (double& value : result) {
        value /= sum;
    }
    return result;
}

/// Return the indices of the largest values, at most `top`, largest first; ties in the order of the classes.
inline std::vector<std::size_t> largest(std::vector<double> const& values, std::size_t top) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    auto const end = order.begin() + static_cast<std::ptrdiff_t>(std::min(top, order.size()));
    std::partial_sort(order.begin(), end, order.end(), [&](std::size_t one, std::size_t other) {
        return values[one] > values[other] || (values[one] == values[other] && one < other);
    });
    order.erase(end, order.end());
    return order;
}

/// Run fitted pixels through a session, normalising them unless its graph does (a uint8 input): (count, classes).
///
/// A static batch, or one below the least that an engine takes, is filled up with copies of the last picture, whose results are
/// dropped. Throws BackendError: the output is not (batch, classes); UserError, BackendError: as Session::run.
inline Tensor run_pixels(
    Session& session, std::vector<std::uint8_t> const& pixels, std::size_t count, Preprocess const& preprocess) {
    std::size_t const picture = static_cast<std::size_t>(preprocess.height) * static_cast<std::size_t>(preprocess.width)
        * static_cast<std::size_t>(preprocess.channels());
    if (count == 0 || pixels.size() != count * picture) {
        throw UserError("run_pixels takes pictures of the size that fit() makes, and at least one");
    }
    std::int64_t const height = preprocess.height, width = preprocess.width, channels = preprocess.channels();
    std::int64_t const batch = session.input().shape.front();
    auto const least = static_cast<std::size_t>(batch < 0 ? std::max<std::int64_t>(session.least_batch(), 1) : batch);
    auto const most = static_cast<std::size_t>(batch < 0 ? session.largest_batch() : batch);
    std::size_t const step = most == 0 ? count : most;
    Tensor result;
    for (std::size_t start = 0; start < count; start += step) {
        std::size_t const used = std::min(step, count - start), size = std::max(used, least);
        std::vector<std::uint8_t> chunk(pixels.begin() + static_cast<std::ptrdiff_t>(start * picture),
            pixels.begin() + static_cast<std::ptrdiff_t>((start + used) * picture));
        chunk.reserve(size * picture);
        while (chunk.size() < size * picture) {
            chunk.insert(chunk.end(), pixels.end() - static_cast<std::ptrdiff_t>(picture), pixels.end());
        }
        auto const n = static_cast<std::int64_t>(size);
        Tensor part;
        if (session.input().dtype == DType::uint8) {
            part = session.run({DType::uint8, {n, height, width, channels}, chunk.data()});
        } else {
            auto const input = normalize(chunk.data(), size, preprocess);
            part = session.run({DType::float32, {n, channels, height, width}, input.data()});
        }
        if (part.shape.size() != 2 || part.shape[0] != n || part.values.size() != detail::elements(part.shape)
            || (!result.shape.empty() && result.shape[1] != part.shape[1])) {
            throw BackendError("output " + detail::in_quotes(session.output().name) + " must be (batch, classes), found "
                + detail::listed(part.shape));
        }
        auto const classes = static_cast<std::size_t>(part.shape[1]);
        result.shape = {static_cast<std::int64_t>(start + used), part.shape[1]};
        result.values.insert(result.values.end(), part.values.begin(),
            part.values.begin() + static_cast<std::ptrdiff_t>(used * classes));
    }
    return result;
}

/// A bundle's classifier. Preprocessing, labels and softmax come from the bundle.
///
///     edgecnn::Classifier classify("efficientnet_lite0-int8");
///     std::cout << classify(image).front().label;
///
/// It can be moved, not copied; classify from as many threads as you like, as long as none moves or destroys it.
class Classifier {
public:
    /// Open the bundle and make the model ready. Throws as Bundle::open and load().
    explicit Classifier(std::filesystem::path const& bundle, LoadOptions const& options = {})
        : Classifier(Bundle::open(bundle, {options.allow_unverified, Check::full}), options) {}

    /// Make the model of an opened bundle ready. Throws as load().
    explicit Classifier(Bundle bundle, LoadOptions const& options = {})
        : bundle_(std::move(bundle))
        , labels_(bundle_.labels())
        , variant_(choose(bundle_, options).variant)
        , session_(load(bundle_, options)) {}

    /// Run a session of the application's own: a backend that edgecnn has not, or a fake in a test.
    Classifier(Bundle bundle, std::unique_ptr<Session> session)
        : bundle_(std::move(bundle))
        , labels_(bundle_.labels())
        , session_(std::move(session)) {
        if (session_ == nullptr) {
            throw UserError("a classifier needs a session");
        }
    }

    /// Classify one picture: the `top` most probable classes, most probable first; ties in the order of the classes.
    ///
    /// Throws UserError: a picture without pixels, or top is 0. BackendError: the backend failed, or gave NaN.
    std::vector<Prediction> operator()(ImageView const& image, std::size_t top = 5) const {
        return (*this)(std::vector<ImageView>{image}, top).front();
    }

    /// Classify many pictures in one run, or as many as a static batch needs. Throws as for one.
    std::vector<std::vector<Prediction>> operator()(std::vector<ImageView> const& images, std::size_t top = 5) const {
        if (top < 1) {
            throw UserError("top must be at least 1, found 0");
        }
        std::vector<std::vector<Prediction>> result;
        for (auto const& row : probabilities(images)) {
            result.emplace_back();
            for (std::size_t const index : largest(row, top)) {
                result.back().push_back(
                    Prediction{index, index < labels_.size() ? labels_[index] : std::to_string(index), row[index]});
            }
        }
        return result;
    }

    /// Return the probabilities of all classes, one row a picture. Throws as operator().
    std::vector<std::vector<double>> probabilities(std::vector<ImageView> const& images) const {
        std::vector<std::vector<double>> rows;
        if (images.empty()) {
            return rows;
        }
        Tensor const scores = detail::guarded(bundle_.path(), [&] {
            std::vector<std::uint8_t> pixels;
            for (auto const& image : images) {
                auto const fitted = fit(image, bundle_.preprocess());
                pixels.insert(pixels.end(), fitted.begin(), fitted.end());
            }
            return run_pixels(*session_, pixels, images.size(), bundle_.preprocess());
        });
        if (!std::all_of(scores.values.begin(), scores.values.end(), [](float value) { return std::isfinite(value); })) {
            throw BackendError("the model gave NaN or infinity (" + (variant_.empty() ? session_->backend() : variant_) + ")");
        }
        auto const classes = static_cast<std::size_t>(scores.shape[1]);
        for (std::size_t i = 0; i < images.size(); ++i) {
            auto const* const row = scores.values.data() + i * classes;
            rows.push_back(
                bundle_.manifest().embedded.softmax ? std::vector<double>(row, row + classes) : softmax(row, classes));
        }
        return rows;
    }

    Bundle const& bundle() const noexcept {
        return bundle_;
    }

    Session const& session() const noexcept {
        return *session_;
    }

    /// Return the variant that runs; empty with a session of your own.
    std::string const& variant() const noexcept {
        return variant_;
    }

    std::vector<std::string> const& labels() const noexcept {
        return labels_;
    }

private:
    Bundle bundle_;
    std::vector<std::string> labels_;
    std::string variant_;
    std::unique_ptr<Session> session_;
};

} // namespace edgecnn
