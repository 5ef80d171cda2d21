// SPDX-License-Identifier: Apache-2.0
// libruntime.so: FFTS+ tasks, graphs of contexts that a stream runs as one task. The client launches copies inside the
// device, in chains; only those are emulated. Layout: rt_ffts_plus_define.h, 128 bytes to a context.

#include <cstring>
#include <deque>
#include <vector>

#include "runtime.h"

namespace {

constexpr uint32_t kLaunch = 3;  // RT_GNL_CTRL_TYPE_FFTS_PLUS
constexpr uint16_t kLabel = 0x0500, kCopy = 0x0008;

#pragma pack(push, 1)
struct Context {
  uint16_t kind;
  uint8_t successors;
  uint8_t reserved[3];
  uint8_t predecessors_at_start, predecessors;
  uint8_t reserved_too[4];
  uint16_t successor[26];
  uint8_t more[24];
  uint32_t from_low, from_high, from_offset, to_low, to_high, to_offset, bytes, tail_bytes;
  uint32_t last[2];
};
struct Launch {  // the beginning of rtFftsPlusTaskInfo_t
  const void* queue_entry;
  const void* contexts;
  size_t bytes;
};
#pragma pack(pop)
static_assert(sizeof(Context) == 128 && offsetof(Context, from_low) == 88 && offsetof(Context, bytes) == 112);

void* address(uint32_t low, uint32_t high) {
  return reinterpret_cast<void*>(static_cast<uintptr_t>(high) << 32 | low);
}

// Runs contexts as their dependencies allow. Those that nothing orders may run in any order: here the last one first.
int run(std::vector<Context> contexts) {
  std::deque<size_t> ready;
  std::vector<cann::Part> parts;
  for (size_t i = 0; i < contexts.size(); ++i)
    if (contexts[i].predecessors == 0) ready.push_front(i);
  size_t done = 0;
  while (!ready.empty()) {
    const Context& context = contexts[ready.front()];
    ready.pop_front();
    ++done;
    if (context.kind == kCopy) {
      parts.push_back({address(context.to_low, context.to_high), address(context.from_low, context.from_high), context.bytes});
    } else if (context.kind != kLabel) {
      cann::absent("FFTS+ context of that kind");
    }
    for (size_t i = 0; i < context.successors; ++i)
      if (--contexts[context.successor[i]].predecessors == 0) ready.push_back(context.successor[i]);
  }
  if (done != contexts.size()) return cann::kInvalidParameter;
  return cann::copy(parts, cann::Way::inside);
}

}  // namespace

extern "C" int rtGeneralCtrl(uintptr_t* arguments, uint32_t count, uint32_t kind) {
  if (kind != kLaunch) cann::absent("rtGeneralCtrl of another kind than FFTS_PLUS");
  if (!arguments || count != 2 || !arguments[0]) return cann::kInvalidParameter;
  auto* stream = reinterpret_cast<cann::Stream*>(arguments[1]);
  if (!cann::is_stream(stream)) return cann::kInvalidHandle;
  const auto* launch = reinterpret_cast<const Launch*>(arguments[0]);
  std::vector<Context> contexts(launch->bytes / sizeof(Context));  // the caller uses its own again at once
  std::memcpy(contexts.data(), launch->contexts, contexts.size() * sizeof(Context));
  cann::submit(stream, [contexts] { return run(contexts); });
  return cann::kOk;
}
