/* Stand-in for XRT's kernels: `simulate`, which a test defines, computes what the device would. */
#ifndef STANDIN_XRT_KERNEL_H
#define STANDIN_XRT_KERNEL_H

#include "xrt_bo.h"

void simulate(const std::string &kernel, std::vector<std::vector<char> *> arguments);

namespace xrt {

class kernel {
public:
  std::string name;
  kernel(const device &, const uuid &, const std::string &called) : name(called) {}
  int group_id(int argument) const { return argument; }
};

class run {
  std::string name;
  std::vector<bo> arguments;
  bool started = false;

public:
  explicit run(const kernel &one) : name(one.name) {}
  void set_arg(int index, const bo &buffer) {
    if (index != int(arguments.size())) throw std::runtime_error("arguments are set in order");
    arguments.push_back(buffer);
  }
  void start() { started = true; }
  void wait() {
    if (!started) throw std::runtime_error("waits for what was not started");
    started = false;
    std::vector<std::vector<char> *> contents;
    for (auto &one : arguments) contents.push_back(&one.on_device());
    simulate(name, contents);
  }
};

} // namespace xrt

#endif
