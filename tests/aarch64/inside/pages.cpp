// SPDX-License-Identifier: Apache-2.0
// Preloaded: a kernel with pages of 64 KiB, as far as a program asks for their size.

#include <dlfcn.h>
#include <unistd.h>

extern "C" long sysconf(int name) {
  static const auto real = reinterpret_cast<decltype(&sysconf)>(dlsym(RTLD_NEXT, "sysconf"));
  return name == _SC_PAGESIZE ? 65536 : real(name);
}
