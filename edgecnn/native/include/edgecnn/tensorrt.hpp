// A plan of TensorRT 10 or 11 as a Session: the only header that includes TensorRT and CUDA. Link libnvinfer and cudart (CMake:
// edgecnn::tensorrt). Compiled against the headers of 10.3, 10.16 and 11.1; it has never run on a GPU (docs/CPP.md).
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/options.hpp>
#include <edgecnn/plan.hpp>
#include <edgecnn/session.hpp>
#include <edgecnn/text.hpp>

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace edgecnn {
namespace detail {

/// Refuse an error of CUDA. Throws BackendError.
inline void cuda(cudaError_t code, std::string const& what) {
    if (code == cudaSuccess) {
        return;
    }
    std::string const name = ::cudaGetErrorName(code), text = ::cudaGetErrorString(code);
    if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver || code == cudaErrorSystemDriverMismatch) {
        throw BackendError("there is no NVIDIA GPU with a working driver here (" + name + "): install or update the driver");
    }
    if (code == cudaErrorMemoryAllocation) {
        throw BackendError(
            "out of memory: CUDA cannot " + what + ": run smaller batches or fewer contexts, or close other programs");
    }
    throw BackendError("CUDA cannot " + what + ": " + text + " (" + name + ")");
}

/// Memory that is used again by every run: on the device, or page-locked on the host.
template <cudaError_t (*Free)(void*)>
class CudaMemory {
public:
    CudaMemory() = default;
    CudaMemory(CudaMemory const&) = delete;
    CudaMemory& operator=(CudaMemory const&) = delete;

    ~CudaMemory() {
        if (address_ != nullptr) {
            static_cast<void>(Free(address_));
        }
    }

    void** place() noexcept {
        return &address_;
    }

    void* get() const noexcept {
        return address_;
    }

private:
    void* address_ = nullptr;
};

/// A stream that does not wait for work on the default one.
class CudaStream {
public:
    CudaStream() {
        cuda(::cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
    }

    CudaStream(CudaStream const&) = delete;
    CudaStream& operator=(CudaStream const&) = delete;

    ~CudaStream() {
        static_cast<void>(::cudaStreamDestroy(stream_));
    }

    cudaStream_t get() const noexcept {
        return stream_;
    }

private:
    cudaStream_t stream_ = nullptr;
};

/// Keeps TensorRT's last complaints. TensorRT holds on to the first logger of a process: there is one, and it is never destroyed.
class TrtLogger final : public nvinfer1::ILogger {
public:
    static TrtLogger& instance() {
        static auto* const logger = new TrtLogger; // NOLINT: see above
        return *logger;
    }

    void log(Severity severity, nvinfer1::AsciiChar const* text) noexcept override {
        if (severity > Severity::kERROR) {
            return;
        }
        try {
            std::lock_guard<std::mutex> const lock(mutex_);
            last_ = text;
        } catch (...) { // without memory for a message there is none
        }
    }

    /// Return the last complaint as one line, and forget it.
    std::string reason() {
        std::lock_guard<std::mutex> const lock(mutex_);
        std::string const text = one_line(last_);
        last_.clear();
        return text.empty() ? "it gave no reason" : text;
    }

private:
    TrtLogger() = default;

    std::mutex mutex_;
    std::string last_;
};

/// An input or output of a plan.
struct TrtPort {
    std::string name;
    DType dtype = DType::float32;
    bool reads = false;
    std::vector<std::int64_t> shape; ///< -1 is open
};

inline std::vector<std::int64_t> lengths(nvinfer1::Dims const& dims) {
    return std::vector<std::int64_t>(dims.d, dims.d + std::max(dims.nbDims, 0));
}

inline nvinfer1::Dims trt_dims(std::vector<std::int64_t> const& shape) {
    nvinfer1::Dims dims = {};
    if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) {
        throw UserError("TensorRT has no tensors of " + std::to_string(shape.size()) + " dimensions");
    }
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
}

inline DType trt_dtype(nvinfer1::DataType type, std::string const& where) {
    switch (type) {
    case nvinfer1::DataType::kFLOAT:
        return DType::float32;
    case nvinfer1::DataType::kHALF:
        return DType::float16;
    case nvinfer1::DataType::kINT8:
        return DType::int8;
    case nvinfer1::DataType::kINT32:
        return DType::int32;
    case nvinfer1::DataType::kINT64:
        return DType::int64;
    case nvinfer1::DataType::kBOOL:
        return DType::boolean;
    case nvinfer1::DataType::kUINT8:
        return DType::uint8;
    default:
        throw BackendError(where + " has a type that a Session cannot carry");
    }
}

/// One run at a time: an execution context with its stream, and memory for the largest shapes.
class TrtSlot {
public:
    TrtSlot(nvinfer1::ICudaEngine& engine, std::vector<TrtPort> const& ports, std::vector<std::int64_t> const& largest,
        std::string where)
        : where_(std::move(where))
        , context_(engine.createExecutionContext()) {
        if (context_ == nullptr) {
            refuse("cannot make an execution context for ");
        }
        for (auto const& port : ports) {
            if (port.reads) {
                set_shape(port.name, largest);
            }
        }
        for (auto const& port : ports) {
            auto const shape = lengths(context_->getTensorShape(port.name.c_str()));
            if (std::any_of(shape.begin(), shape.end(), [](auto length) { return length < 0; })) {
                throw BackendError(where_ + ": the shape of " + in_quotes(port.name) + " depends on values");
            }
            std::size_t const bytes = std::max<std::size_t>(1, elements(shape) * size_of(port.dtype));
            auto& buffer = *buffers_.emplace_back(std::make_unique<Buffer>());
            buffer.name = port.name;
            cuda(::cudaMalloc(buffer.device.place(), bytes), "get device memory");
            cuda(::cudaMallocHost(buffer.host.place(), bytes), "get page-locked memory");
            if (!context_->setTensorAddress(port.name.c_str(), buffer.device.get())) {
                refuse("refuses the memory for " + in_quotes(port.name) + " of ");
            }
        }
    }

    /// Run once: the first output.
    Tensor run(TensorView const& feed, std::string const& input, std::string const& output) {
        set_shape(input, feed.shape);
        auto const &from = buffer(input), &to = buffer(output);
        Tensor result;
        result.shape = lengths(context_->getTensorShape(output.c_str()));
        result.values.resize(elements(result.shape));
        std::size_t const in = elements(feed.shape) * size_of(feed.dtype), out = result.values.size() * sizeof(float);
        std::memcpy(from.host.get(), feed.data, in);
        cuda(::cudaMemcpyAsync(from.device.get(), from.host.get(), in, cudaMemcpyHostToDevice, stream_.get()),
            "copy an input to the device");
        if (!context_->enqueueV3(stream_.get())) {
            static_cast<void>(::cudaStreamSynchronize(stream_.get()));
            refuse("failed to run ");
        }
        cuda(::cudaMemcpyAsync(to.host.get(), to.device.get(), out, cudaMemcpyDeviceToHost, stream_.get()),
            "copy an output from the device");
        cuda(::cudaStreamSynchronize(stream_.get()), "finish a run");
        std::memcpy(result.values.data(), to.host.get(), out);
        return result;
    }

    std::vector<std::int64_t> shape_of(std::string const& name) const {
        return lengths(context_->getTensorShape(name.c_str()));
    }

private:
    struct Buffer {
        std::string name;
        CudaMemory<::cudaFree> device;
        CudaMemory<::cudaFreeHost> host;
    };

    [[noreturn]] void refuse(std::string const& what) const {
        throw BackendError("TensorRT " + what + where_ + ": " + TrtLogger::instance().reason());
    }

    Buffer const& buffer(std::string const& name) const {
        return **std::find_if(buffers_.begin(), buffers_.end(), [&](auto const& one) { return one->name == name; });
    }

    /// Tell the context the input's shape, where it changed.
    void set_shape(std::string const& name, std::vector<std::int64_t> const& shape) {
        if (shape == shape_) {
            return;
        }
        shape_.clear(); // unknown, should it be refused
        if (!context_->setInputShape(name.c_str(), trt_dims(shape))) {
            refuse("refuses shape " + listed(shape) + " for " + in_quotes(name) + " of ");
        }
        shape_ = shape;
    }

    std::string where_;
    std::vector<std::int64_t> shape_;
    CudaStream stream_;
    std::vector<std::unique_ptr<Buffer>> buffers_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_; // destroyed before the memory that it works on
};

} // namespace detail

