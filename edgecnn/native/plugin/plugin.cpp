#include "plugin.hpp"

#include "launch.hpp"
#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>

namespace {

using namespace nvinfer1;

constexpr char const* kName = "DeformConv2d";
constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "edgecnn";

std::atomic<ILoggerFinder*> logger_finder{nullptr};

// Tell TensorRT's logger, where the library was loaded through its registry, and return what fails a call.
int32_t refuse(std::string const& what) noexcept {
    try {
        ILoggerFinder* const finder = logger_finder.load();
        if (ILogger* const logger = finder == nullptr ? nullptr : finder->findLogger()) {
            logger->log(ILogger::Severity::kERROR, ("edgecnn::DeformConv2d: " + what).c_str());
        }
    } catch (...) { // a logger that throws must not end the program: this is called from noexcept functions
    }
    return -1;
}

std::string text(Dims const& dims) {
    std::string result = "(";
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        result += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    }
    return result + ")";
}

// The sizes from the tensors' shapes. Padding below and at the right is in the output's size alone.
edgecnn::Problem problem_of(Dims const& image, Dims const& weight, edgecnn::Attributes const& a) {
    auto const at = [](Dims const& dims, int32_t axis) { return static_cast<int32_t>(dims.d[axis]); };
    edgecnn::Problem p = {};
    p.batch = at(image, 0);
    p.channels = at(image, 1);
    p.height = at(image, 2);
    p.width = at(image, 3);
    p.outputs = at(weight, 0);
    p.kernel_h = at(weight, 2);
    p.kernel_w = at(weight, 3);
    p.stride_h = a.stride[0];
    p.stride_w = a.stride[1];
    p.pad_top = a.padding[0];
    p.pad_left = a.padding[1];
    p.dilation_h = a.dilation[0];
    p.dilation_w = a.dilation[1];
    p.groups = a.groups[0];
    p.offset_groups = a.offset_groups[0];
    p.out_height = edgecnn::out_length(p.height, a.padding[0] + a.padding[2], p.kernel_h, p.stride_h, p.dilation_h);
    p.out_width = edgecnn::out_length(p.width, a.padding[1] + a.padding[3], p.kernel_w, p.stride_w, p.dilation_w);
    return p;
}

// Empty, or which tensor has another shape than the sizes say.
std::string wrong_shape(edgecnn::Problem const& p, Dims const* shapes, int32_t count) {
    int64_t const maps = int64_t{p.offset_groups} * p.kernel_h * p.kernel_w;
    auto const dims = [](std::initializer_list<int64_t> lengths) {
        Dims result = {};
        for (int64_t length : lengths) {
            result.d[result.nbDims++] = length;
        }
        return result;
    };
    char const* const names[] = {"weight", "offset", "bias", "mask"};
    Dims const expected[] = {
        dims({p.outputs, p.channels / p.groups, p.kernel_h, p.kernel_w}),
        dims({p.batch, 2 * maps, p.out_height, p.out_width}),
        dims({p.outputs}),
        dims({p.batch, maps, p.out_height, p.out_width}),
    };
    for (int32_t i = 1; i < count; ++i) {
        Dims const& wanted = expected[i - 1];
        if (shapes[i].nbDims != wanted.nbDims || !std::equal(wanted.d, wanted.d + wanted.nbDims, shapes[i].d)) {
            return std::string(names[i - 1]) + " must have the shape " + text(wanted) + ", found " + text(shapes[i]);
        }
    }
    return {};
}

} // namespace

namespace edgecnn {

std::vector<PluginField> Attributes::fields() const {
    return {
        {"stride", stride, PluginFieldType::kINT32, 2},
        {"padding", padding, PluginFieldType::kINT32, 4},
        {"dilation", dilation, PluginFieldType::kINT32, 2},
        {"groups", groups, PluginFieldType::kINT32, 1},
        {"offset_groups", offset_groups, PluginFieldType::kINT32, 1},
    };
}

DeformConv2d::DeformConv2d(Attributes const& attributes) : attributes_(attributes), fields_(attributes_.fields()) {
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    for (PluginField const& field : fields_) {
        description_ += field.name;
        for (int32_t i = 0; i < field.length; ++i) {
            description_ += (i == 0 ? " " : ",") + std::to_string(static_cast<int32_t const*>(field.data)[i]);
        }
        description_ += ";";
    }
}

IPluginCapability* DeformConv2d::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    }
    return nullptr;
}

