// SPDX-License-Identifier: Apache-2.0
// Preloaded: the DataSystem client looks for /dev/davinci* before it thinks of CANN. A test must not make nodes in the
// machine's /dev, where other processes would find them, so the look goes to the folder of EMULATED_CANN_NODES.

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>
#include <string>

extern "C" int glob(const char* pattern, int flags, int (*failed)(const char*, int), glob_t* found) {
  static const auto real = reinterpret_cast<decltype(&glob)>(dlsym(RTLD_NEXT, "glob"));
  const char* folder = std::getenv("EMULATED_CANN_NODES");
  const std::string asked = pattern;
  if (!folder || asked.rfind("/dev/davinci", 0) != 0) return real(pattern, flags, failed, found);
  return real((folder + asked.substr(4)).c_str(), flags, failed, found);
}
