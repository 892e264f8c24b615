// All of edgecnn's C++ runtime: open a bundle, run it, classify pictures. docs/CPP.md says how to embed it.
//
// C++17, POSIX, header-only; needs nlohmann-json, zlib and a backend: OpenVINO with EDGECNN_WITH_OPENVINO, TensorRT 10 or 11 with
// EDGECNN_WITH_TENSORRT (CMake: edgecnn::openvino, edgecnn::tensorrt). Everything that is thrown is an edgecnn::Error.
#pragma once

#include <edgecnn/backends.hpp>
#include <edgecnn/bundle.hpp>
#include <edgecnn/classifier.hpp>
#include <edgecnn/errors.hpp>
#include <edgecnn/preprocess.hpp>
#include <edgecnn/selftest.hpp>
#include <edgecnn/session.hpp>
#include <edgecnn/version.hpp>
