// Tensors, preprocessing and the model from untrusted JSON.
#pragma once

#include <edgecnn/fields.hpp>
#include <edgecnn/manifest.hpp>
#include <edgecnn/spec.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace edgecnn::detail {

constexpr char const* kManifest = "manifest.json";

/// Larger sides and resizes are refused: no classifier has them, and their memory would be the caller's trouble.
constexpr std::int64_t kLargestSide = 1 << 14;

inline std::string in_manifest(std::string const& where) {
    return std::string(kManifest) + ": " + where;
}

/// Read a tensor; `name` must be text, dimensions positive lengths or names.
inline TensorSpec read_tensor(Value const& data, std::string const& where) {
    Fields const read(data, where);
    TensorSpec spec;
    spec.name = read.text("name");
    read.only({"name", "shape", "dtype"});
    if (spec.name.empty()) {
        throw BundleSchemaError(where + ": a tensor needs a name");
    }
    for (auto const& dim : read.sequence("shape")) {
        auto const* length = dim.as<std::int64_t>();
        auto const* name = dim.as<std::string>();
        if ((length == nullptr || *length < 1) && (name == nullptr || name->empty())) {
            throw BundleSchemaError(where + ": tensor " + in_quotes(spec.name, 40) + ": " + Fields::shown(dim)
                + " is neither a positive length nor the name of a dynamic one");
        }
        spec.shape.push_back(length != nullptr ? *length : -1);
    }
    auto const dtype = read.text("dtype", "float32");
    auto const* found = std::find_if(kDTypes.begin(), kDTypes.end(), [&](auto const& one) { return one.name == dtype; });
    if (found == kDTypes.end()) {
        throw BundleSchemaError(where + ": tensor " + in_quotes(spec.name, 40) + " has dtype " + in_quotes(dtype, 40));
    }
    spec.dtype = found->dtype;
    return spec;
}

/// Read a non-empty list of tensors.
inline std::vector<TensorSpec> read_tensors(Fields const& read, std::string const& key) {
    std::vector<TensorSpec> tensors;
    for (auto const& item : read.sequence(key)) {
        tensors.push_back(read_tensor(item, read.where() + " " + key));
    }
    if (tensors.empty()) {
        throw BundleSchemaError(in_manifest(read.where() + ": " + key + " is empty"));
    }
    return tensors;
}

/// Read one of some names.
template <typename Enum>
Enum read_enum(Fields const& read, std::string const& key, std::vector<std::pair<char const*, Enum>> const& names) {
    auto const& text = read.text(key);
    for (auto const& [name, value] : names) {
        if (text == name) {
            return value;
        }
    }
    throw BundleSchemaError(in_manifest(read.where() + ": " + key + " " + in_quotes(text, 40) + " is not known"));
}

/// Read numbers, one a channel.
inline std::vector<double> read_channels(Fields const& read, std::string const& key, int channels) {
    std::vector<double> numbers;
    for (auto const& item : read.sequence(key)) {
        auto const* whole = item.as<std::int64_t>();
        auto const* real = item.as<double>();
        if (whole == nullptr && real == nullptr) {
            throw BundleSchemaError(in_manifest(read.where() + ": " + key + " has " + Fields::shown(item)));
        }
        numbers.push_back(whole != nullptr ? static_cast<double>(*whole) : *real);
    }
    if (numbers.size() != static_cast<std::size_t>(channels)) {
        throw BundleSchemaError(in_manifest(read.where() + ": " + std::to_string(channels) + " channel(s), but " + key
            + " has " + std::to_string(numbers.size())));
    }
    return numbers;
}

