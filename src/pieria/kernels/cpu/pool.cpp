#include "pool.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pieria {
namespace {

// Longer than the gap between the ops of a step, shorter than what an idle core costs others.
constexpr std::chrono::microseconds SPIN{150};

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Tasks [next, end) that are left of one thread's share, in one word, so that taking one is a
// single exchange: next in the upper half, end in the lower.
struct alignas(64) Share {
    std::atomic<uint64_t> left{0};

    void set(uint64_t begin, uint64_t end) {
        left.store(begin << 32 | end, std::memory_order_release);
    }
    int64_t take() {
        uint64_t seen = left.load(std::memory_order_acquire);
        while (static_cast<uint32_t>(seen >> 32) < static_cast<uint32_t>(seen))
            if (left.compare_exchange_weak(seen, seen + (uint64_t{1} << 32),
                                           std::memory_order_acquire))
                return static_cast<int64_t>(seen >> 32);
        return -1;
    }
};

struct Pool {
    explicit Pool(int threads) : size(threads), shares(new Share[threads]) {
        for (int t = 1; t < threads; ++t) workers.emplace_back([this, t] { work(t); });
    }

    ~Pool() {
        ending.store(true);
        wake();
        for (auto& worker : workers) worker.join();
    }

    // What a task is may be read only after one was taken: until it is done, the job stays.
    void run(int64_t n, void (*body)(void*, int64_t), void* context) {
        job_body = body;
        job_context = context;
        undone.store(n, std::memory_order_relaxed);
        for (int t = 0; t < size; ++t) shares[t].set(n * t / size, n * (t + 1) / size);
        wake();
        help(0);
        while (undone.load(std::memory_order_acquire) != 0) relax();
    }

    void help(int first) {
        for (int k = 0; k < size; ++k) {
            Share& share = shares[(first + k) % size];
            int64_t done = 0;
            for (int64_t i; (i = share.take()) >= 0; ++done) job_body(job_context, i);
            if (done) undone.fetch_sub(done, std::memory_order_release);
        }
    }

    void wake() {
        jobs.fetch_add(1);
        if (sleepers.load() == 0) return;
#if defined(__linux__)
        syscall(SYS_futex, &jobs, FUTEX_WAKE_PRIVATE, size, nullptr, nullptr, 0);
#else
        jobs.notify_all();
#endif
    }

    void sleep(uint32_t seen) {
        sleepers.fetch_add(1);
#if defined(__linux__)
        syscall(SYS_futex, &jobs, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
        jobs.wait(seen);
#endif
        sleepers.fetch_sub(1);
    }

    void work(int t) {
        uint32_t seen = 0;
        while (!ending.load(std::memory_order_relaxed)) {
            help(t);
            auto now = std::chrono::steady_clock::now();
            const auto until = now + SPIN;
            uint32_t current;
            while ((current = jobs.load(std::memory_order_acquire)) == seen && now < until) {
                for (int i = 0; i < 32; ++i) relax();
                now = std::chrono::steady_clock::now();
            }
            if (current == seen) sleep(seen);
            seen = jobs.load(std::memory_order_acquire);
        }
    }

    const int size;
    std::unique_ptr<Share[]> shares;
    std::vector<std::thread> workers;
    void (*job_body)(void*, int64_t) = nullptr;
    void* job_context = nullptr;
    alignas(64) std::atomic<int64_t> undone{0};
    alignas(64) std::atomic<uint32_t> jobs{0};
    std::atomic<int> sleepers{0};
    std::atomic<bool> ending{false};
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
};

std::unique_ptr<Pool> pool;

struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
};

constexpr int PURPOSES = 16;
thread_local Buffer buffers[PURPOSES];

}  // namespace

int pool_threads() { return pool ? pool->size : 1; }

void pool_run(int64_t n, void (*body)(void*, int64_t), void* context) {
    // A share counts in 32 bits; no job comes near.
    if (!pool || pool->size == 1 || n < 2 || n >= INT32_MAX || pool->busy.test_and_set()) {
        for (int64_t i = 0; i < n; ++i) body(context, i);
        return;
    }
    pool->run(n, body, context);
    pool->busy.clear();
}

void* scratch(int purpose, size_t bytes) {
    Buffer& buffer = buffers[purpose];
    if (buffer.size < bytes) {
        std::free(buffer.data);
        buffer.size = (bytes + 4095) / 4096 * 4096;
        buffer.data = std::aligned_alloc(4096, buffer.size);
        if (!buffer.data) throw std::bad_alloc();
    }
    return buffer.data;
}

}  // namespace pieria

// No job may be running.
extern "C" void pieria_threads(int64_t count) {
    using namespace pieria;
    pool.reset();
    if (count > 1) pool = std::make_unique<Pool>(static_cast<int>(count));
}

// One call after the other, as they were recorded.
struct RecordedCall {
    void (*function)(const void*);
    const void* arguments;
};

extern "C" void pieria_replay(const RecordedCall* calls, int64_t count) {
    for (int64_t i = 0; i < count; ++i) calls[i].function(calls[i].arguments);
}
