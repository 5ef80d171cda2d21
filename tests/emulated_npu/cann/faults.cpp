// SPDX-License-Identifier: Apache-2.0
// Faults of copies. The file that EMULATED_CANN_FAULT names holds `fail CODE`, `late MILLISECONDS` or `never`, and may
// name one way before it: `to_host fail 507013`. It is read at each copy, so that a test breaks and mends while a
// process runs. A copy that never ends stays so until the file says otherwise.

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "runtime.h"

namespace cann {
namespace {

struct Fault {
  std::string kind;  // empty: none
  long number = 0;
};

const char* name(Way way) {
  switch (way) {
    case Way::to_host: return "to_host";
    case Way::to_device: return "to_device";
    default: return "inside";
  }
}

Fault ordered(Way way) {
  const char* path = std::getenv("EMULATED_CANN_FAULT");
  if (!path) return {};
  std::ifstream file(path);
  Fault fault;
  std::string word;
  if (!(file >> word)) return {};
  if (word == "to_host" || word == "to_device" || word == "inside") {
    if (word != name(way)) return {};
    file >> word;
  }
  fault.kind = word;
  file >> fault.number;
  return fault;
}

}  // namespace

int fault(Way way) {
  Fault found = ordered(way);
  if (found.kind == "late") std::this_thread::sleep_for(std::chrono::milliseconds(found.number));
  while (found.kind == "never") {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    found = ordered(way);
  }
  return found.kind == "fail" ? static_cast<int>(found.number) : kOk;
}

}  // namespace cann
