// Weights as matrix products read them: panels of 32 outputs, [outputs / 32][steps][32] of what a
// step takes of each output. Outputs and inputs are padded with zeros.
#pragma once

#include <algorithm>

#include "tile.h"

namespace pieria {

constexpr int PANEL = 32;
constexpr int PANEL_VECTORS = PANEL / LANES;

inline int64_t panels_of(int64_t outputs) { return (outputs + PANEL - 1) / PANEL; }

template <class M>
inline int64_t steps_of(int64_t inputs) {
    return (inputs + M::DEPTH - 1) / M::DEPTH;
}

// Elements of a panel.
template <class M>
inline int64_t panel_size(int64_t inputs) {
    return steps_of<M>(inputs) * PANEL;
}

// Rows of x as a tile reads them, [steps][rows]; row_of(r) is where row r is.
template <class T, class RowOf>
inline void pack_rows(RowOf&& row_of, int64_t rows, int64_t inputs, typename Mode<T>::A* out) {
    using M = Mode<T>;
    // Few steps of all rows at a time: what is written stays in the first level cache until it is
    // whole lines.
    constexpr int64_t SOME = 64;
    const int64_t whole = inputs / M::DEPTH, steps = (inputs + M::DEPTH - 1) / M::DEPTH;
    for (int64_t begin = 0; begin < steps; begin += SOME) {
        const int64_t end = std::min(begin + SOME, whole);
        for (int64_t r = 0; r < rows; ++r) {
            const T* row = row_of(r);
            if constexpr (M::DEPTH == 1) {
                for (int64_t k = begin; k < end; ++k) out[k * rows + r] = M::join(row[k]);
            } else {
                for (int64_t k = begin; k < end; ++k)
                    out[k * rows + r] = M::join(row[2 * k], row[2 * k + 1]);
                if (end < begin + SOME && whole < steps)
                    out[whole * rows + r] = M::join(row[2 * whole], T{});
            }
        }
    }
}

// The same of rows that are `stride` apart.
template <class T>
inline void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t inputs,
                      typename Mode<T>::A* out) {
    pack_rows<T>([&](int64_t r) { return x + r * stride; }, rows, inputs, out);
}

// How far ahead of its use a panel is fetched: a processor's own prefetchers do not look far enough
// to keep memory busy. While memory is busy, wishes for the second level cache may be dropped,
// those for the first are not; so what lies far ahead is wished for, and what comes next is asked
// for.
constexpr int64_t FAR = 16384, NEAR = 2048;

// Inlined in any case: GCC leaves out calls of what does nothing but fetch.
inline __attribute__((always_inline)) void fetch(const void* from) {
    __builtin_prefetch(static_cast<const char*>(from) + FAR, 0, 2);
    __builtin_prefetch(static_cast<const char*>(from) + NEAR, 0, 3);
}

// One tile of x times one panel, which the first tile that reads it fetches.
template <class T, int R>
inline void product(int64_t steps, const typename Mode<T>::A* a, const typename Mode<T>::B* panel,
                    f32 (&c)[R][PANEL_VECTORS], bool first) {
    using M = Mode<T>;
    constexpr int64_t LINE = 64 / sizeof(typename M::B);
    std::memset(&c, 0, sizeof c);
    if (first)
        multiply<M, R, PANEL_VECTORS>(steps, a, R, panel, PANEL, c,
                                      [&](int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 4
                                          for (int64_t at = 0; at < PANEL; at += LINE)
                                              fetch(panel + k * PANEL + at);
                                      });
    else
        multiply<M, R, PANEL_VECTORS>(steps, a, R, panel, PANEL, c);
}

template <class T, int R>
inline void add_bias(const void* bias, int64_t column, int64_t columns,
                     f32 (&c)[R][PANEL_VECTORS]) {
    if (!bias) return;
    for (int v = 0; v < PANEL_VECTORS; ++v) {
        const int64_t left = columns - v * LANES;
        if (left <= 0) return;
        const T* from = static_cast<const T*>(bias) + column + v * LANES;
        const f32 b = left >= LANES ? load(from) : load(from, left);
        for (int r = 0; r < R; ++r) c[r][v] += b;
    }
}

template <class T, int R>
inline void write(T* out, int64_t stride, int64_t columns, const f32 (&c)[R][PANEL_VECTORS]) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < PANEL_VECTORS; ++v) {
            const int64_t left = columns - v * LANES;
            if (left >= LANES)
                store(out + r * stride + v * LANES, c[r][v]);
            else if (left > 0)
                store(out + r * stride + v * LANES, c[r][v], left);
        }
}

// How rows are divided: blocks whose packed rows stay in the second level cache, and tiles in them,
// each as even as can be.
struct Division {
    explicit Division(int64_t rows)
        : rows(rows),
          blocks((rows + BLOCK - 1) / BLOCK),
          tiles(tiles_of((rows + blocks - 1) / blocks)) {}

    static constexpr int64_t BLOCK = 112;

    // The first row of a tile; that of tile `tiles` of a block is that of the next block's first.
    int64_t first(int64_t block, int64_t tile) const {
        const int64_t begin = rows * block / blocks, end = rows * (block + 1) / blocks;
        return begin + (end - begin) * tile / tiles;
    }

    int64_t rows, blocks, tiles;
};

}  // namespace pieria