/// A plan on a GPU. run() is safe from several threads at once; as many go side by side as there are contexts, others wait.
class TensorRtSession final : public Session {
public:
    /// Check and load a plan, and get the buffers.
    ///
    /// `engine` is what the manifest says of the plan, checked before TensorRT gets a byte of it; null leaves that to TensorRT.
    /// Throws EngineMisfitError: the plan is of another version, GPU or platform. UserError: no such file, or a plugin library
    /// that is missing. BackendError: no driver, no memory, or TensorRT refuses the plan.
    explicit TensorRtSession(
        std::filesystem::path const& plan, TensorRtOptions const& options = {}, EngineRecord const* engine = nullptr)
        : options_(options)
        , where_(plan.filename().string()) {
        if (options.contexts < 1 || options.device < 0) {
            throw UserError("TensorRT: contexts must be at least 1, and the device at least 0");
        }
        if (engine != nullptr) {
            detail::check_package(*engine, version(), where_, options.allow_host_code);
            detail::check_plugins(*engine, options.plugins, where_);
        }
        use_device();
        if (engine != nullptr) {
            detail::check_device(*engine, compute_capability(), where_);
        }
        start(content(plan), engine);
    }

    ~TensorRtSession() override {
        static_cast<void>(::cudaSetDevice(options_.device));
    }

