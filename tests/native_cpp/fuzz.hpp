// Feeds damaged manifests, arrays, labels and preprocessings to the readers: nothing but an edgecnn::Error may come out.
//
// fuzz.cpp makes it a target of clang's libFuzzer; the tests run it on seeds that are mutated by a fixed recipe.
#pragma once

#include <edgecnn/bundle.hpp>
#include <edgecnn/preprocess.hpp>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fuzz {

// The first byte names the reader. Return whether the rest was valid.
inline bool read_one(std::string_view data) {
    if (data.empty()) {
        return false;
    }
    auto const kind = static_cast<unsigned char>(data.front()) % 4;
    data.remove_prefix(1);
    try {
        if (kind == 0) {
            edgecnn::detail::parse_manifest(data);
        } else if (kind == 1) {
            edgecnn::detail::parse_npz(data);
        } else if (kind == 2) {
            edgecnn::detail::parse_labels(data, 5, "labels.txt");
        } else {
            auto const preprocess = edgecnn::detail::read_preprocess(edgecnn::detail::parse_json(data, "json"), "json");
            std::vector<std::uint8_t> const pixels(37 * 53 * 3, 99);
            if (preprocess.height <= 512 && preprocess.width <= 512) { // more is slow, and no different
                auto const fitted = edgecnn::fit({pixels.data(), 37, 53}, preprocess);
                edgecnn::normalize(fitted.data(), 1, preprocess);
            }
        }
    } catch (edgecnn::Error const&) {
        return false;
    }
    return true;
}

using Random = std::mt19937;

inline std::size_t below(Random& random, std::size_t most) {
    return most == 0 ? 0 : random() % most;
}

// Damage an input: bytes, runs, copies, cuts, and words that readers stumble over.
inline std::string mutated(std::string text, Random& random) {
    static std::vector<std::string> const words = {"null", "-1", "1e999", "99999999999999999999", "{}", "[]", "\"\"", "\"../x\"",
        "[[[[", "\xff", std::string(1, '\0'), "\\ud800", "18446744073709551616", "\xff\xff\xff\xff", "(0,)", "'<f8'", "True"};
    for (std::size_t count = 1 + below(random, 4); count > 0 && text.size() > 1; --count) {
        std::size_t const at = 1 + below(random, text.size() - 1);
        std::size_t const length = 1 + below(random, 1 + below(random, 64));
        switch (below(random, 6)) {
        case 0:
            text[at] = static_cast<char>(random());
            break;
        case 1:
            text[at] = static_cast<char>(text[at] ^ (1 << below(random, 8)));
            break;
        case 2:
            text.erase(at, length);
            break;
        case 3:
            text.insert(at, words[below(random, words.size())]);
            break;
        case 4:
            text.insert(at, text.substr(1 + below(random, text.size() - 1), length));
            break;
        default:
            text.resize(below(random, 8) == 0 ? at : text.size());
        }
    }
    return text;
}

/// Damage seeds, which must be valid, for some seconds. Return the executions, and how many were read as valid.
inline std::pair<std::uint64_t, std::uint64_t> run(double seconds, unsigned seed, std::vector<std::string> const& files) {
    std::vector<std::string> seeds;
    for (auto const& file : files) {
        std::ifstream stream(file, std::ios::binary);
        seeds.emplace_back((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
        if (!read_one(seeds.back())) {
            throw std::invalid_argument(file + " is not valid");
        }
    }
    Random random(seed);
    std::pair<std::uint64_t, std::uint64_t> result;
    auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end) {
        for (auto const& one : seeds) {
            result.second += read_one(mutated(one, random)) ? 1 : 0;
            ++result.first;
        }
    }
    return result;
}

} // namespace fuzz
