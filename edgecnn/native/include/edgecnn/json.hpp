// Untrusted JSON as a value that holds it: nlohmann-json reads, and what it reads is bounded in depth and count.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/text.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace edgecnn::detail {

struct Member;

/// A JSON value. An integer beyond 64 bits is the nearest that they hold.
struct Value {
    using Array = std::vector<Value>;
    using Object = std::vector<Member>;

    std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object> held = nullptr;

    template <typename T>
    T const* as() const noexcept {
        return std::get_if<T>(&held);
    }

    bool is_null() const noexcept {
        return as<std::nullptr_t>() != nullptr;
    }

    /// Return what an object holds under a key, or null.
    inline Value const* find(std::string_view key) const noexcept;
};

/// A key of an object and what is under it.
struct Member {
    std::string key;
    Value value;
};

inline Value const* Value::find(std::string_view key) const noexcept {
    if (auto const* object = as<Object>()) {
        for (auto const& member : *object) {
            if (member.key == key) {
                return &member.value;
            }
        }
    }
    return nullptr;
}

constexpr std::size_t kDeepest = 200;
constexpr std::size_t kMostValues = 1U << 22U;

/// Builds a Value from nlohmann-json's events.
class ValueBuilder {
public:
    explicit ValueBuilder(std::string where)
        : where_(std::move(where)) {}

    bool null() {
        return put(Value{nullptr});
    }

    bool boolean(bool value) {
        return put(Value{value});
    }

    bool number_integer(std::int64_t value) {
        return put(Value{value});
    }

    bool number_unsigned(std::uint64_t value) {
        auto const most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
        return put(Value{static_cast<std::int64_t>(value < most ? value : most)});
    }

    bool number_float(double value, std::string const& text) {
        if (text.find_first_of(".eE") == std::string::npos) { // an integer of more than 64 bits
            return put(Value{value < 0 ? std::numeric_limits<std::int64_t>::min() : std::numeric_limits<std::int64_t>::max()});
        }
        if (!std::isfinite(value)) {
            throw BundleSchemaError(where_ + ": the number " + text.substr(0, 20) + " is out of range");
        }
        return put(Value{value});
    }

    bool string(std::string& text) {
        return put(Value{std::move(text)});
    }

    template <typename Bytes>
    bool binary(Bytes&) { // of nlohmann-json's other formats
        return false;
    }

    bool start_object(std::size_t) {
        return begin(Value{Value::Object()});
    }

    bool key(std::string& text) {
        open_.back().key = std::move(text);
        return true;
    }

    bool end_object() {
        auto const& object = std::get<Value::Object>(open_.back().value.held);
        std::vector<std::string_view> keys;
        keys.reserve(object.size());
        for (auto const& member : object) {
            keys.push_back(member.key);
        }
        std::sort(keys.begin(), keys.end());
        if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) {
            throw BundleSchemaError(where_ + ": a key occurs twice in one object");
        }
        return end();
    }

    bool start_array(std::size_t) {
        return begin(Value{Value::Array()});
    }

    bool end_array() {
        return end();
    }

    template <typename Exception>
    bool parse_error(std::size_t position, std::string const& token, Exception const& error) {
        constexpr int kOverflow = 406; // nlohmann-json's number for a float that is infinite
        if (error.id == kOverflow) {
            throw BundleSchemaError(where_ + ": the number " + token.substr(0, 20) + " is out of range");
        }
        throw BundleCorruptError(where_ + " is not whole JSON, at byte " + std::to_string(position));
    }

    Value take() {
        return std::move(root_);
    }

private:
    struct Open {
        Value value;
        std::string key;
    };

    bool put(Value value) {
        if (++count_ > kMostValues) {
            throw BundleCorruptError(where_ + " holds more than " + std::to_string(kMostValues) + " values");
        }
        if (open_.empty()) {
            root_ = std::move(value);
        } else if (auto* array = std::get_if<Value::Array>(&open_.back().value.held)) {
            array->push_back(std::move(value));
        } else {
            auto& object = std::get<Value::Object>(open_.back().value.held);
            object.push_back(Member{std::move(open_.back().key), std::move(value)});
        }
        return true;
    }

    bool begin(Value value) {
        if (open_.size() >= kDeepest) {
            throw BundleCorruptError(where_ + " is nested more than " + std::to_string(kDeepest) + " deep");
        }
        open_.push_back(Open{std::move(value), {}});
        return true;
    }

    bool end() {
        Value done = std::move(open_.back().value);
        open_.pop_back();
        return put(std::move(done));
    }

    std::string where_;
    std::vector<Open> open_;
    Value root_;
    std::size_t count_ = 0;
};

/// Read JSON. Throws BundleCorruptError: it is none, or too deep. BundleSchemaError: a number out of range, or a key twice.
inline Value parse_json(std::string_view text, std::string const& where) {
    ValueBuilder builder(where);
    if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
        throw BundleCorruptError(where + " is not whole JSON");
    }
    return builder.take();
}

} // namespace edgecnn::detail
