// A target of libFuzzer; the first byte of an input names the reader:
//
//   clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -I edgecnn/native/include tests/native_cpp/fuzz.cpp -lz -o fuzz
//   ./fuzz -max_total_time=600 -max_len=8192 CORPUS

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    fuzz::read_one({reinterpret_cast<char const*>(data), size});
    return 0;
}
