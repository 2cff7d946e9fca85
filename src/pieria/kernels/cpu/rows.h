// Work that is done row by row: how many rows are worth a task.
#pragma once

#include <algorithm>

#include "pool.h"

namespace pieria {

// body(first, last) for ranges that cover [0, rows), each of some 16,000 numbers.
template <class Body>
inline void parallel_rows(int64_t rows, int64_t numbers, Body&& body) {
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, numbers));
    parallel((rows + grain - 1) / grain,
             [&](int64_t i) { body(i * grain, std::min(rows, (i + 1) * grain)); });
}

}  // namespace pieria
