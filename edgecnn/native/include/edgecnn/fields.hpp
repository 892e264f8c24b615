// Typed access to an untrusted JSON object; every misfit is a BundleSchemaError that says where.
#pragma once

#include <edgecnn/errors.hpp>
#include <edgecnn/json.hpp>
#include <edgecnn/text.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgecnn::detail {

class Fields {
public:
    /// Check that it is an object. `data` must outlive this.
    Fields(Value const& data, std::string where)
        : data_(&data)
        , where_(std::move(where)) {
        if (data.as<Value::Object>() == nullptr) {
            throw BundleSchemaError(where_ + ": expected a JSON object, found " + shown(data));
        }
    }

    std::string const& where() const noexcept {
        return where_;
    }

    /// Return what there is, or null where the key is absent.
    Value const* find(std::string_view key) const noexcept {
        return data_->find(key);
    }

    Value const& get(std::string_view key) const {
        if (auto const* found = find(key)) {
            return *found;
        }
        throw BundleSchemaError(where_ + ": " + std::string(key) + " is missing");
    }

    /// Return null where the key is absent, or holds null.
    Value const* get_or_null(std::string_view key) const noexcept {
        auto const* found = find(key);
        return found == nullptr || found->is_null() ? nullptr : found;
    }

    std::string const& text(std::string_view key) const {
        auto const& value = get(key);
        auto const* found = value.as<std::string>();
        return found != nullptr ? *found : wrong<std::string>(key, "a string", value);
    }

    std::string text(std::string_view key, std::string_view otherwise) const {
        return find(key) == nullptr ? std::string(otherwise) : text(key);
    }

    std::string const& sha256(std::string_view key) const {
        auto const& found = text(key);
        if (found.size() != 64 || found.find_first_not_of("0123456789abcdef") != std::string::npos) {
            wrong<std::string>(key, "64 lower-case hexadecimal digits", get(key));
        }
        return found;
    }

    std::int64_t integer(std::string_view key, std::int64_t low = std::numeric_limits<std::int64_t>::min()) const {
        auto const& value = get(key);
        auto const* found = value.as<std::int64_t>();
        if (found == nullptr || *found < low) {
            bool const bounded = low != std::numeric_limits<std::int64_t>::min();
            wrong<bool>(key, bounded ? "an integer of at least " + std::to_string(low) : "an integer", value);
        }
        return *found;
    }

    double number(std::string_view key, double low = -std::numeric_limits<double>::infinity()) const {
        auto const& value = get(key);
        auto const* whole = value.as<std::int64_t>();
        auto const* real = value.as<double>();
        if ((whole == nullptr && real == nullptr) || (whole != nullptr ? static_cast<double>(*whole) : *real) < low) {
            wrong<bool>(key, std::isinf(low) ? "a number" : "a number of at least " + detail::number(low), value);
        }
        return whole != nullptr ? static_cast<double>(*whole) : *real;
    }

    bool boolean(std::string_view key) const {
        auto const& value = get(key);
        auto const* found = value.as<bool>();
        return found != nullptr ? *found : wrong<bool>(key, "true or false", value);
    }

    Value const& mapping(std::string_view key) const {
        auto const& value = get(key);
        return value.as<Value::Object>() != nullptr ? value : wrong<Value>(key, "an object", value);
    }

    Value const* mapping_or_null(std::string_view key) const {
        return get_or_null(key) == nullptr ? nullptr : &mapping(key);
    }

    void text_mapping(std::string_view key) const {
        auto const& value = mapping(key);
        for (auto const& member : *value.as<Value::Object>()) {
            if (member.value.as<std::string>() == nullptr) {
                wrong<bool>(key, "an object of strings", value);
            }
        }
    }

    Value::Array const& sequence(std::string_view key) const {
        auto const& value = get(key);
        auto const* found = value.as<Value::Array>();
        return found != nullptr ? *found : wrong<Value::Array>(key, "a list", value);
    }

    std::vector<std::string> texts(std::string_view key) const {
        std::vector<std::string> result;
        for (auto const& item : sequence(key)) {
            auto const* found = item.as<std::string>();
            if (found == nullptr) {
                wrong<bool>(key, "a list of strings", get(key));
            }
            result.push_back(*found);
        }
        return result;
    }

    /// Refuse keys other than these.
    void only(std::initializer_list<std::string_view> known) const {
        for (auto const& member : *data_->as<Value::Object>()) {
            if (std::find(known.begin(), known.end(), member.key) == known.end()) {
                throw BundleSchemaError(where_ + ": unknown key " + in_quotes(member.key, 40));
            }
        }
    }

    /// Describe a value in a message.
    static std::string shown(Value const& value) {
        if (auto const* text = value.as<std::string>()) {
            return in_quotes(*text);
        }
        if (auto const* whole = value.as<std::int64_t>()) {
            return std::to_string(*whole);
        }
        if (auto const* real = value.as<double>()) {
            return detail::number(*real, 6);
        }
        if (auto const* flag = value.as<bool>()) {
            return *flag ? "true" : "false";
        }
        return value.is_null() ? "null" : value.as<Value::Array>() != nullptr ? "a list" : "an object";
    }

private:
    template <typename T>
    [[noreturn]] T const& wrong(std::string_view key, std::string_view wanted, Value const& value) const {
        throw BundleSchemaError(
            where_ + ": " + std::string(key) + " must be " + std::string(wanted) + ", found " + shown(value));
    }

    Value const* data_;
    std::string where_;
};

} // namespace edgecnn::detail
