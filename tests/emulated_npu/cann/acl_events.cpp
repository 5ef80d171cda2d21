// SPDX-License-Identifier: Apache-2.0
// libascendcl.so: events, which tell when a stream has come to a place.

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "runtime.h"

namespace {

struct State {
  std::mutex lock;
  std::condition_variable changed;
  uint64_t recorded = 0, reached = 0;  // an event that was never recorded is complete, as in CANN
};
struct Event {
  std::shared_ptr<State> state = std::make_shared<State>();
};

}  // namespace

extern "C" {

int aclrtCreateEvent(void** event) {
  if (!event) return cann::kInvalidParameter;
  if (cann::current_device() < 0) return cann::kNoContext;
  *event = new Event;
  return cann::kOk;
}

int aclrtDestroyEvent(void* event) {
  delete static_cast<Event*>(event);
  return cann::kOk;
}

int aclrtRecordEvent(void* event, void* stream) {
  if (!event || !cann::is_stream(stream)) return cann::kInvalidHandle;
  auto state = static_cast<Event*>(event)->state;
  const std::lock_guard<std::mutex> hold(state->lock);
  const auto number = ++state->recorded;
  cann::submit(static_cast<cann::Stream*>(stream), [state, number] {
    const std::lock_guard<std::mutex> held(state->lock);
    state->reached = std::max(state->reached, number);
    state->changed.notify_all();
    return cann::kOk;
  });
  return cann::kOk;
}

int aclrtSynchronizeEventWithTimeout(void* event, int32_t timeout_ms) {
  if (!event) return cann::kInvalidHandle;
  auto state = static_cast<Event*>(event)->state;
  std::unique_lock<std::mutex> hold(state->lock);
  const auto reached = [&state, number = state->recorded] { return state->reached >= number; };
  if (timeout_ms < 0) {
    state->changed.wait(hold, reached);
    return cann::kOk;
  }
  return state->changed.wait_for(hold, std::chrono::milliseconds(timeout_ms), reached) ? cann::kOk : cann::kEventTimeout;
}

int aclrtSynchronizeEvent(void* event) { return aclrtSynchronizeEventWithTimeout(event, -1); }

int aclrtQueryEventStatus(void* event, int32_t* status) {
  if (!event || !status) return cann::kInvalidHandle;
  auto state = static_cast<Event*>(event)->state;
  const std::lock_guard<std::mutex> hold(state->lock);
  *status = state->reached >= state->recorded ? 1 : 0;
  return cann::kOk;
}
}
