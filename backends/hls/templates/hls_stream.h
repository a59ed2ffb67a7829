/* hls::stream for simulation without the vendor's tool.

   By default a stream is unbounded and processes run one after another, as in the vendor's C simulation. With
   -DQCC_BOUNDED a stream holds as many tokens as its STREAM pragma says, reads and writes block, and the processes of a
   DATAFLOW region run as coroutines: each runs until it blocks. Such a network is a Kahn network (G. Kahn, "The semantics
   of a simple language for parallel programming", 1974): what it computes, and whether it stops, does not depend on the
   order in which processes run. When no process can go on, the run ends with exit status 3 and names every blocked
   process and FIFO.

   QCC_DEPTHS="skip=61,other=4" in the environment overrides depths, so that a depth can be shown to be minimal. */
#ifndef QCC_HLS_STREAM_H
#define QCC_HLS_STREAM_H

#include <cstdio>
#include <cstdlib>
#include <string>

#ifdef QCC_BOUNDED
#include <cstring>
#include <functional>
#include <memory>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

namespace qcc_sim {

struct Process {
  std::string name;
  std::function<void()> body;
  ucontext_t context;
  void *stack = nullptr;
  bool done = false;
  const void *waits_on = nullptr; /* the stream that blocks it */
  std::string why;
};

/* Local arrays of a process (line buffers, rows) live on its stack; pages that are not touched cost nothing. */
constexpr size_t STACK_BYTES = size_t(256) << 20;

struct Region;

inline Region *&running() {
  static Region *region = nullptr;
  return region;
}

struct Region {
  std::vector<std::unique_ptr<Process>> processes;
  ucontext_t scheduler;
  Process *current = nullptr;

  void add(const char *name, std::function<void()> body) {
    processes.emplace_back(new Process);
    processes.back()->name = name;
    processes.back()->body = std::move(body);
  }

  static void enter() {
    Process *self = running()->current;
    self->body();
    self->done = true;
    swapcontext(&self->context, &running()->scheduler);
  }

  void start(Process &one) {
    one.stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (one.stack == MAP_FAILED) {
      std::fprintf(stderr, "no memory for the stack of process %s\n", one.name.c_str());
      std::exit(4);
    }
    getcontext(&one.context);
    one.context.uc_stack.ss_sp = one.stack;
    one.context.uc_stack.ss_size = STACK_BYTES;
    one.context.uc_link = nullptr;
    makecontext(&one.context, &Region::enter, 0);
  }

  void run() {
    running() = this;
    for (auto &one : processes) start(*one);
    size_t left = processes.size();
    while (left) {
      bool moved = false;
      for (auto &one : processes) {
        if (one->done || one->waits_on) continue;
        moved = true;
        current = one.get();
        swapcontext(&scheduler, &one->context);
        if (one->done) --left;
      }
      if (!moved) report();
    }
    for (auto &one : processes) munmap(one->stack, STACK_BYTES);
    running() = nullptr;
  }

  void report() {
    std::fprintf(stderr, "DEADLOCK: every process that is left waits\n");
    for (auto &one : processes)
      if (!one->done) std::fprintf(stderr, "  process %s waits to %s\n", one->name.c_str(), one->why.c_str());
    std::fflush(stdout);
    std::_Exit(3);
  }

  void wait(const void *stream, const char *what, const std::string &name) {
    current->waits_on = stream;
    current->why = std::string(what) + " FIFO " + name;
    swapcontext(&current->context, &scheduler);
  }

  void wake(const void *stream) {
    for (auto &one : processes)
      if (one->waits_on == stream) one->waits_on = nullptr;
  }
};

/* The depth that QCC_DEPTHS gives a stream, else the one of its pragma. */
inline int depth_of(const std::string &name, int depth) {
  const char *text = std::getenv("QCC_DEPTHS");
  while (text && *text) {
    const char *equal = std::strchr(text, '=');
    if (!equal) break;
    if (std::string(text, equal) == name) return std::atoi(equal + 1);
    text = std::strchr(equal, ',');
    if (text) ++text;
  }
  return depth;
}

} // namespace qcc_sim
#endif

namespace qcc_sim {

/* Tokens in a ring that doubles when it is full; a standard container takes compilers far longer. */
template <class T> struct ring {
  T *at = nullptr;
  size_t first = 0, count = 0, room = 0; /* room is 0 or a power of two */

  ~ring() { delete[] at; }

  void push(const T &value) {
    if (count == room) {
      T *wider = new T[room ? 2 * room : 16];
      for (size_t i = 0; i < count; i++) wider[i] = at[(first + i) & (room - 1)];
      delete[] at;
      at = wider;
      room = room ? 2 * room : 16;
      first = 0;
    }
    at[(first + count++) & (room - 1)] = value;
  }

  const T &pop() {
    const T &value = at[first];
    first = (first + 1) & (room - 1);
    count--;
    return value;
  }
};

} // namespace qcc_sim

namespace hls {

template <class T, int DEPTH = 0> class stream {
  qcc_sim::ring<T> tokens;
  std::string name;
  size_t most = 0;
#ifdef QCC_BOUNDED
  size_t depth = size_t(-1);
#endif

public:
  explicit stream(const char *label = "stream") : name(label) {}
  stream(const stream &) = delete;
  stream &operator=(const stream &) = delete;

  bool empty() const { return tokens.count == 0; }
  size_t size() const { return tokens.count; }
  size_t max_size() const { return most; }

#ifdef QCC_BOUNDED
  void set_depth(int value) { depth = size_t(qcc_sim::depth_of(name, value)); }

  void write(const T &value) {
    auto *region = qcc_sim::running();
    while (region && tokens.count >= depth) region->wait(this, "write (full)", name);
    push(value);
    if (region) region->wake(this);
  }

  T read() {
    auto *region = qcc_sim::running();
    while (region && tokens.count == 0) region->wait(this, "read (empty)", name);
    T value = pop();
    if (region) region->wake(this);
    return value;
  }
#else
  void set_depth(int) {}
  void write(const T &value) { push(value); }
  T read() { return pop(); }
#endif
  void read(T &value) { value = read(); }

private:
  void push(const T &value) {
    tokens.push(value);
    if (tokens.count > most) most = tokens.count;
  }

  T pop() {
    if (tokens.count == 0) {
      std::fprintf(stderr, "FIFO %s is read while empty: its producer must run first\n", name.c_str());
      std::exit(4);
    }
    return tokens.pop();
  }
};

} // namespace hls

#endif
