// The backends that are compiled in: EDGECNN_WITH_OPENVINO and EDGECNN_WITH_TENSORRT, the same in every file of a program.
#pragma once

#include <edgecnn/bundle.hpp>
#include <edgecnn/options.hpp>
#include <edgecnn/session.hpp>

#if defined(EDGECNN_WITH_OPENVINO)
#include <edgecnn/openvino.hpp>
#endif
#if defined(EDGECNN_WITH_TENSORRT)
#include <edgecnn/tensorrt.hpp>
#endif

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace edgecnn {

/// Return the backends that are compiled in, most preferred first.
inline std::vector<std::string> backends() {
    return {
#if defined(EDGECNN_WITH_OPENVINO)
        "openvino",
#endif
#if defined(EDGECNN_WITH_TENSORRT)
        "tensorrt",
#endif
    };
}

/// Return the variant and backend that load() runs.
///
/// Throws UserError: an unknown variant, a backend that is not compiled in, or no engine.
inline Choice choose(Bundle const& bundle, LoadOptions const& options = {}) {
    auto const there = backends();
    bool const open = options.backend.empty() || options.backend == "auto";
    if (there.empty()) {
        throw UserError("no backend is compiled in: link edgecnn::openvino or edgecnn::tensorrt");
    }
    if (!open && std::find(there.begin(), there.end(), options.backend) == there.end()) {
        throw UserError("backend " + detail::in_quotes(options.backend) + " is not compiled in; there is "
            + detail::joined(there));
    }
    return bundle.choose(options.variant, open ? there.front() : options.backend);
}

/// Make a variant of a bundle ready to run.
///
/// Throws UserError: as choose(). BundleUnverifiedError: the variant failed verification, and allow_unverified is false.
/// BundleCorruptError: the graph is not what the manifest says. EngineMisfitError: the plan is of another version, GPU or
/// platform. BackendError: the backend refuses the model.
inline std::unique_ptr<Session> load(Bundle const& bundle, LoadOptions const& options = {}) {
    Choice const choice = choose(bundle, options);
    if (!options.allow_unverified) {
        bundle.require_verified(choice);
    }
    auto const& variant = bundle.variant(choice.variant);
    std::unique_ptr<Session> session;
#if defined(EDGECNN_WITH_OPENVINO)
    if (choice.backend == "openvino") {
        session = std::make_unique<OpenVinoSession>(bundle.model_path(choice.variant), options.openvino);
    }
#endif
#if defined(EDGECNN_WITH_TENSORRT)
    if (choice.backend == "tensorrt") {
        auto const& engine = *bundle.manifest().engines.find(choice.variant + ".tensorrt");
        session = std::make_unique<TensorRtSession>(bundle.path() / engine.file, options.tensorrt, &engine);
    }
#endif
    detail::check_session(*session, variant, bundle.path().string() + ": variant " + choice.variant);
    return session;
}

} // namespace edgecnn