    std::string backend() const override {
        return "tensorrt";
    }

    /// Return the version of the library that is loaded, such as 10.3.0.26.
    static std::string version() {
        return std::to_string(::getInferLibMajorVersion()) + "." + std::to_string(::getInferLibMinorVersion()) + "."
            + std::to_string(::getInferLibPatchVersion()) + "." + std::to_string(::getInferLibBuildVersion());
    }

protected:
    Tensor execute(TensorView const& feed) override {
        detail::check_shape(feed.shape, profile_, where_);
        Lease const slot(*this);
        detail::cuda(::cudaSetDevice(options_.device), "use the GPU");
        return slot->run(feed, input().name, output().name);
    }

private:
    /// A slot that nobody else has, for as long as the object lives.
    class Lease {
    public:
        explicit Lease(TensorRtSession& session)
            : session_(session) {
            std::unique_lock<std::mutex> lock(session_.mutex_);
            session_.freed_.wait(lock, [&] { return !session_.idle_.empty(); });
            slot_ = session_.idle_.back();
            session_.idle_.pop_back();
        }

        Lease(Lease const&) = delete;
        Lease& operator=(Lease const&) = delete;

        ~Lease() {
            {
                std::lock_guard<std::mutex> const lock(session_.mutex_);
                session_.idle_.push_back(slot_); // never allocates: it had room for all of them
            }
            session_.freed_.notify_one();
        }

        detail::TrtSlot* operator->() const noexcept {
            return slot_;
        }

    private:
        TensorRtSession& session_;
        detail::TrtSlot* slot_ = nullptr;
    };

    void use_device() const {
        int count = 0;
        detail::cuda(::cudaGetDeviceCount(&count), "look for an NVIDIA GPU");
        if (options_.device >= count) {
            throw UserError("GPU " + std::to_string(options_.device) + " was asked for, and there are " + std::to_string(count)
                + ", counted from 0");
        }
        detail::cuda(::cudaSetDevice(options_.device), "use GPU " + std::to_string(options_.device));
    }

