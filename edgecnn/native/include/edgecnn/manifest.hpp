// A bundle's manifest.json as data: what an application needs of it. Reading it checks all of it (manifest_reader.hpp).
#pragma once

#include <edgecnn/spec.hpp>
#include <edgecnn/text.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgecnn {

/// What a file of the bundle must be.
struct FileRecord {
    std::string sha256; ///< 64 hexadecimal digits
    std::int64_t bytes = 0;
};

/// Where the class names are, one a line, in the order of the logits.
struct Labels {
    std::string file;
    std::int64_t count = 0;
    std::string sha256;
};

/// What the graphs do themselves.
struct Embedded {
    bool preprocess = false; ///< they take uint8 NHWC pixels
    bool softmax = false;    ///< they give probabilities
};

/// Where the numbers came from.
struct Weights {
    std::string entry;
    std::string source;
    std::string licence;
    std::optional<double> top1; ///< published accuracy, percent
    std::optional<double> top5;
    bool untrained = false; ///< random numbers: predictions mean nothing
};

/// A measurement on another backend, in the same run.
struct BackendSpeed {
    double milliseconds = 0;
    double ratio = 0; ///< to fp32's on the main backend
    bool verified = false;
};

/// A measurement at export.
struct Speed {
    double milliseconds = 0; ///< median latency of one image
    double ratio = 0;        ///< to fp32's, in the same run; below 1 is faster
    std::string backend = "onnxruntime";
    std::int64_t threads = 0;
    std::string machine;
    Ordered<BackendSpeed> backends;
};

/// One graph of the bundle.
struct Variant {
    std::string file;
    std::string precision;
    std::int64_t opset = 0;
    std::int64_t nodes = 0;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    bool verified = false;
    std::optional<Speed> speed;

    /// Whether it passed verification, and did not fail it on this backend (it may not have been tried there).
    bool verified_on(std::string const& backend) const {
        auto const* other = speed ? speed->backends.find(backend) : nullptr;
        return verified && (other == nullptr || other->verified);
    }
};

/// Least, best and largest shape of an input of an engine.
struct Profile {
    std::vector<std::int64_t> least, best, most;
};

/// One TensorRT plan of the bundle, and what a device must have to load it.
struct EngineRecord {
    std::string file;
    std::string variant;
    std::string flavour; ///< tensorrt or tensorrt-rtx
    std::string version; ///< of the flavour, which must be the same where the plan is loaded
    std::string platform;
    std::string precision;
    std::vector<std::string> compute_capabilities;
    Ordered<Profile> profile;
    std::string batch;    ///< option of the build, for the command that builds it again
    std::string hardware; ///< "ampere+" where it runs on later GPUs too
    bool version_compatible = false;
    bool strip_weights = false;
    std::optional<std::int64_t> dla;
    std::vector<std::string> plugins; ///< names of the libraries whose operators it runs
    std::optional<double> ratio; ///< its time relative to that of another engine of the bundle, if it was measured
};

/// What an application needs to know of a network.
struct Model {
    std::string name;
    std::string family;
    std::int64_t num_classes = 0;
};

/// Everything a bundle says about itself that an application needs. One that was read is consistent.
struct Manifest {
    std::int64_t schema = 0;
    std::string edgecnn;
    std::string created;
    Model model;
    Preprocess preprocess;
    Weights weights;
    std::optional<Labels> labels;
    Embedded embedded;
    Ordered<Variant> variants;
    Ordered<EngineRecord> engines; ///< "<variant>.<flavour>" -> plan
    bool verified = false;
    std::vector<std::string> notes;
    Ordered<FileRecord> files; ///< every file but the manifest
};

} // namespace edgecnn
