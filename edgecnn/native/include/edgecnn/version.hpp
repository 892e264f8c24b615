// The version of these headers, which is the Python package's, and the newest bundle format that they read.
#pragma once

#define EDGECNN_VERSION "0.1.0"

namespace edgecnn {

constexpr char const* kVersion = EDGECNN_VERSION;

/// Of manifest.json; newer ones are refused with BundleSchemaError.
constexpr int kSchema = 1;

} // namespace edgecnn