IPluginV3* DeformConv2d::clone() noexcept {
    try {
        auto copy = new DeformConv2d(attributes_); // not the copy constructor: fields_ points into attributes_
        copy->problem_ = problem_;
        copy->mask_ = mask_;
        return copy;
    } catch (std::exception const& error) {
        refuse(error.what());
        return nullptr;
    }
}

AsciiChar const* DeformConv2d::getPluginName() const noexcept { return kName; }
AsciiChar const* DeformConv2d::getPluginVersion() const noexcept { return kVersion; }
AsciiChar const* DeformConv2d::getPluginNamespace() const noexcept { return kNamespace; }
int32_t DeformConv2d::getNbOutputs() const noexcept { return 1; }

int32_t DeformConv2d::getOutputDataTypes(
    DataType* outputs, int32_t output_count, DataType const* inputs, int32_t input_count) const noexcept {
    if (output_count != 1 || input_count < 1) {
        return refuse("has one output and four or five inputs");
    }
    outputs[0] = inputs[0];
    return 0;
}

int32_t DeformConv2d::getOutputShapes(DimsExprs const* inputs, int32_t input_count, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t output_count, IExprBuilder& builder) noexcept {
    if (input_count < 4 || input_count > 5 || output_count != 1) {
        return refuse("takes input, weight, offset, bias and perhaps mask");
    }
    if (inputs[0].nbDims != 4 || inputs[1].nbDims != 4) {
        return refuse("input and weight must have 4 dimensions");
    }
    auto const operation = [&builder](DimensionOperation what, IDimensionExpr const& a, IDimensionExpr const& b) {
        return builder.operation(what, a, b);
    };
    outputs[0].nbDims = 4;
    outputs[0].d[0] = inputs[0].d[0];
    outputs[0].d[1] = inputs[1].d[0];
    for (int32_t axis = 0; axis < 2; ++axis) {
        // (size + pads - dilation * (kernel - 1) - 1) / stride + 1, with the constants together
        int32_t const pads = attributes_.padding[axis] + attributes_.padding[axis + 2];
        int32_t const dilation = attributes_.dilation[axis];
        auto const* constant = builder.constant(pads + dilation - 1);
        auto const* padded = operation(DimensionOperation::kSUM, *inputs[0].d[2 + axis], *constant);
        auto const* span = operation(DimensionOperation::kPROD, *inputs[1].d[2 + axis], *builder.constant(dilation));
        auto const* room = operation(DimensionOperation::kSUB, *padded, *span);
        auto const* stride = builder.constant(attributes_.stride[axis]);
        auto const* steps = operation(DimensionOperation::kFLOOR_DIV, *room, *stride);
        outputs[0].d[2 + axis] = operation(DimensionOperation::kSUM, *steps, *builder.constant(1));
    }
    return 0;
}

bool DeformConv2d::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* tensors, int32_t, int32_t) noexcept {
    PluginTensorDesc const& asked = tensors[position].desc;
    return asked.format == TensorFormat::kLINEAR &&
           (asked.type == DataType::kFLOAT || asked.type == DataType::kHALF) && asked.type == tensors[0].desc.type;
}

// Shapes may be open here; onShapeChange checks them.
int32_t DeformConv2d::configurePlugin(
    DynamicPluginTensorDesc const*, int32_t input_count, DynamicPluginTensorDesc const*, int32_t) noexcept {
    mask_ = input_count == 5;
    return 0;
}

// The kernel makes its columns in shared memory.
size_t DeformConv2d::getWorkspaceSize(
    DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*, int32_t) const noexcept {
    return 0;
}

char const* DeformConv2d::getTimingCacheID() noexcept { return description_.c_str(); }
char const* DeformConv2d::getMetadataString() noexcept { return description_.c_str(); }

