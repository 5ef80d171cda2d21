// SPDX-License-Identifier: Apache-2.0
// libascendcl.so: devices and memory.

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

#include "runtime.h"

namespace {

constexpr size_t kAlignment = 512;  // what CANN's allocator gives
constexpr int kToDevice = 1, kToHost = 2, kInside = 3;

std::mutex pinned_lock;
std::map<void*, size_t>& pinned() {
  static auto* sizes = new std::map<void*, size_t>;
  return *sizes;
}
std::atomic<bool> initialised{false};

}  // namespace

extern "C" {

int aclInit(const char*) { return initialised.exchange(true) ? cann::kRepeatedInit : cann::kOk; }

int aclFinalize() {
  initialised = false;
  return cann::kOk;
}

int aclrtGetDeviceCount(uint32_t* count) {
  *count = static_cast<uint32_t>(cann::device_count());
  return cann::kOk;
}

int aclrtSetDevice(int32_t index) { return cann::choose_device(index); }

int aclrtGetDevice(int32_t* index) {
  if (cann::current_device() < 0) return cann::kNoContext;
  *index = cann::current_device();
  return cann::kOk;
}

int aclrtQueryDeviceStatus(int32_t index, int32_t* status) {
  if (index < 0 || index >= cann::device_count()) return cann::kInvalidDevice;
  *status = 0;  // ACL_RT_DEVICE_STATUS_NORMAL
  return cann::kOk;
}

int aclrtMalloc(void** memory, size_t bytes, int) {
  if (!memory || !bytes) return cann::kInvalidParameter;
  if (cann::current_device() < 0) return cann::kNoContext;
  *memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  return *memory ? cann::kOk : cann::kOutOfMemory;
}

int aclrtFree(void* memory) {
  std::free(memory);
  return cann::kOk;
}

// Pinned memory is there as a whole from the start: no page of it waits for its first use.
int aclrtMallocHost(void** memory, size_t bytes) {
  if (!memory || !bytes) return cann::kInvalidParameter;
  if (cann::current_device() < 0) return cann::kNoContext;
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (pages == MAP_FAILED) return cann::kOutOfMemory;
  const std::lock_guard<std::mutex> hold(pinned_lock);
  pinned()[pages] = bytes;
  *memory = pages;
  return cann::kOk;
}

int aclrtFreeHost(void* memory) {
  const std::lock_guard<std::mutex> hold(pinned_lock);
  const auto found = pinned().find(memory);
  if (found == pinned().end()) return cann::kInvalidParameter;
  munmap(memory, found->second);
  pinned().erase(found);
  return cann::kOk;
}

// Not CANN's: how much is pinned in this process, for tests.
uint64_t emulated_cann_pinned() {
  const std::lock_guard<std::mutex> hold(pinned_lock);
  uint64_t sum = 0;
  for (const auto& [pages, bytes] : pinned()) sum += bytes;
  return sum;
}

int aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, int kind) {
  if (!to || !from || bytes > room) return cann::kInvalidParameter;
  if (kind < kToDevice || kind > kInside) cann::absent("aclrtMemcpy from host to host");
  if (cann::current_device() < 0) return cann::kNoContext;
  return cann::copy({{to, from, bytes}}, kind == kToHost ? cann::Way::to_host : kind == kToDevice ? cann::Way::to_device : cann::Way::inside);
}
}
