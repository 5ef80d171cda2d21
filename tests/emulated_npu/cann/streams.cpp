// SPDX-License-Identifier: Apache-2.0
// Streams: a thread each, which does its tasks in order. After a task that failed the next ones run (CANN's default,
// ACL_CONTINUE_ON_FAILURE), and the next synchronisation tells the code.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "runtime.h"

namespace cann {
namespace {

struct Queue {
  std::mutex lock;
  std::condition_variable changed;
  std::deque<Task> tasks;
  bool busy = false, closed = false;
  int error = kOk;

  void work() {
    std::unique_lock<std::mutex> hold(lock);
    while (true) {
      changed.wait(hold, [this] { return closed || !tasks.empty(); });
      if (tasks.empty()) return;
      const Task task = std::move(tasks.front());
      tasks.pop_front();
      busy = true;
      hold.unlock();
      const int code = task();
      hold.lock();
      busy = false;
      if (code && !error) error = code;
      changed.notify_all();
    }
  }
};

// Never destroyed: streams' threads are there when the process ends.
std::mutex& all_lock() {
  static auto* lock = new std::mutex;
  return *lock;
}
std::set<const void*>& all() {
  static auto* handles = new std::set<const void*>;
  return *handles;
}

}  // namespace

class Stream {
 public:
  std::shared_ptr<Queue> queue = std::make_shared<Queue>();
};

Stream* make_stream() {
  auto* stream = new Stream;
  std::thread([queue = stream->queue] { queue->work(); }).detach();
  const std::lock_guard<std::mutex> hold(all_lock());
  all().insert(stream);
  return stream;
}

bool is_stream(const void* handle) {
  const std::lock_guard<std::mutex> hold(all_lock());
  return all().count(handle) > 0;
}

void submit(Stream* stream, Task task) {
  const std::lock_guard<std::mutex> hold(stream->queue->lock);
  stream->queue->tasks.push_back(std::move(task));
  stream->queue->changed.notify_all();
}

int synchronize(Stream* stream, int timeout_ms) {
  auto& queue = *stream->queue;
  std::unique_lock<std::mutex> hold(queue.lock);
  const auto idle = [&queue] { return queue.tasks.empty() && !queue.busy; };
  if (timeout_ms < 0) {
    queue.changed.wait(hold, idle);
  } else if (!queue.changed.wait_for(hold, std::chrono::milliseconds(timeout_ms), idle)) {
    return kStreamTimeout;
  }
  return std::exchange(queue.error, kOk);
}

int drop(Stream* stream, bool force) {
  {
    const std::lock_guard<std::mutex> hold(all_lock());
    if (!all().erase(stream)) return kInvalidHandle;
  }
  {
    const std::lock_guard<std::mutex> hold(stream->queue->lock);
    if (force) stream->queue->tasks.clear();
    stream->queue->closed = true;
    stream->queue->changed.notify_all();
  }
  delete stream;
  return kOk;
}

}  // namespace cann