/// Read a preprocessing.
inline Preprocess read_preprocess(Value const& data, std::string const& where) {
    Fields const read(data, where);
    read.only({"size", "resize", "order", "interpolation", "mean", "std", "colour"});
    Preprocess result;
    std::vector<std::int64_t> size;
    for (auto const& item : read.sequence("size")) {
        auto const* length = item.as<std::int64_t>();
        size.push_back(length != nullptr ? *length : 0);
    }
    if (size.size() != 2 || std::any_of(size.begin(), size.end(), [](auto side) { return side < 1 || side > kLargestSide; })) {
        throw BundleSchemaError(in_manifest(
            where + ": size is not (height, width) in pixels, of at most " + std::to_string(kLargestSide)));
    }
    auto const resize = read.integer("resize", std::max(size[0], size[1]));
    if (resize > kLargestSide) {
        throw BundleSchemaError(in_manifest(where + ": resize is larger than " + std::to_string(kLargestSide)));
    }
    result.height = static_cast<int>(size[0]);
    result.width = static_cast<int>(size[1]);
    result.resize = static_cast<int>(resize);
    result.order = read_enum<Order>(
        read, "order", {{"resize-crop", Order::resize_crop}, {"crop-resize", Order::crop_resize}});
    result.interpolation = read_enum<Interpolation>(read, "interpolation",
        {{"nearest", Interpolation::nearest}, {"bilinear", Interpolation::bilinear},
            {"bicubic", Interpolation::bicubic}, {"lanczos", Interpolation::lanczos}});
    result.colour
        = read_enum<Colour>(read, "colour", {{"RGB", Colour::rgb}, {"BGR", Colour::bgr}, {"L", Colour::gray}});
    result.mean = read_channels(read, "mean", result.channels());
    result.std = read_channels(read, "std", result.channels());
    if (!std::all_of(result.std.begin(), result.std.end(), [](double value) { return value > 0; })) {
        throw BundleSchemaError(in_manifest(where + ": std must be positive"));
    }
    return result;
}

/// Check a published entry of weights, of which an application needs nothing but its name.
inline std::string read_entry(Value const& data) {
    Fields const read(data, "model weights");
    read.only({"name", "url", "package", "file", "sha256", "licence", "source", "top1", "top5", "num_classes", "preprocess",
        "arguments"});
    auto name = read.text("name");
    if (name.empty() || read.text("url", "").empty() == read.text("package", "").empty()) {
        throw BundleSchemaError(in_manifest("model: weights need a name, and a url or a package, and not both"));
    }
    if (auto const* preprocess = read.find("preprocess")) {
        read_preprocess(*preprocess, "model weights preprocess");
    }
    if (read.find("arguments") != nullptr) {
        read.mapping("arguments");
    }
    return name;
}

/// Read the network.
inline Model read_model(Value const& data) {
    Fields const read(data, "model");
    Model model;
    model.name = read.text("name");
    auto const& builder = read.text("builder");
    model.family = read.text("family", "");
    auto const entry = read.text("default_weights", "");
    static_cast<void>(read.text("labels", ""));
    model.num_classes = read.integer("num_classes", 1);
    read.only({"name", "builder", "family", "arguments", "num_classes", "inputs", "outputs", "preprocess", "weights",
        "default_weights", "labels"});
    for (char const* key : {"inputs", "outputs"}) {
        if (read.find(key) != nullptr) {
            read_tensors(read, key);
        }
    }
    if (read.find("arguments") != nullptr) {
        read.mapping("arguments");
    }
    if (auto const* preprocess = read.find("preprocess")) {
        read_preprocess(*preprocess, "model preprocess");
    }
    bool known = entry.empty();
    if (read.find("weights") != nullptr) {
        for (auto const& item : read.sequence("weights")) {
            known = (read_entry(item) == entry) || known;
        }
    }
    if (model.name.empty() || builder.find(':') == std::string::npos) {
        throw BundleSchemaError(in_manifest("model " + in_quotes(model.name, 40) + ": builder is not 'module:function'"));
    }
    if (!known) {
        throw BundleSchemaError(in_manifest("model: default weights " + in_quotes(entry, 40) + " are not among its entries"));
    }
    return model;
}

} // namespace edgecnn::detail
