// SPDX-License-Identifier: Apache-2.0
// libruntime.so: notifies, which one stream records and another waits for, and what asks for the device's numbers.

#include <condition_variable>
#include <mutex>

#include "runtime.h"

namespace {

struct Notify {
  std::mutex lock;
  std::condition_variable changed;
  bool recorded = false;
};

constexpr int kPhysicalChip = 18;  // RT_INFO_TYPE_PHY_CHIP_ID

}  // namespace

extern "C" {

int rtNotifyCreate(int32_t device, void** notify) {
  if (!notify) return cann::kInvalidParameter;
  if (device < 0 || device >= cann::device_count()) return cann::kInvalidDevice;
  if (cann::current_device() < 0) return cann::kNoContext;
  *notify = new Notify;
  return cann::kOk;
}

int rtNotifyDestroy(void* notify) {
  delete static_cast<Notify*>(notify);
  return cann::kOk;
}

int rtNotifyRecord(void* notify, void* stream) {
  if (!notify || !cann::is_stream(stream)) return cann::kInvalidHandle;
  cann::submit(static_cast<cann::Stream*>(stream), [mark = static_cast<Notify*>(notify)] {
    const std::lock_guard<std::mutex> hold(mark->lock);
    mark->recorded = true;
    mark->changed.notify_all();
    return cann::kOk;
  });
  return cann::kOk;
}

int rtNotifyWait(void* notify, void* stream) {
  if (!notify || !cann::is_stream(stream)) return cann::kInvalidHandle;
  cann::submit(static_cast<cann::Stream*>(stream), [mark = static_cast<Notify*>(notify)] {
    std::unique_lock<std::mutex> hold(mark->lock);
    mark->changed.wait(hold, [mark] { return mark->recorded; });
    mark->recorded = false;
    return cann::kOk;
  });
  return cann::kOk;
}

int rtGetDeviceInfo(uint32_t device, int32_t, int32_t kind, int64_t* value) {
  if (!value) return cann::kInvalidParameter;
  if (static_cast<int>(device) >= cann::device_count()) return cann::kInvalidDevice;
  if (kind != kPhysicalChip) cann::absent("rtGetDeviceInfo of another kind than 18");
  *value = device;
  return cann::kOk;
}
}
