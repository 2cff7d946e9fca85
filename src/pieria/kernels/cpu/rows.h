// Work that is done row by row: how many rows are worth a task, and a row vector by vector.
#pragma once

#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace pieria {

// body(first, last) for ranges that cover [0, rows), each of some 16,000 numbers.
template <class Body>
inline void parallel_rows(int64_t rows, int64_t numbers, Body&& body) {
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, numbers));
    parallel((rows + grain - 1) / grain,
             [&](int64_t i) { body(i * grain, std::min(rows, (i + 1) * grain)); });
}

// body(offset, count) for each vector of a row.
template <class Body>
inline void vectors(int64_t columns, Body&& body) {
    for (int64_t i = 0; i < columns; i += LANES) body(i, std::min<int64_t>(LANES, columns - i));
}

template <class T>
inline f32 load_some(const T* from, int64_t count) {
    return count == LANES ? load(from) : load(from, count);
}

template <class T>
inline void store_some(T* to, f32 v, int64_t count) {
    if (count == LANES)
        store(to, v);
    else
        store(to, v, count);
}

}  // namespace pieria
