// Reads manifest.json, trusting nothing: what Python's reader refuses, this one refuses with the error of the same name.
//
// It is stricter where Python's dataclasses are lenient: text where a list belongs, a preprocessing with parts left out or a
// side of more than 16384 pixels are refused here. No writer of a bundle makes such.
#pragma once

#include <edgecnn/files.hpp>
#include <edgecnn/spec_reader.hpp>
#include <edgecnn/version.hpp>

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgecnn::detail {

inline std::string read_path(Fields const& read, std::string_view key) {
    auto const& path = read.text(key);
    check_path(path);
    return path;
}

/// Check the steps of a history.
inline void check_lineage(Fields const& read) {
    for (auto const& item : read.sequence("lineage")) {
        Fields const step(item, read.where() + " lineage");
        static_cast<void>(step.text("stage"));
        step.text_mapping("tools");
        step.mapping("config");
        step.text_mapping("inputs");
        step.texts("notes");
    }
}

inline std::optional<double> number_or_none(Fields const& read, std::string_view key) {
    return read.get_or_null(key) == nullptr ? std::nullopt : std::optional<double>(read.number(key));
}

inline Weights read_weights(Value const& data) {
    Fields const read(data, "weights");
    Weights result;
    result.entry = read.text("entry", "");
    result.source = read.text("source", "");
    static_cast<void>(read.text("sha256", ""));
    result.licence = read.text("licence", "");
    result.top1 = number_or_none(read, "top1");
    result.top5 = number_or_none(read, "top5");
    result.untrained = read.boolean("untrained");
    if (read.get_or_null("seed") != nullptr) {
        read.integer("seed");
    }
    return result;
}

inline Labels read_labels(Value const& data) {
    Fields const read(data, "labels");
    Labels result;
    result.file = read_path(read, "file");
    result.count = read.integer("count", 1);
    result.sha256 = read.sha256("sha256");
    return result;
}

inline Speed read_speed(Value const& data) {
    Fields const read(data, "speed");
    Speed result;
    auto const* others = read.mapping_or_null("backends");
    result.milliseconds = read.number("milliseconds", 0);
    result.ratio = read.number("ratio", 0);
    result.backend = read.text("backend", "onnxruntime");
    result.threads = read.find("threads") == nullptr ? 0 : read.integer("threads", 0);
    result.machine = read.text("machine", "");
    if (others != nullptr) {
        for (auto const& member : *others->as<Value::Object>()) {
            Fields const other(member.value, "speed on " + in_quotes(member.key, 40));
            BackendSpeed speed;
            speed.milliseconds = other.number("milliseconds", 0);
            speed.ratio = other.number("ratio", 0);
            speed.verified = other.boolean("verified");
            result.backends.add(member.key, speed);
        }
    }
    return result;
}

inline Variant read_variant(Value const& data, std::string const& where) {
    Fields const read(data, where);
    Variant result;
    auto const* speed = read.get_or_null("speed");
    result.file = read_path(read, "file");
    result.precision = read.text("precision");
    result.opset = read.integer("opset", 0);
    result.nodes = read.integer("nodes", 0);
    result.inputs = read_tensors(read, "inputs");
    result.outputs = read_tensors(read, "outputs");
    check_lineage(read);
    read.mapping_or_null("placement");
    result.verified = read.boolean("verified");
    if (speed != nullptr) {
        result.speed = read_speed(*speed);
    }
    return result;
}

/// Read the least, best and largest shape of an engine's input.
inline Profile read_profile(Value const& data, std::string const& where) {
    auto const* shapes = data.as<Value::Array>();
    if (shapes == nullptr || shapes->size() != 3) {
        throw BundleSchemaError(where + ": a profile has three shapes");
    }
    std::vector<std::vector<std::int64_t>> found;
    for (auto const& shape : *shapes) {
        auto const* dims = shape.as<Value::Array>();
        if (dims == nullptr) {
            throw BundleSchemaError(where + ": a profile has three shapes");
        }
        found.emplace_back();
        for (auto const& dim : *dims) {
            auto const* length = dim.as<std::int64_t>();
            if (length == nullptr || *length < 1) {
                throw BundleSchemaError(where + ": a profile's shapes are of positive integers");
            }
            found.back().push_back(*length);
        }
    }
    return Profile{found[0], found[1], found[2]};
}

/// Return a text of the build's options, which are free: "" where it is something else.
inline std::string option(Value const& options, std::string_view key) {
    auto const* value = options.find(key);
    auto const* text = value != nullptr ? value->as<std::string>() : nullptr;
    return text != nullptr ? *text : "";
}

/// Return whether an option of the build is set, in Python's sense of truth.
inline bool is_set(Value const& options, std::string_view key) {
    auto const* value = options.find(key);
    if (value == nullptr || value->is_null()) {
        return false;
    }
    if (auto const* flag = value->as<bool>()) {
        return *flag;
    }
    if (auto const* whole = value->as<std::int64_t>()) {
        return *whole != 0;
    }
    auto const* text = value->as<std::string>();
    return text == nullptr || !text->empty();
}

inline bool is_flavour(std::string_view name) {
    auto const plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
    return !name.empty() && name.size() <= 32 && plain(name.front())
        && std::all_of(name.begin(), name.end(), [&](char c) { return plain(c) || c == '-'; });
}

inline EngineRecord read_engine(Value const& data, std::string const& where) {
    Fields const read(data, where);
    EngineRecord result;
    check_lineage(read);
    result.flavour = read.text("flavour");
    result.version = read.text("version");
    for (char const* key : {"cuda", "driver_cuda", "model_sha256", "timing_cache_sha256"}) {
        static_cast<void>(read.text(key));
    }
    result.platform = read.text("platform");
    result.precision = read.text("precision");
    if (!is_flavour(result.flavour)) {
        throw BundleSchemaError(where + ": " + in_quotes(result.flavour, 40) + " is not a name for a flavour");
    }
    result.file = read_path(read, "file");
    result.variant = read.text("variant");
    result.compute_capabilities = read.texts("compute_capabilities");
    for (auto const& member : *read.mapping("profile").as<Value::Object>()) {
        result.profile.add(member.key, read_profile(member.value, where));
    }
    auto const& options = read.mapping("options");
    read.number("seconds", 0);
    read.mapping("audit");
    if (auto const* speed = read.mapping_or_null("speed")) {
        Fields const measured(*speed, where + " speed");
        measured.number("milliseconds", 0);
        result.ratio = measured.number("ratio", 0);
        static_cast<void>(measured.text("baseline"));
        static_cast<void>(measured.text("gpu"));
    }
    result.batch = option(options, "batch");
    result.hardware = option(options, "hardware");
    result.version_compatible = is_set(options, "version_compatible");
    result.strip_weights = is_set(options, "strip_weights");
    auto const* dla = options.find("dla");
    if (auto const* core = dla != nullptr ? dla->as<std::int64_t>() : nullptr) {
        result.dla = *core;
    }
    auto const* plugins = options.find("plugins");
    if (auto const* names = plugins != nullptr ? plugins->as<Value::Array>() : nullptr) {
        for (auto const& name : *names) {
            result.plugins.push_back(name.as<std::string>() != nullptr ? *name.as<std::string>() : Fields::shown(name));
        }
    }
    return result;
}

inline Ordered<FileRecord> read_files(Value const& data) {
    Ordered<FileRecord> files;
    for (auto const& member : *data.as<Value::Object>()) {
        check_path(member.key);
        Fields const read(member.value, "file " + in_quotes(member.key));
        FileRecord record;
        record.sha256 = read.sha256("sha256");
        record.bytes = read.integer("bytes", 0);
        files.add(member.key, std::move(record));
    }
    return files;
}

/// Check the class names against the network and the files.
inline void check_labels(Manifest const& manifest) {
    if (!manifest.labels) {
        return;
    }
    if (manifest.labels->count != manifest.model.num_classes) {
        throw BundleSchemaError(in_manifest(std::to_string(manifest.labels->count) + " labels for "
            + std::to_string(manifest.model.num_classes) + " classes of " + in_quotes(manifest.model.name, 40)));
    }
    if (manifest.labels->sha256 != manifest.files.find(manifest.labels->file)->sha256) {
        throw BundleSchemaError(in_manifest("two hashes for " + manifest.labels->file));
    }
}

/// Check that what preprocessing makes is what a graph takes.
inline void check_input(Manifest const& manifest, std::string const& name, Variant const& variant) {
    auto const& preprocess = manifest.preprocess;
    std::int64_t const height = preprocess.height, width = preprocess.width, channels = preprocess.channels();
    bool const inside = manifest.embedded.preprocess;
    std::vector<std::int64_t> const wanted
        = inside ? std::vector<std::int64_t>{height, width, channels} : std::vector<std::int64_t>{channels, height, width};
    DType const dtype = inside ? DType::uint8 : DType::float32;
    auto const& spec = variant.inputs.front();
    if (variant.inputs.size() != 1 || spec.shape.size() != 4 || spec.dtype != dtype) {
        throw BundleSchemaError(
            in_manifest("variant " + name + " must take one " + name_of(dtype) + " tensor of 4 dimensions"));
    }
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        if (spec.shape[i + 1] >= 0 && spec.shape[i + 1] != wanted[i]) {
            throw BundleSchemaError(in_manifest("variant " + name + " takes " + listed(spec.shape)
                + ", but the preprocessing makes " + listed(wanted)));
        }
    }
}