    std::string compute_capability() const {
        int major = 0, minor = 0;
        char const* const what = "ask for the compute capability";
        detail::cuda(::cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, options_.device), what);
        detail::cuda(::cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, options_.device), what);
        return std::to_string(major) + "." + std::to_string(minor);
    }

    static std::vector<char> content(std::filesystem::path const& plan) {
        std::error_code code;
        auto const size = std::filesystem::is_regular_file(plan, code) ? std::filesystem::file_size(plan, code) : 0;
        std::vector<char> bytes(code ? 0 : static_cast<std::size_t>(size));
        std::ifstream stream(plan, std::ios::binary);
        if (bytes.empty() || !stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
            throw UserError("no plan at " + plan.string() + ", or it is empty");
        }
        return bytes;
    }

    [[noreturn]] void refuse(std::string const& what) const {
        throw BackendError("TensorRT " + version() + " " + what + ": " + detail::TrtLogger::instance().reason());
    }

    void start(std::vector<char> const& plan, EngineRecord const* engine) {
        runtime_.reset(nvinfer1::createInferRuntime(detail::TrtLogger::instance()));
        if (runtime_ == nullptr) {
            refuse("cannot start here");
        }
        if (engine != nullptr && engine->dla) {
            runtime_->setDLACore(static_cast<std::int32_t>(*engine->dla));
        }
        runtime_->setEngineHostCodeAllowed(options_.allow_host_code);
        for (auto const& library : options_.plugins) {
            auto const path = std::filesystem::absolute(library).string();
            if (runtime_->getPluginRegistry().loadLibrary(path.c_str()) == nullptr) {
                refuse("cannot load the plugin library " + path);
            }
        }
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (engine_ == nullptr) {
            refuse("cannot load " + where_);
        }
        auto const ports = describe_ports();
        for (int i = 0; i < options_.contexts; ++i) {
            slots_.push_back(std::make_unique<detail::TrtSlot>(*engine_, ports, profile_.most, where_));
            idle_.push_back(slots_.back().get());
        }
        auto const first = std::find_if(ports.begin(), ports.end(), [](auto const& port) { return !port.reads; });
        auto const given = std::find_if(ports.begin(), ports.end(), [](auto const& port) { return port.reads; });
        std::vector<std::int64_t> shape;
        for (std::size_t i = 0; i < profile_.least.size(); ++i) {
            shape.push_back(profile_.least[i] == profile_.most[i] ? profile_.most[i] : -1);
        }
        bool const fixed = profile_.least == profile_.most;
        describe({given->name, shape, given->dtype},
            {first->name, fixed ? slots_.front()->shape_of(first->name) : first->shape, first->dtype}, profile_.least.front(),
            profile_.most.front());
    }

    /// Read the plan's ports, and the profile of its input.
    std::vector<detail::TrtPort> describe_ports() {
        std::vector<detail::TrtPort> ports;
        std::size_t inputs = 0;
        for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
            char const* const name = engine_->getIOTensorName(i);
            detail::TrtPort port;
            port.name = name;
            port.dtype = detail::trt_dtype(engine_->getTensorDataType(name), where_ + ": " + detail::in_quotes(port.name));
            port.reads = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
            port.shape = detail::lengths(engine_->getTensorShape(name));
            if (port.reads) {
                using nvinfer1::OptProfileSelector;
                auto const limit = [&](OptProfileSelector which) {
                    return detail::lengths(engine_->getProfileShape(name, 0, which));
                };
                profile_ = {limit(OptProfileSelector::kMIN), limit(OptProfileSelector::kOPT), limit(OptProfileSelector::kMAX)};
                ++inputs;
            }
            ports.push_back(std::move(port));
        }
        bool const plain = std::all_of(ports.begin(), ports.end(), [](auto const& port) {
            return port.dtype == DType::float32 || (port.reads && port.dtype == DType::uint8);
        });
        if (inputs != 1 || ports.size() < 2 || !plain || profile_.least.empty()
            || profile_.least.size() != profile_.most.size()) {
            throw BackendError(where_ + " must have one input, float32 or uint8, and float32 outputs");
        }
        return ports;
    }

    TensorRtOptions options_;
    std::string where_;
    Profile profile_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_; // outlives the engine, which outlives the contexts
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::vector<std::unique_ptr<detail::TrtSlot>> slots_;
    std::mutex mutex_;
    std::condition_variable freed_;
    std::vector<detail::TrtSlot*> idle_;
};

} // namespace edgecnn
