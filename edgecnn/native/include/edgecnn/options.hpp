// How the backends run a model.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace edgecnn {

struct OpenVinoOptions {
    enum class Hint { latency, throughput };

    int threads = 0;             ///< of one inference; 0 lets OpenVINO choose
    Hint hint = Hint::latency;   ///< all threads for one inference, or several side by side
    std::string device = "CPU"; ///< or another that OpenVINO has here
};

struct TensorRtOptions {
    int device = 0;                             ///< number of the GPU
    int contexts = 1;                           ///< runs that may go side by side, each with its stream and buffers
    std::vector<std::filesystem::path> plugins; ///< libraries of operators that the plan was built with
    bool allow_host_code = false;               ///< run the host code that a version-compatible plan brings
};

/// What to load of a bundle, and how.
struct LoadOptions {
    std::string variant; ///< empty: the fastest verified one, by what was measured; see Bundle::choose
    std::string backend; ///< "openvino" or "tensorrt"; empty: openvino where it is compiled in, else tensorrt
    bool allow_unverified = false;
    OpenVinoOptions openvino;
    TensorRtOptions tensorrt;
};

} // namespace edgecnn
