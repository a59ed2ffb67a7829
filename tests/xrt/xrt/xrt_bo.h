/* Stand-in for XRT's buffers. What the host wrote reaches the device when it is synchronised, and not before. */
#ifndef STANDIN_XRT_BO_H
#define STANDIN_XRT_BO_H

#include "xrt_device.h"

#include <cstring>
#include <memory>
#include <vector>

enum xclBOSyncDirection { XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE };

namespace xrt {

class bo {
  struct sides {
    std::vector<char> host, device;
  };
  std::shared_ptr<sides> at;

public:
  bo(const device &, size_t size, int) : at(new sides{std::vector<char>(size, 85), std::vector<char>(size, 85)}) {}
  size_t size() const { return at->host.size(); }
  void write(const void *source) { std::memcpy(at->host.data(), source, size()); }
  void read(void *target) { std::memcpy(target, at->host.data(), size()); }
  void sync(xclBOSyncDirection direction) {
    if (direction == XCL_BO_SYNC_BO_TO_DEVICE) at->device = at->host;
    else at->host = at->device;
  }
  std::vector<char> &on_device() { return at->device; }
};

} // namespace xrt

#endif
