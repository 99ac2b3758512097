// A team: threads that share the work of one lifetime.
//
// A lifetime is a long row of short jobs, so that a helper is wanted every few microseconds: it
// spins for the next job, and goes to sleep only where none comes for long. Each member has its
// own part of a job, always the same share of a matrix, which stays in its cache.
//
// Another process may take a helper's core. What a helper has not begun when the lifetime's own
// thread is done with its part, that thread does as well. Only a helper stopped in the midst of
// a part is waited for, and then the team rests ten times as long: so waiting costs a tenth.
//
// Parts are ranges of numbers that do not depend on each other, never of a sum: results are those
// of one thread, to the bit.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "subnormals.h"

namespace rulesearch {

constexpr int64_t SHARED_WORK = 16000;  // multiplications from which a job is worth sharing
constexpr int SPINS = 200;    // looks for a job, or for a helper's end: some microseconds
constexpr int YIELDS = 3000;  // more of them, that let others have the core: a millisecond or so
constexpr std::chrono::microseconds PATIENCE(200);  // for which waiting is no reason to rest
constexpr int REST = 10;      // times the waiting

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  // Of the thread that makes it, while it lives. Helpers start at the first job to share.
  explicit Team(int64_t threads) : size((int)threads), before(std::exchange(mine, this)) {}
  ~Team() {
    mine = before;
    for (auto& helper : helpers) helper.order(STOP);
    for (auto& helper : helpers) helper.thread.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // The calling thread's; null where it has none, or is in the midst of a part.
  static Team* of_this_thread() { return mine; }

  int members() const { return size; }

  // do_part(begin, end) for ranges that make up 0 to n and begin at multiples of `unit`.
  template <class F>
  void split(int64_t n, int64_t unit, const F& do_part) {
    const int64_t units = (n + unit - 1) / unit;
    const int parts = is_resting() ? 1 : (int)std::min<int64_t>(size, units);
    if (parts == 1) return do_part(int64_t(0), n);
    const auto part = [&](int k) {
      do_part(units * k / parts * unit, std::min(n, units * (k + 1) / parts * unit));
    };
    start(parts - 1);
    work = &part;
    call = [](const void* whole, int k) { (*static_cast<const decltype(part)*>(whole))(k); };
    mine = nullptr;
    const int helped = std::min((int)helpers.size(), parts - 1);
    for (int k = 0; k < helped; ++k) helpers[k].order(READY);
    part(0);
    for (int k = helped + 1; k < parts; ++k) part(k);
    for (int k = helped - 1; k >= 0; --k)
      if (helpers[k].withdraw()) part(k + 1);
      else wait_for(helpers[k]);
    mine = this;
  }

 private:
  enum State { IDLE, ASLEEP, READY, BUSY, STOP };

  struct alignas(64) Helper {
    std::atomic<State> state{IDLE};
    std::mutex mutex;
    std::condition_variable wake;
    std::thread thread;

    void order(State what) {
      if (state.exchange(what) != ASLEEP) return;
      { std::lock_guard<std::mutex> lock(mutex); }  // it is waiting by now
      wake.notify_one();
    }
    bool withdraw() {
      State found = READY;
      return state.compare_exchange_strong(found, IDLE);
    }
    bool is_busy() const { return state.load(std::memory_order_acquire) == BUSY; }
    // False when it is time to stop.
    bool receive() {
      for (int spins = 0;; ++spins) {
        State found = state.load(std::memory_order_relaxed);
        if (found == STOP) return false;
        if (found == READY && state.compare_exchange_strong(found, BUSY)) return true;
        if (spins < SPINS) {
          relax();
        } else if (spins < SPINS + YIELDS) {
          std::this_thread::yield();
        } else {
          sleep();
          spins = 0;
        }
      }
    }
    void sleep() {
      std::unique_lock<std::mutex> lock(mutex);
      State found = IDLE;
      if (state.compare_exchange_strong(found, ASLEEP))
        wake.wait(lock, [&] { return state.load() != ASLEEP; });
    }
  };

  bool is_resting() {
    if (rested == Clock::time_point::min()) return false;
    if (Clock::now() < rested) return true;
    rested = Clock::time_point::min();
    return false;
  }

  void wait_for(const Helper& helper) {
    for (int spins = 0; spins < SPINS; ++spins) {
      if (!helper.is_busy()) return;
      relax();
    }
    const auto begin = Clock::now();
    while (helper.is_busy()) std::this_thread::yield();
    const auto end = Clock::now();
    if (end - begin > PATIENCE) rested = end + REST * (end - begin);
  }

  void start(int count) {
    try {
      while ((int)helpers.size() < count) {
        Helper& helper = helpers.emplace_back();
        helper.thread = std::thread([this, &helper, k = (int)helpers.size()] { help(helper, k); });
      }
    } catch (const std::system_error&) {  // no more threads to be had: with those there are
      helpers.pop_back();
      size = (int)helpers.size() + 1;
    }
  }

  void help(Helper& self, int k) {
    const FlushSubnormals flush;
    while (self.receive()) {
      call(work, k);
      self.state.store(IDLE, std::memory_order_release);
    }
  }

  static inline thread_local Team* mine = nullptr;

  using Clock = std::chrono::steady_clock;

  int size;
  Team* before;
  std::deque<Helper> helpers;  // which never moves them
  Clock::time_point rested = Clock::time_point::min();  // when a rest is over
  const void* work = nullptr;
  void (*call)(const void*, int) = nullptr;
};

// How many share a job of so many multiplications.
inline int sharers(int64_t work) {
  const Team* team = work < SHARED_WORK ? nullptr : Team::of_this_thread();
  return team ? team->members() : 1;
}

// do_part(begin, end) for ranges that make up 0 to n and begin at multiples of `unit`; by the
// calling thread's team, where all is work enough.
template <class F>
void split(int64_t work, int64_t n, int64_t unit, const F& do_part) {
  if (sharers(work) > 1) Team::of_this_thread()->split(n, unit, do_part);
  else do_part(int64_t(0), n);
}

}  // namespace rulesearch
