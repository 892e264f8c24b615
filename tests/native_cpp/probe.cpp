// What the tests ask of the headers: one line of JSON in, one out, until the input ends.

#include "fuzz.hpp"

#include <edgecnn/edgecnn.hpp>
#include <edgecnn/plan.hpp>

#include <nlohmann/json.hpp>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace {

using Json = nlohmann::json;
using edgecnn::Bundle;

std::string read(std::string const& path) {
    std::ifstream stream(path, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
}

template <typename T>
void write(std::string const& path, std::vector<T> const& values) {
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<char const*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
}

edgecnn::OpenOptions open_options(Json const& line) {
    auto const check = line.value("sizes", false) ? edgecnn::Check::sizes : edgecnn::Check::full;
    return {line.value("allow_unverified", false), check};
}

edgecnn::LoadOptions load_options(Json const& line) {
    edgecnn::LoadOptions options;
    options.variant = line.value("variant", "");
    options.backend = line.value("backend", "");
    options.allow_unverified = line.value("allow_unverified", false);
    options.openvino.threads = line.value("threads", 0);
    return options;
}

Json sha256(Json const& line) {
    auto const content = read(line.at("file"));
    auto const step = line.value("step", content.size() + 1);
    edgecnn::Sha256 hash;
    for (std::size_t at = 0; at < content.size(); at += step) {
        hash.update(content.data() + at, std::min(step, content.size() - at));
    }
    return hash.hex();
}

Json arrays_of(std::map<std::string, edgecnn::Array> const& arrays) {
    Json result = Json::object();
    for (auto const& [name, array] : arrays) {
        edgecnn::Sha256 hash;
        hash.update(array.bytes.data(), array.bytes.size());
        result[name] = {{"dtype", name_of(array.dtype)}, {"shape", array.shape}, {"sha256", hash.hex()}};
    }
    return result;
}

Json open(Json const& line) {
    auto const bundle = Bundle::open(line.at("bundle").get<std::string>(), open_options(line));
    std::vector<std::string> variants;
    for (auto const& item : bundle.variants()) {
        variants.push_back(item.first);
    }
    Json result = {{"variants", variants}, {"labels", bundle.labels()}, {"alarms", bundle.alarms()},
        {"warnings", bundle.warnings()}, {"untrained", bundle.untrained()}, {"model", bundle.manifest().model.name}};
    if (line.value("golden", true)) {
        result["golden"] = arrays_of(bundle.golden());
    }
    return result;
}

// The error's kind of each manifest in a file of manifests, one a line; "" where it is one.
Json manifests(Json const& line) {
    Json kinds = Json::array();
    std::ifstream stream(line.at("file").get<std::string>());
    for (std::string text; std::getline(stream, text);) {
        try {
            edgecnn::detail::parse_manifest(text);
            kinds.push_back("");
        } catch (edgecnn::Error const& error) {
            kinds.push_back(error.kind());
        }
    }
    return kinds;
}

Json fit(Json const& line) {
    auto const text = line.at("preprocess").dump();
    auto const preprocess = edgecnn::detail::read_preprocess(edgecnn::detail::parse_json(text, "test"), "test");
    auto const image = read(line.at("image"));
    edgecnn::ImageView const view = {reinterpret_cast<std::uint8_t const*>(image.data()), line.at("width"),
        line.at("height"), line.value("stride", std::size_t{0}),
        line.value("bgr", false) ? edgecnn::PixelOrder::bgr : edgecnn::PixelOrder::rgb};
    auto const pixels = edgecnn::fit(view, preprocess);
    write(line.at("pixels"), pixels);
    write(line.at("tensor"), edgecnn::normalize(pixels.data(), 1, preprocess));
    return nullptr;
}

Json choose(Json const& line) {
    auto const bundle = Bundle::open(line.at("bundle").get<std::string>(), {true, edgecnn::Check::sizes});
    auto const choice = bundle.choose(line.value("variant", ""), line.at("backend"));
    return {choice.variant, choice.backend};
}

// The checks of a plan, on a GPU that the line describes.
Json plan(Json const& line) {
    auto const bundle = Bundle::open(line.at("bundle").get<std::string>(), {true, edgecnn::Check::sizes});
    auto const& engine = *bundle.manifest().engines.find(line.at("engine").get<std::string>());
    std::vector<std::filesystem::path> plugins;
    for (auto const& path : line.value("plugins", std::vector<std::string>())) {
        plugins.emplace_back(path);
    }
    edgecnn::detail::check_package(engine, line.at("version"), engine.file, line.value("allow_host_code", false));
    edgecnn::detail::check_plugins(engine, plugins, engine.file);
    edgecnn::detail::check_device(engine, line.at("capability"), engine.file);
    if (line.contains("shape")) {
        edgecnn::detail::check_shape(line.at("shape"), engine.profile.begin()->second, engine.file);
    }
    return nullptr;
}

// A backend of the test's own: logits are the batch's index, so that rows can be told apart.
class Counting final : public edgecnn::Session {
public:
    Counting(std::int64_t batch, std::int64_t least, std::int64_t most, std::vector<float> logits)
        : logits_(std::move(logits)) {
        auto const classes = static_cast<std::int64_t>(logits_.size());
        describe({"input", {batch, 3, 32, 32}, edgecnn::DType::float32}, {"logits", {batch, classes}, edgecnn::DType::float32},
            least, most);
    }

    std::string backend() const override {
        return "counting";
    }

    std::vector<std::int64_t> runs;

protected:
    edgecnn::Tensor execute(edgecnn::TensorView const& feed) override {
        runs.push_back(feed.shape[0]);
        edgecnn::Tensor result{{feed.shape[0], static_cast<std::int64_t>(logits_.size())}, {}};
        for (std::int64_t i = 0; i < feed.shape[0]; ++i) {
            result.values.insert(result.values.end(), logits_.begin(), logits_.end());
        }
        return result;
    }

private:
    std::vector<float> logits_;
};

Json fake(Json const& line) {
    auto session = std::make_unique<Counting>(
        line.value("batch", -1), line.value("least", 0), line.value("most", 0), line.at("logits").get<std::vector<float>>());
    auto* const counting = session.get();
    edgecnn::Classifier const classify(Bundle::open(line.at("bundle").get<std::string>()), std::move(session));
    std::vector<std::uint8_t> const pixels(40 * 40 * 3, 7);
    std::vector<edgecnn::ImageView> const images(line.value("images", std::size_t{1}), {pixels.data(), 40, 40});
    Json rows = Json::array();
    for (auto const& row : classify(images, line.value("top", std::size_t{5}))) {
        Json guesses = Json::array();
        for (auto const& guess : row) {
            guesses.push_back({guess.index, guess.label, guess.probability});
        }
        rows.push_back(guesses);
    }
    return {{"rows", rows}, {"runs", counting->runs}};
}

#if defined(EDGECNN_WITH_OPENVINO)
// The probabilities of a picture, from several threads at once; they must agree.
Json classify(Json const& line) {
    edgecnn::Classifier classify(line.at("bundle").get<std::string>(), load_options(line));
    edgecnn::Classifier const moved = std::move(classify);
    auto const image = read(line.at("image"));
    edgecnn::ImageView const view
        = {reinterpret_cast<std::uint8_t const*>(image.data()), line.at("width"), line.at("height")};
    std::vector<std::vector<double>> rows(line.value("parallel", std::size_t{1}));
    std::vector<std::thread> threads;
    for (auto& row : rows) {
        threads.emplace_back([&] { row = moved.probabilities({view}).front(); });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    return {{"variant", moved.variant()}, {"backend", moved.session().backend()}, {"rows", rows}};
}

Json selftest(Json const& line) {
    auto const bundle = Bundle::open(line.at("bundle").get<std::string>(), {true, edgecnn::Check::full});
    auto const test = edgecnn::selftest(bundle, load_options(line));
    return {{"passed", test.passed()}, {"text", test.text()}, {"tensor_error", test.tensor_error},
        {"logit_error", test.logit_error}, {"top1", test.top1}, {"images", test.images}};
}
#endif

Json answer(Json const& line) {
    std::string const what = line.at("do");
    if (what == "version") {
        return {{"version", edgecnn::kVersion}, {"schema", edgecnn::kSchema}, {"backends", edgecnn::backends()}};
    }
    if (what == "sha256") {
        return sha256(line);
    }
    if (what == "open") {
        return open(line);
    }
    if (what == "npz") {
        return arrays_of(edgecnn::detail::parse_npz(read(line.at("file"))));
    }
    if (what == "manifests") {
        return manifests(line);
    }
    if (what == "fit") {
        return fit(line);
    }
    if (what == "choose") {
        return choose(line);
    }
    if (what == "plan") {
        return plan(line);
    }
    if (what == "fake") {
        return fake(line);
    }
    if (what == "fuzz") {
        return fuzz::run(line.at("seconds"), line.at("seed"), line.at("files"));
    }
#if defined(EDGECNN_WITH_OPENVINO)
    if (what == "classify") {
        return classify(line);
    }
    if (what == "selftest") {
        return selftest(line);
    }
#endif
    throw std::invalid_argument("no test does " + what);
}

} // namespace

int main() {
    for (std::string text; std::getline(std::cin, text);) {
        Json out;
        try {
            out["answer"] = answer(Json::parse(text));
        } catch (edgecnn::Error const& error) {
            out = {{"error", error.kind()}, {"message", error.what()}};
        }
        std::cout << out.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    }
}
