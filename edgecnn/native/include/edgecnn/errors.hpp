// Every error that edgecnn throws, named as in Python. Whatever else goes wrong inside is turned into one of them.
//
//   Error
//   ├── UserError                  you can fix this: the message says how
//   │   ├── DataError              an image that cannot be used
//   │   ├── EngineMisfitError      a plan for another version, GPU or platform: the message holds the command that rebuilds it
//   │   └── BundleError            a bundle that must not be used
//   │       ├── BundleMissingError     no bundle there, or one of its files is gone
//   │       ├── BundleCorruptError     a file is truncated, changed, or not what the manifest says
//   │       ├── BundleSchemaError      written by a newer edgecnn, or not a manifest at all
//   │       ├── BundlePathError        a path in the manifest, or a symbolic link, leaves the bundle's folder
//   │       └── BundleUnverifiedError  verification failed when it was written; loading needs allow_unverified
//   └── BackendError               OpenVINO, TensorRT or CUDA refused the model or the input
#pragma once

#include <stdexcept>

namespace edgecnn {

/// Base of everything that edgecnn throws; what() is one line of plain text for the user.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;

    /// The name of the class, such as "BundleCorruptError": the same as in Python.
    virtual char const* kind() const noexcept {
        return "EdgecnnError";
    }
};

/// Something the caller can fix; the message says how.
class UserError : public Error {
public:
    using Error::Error;

    char const* kind() const noexcept override {
        return "UserError";
    }
};

/// An image that cannot be used.
class DataError : public UserError {
public:
    using UserError::UserError;

    char const* kind() const noexcept override {
        return "DataError";
    }
};

/// A plan that was built for another version, GPU or platform.
class EngineMisfitError : public UserError {
public:
    using UserError::UserError;

    char const* kind() const noexcept override {
        return "EngineMisfitError";
    }
};

/// A bundle that must not be used.
class BundleError : public UserError {
public:
    using UserError::UserError;

    char const* kind() const noexcept override {
        return "BundleError";
    }
};

/// There is no bundle at the path, or a file that its manifest names is gone.
class BundleMissingError : public BundleError {
public:
    using BundleError::BundleError;

    char const* kind() const noexcept override {
        return "BundleMissingError";
    }
};

/// A file of the bundle is truncated, changed, or not what the manifest says.
class BundleCorruptError : public BundleError {
public:
    using BundleError::BundleError;

    char const* kind() const noexcept override {
        return "BundleCorruptError";
    }
};

/// The manifest was written by a newer edgecnn, or is not a manifest.
class BundleSchemaError : public BundleError {
public:
    using BundleError::BundleError;

    char const* kind() const noexcept override {
        return "BundleSchemaError";
    }
};

/// A path in the manifest, or a symbolic link, leaves the bundle's folder.
class BundlePathError : public BundleError {
public:
    using BundleError::BundleError;

    char const* kind() const noexcept override {
        return "BundlePathError";
    }
};

/// The bundle's verification failed; loading it needs allow_unverified.
class BundleUnverifiedError : public BundleError {
public:
    using BundleError::BundleError;

    char const* kind() const noexcept override {
        return "BundleUnverifiedError";
    }
};

/// A runtime refused the model or the input.
class BackendError : public Error {
public:
    using Error::Error;

    char const* kind() const noexcept override {
        return "BackendError";
    }
};

} // namespace edgecnn
