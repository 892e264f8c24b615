// TensorRtSession over the stand-ins of fake_tensorrt/: what it holds, gives back, refuses. Prints a line a finding.

#include <edgecnn/tensorrt.hpp>

#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using edgecnn::TensorRtOptions;
using edgecnn::TensorRtSession;

// Run pictures whose values are all `value`; return what the first output has for the last of them.
float last_logit(TensorRtSession& session, std::int64_t batch, float value) {
    std::vector<float> const input(static_cast<std::size_t>(batch) * 12, value);
    auto const result = session.run({edgecnn::DType::float32, {batch, 3, 2, 2}, input.data()});
    return result.values.at(static_cast<std::size_t>(batch - 1) * 2);
}

void refused(char const* what, std::string const& plan, TensorRtOptions const& options, edgecnn::EngineRecord const* engine,
    std::int64_t batch = 1) {
    try {
        TensorRtSession session(plan, options, engine);
        last_logit(session, batch, 1);
        std::printf("%s: nothing\n", what);
    } catch (edgecnn::Error const& error) {
        std::printf("%s: %s: %s\n", what, error.kind(), error.what());
    }
    std::printf("%s holds: %d\n", what, fake::held + fake::contexts);
}

void runs(std::string const& plan) {
    TensorRtOptions options;
    options.contexts = 2;
    TensorRtSession session(plan, options);
    std::printf("limits: %s to %s\n", std::to_string(session.least_batch()).c_str(), std::to_string(session.largest_batch()).c_str());
    std::printf("input: %s %s\n", session.input().name.c_str(), edgecnn::detail::listed(session.input().shape).c_str());
    std::printf("output: %s %s\n", session.output().name.c_str(), edgecnn::detail::listed(session.output().shape).c_str());
    int const made = fake::made;
    std::vector<std::thread> threads;
    std::vector<int> wrong(6);
    for (std::size_t i = 0; i < wrong.size(); ++i) {
        threads.emplace_back([&, i] {
            for (int k = 0; k < 200; ++k) {
                auto const value = static_cast<float>(i);
                wrong[i] += last_logit(session, 1 + k % 4, value) != 12 * value;
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    int total = 0;
    for (int const count : wrong) {
        total += count;
    }
    std::printf("wrong: %d\n", total);
    std::printf("overlaps: %d\n", static_cast<int>(fake::busy_overlaps));
    std::printf("allocated by runs: %d\n", fake::made - made);
}

} // namespace

int main(int, char** words) {
    std::string const folder = words[1], plan = folder + "/plan", damaged = folder + "/damaged";
    std::ofstream(plan) << "1 4";
    std::ofstream(damaged) << "no plan";
    runs(plan);
    std::printf("held: %d\n", fake::held + fake::contexts);

    edgecnn::EngineRecord engine;
    engine.version = "10.9.0";
    refused("version", damaged, {}, &engine);
    engine.version = "10.3.0";
    engine.compute_capabilities = {"9.0"};
    refused("device", damaged, {}, &engine);
    refused("damaged", damaged, {}, nullptr);
    refused("gone", folder + "/gone", {}, nullptr);
    refused("batch", plan, {}, nullptr, 5);
    TensorRtOptions options;
    options.device = 1;
    refused("number", plan, options, nullptr);
    options.device = 0;
    options.contexts = 0;
    refused("contexts", plan, options, nullptr);
    fake::run_fails = true;
    refused("run", plan, {}, nullptr);
    fake::run_fails = false;
    fake::largest = 100;
    refused("memory", plan, {}, nullptr);
    fake::largest = std::size_t(-1);
    fake::finish_fails = cudaErrorIllegalAddress;
    refused("finish", plan, {}, nullptr);
    fake::finish_fails = cudaSuccess;
    fake::count_fails = cudaErrorNoDevice;
    refused("driver", plan, {}, nullptr);
}
