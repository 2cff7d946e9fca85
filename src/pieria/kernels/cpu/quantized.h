// Products with weights of few bits: what is stored, and what is computed with it.
//
// Weights lie in panels of 32 outputs, each one stream of memory. Integers of groups lie in chunks
// of 256 inputs: scales, minima, then codes. A chunk is brought into bytes and float32 scales in
// the first level cache, once for all rows that are multiplied with it: by the first tile of rows,
// just before it needs them, so that memory is read evenly. Every output adds its groups in order,
// so a row's bits do not depend on how many rows are computed beside it.
#pragma once

#include <algorithm>

#include "bytes.h"
#include "panels.h"

namespace pieria {

// What the numbers of a weight are, and so how rows of x are rounded.
enum Numbers : int64_t {
    OUTPUTS,  // integers with a scale for each output: rows in int8 with one scale
    GROUPS,   // integers with a scale for each group: rows in int8 with a scale for each 32 inputs
    E4M3,     // FP8 with a scale for each output and 128 inputs: rows in E4M3, a scale for each 128
    E5M2,
};

enum Units : int64_t { F32, F16, BF16, STEPS };    // STEPS: int8, times a float16 of the chunk
enum Minima : int64_t { NO_MINIMA, SAME, ZEROS };  // ZEROS: int8 that a scale times is taken away

// What a weight's second tensor holds.
struct Layout {
    int64_t numbers;
    int64_t bits;   // of a code: 2 to 6, or 8
    int64_t group;  // inputs that share a scale: 16, or a multiple of 32 that divides CHUNK
    int64_t units;
    int64_t minima;
    // The byte that a code of 4 bits stands for; table[0] is added to other codes of few. Bytes are
    // levels where there are minima, else 128 more.
    uint8_t table[16];
};

constexpr int64_t CHUNK = 256;   // inputs
constexpr int64_t ROUNDED = 32;  // inputs that share a scale in a row of x beside GROUPS
constexpr int64_t BLOCK8 = 128;  // the same beside FP8, and those of a chunk there
constexpr int ZERO = 128;        // what stands for 0 in bytes

inline int64_t padded(int64_t inputs) { return (inputs + ROUNDED - 1) / ROUNDED * ROUNDED; }

// Codes of few bits lie in two planes of a chunk: their low four or two bits, and those above.
inline int64_t low_bits(int64_t bits) { return bits < 4 ? 2 : 4; }

inline int64_t unit_bytes(int64_t units) { return units == F32 ? 4 : units == STEPS ? 1 : 2; }

// Bytes of a chunk of `inputs`, a multiple of 32, before its codes.
inline int64_t header_bytes(const Layout& l, int64_t inputs) {
    const int64_t groups = std::max<int64_t>(1, inputs / l.group);
    int64_t bytes = groups * unit_bytes(l.units);
    if (l.minima) bytes += groups * (l.minima == ZEROS ? 1 : unit_bytes(l.units));
    if (l.units == STEPS) bytes += l.minima == SAME ? 4 : 2;
    return (bytes * PANEL + 63) / 64 * 64;
}

// Bytes of a panel.
inline int64_t panel_bytes(const Layout& l, int64_t inputs) {
    const int64_t all = padded(inputs);
    if (l.numbers == OUTPUTS) return PANEL * (4 + all);
    if (l.numbers != GROUPS) return PANEL * (4 * ((inputs + BLOCK8 - 1) / BLOCK8) + inputs);
    const int64_t whole = all / CHUNK, rest = all % CHUNK;
    return whole * header_bytes(l, CHUNK) + (rest ? header_bytes(l, rest) : 0) +
           all * PANEL * l.bits / 8;
}

// Rows of x, rounded, as a tile of R rows reads them; each array is [..][R].
struct IntRows {
    IntRows(char* base, int64_t rows, int64_t inputs, bool groups)
        : codes(reinterpret_cast<uint32_t*>(base)),
          scales(reinterpret_cast<float*>(codes + rows * padded(inputs) / 4)) {
        const int64_t count = groups ? padded(inputs) / ROUNDED : 1;
        starts = reinterpret_cast<int32_t*>(scales + rows * count);
        totals = reinterpret_cast<float*>(starts + rows * count);
        starts16 = reinterpret_cast<int32_t*>(totals + rows * count);
        totals16 = reinterpret_cast<float*>(starts16 + 2 * rows * count);
    }
    static int64_t bytes(int64_t inputs, bool groups) {
        return padded(inputs) + 28 * (groups ? padded(inputs) / ROUNDED : 1);
    }

    uint32_t* codes;    // four of int8
    float* scales;      // of 32 inputs, or of the row
    int32_t* starts;    // -128 times the sum of the codes that share a scale
    float* totals;      // that sum times the scale
    int32_t* starts16;  // the same of 16 inputs
    float* totals16;
};

struct FloatRows {
    FloatRows(char* base, int64_t rows, int64_t inputs)
        : values(reinterpret_cast<float*>(base)), scales(values + rows * inputs) {}
    static int64_t bytes(int64_t inputs) { return 4 * (inputs + (inputs + BLOCK8 - 1) / BLOCK8); }

    float* values;  // of E4M3
    float* scales;  // of 128 inputs
};

inline int64_t row_bytes(int64_t numbers, int64_t inputs) {
    return numbers >= E4M3 ? FloatRows::bytes(inputs) : IntRows::bytes(inputs, numbers == GROUPS);
}

// c [rows of the block][32] = the block's rows times a panel. rows: all of them, rounded.
void multiply_block(const Layout& l, const char* panel, int64_t inputs, char* rows,
                    const Division& division, int64_t block, float* c);

// A tile's sums, in place of a copy: that would be a call.
template <int R>
inline void read(const float* sums, f32 (&c)[R][PANEL_VECTORS]) {
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < PANEL_VECTORS; ++v) c[r][v] = load(sums + r * PANEL + v * LANES);
}

// body.operator()<R>(a tile's first row in all, its sums) for every tile of a block whose sums are
// in [rows of the block][32].
template <class Body>
inline void each_tile(const Division& division, int64_t block, const float* sums, Body&& body) {
    const int64_t begin = division.first(block, 0);
    for (int64_t tile = 0; tile < division.tiles; ++tile) {
        const int64_t first = division.first(block, tile);
        with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
            f32 c[R][PANEL_VECTORS];
            read<R>(sums + (first - begin) * PANEL, c);
            body.template operator()<R>(first, c);
        });
    }
}

}  // namespace pieria
