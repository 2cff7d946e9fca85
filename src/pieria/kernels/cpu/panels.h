// Weights as matrix products read them: panels of 32 outputs, [outputs / 32][steps][32] of what a
// step takes of each output. Outputs and inputs are padded with zeros.
#pragma once

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

// Rows [first, first + rows) of x as a tile reads them: [steps][rows].
template <class T>
inline void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t inputs,
                      typename Mode<T>::A* out) {
    using M = Mode<T>;
    const int64_t whole = inputs / M::DEPTH;
    for (int64_t r = 0; r < rows; ++r) {
        const T* row = x + r * stride;
        if constexpr (M::DEPTH == 1) {
            for (int64_t k = 0; k < whole; ++k) out[k * rows + r] = widen(row[k]);
        } else {
            for (int64_t k = 0; k < whole; ++k)
                std::memcpy(&out[k * rows + r], row + k * M::DEPTH, sizeof *out);
            if (whole * M::DEPTH < inputs) {
                out[whole * rows + r] = 0;
                std::memcpy(&out[whole * rows + r], row + whole * M::DEPTH, sizeof(T));
            }
        }
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
