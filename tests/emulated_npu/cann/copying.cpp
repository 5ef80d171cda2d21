// SPDX-License-Identifier: Apache-2.0
// Devices and copies: device memory is host memory, and the emulated torch device decides which bytes a copy may see.

#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "runtime.h"

namespace cann {
namespace {

thread_local int device = -1;

// The emulated device keeps the old bytes of writes that nobody has waited for. Where it is not loaded there are none.
struct Torch {
  uint64_t (*waited)() = nullptr;
  void (*wait)(uint64_t) = nullptr;
  int64_t (*read)(const char*, int64_t, char*) = nullptr;

  Torch() {
    const char* path = std::getenv("EMULATED_NPU_LIBRARY");
    void* library = path ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : nullptr;
    if (!library) return;
    waited = reinterpret_cast<uint64_t (*)()>(dlsym(library, "emulated_npu_waited"));
    wait = reinterpret_cast<void (*)(uint64_t)>(dlsym(library, "emulated_npu_wait"));
    read = reinterpret_cast<int64_t (*)(const char*, int64_t, char*)>(dlsym(library, "emulated_npu_read"));
    if (!waited || !wait || !read) absent("the emulated device's emulated_npu_waited, _wait or _read");
  }
};

// Copies run on the client's and on streams' threads. They see what some thread has waited for: that is done.
void move(const Part& part) {
  static const Torch torch;
  if (!torch.read) {
    std::memcpy(part.to, part.from, part.bytes);
    return;
  }
  torch.wait(torch.waited());
  torch.read(static_cast<const char*>(part.from), static_cast<int64_t>(part.bytes), static_cast<char*>(part.to));
}

std::chrono::microseconds pause() {
  static const char* text = std::getenv("EMULATED_CANN_COPY_US");
  return std::chrono::microseconds(text ? std::atoll(text) : 2000);
}

}  // namespace

int device_count() {
  const char* text = std::getenv("EMULATED_NPU_DEVICES");
  return text ? std::atoi(text) : 2;
}

int current_device() { return device; }

int choose_device(int index) {
  if (index < 0 || index >= device_count()) return kInvalidDevice;
  device = index;
  return kOk;
}

int copy(const std::vector<Part>& parts, Way way) {
  if (const int code = fault(way)) return code;
  const auto half = parts.begin() + static_cast<std::ptrdiff_t>(parts.size() / 2);
  for (auto part = parts.begin(); part != half; ++part) move(*part);
  std::this_thread::sleep_for(pause());  // a copy takes its time; nobody waits for this pause to be long enough
  for (auto part = half; part != parts.end(); ++part) move(*part);
  return kOk;
}

void absent(const char* name) {
  std::fprintf(stderr, "the CANN stand-in has no %s; it is in tests/emulated_npu/cann\n", name);
  std::fflush(stderr);
  _exit(134);
}

}  // namespace cann
