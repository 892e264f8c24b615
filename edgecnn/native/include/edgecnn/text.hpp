// Untrusted text in messages, and a container that keeps the order of a JSON object.
#pragma once

#include <cstddef>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgecnn {

/// Name -> value in the order of the file; looked up in logarithmic time, since a manifest may come from anyone.
template <typename Value>
class Ordered {
public:
    using Item = std::pair<std::string, Value>;

    /// Append. A name that is there already keeps its first value: whoever reads JSON refuses those before.
    void add(std::string name, Value value) {
        if (places_.emplace(name, items_.size()).second) {
            items_.emplace_back(std::move(name), std::move(value));
        }
    }

    /// Return the value, or null; valid until the next add().
    Value const* find(std::string_view name) const {
        auto const found = places_.find(name);
        return found == places_.end() ? nullptr : &items_[found->second].second;
    }

    bool has(std::string_view name) const {
        return find(name) != nullptr;
    }

    bool empty() const noexcept {
        return items_.empty();
    }

    std::size_t size() const noexcept {
        return items_.size();
    }

    auto begin() const noexcept {
        return items_.begin();
    }

    auto end() const noexcept {
        return items_.end();
    }

private:
    std::vector<Item> items_;
    std::map<std::string, std::size_t, std::less<>> places_;
};

namespace detail {

/// Return text in quotes for a one-line message: its first bytes, control characters escaped.
inline std::string in_quotes(std::string_view text, std::size_t most = 80) {
    std::string result = "'";
    for (char const c : text.substr(0, most)) {
        auto const byte = static_cast<unsigned char>(c);
        if (byte < 32 || byte == 127) {
            char escaped[5];
            std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(byte));
            result += escaped;
        } else {
            result += c;
        }
    }
    return result + "'";
}

/// Join with commas.
template <typename Items>
std::string joined(Items const& items, std::string_view between = ", ") {
    std::string result;
    bool first = true;
    for (auto const& item : items) {
        if (!first) {
            result += between;
        }
        result += item;
        first = false;
    }
    return result;
}

/// Return numbers as "[1, 3, 224, 224]".
template <typename Numbers>
std::string listed(Numbers const& numbers) {
    std::vector<std::string> texts;
    for (auto const number : numbers) {
        texts.push_back(std::to_string(number));
    }
    return "[" + joined(texts) + "]";
}

/// Return a number with up to so many significant digits.
inline std::string number(double value, int digits = 2) {
    char text[40];
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    return text;
}

/// Return a number with so many decimals.
inline std::string fixed(double value, int decimals = 2) {
    char text[400];
    std::snprintf(text, sizeof text, "%.*f", decimals, value);
    return text;
}

/// Return text as one line of at most so many bytes.
inline std::string one_line(std::string_view text, std::size_t most = 300) {
    std::string result;
    for (char const c : text) {
        bool const space = c == ' ' || (static_cast<unsigned char>(c) < 32);
        if (!space) {
            result += c;
        } else if (!result.empty() && result.back() != ' ') {
            result += ' ';
        }
    }
    while (!result.empty() && result.back() == ' ') {
        result.pop_back();
    }
    return result.size() <= most ? result : result.substr(0, most) + "...";
}

} // namespace detail
} // namespace edgecnn
