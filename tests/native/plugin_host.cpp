// Plays TensorRT's part towards the plugin's library, without TensorRT and without a GPU: loads it, creates the plugin from
// fields, asks what it answers at build time, and prints one line a question. Everything but enqueue.
#include <NvInfer.h>
#include <cstdio>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <initializer_list>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

// Expressions whose values are known at once.
struct Value final : apiv::VDimensionExpr {
    int64_t value;
    explicit Value(int64_t v) : value(v) {}
    bool isConstant() const override { return true; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
};

struct Expression final : IDimensionExpr {
    explicit Expression(Value* value) { mImpl = value; }
};

struct Values final : apiv::VExprBuilder {
    std::deque<Value> values;
    std::deque<Expression> expressions;

    IDimensionExpr const* constant(int64_t value) override {
        values.emplace_back(value);
        expressions.emplace_back(&values.back());
        return &expressions.back();
    }
    IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& a, IDimensionExpr const& b) override {
        int64_t const x = a.getConstantValue();
        int64_t const y = b.getConstantValue();
        switch (op) {
        case DimensionOperation::kSUM: return constant(x + y);
        case DimensionOperation::kSUB: return constant(x - y);
        case DimensionOperation::kPROD: return constant(x * y);
        case DimensionOperation::kFLOOR_DIV: return constant(x / y);
        default: std::printf("unexpected operation\n"); return constant(-1);
        }
    }
    IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) override {
        return nullptr;
    }
};

struct Builder final : IExprBuilder {
    explicit Builder(Values* values) { mImpl = values; }
};

struct Printer final : ILogger {
    void log(Severity, AsciiChar const* text) noexcept override { std::printf("log: %s\n", text); }
};

struct Finder final : ILoggerFinder {
    Printer printer;
    ILogger* findLogger() override { return &printer; }
};

Dims dims(std::initializer_list<int64_t> lengths) {
    Dims result = {};
    for (int64_t length : lengths) {
        result.d[result.nbDims++] = length;
    }
    return result;
}

PluginTensorDesc tensor(Dims const& shape, DataType type = DataType::kFLOAT, TensorFormat format = TensorFormat::kLINEAR) {
    return {shape, type, format, 1.0f};
}

void print_fields(char const* title, PluginFieldCollection const& fields) {
    std::printf("%s:", title);
    for (int32_t i = 0; i < fields.nbFields; ++i) {
        PluginField const& field = fields.fields[i];
        std::printf(" %s", field.name);
        for (int32_t j = 0; field.data != nullptr && j < field.length; ++j) {
            std::printf("%s%d", j == 0 ? "=" : ",", static_cast<int32_t const*>(field.data)[j]);
        }
    }
    std::printf("\n");
}

bool supports(IPluginV3OneBuild& build, int32_t position, std::vector<PluginTensorDesc> const& tensors) {
    std::vector<DynamicPluginTensorDesc> all(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
        all[i].desc = tensors[i];
    }
    return build.supportsFormatCombination(position, all.data(), static_cast<int32_t>(tensors.size()) - 1, 1);
}

void change(IPluginV3OneRuntime& runtime, char const* title, std::vector<Dims> const& shapes) {
    std::vector<PluginTensorDesc> inputs;
    for (Dims const& shape : shapes) {
        inputs.push_back(tensor(shape));
    }
    PluginTensorDesc const output = tensor(dims({}));
    int32_t const status = runtime.onShapeChange(inputs.data(), static_cast<int32_t>(inputs.size()), &output, 1);
    std::printf("%s: %d\n", title, status);
}

