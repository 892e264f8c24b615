// classify BUNDLE IMAGE...: the classes of pictures, or --selftest: a bundle proven on this device.
//
// Exit codes: 0 fine, 1 an error with one line that says what to do, 2 wrong usage, 3 the self-test failed.

#include "image_file.hpp"

#include <edgecnn/edgecnn.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace {

using Json = nlohmann::ordered_json;

constexpr char const* kUsage
    = "usage: classify BUNDLE IMAGE... [--variant V] [--backend B] [--threads N] [--top K] [--json] [--allow-unverified]\n"
      "       classify BUNDLE --selftest [--variant V] [--backend B] [--threads N] [--json]\n";

struct Arguments {
    std::string bundle;
    std::vector<std::string> images;
    edgecnn::LoadOptions load;
    std::size_t top = 5;
    bool as_json = false;
    bool selftest = false;
    bool help = false;
};

struct Misuse {
    std::string text;
};

// Return a whole number of an option.
int whole(std::string const& name, std::string const& text, int least) {
    bool const digits = !text.empty() && text.size() <= 6 && text.find_first_not_of("0123456789") == std::string::npos;
    int const value = digits ? std::atoi(text.c_str()) : -1;
    if (value < least) {
        throw Misuse{name + " takes a whole number of at least " + std::to_string(least) + ", found '" + text + "'"};
    }
    return value;
}

Arguments parsed(std::vector<std::string> const& words) {
    Arguments result;
    std::vector<std::string> plain;
    for (std::size_t i = 0; i < words.size(); ++i) {
        auto const& word = words[i];
        auto const value = [&]() -> std::string const& {
            if (i + 1 == words.size()) {
                throw Misuse{word + " needs a value"};
            }
            return words[++i];
        };
        if (word == "--variant") {
            result.load.variant = value();
        } else if (word == "--backend") {
            result.load.backend = value();
        } else if (word == "--threads") {
            result.load.openvino.threads = whole(word, value(), 0);
        } else if (word == "--top") {
            result.top = static_cast<std::size_t>(whole(word, value(), 1));
        } else if (word == "--json") {
            result.as_json = true;
        } else if (word == "--selftest") {
            result.selftest = true;
        } else if (word == "--allow-unverified") {
            result.load.allow_unverified = true;
        } else if (word == "-h" || word == "--help") {
            result.help = true;
        } else if (word.size() > 1 && word[0] == '-') {
            throw Misuse{"there is no option " + word};
        } else {
            plain.push_back(word);
        }
    }
    if (!result.help && (plain.empty() || (plain.size() == 1) != result.selftest)) {
        throw Misuse{result.selftest ? "--selftest takes a bundle, and no images" : "a bundle and an image are missing"};
    }
    if (!plain.empty()) {
        result.bundle = plain.front();
        result.images.assign(plain.begin() + 1, plain.end());
    }
    return result;
}

void print(Json const& document) {
    std::cout << document.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

void warn(edgecnn::Bundle const& bundle) {
    for (auto const& alarm : bundle.alarms()) {
        std::cerr << "warning: " << alarm << '\n';
    }
}

int run_selftest(Arguments const& arguments) {
    auto const bundle = edgecnn::Bundle::open(arguments.bundle, {true, edgecnn::Check::full});
    warn(bundle);
    auto const test = edgecnn::selftest(bundle, arguments.load);
    if (arguments.as_json) {
        auto const finite = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
        print({{"variant", test.variant}, {"backend", test.backend}, {"images", test.images},
            {"tensor_error", finite(test.tensor_error)}, {"tensor_tolerance", test.tensor_tolerance},
            {"logit_error", finite(test.logit_error)}, {"logit_tolerance", test.logit_tolerance}, {"top1", test.top1},
            {"seconds", test.seconds}, {"passed", test.passed()}, {"untrained", bundle.untrained()}});
    } else {
        std::cout << test.text() << '\n';
    }
    return test.passed() ? 0 : 3;
}

// Print one picture's guesses, in percent so that small probabilities can be told apart.
void print(std::string const& image, std::vector<edgecnn::Prediction> const& guesses, bool many) {
    if (many) {
        std::cout << image << ":\n";
    }
    for (auto const& guess : guesses) {
        std::printf("%s%6.2f %%  %s\n", many ? "  " : "", 100 * guess.probability, guess.label.c_str());
    }
    std::fflush(stdout);
}

int run_images(Arguments const& arguments) {
    edgecnn::Classifier const classify(arguments.bundle, arguments.load);
    warn(classify.bundle());
    Json results = Json::array(), failed = Json::array();
    for (auto const& image : arguments.images) {
        try { // one bad image does not stop the others
            auto const decoded = read_image(image);
            auto const guesses = classify(decoded.view(), arguments.top);
            Json rows = Json::array();
            for (auto const& guess : guesses) {
                rows.push_back({{"index", guess.index}, {"label", guess.label}, {"probability", guess.probability}});
            }
            results.push_back({{"image", image}, {"predictions", std::move(rows)}});
            if (!arguments.as_json) {
                print(image, guesses, arguments.images.size() > 1);
            }
        } catch (edgecnn::DataError const& error) {
            failed.push_back({{"image", image}, {"error", error.what()}});
            std::cerr << "error: " << error.what() << '\n';
        }
    }
    bool const whole = failed.empty();
    if (arguments.as_json) {
        print({{"bundle", arguments.bundle}, {"variant", classify.variant()}, {"backend", classify.session().backend()},
            {"untrained", classify.bundle().untrained()}, {"results", std::move(results)}, {"failed", std::move(failed)}});
    }
    return whole ? 0 : 1;
}

int fail(std::string const& kind, std::string const& text, bool as_json, int code) {
    if (as_json) {
        print({{"error", {{"type", kind}, {"message", text}}}});
    }
    std::cerr << "error: " << text << '\n';
    return code;
}

} // namespace

int main(int count, char** words) {
    std::vector<std::string> const given(words + 1, words + count);
    bool const as_json = std::find(given.begin(), given.end(), "--json") != given.end();
    try {
        auto const arguments = parsed(given);
        if (arguments.help) {
            std::cout << kUsage;
            return 0;
        }
        return arguments.selftest ? run_selftest(arguments) : run_images(arguments);
    } catch (Misuse const& misuse) {
        int const code = fail("UsageError", misuse.text, as_json, 2);
        std::cerr << kUsage;
        return code;
    } catch (edgecnn::Error const& error) {
        return fail(error.kind(), error.what(), as_json, 1);
    } catch (std::exception const& error) {
        return fail("Error", error.what(), as_json, 1);
    }
}
