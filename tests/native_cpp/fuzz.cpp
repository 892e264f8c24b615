// Feeds damaged manifests, arrays, labels and JSON to the readers: nothing but an edgecnn::Error may come out.
//
// With clang it is a libFuzzer target (-fsanitize=fuzzer -DEDGECNN_LIBFUZZER); else a program that mutates seeds by a fixed
// recipe: fuzz SECONDS SEED FILE... prints the number of executions and of inputs that were read as valid.

#include <edgecnn/bundle.hpp>
#include <edgecnn/preprocess.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

// The first byte names the reader. Return whether the rest was valid.
bool read_one(std::string_view data) {
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

} // namespace

#if defined(EDGECNN_LIBFUZZER)
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    read_one({reinterpret_cast<char const*>(data), size});
    return 0;
}
#else

namespace {

using Random = std::mt19937;

std::size_t below(Random& random, std::size_t most) {
    return most == 0 ? 0 : random() % most;
}

// Damage an input: bytes, runs, copies, cuts, and words that readers stumble over.
std::string mutated(std::string text, Random& random) {
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

} // namespace

int main(int count, char** words) {
    if (count < 4) {
        std::fputs("usage: fuzz SECONDS SEED FILE...\n", stderr);
        return 2;
    }
    std::vector<std::string> seeds;
    for (int i = 3; i < count; ++i) {
        std::ifstream stream(words[i], std::ios::binary);
        seeds.emplace_back((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    }
    Random random(static_cast<Random::result_type>(std::atoi(words[2])));
    auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(words[1]));
    std::uint64_t executions = 0, valid = 0;
    for (auto const& seed : seeds) {
        if (!read_one(seed)) {
            std::fputs("a seed is not valid\n", stderr);
            return 1;
        }
    }
    while (std::chrono::steady_clock::now() < end) {
        for (auto const& seed : seeds) {
            valid += read_one(mutated(seed, random)) ? 1 : 0;
            ++executions;
        }
    }
    std::printf("%llu executions, %llu valid\n", static_cast<unsigned long long>(executions), static_cast<unsigned long long>(valid));
}
#endif