int32_t DeformConv2d::onShapeChange(
    PluginTensorDesc const* inputs, int32_t input_count, PluginTensorDesc const*, int32_t) noexcept {
    try {
        if (input_count < 4 || input_count > 5 || inputs[0].dims.nbDims != 4 || inputs[1].dims.nbDims != 4) {
            return refuse("takes input and weight of 4 dimensions, offset, bias and perhaps mask");
        }
        mask_ = input_count == 5;
        problem_ = problem_of(inputs[0].dims, inputs[1].dims, attributes_);
        if (char const* what = fault(problem_)) {
            return refuse(std::string(what) + ": found input " + text(inputs[0].dims) + ", weight " +
                          text(inputs[1].dims) + ", " + description_);
        }
        Dims shapes[5];
        for (int32_t i = 0; i < input_count; ++i) {
            shapes[i] = inputs[i].dims;
        }
        std::string const wrong = wrong_shape(problem_, shapes, input_count);
        return wrong.empty() ? 0 : refuse(wrong);
    } catch (std::exception const& error) {
        return refuse(error.what());
    }
}

int32_t DeformConv2d::enqueue(PluginTensorDesc const* input_descs, PluginTensorDesc const*, void const* const* inputs,
    void* const* outputs, void*, cudaStream_t stream) noexcept {
    Pointers const pointers = {
        inputs[0], inputs[1], inputs[2], inputs[3], mask_ ? inputs[4] : nullptr, outputs[0]};
    cudaError_t const status = launch(problem_, pointers, input_descs[0].type == DataType::kHALF, stream);
    return status == cudaSuccess ? 0 : refuse(std::string("the kernel did not start: ") + cudaGetErrorString(status));
}

IPluginV3* DeformConv2d::attachToContext(IPluginResourceContext*) noexcept { return clone(); }
PluginFieldCollection const* DeformConv2d::getFieldsToSerialize() noexcept { return &collection_; }

DeformConv2dCreator::DeformConv2dCreator() : fields_(Attributes().fields()) {
    for (PluginField& field : fields_) {
        field.data = nullptr;
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

IPluginV3* DeformConv2dCreator::createPlugin(
    AsciiChar const* name, PluginFieldCollection const* given, TensorRTPhase) noexcept {
    try {
        Attributes attributes;
        for (PluginField const& field : attributes.fields()) {
            for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
                PluginField const& found = given->fields[i];
                if (std::strcmp(found.name, field.name) != 0) {
                    continue;
                }
                if (found.type != field.type || found.length != field.length || found.data == nullptr) {
                    refuse(std::string(name) + ": attribute " + field.name + " must be " +
                           std::to_string(field.length) + " int32, found " + std::to_string(found.length) +
                           " of PluginFieldType " + std::to_string(static_cast<int32_t>(found.type)));
                    return nullptr;
                }
                auto* target = const_cast<void*>(field.data); // it points into `attributes`, which is ours
                std::memcpy(target, found.data, sizeof(int32_t) * static_cast<size_t>(field.length));
            }
            auto const* values = static_cast<int32_t const*>(field.data);
            int32_t const least = std::strcmp(field.name, "padding") == 0 ? 0 : 1;
            if (std::any_of(values, values + field.length, [least](int32_t value) { return value < least; })) {
                refuse(std::string(name) + ": attribute " + field.name + " must be at least " + std::to_string(least));
                return nullptr;
            }
        }
        return new DeformConv2d(attributes);
    } catch (std::exception const& error) {
        refuse(error.what());
        return nullptr;
    }
}

PluginFieldCollection const* DeformConv2dCreator::getFieldNames() noexcept { return &collection_; }
AsciiChar const* DeformConv2dCreator::getPluginName() const noexcept { return kName; }
AsciiChar const* DeformConv2dCreator::getPluginVersion() const noexcept { return kVersion; }
AsciiChar const* DeformConv2dCreator::getPluginNamespace() const noexcept { return kNamespace; }

} // namespace edgecnn

extern "C" void setLoggerFinder(ILoggerFinder* finder) { logger_finder.store(finder); }

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static edgecnn::DeformConv2dCreator creator;
    static IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}