template <class T>
T* capability(IPluginV3* plugin, PluginCapabilityType type) {
    return static_cast<T*>(plugin->getCapabilityInterface(type));
}

} // namespace

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    auto get_creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    Finder finder;
    set_finder(&finder);
    int32_t count = 0;
    auto* const* creators = get_creators(count);
    std::printf("creators: %d %s\n", count, creators[0]->getInterfaceInfo().kind);
    auto& creator = *static_cast<IPluginCreatorV3One*>(creators[0]);
    std::printf("name: %s %s %s\n", creator.getPluginNamespace(), creator.getPluginName(), creator.getPluginVersion());
    print_fields("field names", *creator.getFieldNames());

    int32_t const stride[] = {2, 1}, padding[] = {1, 2, 0, 1}, dilation[] = {1, 2}, groups[] = {2}, offset_groups[] = {4};
    std::vector<PluginField> fields = {{"offset_groups", offset_groups, PluginFieldType::kINT32, 1},
        {"stride", stride, PluginFieldType::kINT32, 2}, {"padding", padding, PluginFieldType::kINT32, 4},
        {"dilation", dilation, PluginFieldType::kINT32, 2}, {"groups", groups, PluginFieldType::kINT32, 1},
        {"unknown", nullptr, PluginFieldType::kUNKNOWN, 0}};
    PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
    IPluginV3* first = creator.createPlugin("node", &collection, TensorRTPhase::kBUILD);
    IPluginV3* plugin = first->clone();
    delete first; // a clone must not point into it
    auto* build = capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
    auto* runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
    auto* core = capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
    std::printf("core: %s %s %s\n", core->getPluginNamespace(), core->getPluginName(), core->getPluginVersion());
    print_fields("serialized", *runtime->getFieldsToSerialize());
    std::printf("timing cache: %s\n", build->getTimingCacheID());
    std::printf("workspace: %zu, outputs: %d\n", build->getWorkspaceSize(nullptr, 0, nullptr, 0), build->getNbOutputs());

    Values values;
    Builder builder(&values);
    std::vector<Dims> const shapes = {
        dims({3, 8, 9, 10}), dims({6, 4, 3, 2}), dims({3, 48, 4, 11}), dims({6}), dims({3, 24, 4, 11})};
    std::vector<DimsExprs> inputs(shapes.size());
    for (size_t i = 0; i < shapes.size(); ++i) {
        inputs[i].nbDims = shapes[i].nbDims;
        for (int32_t j = 0; j < shapes[i].nbDims; ++j) {
            inputs[i].d[j] = values.constant(shapes[i].d[j]);
        }
    }
    DimsExprs output = {};
    int32_t const status = build->getOutputShapes(inputs.data(), 5, nullptr, 0, &output, 1, builder);
    std::printf("output shape: %d (", status);
    for (int32_t j = 0; j < output.nbDims; ++j) {
        std::printf("%s%lld", j == 0 ? "" : ", ", static_cast<long long>(output.d[j]->getConstantValue()));
    }
    std::printf(")\n");
    DataType const types[] = {DataType::kHALF, DataType::kHALF, DataType::kHALF, DataType::kHALF};
    DataType type = DataType::kFLOAT;
    build->getOutputDataTypes(&type, 1, types, 4);
    std::printf("output type is the input's: %d\n", type == DataType::kHALF);

    auto const half = tensor(shapes[0], DataType::kHALF);
    auto const single = tensor(shapes[0], DataType::kFLOAT);
    auto const integer = tensor(shapes[0], DataType::kINT8);
    auto const vectors = tensor(shapes[0], DataType::kHALF, TensorFormat::kHWC8);
    std::printf("supports: half %d, float %d, int8 %d, hwc8 %d, mixed %d, output %d\n",
        supports(*build, 0, {half, half, half, half, half}), supports(*build, 0, {single, half, half, half, half}),
        supports(*build, 0, {integer, half, half, half, half}), supports(*build, 0, {vectors, half, half, half, half}),
        supports(*build, 3, {half, half, half, single, half}), supports(*build, 4, {half, half, half, half, half}));

    change(*runtime, "shapes", shapes);
    change(*runtime, "without mask", {shapes[0], shapes[1], shapes[2], shapes[3]});
    change(*runtime, "offset of a wrong size", {shapes[0], shapes[1], dims({3, 48, 9, 10}), shapes[3]});
    change(*runtime, "mask of a wrong batch", {shapes[0], shapes[1], shapes[2], shapes[3], dims({1, 24, 4, 11})});
    change(*runtime, "three inputs", {shapes[0], shapes[1], shapes[2]});
    change(*runtime, "channels", {dims({3, 9, 9, 10}), shapes[1], shapes[2], shapes[3]});

    // An engine gives back what was serialized.
    IPluginV3* again = creator.createPlugin("node", runtime->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    print_fields("deserialized",
        *capability<IPluginV3OneRuntime>(again, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize());
    IPluginV3* attached = capability<IPluginV3OneRuntime>(again, PluginCapabilityType::kRUNTIME)->attachToContext(nullptr);
    std::printf("attached: %d\n", attached != nullptr && attached != again);
    IPluginV3* plain = creator.createPlugin("node", nullptr, TensorRTPhase::kBUILD);
    print_fields(
        "defaults", *capability<IPluginV3OneRuntime>(plain, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize());

    fields[1].length = 1;
    std::printf("short stride: %d\n", creator.createPlugin("node", &collection, TensorRTPhase::kBUILD) != nullptr);
    fields[1] = {"stride", stride, PluginFieldType::kFLOAT32, 2};
    std::printf("float stride: %d\n", creator.createPlugin("node", &collection, TensorRTPhase::kBUILD) != nullptr);
    int32_t const zero[] = {0, 1};
    fields[1] = {"stride", zero, PluginFieldType::kINT32, 2};
    std::printf("zero stride: %d\n", creator.createPlugin("node", &collection, TensorRTPhase::kBUILD) != nullptr);
    delete plugin;
    delete again;
    delete attached;
    delete plain;
    return 0;
}
