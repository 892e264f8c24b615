// OpenVINO as a Session: the only header that includes it. Link openvino::runtime (CMake: edgecnn::openvino).
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/options.hpp>
#include <edgecnn/session.hpp>
#include <edgecnn/text.hpp>

#include <openvino/openvino.hpp>

#include <algorithm>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace edgecnn {
namespace detail {

/// Whether the fast integer kernels of this processor add pairs of uint8 x int8 products in 16 bits: x86-64 without VNNI.
inline bool integers_saturate() {
#if defined(__x86_64__)
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("flags", 0) == 0) {
            std::istringstream words(line);
            for (std::string word; words >> word;) {
                if (word == "avx512_vnni" || word == "avx_vnni") {
                    return false;
                }
            }
            return true;
        }
    }
#endif
    return false;
}

/// Return what OpenVINO is told, the same as by Python's runtime.
inline ov::AnyMap openvino_properties(OpenVinoOptions const& options) {
    ov::AnyMap properties;
    // Left alone, processors with AMX or AVX512-BF16 round every float tensor to 8 bits of mantissa.
    properties["INFERENCE_PRECISION_HINT"] = "f32";
    properties["PERFORMANCE_HINT"] = options.hint == OpenVinoOptions::Hint::latency ? "LATENCY" : "THROUGHPUT";
    if (options.device == "CPU") {
        properties["ENABLE_CPU_PINNING"] = "NO"; // pinned threads of two sessions meet on the same cores
        if (integers_saturate()) {
            properties["LP_TRANSFORMS_MODE"] = "NO"; // runs a quantized graph as it is written, in float
        }
        if (options.threads > 0) {
            properties["INFERENCE_NUM_THREADS"] = std::to_string(options.threads);
        }
    }
    return properties;
}

/// Describe a port; OpenVINO's ONNX reader appends "/sink_port_0" to an output's name.
inline TensorSpec openvino_spec(ov::Output<ov::Node const> const& port, std::string const& where) {
    static std::pair<ov::element::Type, DType> const kTypes[] = {{ov::element::f32, DType::float32},
        {ov::element::f16, DType::float16}, {ov::element::u8, DType::uint8}, {ov::element::i8, DType::int8},
        {ov::element::i32, DType::int32}, {ov::element::i64, DType::int64}, {ov::element::boolean, DType::boolean},
        {ov::element::f64, DType::float64}};
    std::string const suffix = "/sink_port_0";
    TensorSpec spec;
    spec.name = port.get_node()->get_friendly_name();
    if (spec.name.size() > suffix.size() && spec.name.compare(spec.name.size() - suffix.size(), suffix.size(), suffix) == 0) {
        spec.name.resize(spec.name.size() - suffix.size());
    }
    auto const* found = std::find_if(
        std::begin(kTypes), std::end(kTypes), [&](auto const& one) { return one.first == port.get_element_type(); });
    if (found == std::end(kTypes)) {
        throw BackendError(where + ": " + in_quotes(spec.name) + " has type " + port.get_element_type().get_type_name()
            + ", which a Session cannot carry");
    }
    spec.dtype = found->second;
    for (auto const& dim : port.get_partial_shape()) {
        spec.shape.push_back(dim.is_static() ? dim.get_length() : -1);
    }
    return spec;
}

inline ov::element::Type openvino_type(DType dtype) {
    return dtype == DType::uint8 ? ov::element::u8 : ov::element::f32;
}

} // namespace detail

/// An ONNX model on OpenVINO. run() is safe from several threads at once: each takes a request of its own.
class OpenVinoSession final : public Session {
public:
    /// Load the model.
    ///
    /// Throws UserError: no such file, or a wrong option. BackendError: OpenVINO refuses the model, lacks one of its operators, or
    /// has no such device.
    explicit OpenVinoSession(std::filesystem::path const& model, OpenVinoOptions const& options = {})
        : where_(model.filename().string()) {
        std::error_code code;
        if (!std::filesystem::is_regular_file(model, code) || std::filesystem::file_size(model, code) == 0) {
            throw UserError("no ONNX file at " + model.string() + ", or it is empty");
        }
        if (options.threads < 0) {
            throw UserError("OpenVINO: threads must be at least 0, found " + std::to_string(options.threads));
        }
        attempt("OpenVINO cannot load ", [&] {
            ov::Core core;
            auto const devices = core.get_available_devices();
            if (std::find(devices.begin(), devices.end(), options.device) == devices.end()) {
                throw BackendError("OpenVINO has no device " + detail::in_quotes(options.device) + " here; it has "
                    + (devices.empty() ? "none" : detail::joined(devices)));
            }
            compiled_ = core.compile_model(
                core.read_model(model.string()), options.device, detail::openvino_properties(options));
            if (compiled_.inputs().size() != 1 || compiled_.outputs().empty()) {
                throw BackendError(where_ + " must have one input and an output");
            }
            describe(detail::openvino_spec(compiled_.inputs().front(), where_),
                detail::openvino_spec(compiled_.outputs().front(), where_));
        });
        if ((input().dtype != DType::float32 && input().dtype != DType::uint8) || output().dtype != DType::float32) {
            throw BackendError(where_ + " must take float32 or uint8 and give float32");
        }
    }

    std::string backend() const override {
        return "openvino";
    }

protected:
    Tensor execute(TensorView const& feed) override {
        Tensor result;
        attempt("OpenVINO failed to run ", [&] {
            auto request = take();
            ov::Shape shape;
            for (auto const length : feed.shape) {
                shape.push_back(static_cast<std::size_t>(length));
            }
            // OpenVINO takes inputs through a pointer to data that it does not change.
            request.set_input_tensor(
                ov::Tensor(detail::openvino_type(feed.dtype), shape, const_cast<void*>(feed.data)));
            request.infer();
            auto const output = request.get_output_tensor(0);
            for (auto const length : output.get_shape()) {
                result.shape.push_back(static_cast<std::int64_t>(length));
            }
            auto const* const values = output.data<float const>();
            result.values.assign(values, values + output.get_size());
            give(std::move(request));
        });
        return result;
    }

private:
    /// Call a function; what is not ours becomes a BackendError of one line.
    template <typename Function>
    void attempt(char const* what, Function&& function) const {
        try {
            function();
        } catch (Error const&) {
            throw;
        } catch (std::exception const& error) {
            throw BackendError(what + where_ + ": " + detail::one_line(error.what()));
        }
    }

    /// Take an idle request, or make one where all are at work.
    ov::InferRequest take() {
        {
            std::lock_guard<std::mutex> const lock(mutex_);
            if (!idle_.empty()) {
                auto request = std::move(idle_.back());
                idle_.pop_back();
                return request;
            }
        }
        return compiled_.create_infer_request();
    }

    void give(ov::InferRequest request) {
        std::lock_guard<std::mutex> const lock(mutex_);
        idle_.push_back(std::move(request));
    }

    std::string where_;
    ov::CompiledModel compiled_;
    std::mutex mutex_;
    std::vector<ov::InferRequest> idle_;
};

} // namespace edgecnn
