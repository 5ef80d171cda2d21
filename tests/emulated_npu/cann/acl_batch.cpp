// SPDX-License-Identifier: Apache-2.0
// libascendcl.so: many copies in one call, all between host and one device. Returns when they are done.

#include "runtime.h"

namespace {

struct Place {
  uint32_t id;
  int32_t kind;  // 0: host, 1: device
};
struct Attribute {
  Place to, from;
  uint8_t reserved[16];
};

}  // namespace

extern "C" int aclrtMemcpyBatch(void** to, size_t* room, void** from, size_t* bytes, size_t count, Attribute* attributes,
                                size_t* first, size_t attribute_count, size_t* failed) {
  if (!to || !room || !from || !bytes || !attributes || !first || !failed || !count || !attribute_count)
    return cann::kInvalidParameter;
  if (attribute_count > count || first[0] != 0) return cann::kInvalidParameter;
  std::vector<cann::Part> parts;
  size_t attribute = 0;
  for (size_t i = 0; i < count; ++i) {
    if (attribute + 1 < attribute_count && first[attribute + 1] == i) ++attribute;
    const Attribute& said = attributes[attribute];
    *failed = i;
    if (!to[i] || !from[i] || bytes[i] > room[i] || said.to.kind == said.from.kind) return cann::kInvalidParameter;
    if (said.to.kind != attributes[0].to.kind) return cann::kInvalidParameter;
    const uint32_t device = said.to.kind ? said.to.id : said.from.id;
    if (device >= static_cast<uint32_t>(cann::device_count())) return cann::kInvalidDevice;
    parts.push_back({to[i], from[i], bytes[i]});
  }
  *failed = SIZE_MAX;
  return cann::copy(parts, attributes[0].to.kind ? cann::Way::to_device : cann::Way::to_host);
}
