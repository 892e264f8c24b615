// A stand-in for TensorRT: what edgecnn/tensorrt.hpp calls of it. That the real headers have the same is another test's.
//
// A plan is text, "LEAST MOST": the batches of a network from (N, 3, 2, 2) to (N, 2), the sum of a picture and its negative.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <thread>

namespace nvinfer1 {

using AsciiChar = char;

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, AsciiChar const* text) noexcept = 0;
    virtual ~ILogger() = default;
};

struct Dims {
    static constexpr std::int32_t MAX_DIMS = 8;
    std::int32_t nbDims = 0;
    std::int64_t d[MAX_DIMS] = {};
};

enum class DataType { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kINT64 };
enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector { kMIN, kOPT, kMAX };

} // namespace nvinfer1

namespace fake {
inline bool run_fails = false;
inline bool busy_overlaps = false; // whether two runs ever used one context at once
inline std::atomic<int> contexts{0};
inline std::string loaded;
} // namespace fake

namespace nvinfer1 {

class IExecutionContext {
public:
    IExecutionContext(ILogger& logger, std::int64_t most)
        : logger_(logger)
        , most_(most) {
        ++fake::contexts;
    }
    ~IExecutionContext() {
        --fake::contexts;
    }
    bool setInputShape(char const*, Dims const& dims) {
        batch_ = dims.d[0];
        return dims.nbDims == 4 && batch_ <= most_;
    }
    Dims getTensorShape(char const* name) const {
        return name == std::string("input") ? Dims{4, {batch_, 3, 2, 2}} : Dims{2, {batch_, 2}};
    }
    bool setTensorAddress(char const* name, void* address) {
        addresses_[name] = static_cast<float*>(address);
        return true;
    }
    bool enqueueV3(cudaStream_t) {
        if (busy_.exchange(true)) {
            fake::busy_overlaps = true;
        }
        if (fake::run_fails) {
            logger_.log(ILogger::Severity::kWARNING, "not this");
            logger_.log(ILogger::Severity::kERROR, "IExecutionContext::enqueueV3:\n Error Code 1");
        } else {
            for (std::int64_t n = 0; n < batch_; ++n) {
                float sum = 0;
                for (int i = 0; i < 12; ++i) {
                    sum += addresses_["input"][n * 12 + i];
                }
                addresses_["logits"][2 * n] = sum;
                addresses_["logits"][2 * n + 1] = -sum;
            }
            std::this_thread::yield();
        }
        busy_ = false;
        return !fake::run_fails;
    }

private:
    ILogger& logger_;
    std::int64_t most_;
    std::int64_t batch_ = 0;
    std::map<std::string, float*> addresses_;
    std::atomic<bool> busy_{false};
};

class ICudaEngine {
public:
    ICudaEngine(ILogger& logger, std::int64_t least, std::int64_t most)
        : logger_(logger)
        , least_(least)
        , most_(most) {}
    IExecutionContext* createExecutionContext() {
        return new IExecutionContext(logger_, most_);
    }
    std::int32_t getNbIOTensors() const {
        return 2;
    }
    char const* getIOTensorName(std::int32_t index) const {
        return index == 0 ? "input" : "logits";
    }
    DataType getTensorDataType(char const*) const {
        return DataType::kFLOAT;
    }
    TensorIOMode getTensorIOMode(char const* name) const {
        return name == std::string("input") ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    Dims getTensorShape(char const* name) const {
        return name == std::string("input") ? Dims{4, {-1, 3, 2, 2}} : Dims{2, {-1, 2}};
    }
    Dims getProfileShape(char const*, std::int32_t, OptProfileSelector which) const {
        return Dims{4, {which == OptProfileSelector::kMAX ? most_ : least_, 3, 2, 2}};
    }

private:
    ILogger& logger_;
    std::int64_t least_, most_;
};

class IPluginRegistry {
public:
    void* loadLibrary(AsciiChar const* path) {
        fake::loaded = path;
        return this;
    }
};

class IRuntime {
public:
    explicit IRuntime(ILogger& logger)
        : logger_(logger) {}
    void setDLACore(std::int32_t) {}
    void setEngineHostCodeAllowed(bool) {}
    IPluginRegistry& getPluginRegistry() {
        return registry_;
    }
    ICudaEngine* deserializeCudaEngine(void const* data, std::size_t size) {
        std::istringstream text(std::string(static_cast<char const*>(data), size));
        std::int64_t least = 0, most = 0;
        if (text >> least >> most) {
            return new ICudaEngine(logger_, least, most);
        }
        logger_.log(ILogger::Severity::kERROR, "Serialization assertion failed:\n magic tag");
        return nullptr;
    }

private:
    ILogger& logger_;
    IPluginRegistry registry_;
};

inline IRuntime* createInferRuntime(ILogger& logger) {
    return new IRuntime(logger);
}

} // namespace nvinfer1

inline std::int32_t getInferLibMajorVersion() {
    return 10;
}
inline std::int32_t getInferLibMinorVersion() {
    return 3;
}
inline std::int32_t getInferLibPatchVersion() {
    return 0;
}
inline std::int32_t getInferLibBuildVersion() {
    return 26;
}
