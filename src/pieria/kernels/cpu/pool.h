// The threads that all kernels share.
//
// A job is n tasks. Each thread starts on a contiguous share of them, for the sake of the memory's
// prefetchers, and takes from the others' shares when its own is done; so a thread that the
// operating system keeps waiting holds up no more than the task it is in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace pieria {

// How many threads work on a job, the caller included.
int pool_threads();

// Run body(context, i) for every i in [0, n), in any order, and return when all are done.
// A call from inside a task, or while another thread's job runs, does all of it alone.
void pool_run(int64_t n, void (*body)(void* context, int64_t i), void* context);

// body(i) for every i in [0, n).
template <class Body>
inline void parallel(int64_t n, Body&& body) {
    if (n == 1) {
        body(int64_t{0});
        return;
    }
    using Type = std::remove_reference_t<Body>;
    pool_run(n, [](void* context, int64_t i) { (*static_cast<Type*>(context))(i); }, &body);
}

// Memory of this thread, for one of a few purposes; its content does not outlast the next call for
// the same purpose. 64 byte aligned.
void* scratch(int purpose, size_t bytes);

template <class T>
inline T* scratch(int purpose, int64_t count) {
    return static_cast<T*>(scratch(purpose, static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace pieria