inline bool is_variant_name(std::string_view name) {
    auto const plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
    return !name.empty() && name.size() <= 64 && plain(name.front())
        && std::all_of(name.begin(), name.end(), [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

/// Check that the parts of a manifest fit each other.
inline void check_whole(Manifest const& manifest) {
    if (manifest.variants.empty()) {
        throw BundleSchemaError(in_manifest("no variants"));
    }
    if (manifest.files.has(kManifest)) {
        throw BundleSchemaError(in_manifest("lists itself among its files"));
    }
    auto const check_listed = [&](std::string const& file) {
        if (!manifest.files.has(file)) {
            throw BundleSchemaError(in_manifest(file + " is used but not listed under files"));
        }
    };
    for (auto const& [name, variant] : manifest.variants) {
        check_listed(variant.file);
    }
    for (auto const& [name, engine] : manifest.engines) {
        check_listed(engine.file);
    }
    if (manifest.labels) {
        check_listed(manifest.labels->file);
    }
    check_labels(manifest);
    for (auto const& [name, variant] : manifest.variants) {
        if (!is_variant_name(name)) {
            throw BundleSchemaError(in_manifest(in_quotes(name) + " is not a name for a variant"));
        }
        check_input(manifest, name, variant);
    }
    for (auto const& [name, engine] : manifest.engines) {
        if (!manifest.variants.has(engine.variant) || name != engine.variant + "." + engine.flavour) {
            throw BundleSchemaError(
                in_manifest("engine " + in_quotes(name) + " is not named after a variant and its flavour"));
        }
    }
}

/// Check the version before anything else is looked at.
inline std::int64_t read_schema(Fields const& read) {
    auto const schema = read.integer("schema");
    if (schema > kSchema) {
        auto const* writer = read.find("edgecnn");
        auto const* text = writer != nullptr ? writer->as<std::string>() : nullptr;
        throw BundleSchemaError(std::string(kManifest) + " has schema " + std::to_string(schema) + ", written by edgecnn "
            + in_quotes(text != nullptr ? *text : "?", 20) + "; this edgecnn " + kVersion + " reads up to "
            + std::to_string(kSchema) + ": upgrade it, or export again");
    }
    if (schema < 1) {
        throw BundleSchemaError(in_manifest("schema " + std::to_string(schema) + " is not a version"));
    }
    return schema;
}

/// Read the bytes of a manifest.json.
///
/// Throws BundleCorruptError: they are not JSON. BundleSchemaError: a newer schema, or not a manifest. BundlePathError: a path
/// that leaves the bundle.
inline Manifest parse_manifest(std::string_view text) {
    Value const data = parse_json(text, kManifest);
    Fields const read(data, kManifest);
    Manifest manifest;
    manifest.schema = read_schema(read);
    auto const* labels = read.get_or_null("labels");
    auto const& variants = read.mapping("variants");
    auto const& files = read.mapping("files");
    manifest.edgecnn = read.text("edgecnn");
    manifest.created = read.text("created", "");
    manifest.model = read_model(read.mapping("model"));
    manifest.preprocess = read_preprocess(read.mapping("preprocess"), "preprocess");
    manifest.weights = read_weights(read.mapping("weights"));
    if (labels != nullptr) {
        manifest.labels = read_labels(*labels);
    }
    Fields const embedded(read.mapping("embedded"), "embedded");
    manifest.embedded.preprocess = embedded.boolean("preprocess");
    manifest.embedded.softmax = embedded.boolean("softmax");
    for (auto const& member : *variants.as<Value::Object>()) {
        manifest.variants.add(member.key, read_variant(member.value, "variant " + in_quotes(member.key)));
    }
    if (auto const* engines = read.mapping_or_null("engines")) {
        for (auto const& member : *engines->as<Value::Object>()) {
            manifest.engines.add(member.key, read_engine(member.value, "engine " + in_quotes(member.key)));
        }
    }
    read.mapping_or_null("calibration");
    read.mapping("parity");
    manifest.verified = read.boolean("verified");
    manifest.notes = read.texts("notes");
    check_lineage(read);
    read.text_mapping("tools");
    manifest.files = read_files(files);
    check_whole(manifest);
    return manifest;
}

} // namespace edgecnn::detail
