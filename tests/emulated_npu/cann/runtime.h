// SPDX-License-Identifier: Apache-2.0
// What the stand-in's libraries share. Numbers are CANN's (rt_error_codes.h, acl_base.h, rt_ffts_plus_define.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace cann {

constexpr int kOk = 0;
constexpr int kInvalidParameter = 107000;
constexpr int kInvalidDevice = 107001;
constexpr int kNoContext = 107002;
constexpr int kThreadNotSubscribed = 107012;
constexpr int kStreamNotSubscribed = 107015;
constexpr int kInvalidHandle = 107017;
constexpr int kOutOfMemory = 207001;
constexpr int kReportTimeout = 507012;
constexpr int kStreamTimeout = 507046;
constexpr int kEventTimeout = 507047;
constexpr int kRepeatedInit = 100002;

enum class Way { to_host, to_device, inside };  // of a copy, as the device sees it

struct Part {
  void* to;
  const void* from;
  size_t bytes;
};

// -- devices: a thread has none until it has chosen one, as in CANN
int device_count();
int current_device();  // -1: none
int choose_device(int index);

// -- copies
// Copies parts in their order, half of them late: whoever reuses a block during its copy, or counts a load as done too
// early, gets wrong bytes. Faults come first (faults.cpp). Returns CANN's code.
int copy(const std::vector<Part>& parts, Way way);

// -- faults
// Waits, or returns the code that a copy of this way ends with, as the file of EMULATED_CANN_FAULT says.
int fault(Way way);

// -- streams
class Stream;
using Task = std::function<int()>;
Stream* make_stream();
bool is_stream(const void* handle);
void submit(Stream* stream, Task task);
int synchronize(Stream* stream, int timeout_ms);  // -1: for ever; the first error since the last call
int drop(Stream* stream, bool force);

// What is not emulated ends the process with its name: nothing passes by accident.
[[noreturn]] void absent(const char* name);

}  // namespace cann
