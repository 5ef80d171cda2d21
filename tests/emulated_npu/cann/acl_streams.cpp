// SPDX-License-Identifier: Apache-2.0
// libascendcl.so: streams, copies on them, and callbacks, which run on the thread that subscribed to the stream.

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "runtime.h"

namespace {

using Callback = void (*)(void*);

struct Report {
  Callback call;
  void* data;
  std::shared_ptr<bool> done;
};

struct Reports {
  std::mutex lock;
  std::condition_variable changed;
  std::map<const void*, uint64_t> subscriber;          // of a stream
  std::map<uint64_t, std::deque<Report>> of_thread;
};

Reports& reports() {
  static auto* all = new Reports;
  return *all;
}

int report(const void* stream, Callback call, void* data, bool block) {
  auto& all = reports();
  std::unique_lock<std::mutex> hold(all.lock);
  const auto found = all.subscriber.find(stream);
  if (found == all.subscriber.end()) return cann::kStreamNotSubscribed;
  auto done = std::make_shared<bool>(false);
  all.of_thread[found->second].push_back({call, data, done});
  all.changed.notify_all();
  if (block) all.changed.wait(hold, [&] { return *done; });
  return cann::kOk;
}

}  // namespace

extern "C" {

int aclrtCreateStream(void** stream) {
  if (!stream) return cann::kInvalidParameter;
  if (cann::current_device() < 0) return cann::kNoContext;
  *stream = cann::make_stream();
  return cann::kOk;
}

int aclrtDestroyStream(void* stream) { return cann::drop(static_cast<cann::Stream*>(stream), false); }
int aclrtDestroyStreamForce(void* stream) { return cann::drop(static_cast<cann::Stream*>(stream), true); }

int aclrtSynchronizeStreamWithTimeout(void* stream, int32_t timeout_ms) {
  if (!cann::is_stream(stream)) return cann::kInvalidHandle;
  return cann::synchronize(static_cast<cann::Stream*>(stream), timeout_ms);
}

int aclrtSynchronizeStream(void* stream) { return aclrtSynchronizeStreamWithTimeout(stream, -1); }

int aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t bytes, int kind, void* stream) {
  if (!to || !from || bytes > room) return cann::kInvalidParameter;
  if (!cann::is_stream(stream)) return cann::kInvalidHandle;
  if (kind != 1 && kind != 2) cann::absent("aclrtMemcpyAsync inside a device or a host");
  const auto way = kind == 2 ? cann::Way::to_host : cann::Way::to_device;
  cann::submit(static_cast<cann::Stream*>(stream), [=] { return cann::copy({{to, from, bytes}}, way); });
  return cann::kOk;
}

int aclrtSubscribeReport(uint64_t thread, void* stream) {
  if (!cann::is_stream(stream)) return cann::kInvalidHandle;
  auto& all = reports();
  const std::lock_guard<std::mutex> hold(all.lock);
  all.subscriber[stream] = thread;
  all.of_thread[thread];
  return cann::kOk;
}

int aclrtUnSubscribeReport(uint64_t thread, void* stream) {
  auto& all = reports();
  const std::lock_guard<std::mutex> hold(all.lock);
  const auto found = all.subscriber.find(stream);
  if (found == all.subscriber.end() || found->second != thread) return cann::kThreadNotSubscribed;
  all.subscriber.erase(found);
  return cann::kOk;
}

int aclrtLaunchCallback(void (*call)(void*), void* data, int block, void* stream) {
  if (!call || (block != 0 && block != 1)) return cann::kInvalidParameter;
  if (!cann::is_stream(stream)) return cann::kInvalidHandle;
  {
    auto& all = reports();
    const std::lock_guard<std::mutex> hold(all.lock);
    if (!all.subscriber.count(stream)) return cann::kStreamNotSubscribed;
  }
  cann::submit(static_cast<cann::Stream*>(stream), [=] { return report(stream, call, data, block == 1); });
  return cann::kOk;
}

int aclrtProcessReport(int32_t timeout_ms) {
  if (timeout_ms < -1 || timeout_ms == 0) return cann::kInvalidParameter;
  auto& all = reports();
  std::unique_lock<std::mutex> hold(all.lock);
  const auto mine = all.of_thread.find(static_cast<uint64_t>(pthread_self()));
  if (mine == all.of_thread.end()) return cann::kThreadNotSubscribed;
  const auto some = [&] { return !mine->second.empty(); };
  if (timeout_ms < 0) {
    all.changed.wait(hold, some);
  } else if (!all.changed.wait_for(hold, std::chrono::milliseconds(timeout_ms), some)) {
    return cann::kReportTimeout;
  }
  const Report next = mine->second.front();
  mine->second.pop_front();
  hold.unlock();
  next.call(next.data);
  hold.lock();
  *next.done = true;
  all.changed.notify_all();
  return cann::kOk;
}
}
