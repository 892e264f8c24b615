// What every backend is to an application: a checked function from one tensor to one tensor.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/manifest.hpp>
#include <edgecnn/spec.hpp>
#include <edgecnn/text.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace edgecnn {

/// A model ready to run: one input, and the first of its outputs. The checks are here, the work is in the backend's execute().
///
/// run() may be called from several threads at once; a session is destroyed once all runs have ended.
class Session {
public:
    Session() = default;
    Session(Session const&) = delete;
    Session& operator=(Session const&) = delete;
    virtual ~Session() = default;

    /// "openvino", "tensorrt", or what an application's own session calls itself.
    virtual std::string backend() const = 0;

    TensorSpec const& input() const noexcept {
        return input_;
    }

    TensorSpec const& output() const noexcept {
        return output_;
    }

    /// Limits of a dynamic batch; 0 is none.
    std::int64_t least_batch() const noexcept {
        return least_batch_;
    }

    std::int64_t largest_batch() const noexcept {
        return largest_batch_;
    }

    /// Run once. Throws UserError: another dtype or shape than input() has. BackendError: the backend failed.
    Tensor run(TensorView const& feed) {
        bool fits = feed.dtype == input_.dtype && feed.shape.size() == input_.shape.size() && feed.data != nullptr;
        for (std::size_t i = 0; fits && i < feed.shape.size(); ++i) {
            fits = feed.shape[i] >= 1 && (input_.shape[i] < 0 || input_.shape[i] == feed.shape[i]);
        }
        if (!fits) {
            throw UserError("input " + detail::in_quotes(input_.name) + " must be " + name_of(input_.dtype) + " of shape "
                + detail::listed(input_.shape) + ", found " + name_of(feed.dtype) + " " + detail::listed(feed.shape));
        }
        return execute(feed);
    }

protected:
    /// Say what run() takes and gives; called once, by the backend's constructor.
    void describe(TensorSpec input, TensorSpec output, std::int64_t least_batch = 0, std::int64_t largest_batch = 0) {
        input_ = std::move(input);
        output_ = std::move(output);
        least_batch_ = least_batch;
        largest_batch_ = largest_batch;
    }

    /// Run once on a checked input.
    virtual Tensor execute(TensorView const& feed) = 0;

private:
    TensorSpec input_;
    TensorSpec output_;
    std::int64_t least_batch_ = 0;
    std::int64_t largest_batch_ = 0;
};

namespace detail {

/// Check that a session is what the manifest says of the variant. Throws BundleCorruptError.
inline void check_session(Session const& session, Variant const& variant, std::string const& where) {
    auto const differs = [](TensorSpec const& found, TensorSpec const& wanted) {
        return found.name != wanted.name || found.dtype != wanted.dtype || found.shape.size() != wanted.shape.size();
    };
    if (differs(session.input(), variant.inputs.front())) {
        throw BundleCorruptError(where + " has other inputs than the manifest says");
    }
    if (differs(session.output(), variant.outputs.front())) {
        throw BundleCorruptError(where + " has other outputs than the manifest says");
    }
}

} // namespace detail
} // namespace edgecnn
