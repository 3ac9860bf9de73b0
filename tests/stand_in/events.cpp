#include "events.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <map>
#include <mutex>

namespace {

// Whether a file is one of libtorch or below it.
bool is_library(const char *path) {
  const char *name = std::strrchr(path, '/');
  name = name ? name + 1 : path;
  for (auto of : {"libtorch", "libc10", "libc.", "libstdc++", "libgomp", "libm.", "ld-linux"})
    if (std::strncmp(name, of, std::strlen(of)) == 0) return true;
  return false;
}

// The calls in the program and in its plugins that led here, innermost first, as `file+offset` for addr2line.
std::string place() {
  void *frames[128];
  int n = backtrace(frames, 128);
  std::string out;
  for (int i = 0; i < n; i++) {
    Dl_info info;
    if (!dladdr(frames[i], &info) || !info.dli_fname || is_library(info.dli_fname)) continue;
    auto offset = static_cast<char *>(frames[i]) - static_cast<char *>(info.dli_fbase);
    // The call, and not the instruction that it returns to.
    char text[24];
    std::snprintf(text, sizeof text, "+0x%lx", static_cast<unsigned long>(offset) - 1);
    out += (out.empty() ? "" : " ") + std::string(info.dli_fname) + text;
  }
  return out;
}

struct Log {
  std::mutex mutex;
  std::map<std::string, long> counts;
};

// Never destroyed: threads may still note something while the program ends.
Log &log() {
  static Log *log = new Log;
  return *log;
}

// Lines of a count, what it was, and where, with tabs between, in the file that STAND_IN_LOG names.
void write_log() {
  const char *path = std::getenv("STAND_IN_LOG");
  FILE *file = path ? std::fopen(path, "w") : nullptr;
  if (!file) return;
  std::lock_guard<std::mutex> lock(log().mutex);
  for (auto &[what, count] : log().counts) std::fprintf(file, "%ld\t%s\n", count, what.c_str());
  std::fclose(file);
}

[[maybe_unused]] const int at_exit = std::atexit(write_log);

}  // namespace

void noted(const std::string &what) {
  auto key = what + "\t" + place();
  std::lock_guard<std::mutex> lock(log().mutex);
  log().counts[key]++;
}
