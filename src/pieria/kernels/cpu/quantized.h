// Products with weights of few bits: what is stored, how rows of x are rounded, and the inner
// loops.
//
// Weights lie in panels of 32 outputs, each one stream of memory. Integers of groups lie in chunks
// of 256 inputs: scales, minima, then codes. A chunk is brought into bytes and float32 scales in
// the first level cache, once for all rows that are multiplied with it. Every output adds its
// groups in order, so a row's bits do not depend on how many rows are computed beside it.
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
    int64_t bits;   // of a code: 8, 6, 4
    int64_t group;  // inputs that share a scale: 16, or a multiple of 32 that divides CHUNK
    int64_t units;
    int64_t minima;
    // The byte that a code of 4 bits stands for; table[0] is added to codes of 6. Bytes are levels
    // where there are minima, else 128 more.
    uint8_t table[16];
};

constexpr int64_t CHUNK = 256;   // inputs
constexpr int64_t ROUNDED = 32;  // inputs that share a scale in a row of x beside GROUPS
constexpr int64_t BLOCK8 = 128;  // the same beside FP8, and those of a chunk there
constexpr int ZERO = 128;        // what stands for 0 in bytes

inline int64_t padded(int64_t inputs) { return (inputs + ROUNDED - 1) / ROUNDED * ROUNDED; }

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

// Below it nothing is told from 0: its inverse must be finite.
constexpr float LEAST = 0x1p-100f;

// NaN where one of the lanes is none or infinite, else 0.
inline float poison(f32 x) { return sum(x * 0.0f); }

inline f32 magnitude(f32 x) { return x < 0.0f ? -x : x; }

template <class T>
inline f32 load_part(const T* row, int64_t at, int64_t inputs) {
    const int64_t left = inputs - at;
    return left >= LANES ? load(row + at) : left > 0 ? load(row + at, left) : f32{};
}

inline int32_t sum(i32 v) {
    int32_t x[LANES];
    store_vector(x, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x[i] += x[i + width];
    return x[0];
}

// 16 numbers from `at` on, times `inverse`, as codes of row r; gives their sum.
template <class T>
inline int32_t round16(const T* row, int64_t at, int64_t inputs, float inverse, uint32_t* out,
                       int64_t rows) {
    const i32 whole = nearest(load_part(row, at, inputs) * inverse);
    const i8 bytes = __builtin_convertvector(whole, i8);
    uint32_t four[4];
    std::memcpy(four, &bytes, sizeof four);
    for (int i = 0; i < 4; ++i) out[(at / 4 + i) * rows] = four[i];
    return sum(whole);
}

template <class T, class RowOf>
void round_ints(RowOf&& row_of, int64_t rows, int64_t inputs, bool groups, char* base) {
    const IntRows out(base, rows, inputs, groups);
    const int64_t all = padded(inputs), size = groups ? ROUNDED : all;
    for (int64_t r = 0; r < rows; ++r) {
        const T* row = row_of(r);
        for (int64_t begin = 0, g = r; begin < all; begin += size, g += rows) {
            f32 most{}, bad{};
            for (int64_t at = begin; at < begin + size; at += LANES) {
                const f32 x = load_part(row, at, inputs);
                most = max(magnitude(x), most);
                bad += x * 0.0f;
            }
            const float limit = max(most);
            const float inverse = limit > LEAST ? 127.0f / limit : 0.0f;
            int32_t total = 0;
            for (int64_t at = begin; at < begin + size; at += LANES) {
                const int32_t part = round16(row, at, inputs, inverse, out.codes + r, rows);
                total += part;
                if (groups) out.starts16[at / LANES * rows + r] = -ZERO * part;
            }
            const float scale = (limit > LEAST ? limit / 127.0f : 0.0f) + sum(bad);
            out.scales[g] = scale;
            out.starts[g] = -ZERO * total;
            out.totals[g] = scale * static_cast<float>(total);
            if (groups)
                for (int64_t i = begin / LANES; i < begin / LANES + 2; ++i)
                    out.totals16[i * rows + r] =
                        scale * static_cast<float>(out.starts16[i * rows + r] / -ZERO);
        }
    }
}

// To the nearest of E4M3's numbers, of which none is larger than 448; ties to the even one.
inline f32 nearest_e4m3(f32 x) {
    // The unit is 2^-3 of the power of two below, at least 2^-9.
    const u32 bits = reinterpret_cast<u32>(x) & 0x7f800000u;
    const f32 power = reinterpret_cast<f32>(bits), least = splat(0x1p-6f);
    const f32 unit = (power > least ? power : least) * 0x1p-3f;
    const f32 limit = splat(448.0f);
    const f32 y = __builtin_convertvector(nearest(x / unit), f32) * unit;
    return y > limit ? limit : y < -limit ? -limit : y;
}

template <class T, class RowOf>
void round_floats(RowOf&& row_of, int64_t rows, int64_t inputs, char* base) {
    const FloatRows out(base, rows, inputs);
    for (int64_t r = 0; r < rows; ++r) {
        const T* row = row_of(r);
        for (int64_t begin = 0, g = r; begin < inputs; begin += BLOCK8, g += rows) {
            const int64_t end = std::min(begin + BLOCK8, inputs);
            f32 most{}, bad{};
            for (int64_t at = begin; at < end; at += LANES) {
                const f32 x = load_part(row, at, end);
                most = max(magnitude(x), most);
                bad += x * 0.0f;
            }
            const float limit = max(most);
            const float inverse = limit > LEAST ? 448.0f / limit : 0.0f;
            for (int64_t at = begin; at < end; at += LANES) {
                float values[LANES];
                store(values, nearest_e4m3(load_part(row, at, end) * inverse));
                for (int64_t i = at; i < std::min(at + LANES, end); ++i)
                    out.values[i * rows + r] = values[i - at];
            }
            out.scales[g] = (limit > LEAST ? limit / 448.0f : 0.0f) + sum(bad);
        }
    }
}

template <class T, class RowOf>
void round_rows(int64_t numbers, RowOf&& row_of, int64_t rows, int64_t inputs, char* base) {
    if (numbers >= E4M3)
        round_floats<T>(row_of, rows, inputs, base);
    else
        round_ints<T>(row_of, rows, inputs, numbers == GROUPS, base);
}

// A chunk as the inner loop reads it.
struct Chunk {
    const uint8_t* codes;  // [inputs / 4][32][4]
    float scales[CHUNK / 16][PANEL];
    float minima[CHUNK / 16][PANEL];
    alignas(64) uint8_t bytes[CHUNK * PANEL];
};

inline f32 load_units(int64_t units, const char* from, int64_t at) {
    switch (units) {
        case F32:
            return load(reinterpret_cast<const float*>(from) + at);
        case F16:
            return load(reinterpret_cast<const f16*>(from) + at);
        case BF16:
            return load(reinterpret_cast<const bf16*>(from) + at);
        default:
            return __builtin_convertvector(load_vector<i8>(from + at), f32);
    }
}

// What is read of a panel is fetched this far ahead.
inline void fetch(const void* from) {
    __builtin_prefetch(static_cast<const char*>(from) + AHEAD, 0, 2);
}

// The chunk of `inputs` that begins at `from`; gives where the next one does.
inline const char* read_chunk(const Layout& l, const char* from, int64_t inputs, Chunk& out) {
    const int64_t groups = std::max<int64_t>(1, inputs / l.group);
    const int64_t flushed = l.group < ROUNDED ? groups : inputs / ROUNDED;  // scales that are read
    const int64_t size = groups * unit_bytes(l.units) * PANEL;
    const char* minima = from + size;
    const char* steps = minima + (l.minima == SAME ? size : l.minima == ZEROS ? groups * PANEL : 0);
    for (int v = 0; v < PANEL_VECTORS; ++v) {
        f32 step = splat(1.0f), below = splat(1.0f);
        if (l.units == STEPS) {
            step = load(reinterpret_cast<const f16*>(steps) + v * LANES);
            if (l.minima == SAME)
                below = load(reinterpret_cast<const f16*>(steps) + PANEL + v * LANES);
        }
        for (int64_t i = 0; i < flushed; ++i) {
            const int64_t at = i * groups / flushed * PANEL + v * LANES;
            const f32 scale = load_units(l.units, from, at) * step;
            store(out.scales[i] + v * LANES, scale);
            if (l.minima == SAME)
                store(out.minima[i] + v * LANES, load_units(l.units, minima, at) * below);
            else if (l.minima == ZEROS)
                store(out.minima[i] + v * LANES,
                      -__builtin_convertvector(load_vector<i8>(minima + at), f32) * scale);
        }
    }
    const char* codes = from + header_bytes(l, inputs);
    for (const char* line = from; line < codes; line += 64) fetch(line);
    if (l.bits == 8) {
        out.codes = reinterpret_cast<const uint8_t*>(codes);
        return codes + inputs * PANEL;
    }
    out.codes = out.bytes;
    const int64_t half = inputs * PANEL / 2;  // bytes that hold the low four bits
    if (l.bits == 4) {
        for (int64_t at = 0; at < half; at += 64) {
            fetch(codes + at);
            const u8 two = load_vector<u8>(codes + at);
            // Two steps of 128 bytes share 128 bytes.
            uint8_t* to = out.bytes + at / 128 * 256 + at % 128;
            store_vector(to, lookup(l.table, two & 15));
            store_vector(to + 128, lookup(l.table, two >> 4));
        }
        return codes + half;
    }
    const char* high = codes + half;  // the high two bits, four steps in 128 bytes
    const u8 zero = l.table[0] - u8{};
    for (int64_t at = 0; at < half / 2; at += 64) {
        fetch(high + at);
        const u8 four = load_vector<u8>(high + at);
        uint8_t* to = out.bytes + at / 128 * 512 + at % 128;
        for (int i = 0; i < 2; ++i) {
            const char* from = codes + at / 128 * 256 + at % 128 + i * 128;
            fetch(from);
            const u8 two = load_vector<u8>(from);
            const u8 top = four >> (4 * i);
            store_vector(to + i * 256, ((two & 15) | (top & 3) << 4) + zero);
            store_vector(to + i * 256 + 128, ((two >> 4) | (top >> 2 & 3) << 4) + zero);
        }
    }
    return codes + half + half / 2;
}

inline f32 to_float(i32 x) { return __builtin_convertvector(x, f32); }

// Adds R rows times `count` groups of DEPTH steps of a chunk to c, [R][32].
template <int R, int DEPTH, bool MIN, bool FETCH>
inline void add_groups(int64_t count, const Chunk& chunk, const uint32_t* a, const float* scales,
                       const int32_t* starts, const float* totals, float* c) {
    const uint8_t* w = chunk.codes;
    for (int64_t g = 0; g < count; ++g) {
        i32 sums[R][PANEL_VECTORS];
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < PANEL_VECTORS; ++v)
                sums[r][v] = MIN ? i32{} : splat(starts[g * R + r]);
#pragma GCC unroll 8
        for (int k = 0; k < DEPTH; ++k, a += R, w += 4 * PANEL) {
            if (FETCH) {
                fetch(w);
                fetch(w + 64);
            }
            const u8 w0 = load_vector<u8>(w), w1 = load_vector<u8>(w + 64);
#pragma GCC unroll 14
            for (int r = 0; r < R; ++r) {
                const i32 x = splat(static_cast<int32_t>(a[r]));
                sums[r][0] = dot(sums[r][0], w0, x);
                sums[r][1] = dot(sums[r][1], w1, x);
            }
        }
        const float* row_scales = scales + (DEPTH == 4 ? g / 2 : g) * R;
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECTORS; ++v) {
            const f32 scale = load(chunk.scales[g] + v * LANES);
            const f32 low = MIN ? load(chunk.minima[g] + v * LANES) : f32{};
#pragma GCC unroll 14
            for (int r = 0; r < R; ++r) {
                float* to = c + r * PANEL + v * LANES;
                f32 y = load(to) + to_float(sums[r][v]) * (scale * row_scales[r]);
                if (MIN) y += low * totals[g * R + r];
                store(to, y);
            }
        }
    }
}

// c = R rows times a panel whose outputs have one scale each.
template <int R, bool FETCH>
inline void multiply_outputs(const char* panel, int64_t inputs, const IntRows& a, float* c) {
    const uint8_t* w = reinterpret_cast<const uint8_t*>(panel + 4 * PANEL);
    const uint32_t* x = a.codes;
    i32 sums[R][PANEL_VECTORS];
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECTORS; ++v) sums[r][v] = splat(a.starts[r]);
    for (int64_t k = 0; k < padded(inputs) / 4; ++k, x += R, w += 4 * PANEL) {
        if (FETCH) {
            fetch(w);
            fetch(w + 64);
        }
        const u8 w0 = load_vector<u8>(w), w1 = load_vector<u8>(w + 64);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            const i32 four = splat(static_cast<int32_t>(x[r]));
            sums[r][0] = dot(sums[r][0], w0, four);
            sums[r][1] = dot(sums[r][1], w1, four);
        }
    }
    for (int v = 0; v < PANEL_VECTORS; ++v) {
        const f32 scale = load(reinterpret_cast<const float*>(panel) + v * LANES);
        for (int r = 0; r < R; ++r)
            store(c + r * PANEL + v * LANES, to_float(sums[r][v]) * (scale * a.scales[r]));
    }
}

// c = R rows times a panel of FP8.
template <class E, int R>
inline void multiply_floats(const char* panel, int64_t inputs, const FloatRows& a, float* c) {
    std::memset(c, 0, sizeof(float) * R * PANEL);
    for (int64_t begin = 0, g = 0; begin < inputs; begin += BLOCK8, ++g) {
        const int64_t count = std::min(BLOCK8, inputs - begin);
        const auto* scales = reinterpret_cast<const float*>(panel);
        f32 sums[R][PANEL_VECTORS] = {};
        multiply<Single<E>, R, PANEL_VECTORS>(count, a.values + begin * R, R,
                                              reinterpret_cast<const E*>(panel + 4 * PANEL), PANEL,
                                              sums);
        for (int v = 0; v < PANEL_VECTORS; ++v) {
            const f32 scale = load(scales + v * LANES);
            for (int r = 0; r < R; ++r) {
                float* to = c + r * PANEL + v * LANES;
                store(to, load(to) + sums[r][v] * (scale * a.scales[g * R + r]));
            }
        }
        panel += (4 + count) * PANEL;
    }
}

template <int R, bool FETCH>
inline void add_chunk(const Layout& l, int64_t begin, int64_t count, const Chunk& chunk,
                      const IntRows& a, float* c) {
    const uint32_t* x = a.codes + begin / 4 * R;
    const float* scales = a.scales + begin / ROUNDED * R;
    const int64_t at = begin / ROUNDED * R, at16 = begin / 16 * R;
    const bool fetch = FETCH && l.bits == 8;
    const auto add = [&]<int DEPTH, bool MIN, bool F>() {
        add_groups<R, DEPTH, MIN, F>(count / (4 * DEPTH), chunk, x, scales,
                                     DEPTH == 4 ? a.starts16 + at16 : a.starts + at,
                                     DEPTH == 4 ? a.totals16 + at16 : a.totals + at, c);
    };
    if (l.group < ROUNDED) {
        if (l.minima)
            add.template operator()<4, true, false>();
        else
            add.template operator()<4, false, false>();
    } else if (l.minima) {
        add.template operator()<8, true, false>();
    } else if (fetch) {
        add.template operator()<8, false, FETCH>();
    } else {
        add.template operator()<8, false, false>();
    }
}

// c [rows of the block][32] = the block's rows times a panel. rows: all of them, rounded.
inline void multiply_block(const Layout& l, const char* panel, int64_t inputs, char* rows,
                           const Division& division, int64_t block, float* c) {
    const int64_t begin = division.first(block, 0), each = row_bytes(l.numbers, inputs);
    const auto tiles = [&](auto&& body) {
        for (int64_t tile = 0; tile < division.tiles; ++tile) {
            const int64_t first = division.first(block, tile);
            with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
                body.template operator()<R>(rows + first * each, c + (first - begin) * PANEL,
                                            tile == 0);
            });
        }
    };
    if (l.numbers == OUTPUTS) {
        tiles([&]<int R>(char* base, float* to, bool first) {
            const IntRows a(base, R, inputs, false);
            if (first)
                multiply_outputs<R, true>(panel, inputs, a, to);
            else
                multiply_outputs<R, false>(panel, inputs, a, to);
        });
    } else if (l.numbers == GROUPS) {
        Chunk chunk;
        const int64_t all = padded(inputs), count = division.first(block + 1, 0) - begin;
        std::memset(c, 0, sizeof(float) * static_cast<size_t>(count) * PANEL);
        for (int64_t k = 0; k < all; k += CHUNK) {
            const int64_t length = std::min(CHUNK, all - k);
            panel = read_chunk(l, panel, length, chunk);
            tiles([&]<int R>(char* base, float* to, bool first) {
                const IntRows a(base, R, inputs, true);
                if (first)
                    add_chunk<R, true>(l, k, length, chunk, a, to);
                else
                    add_chunk<R, false>(l, k, length, chunk, a, to);
            });
        }
    } else {
        tiles([&]<int R>(char* base, float* to, bool) {
            const FloatRows a(base, R, inputs);
            if (l.numbers == E4M3)
                multiply_floats<e4m3, R>(panel, inputs, a, to);
            else
                multiply_floats<e5m2, R>(panel, inputs, a, to);
        });
    }
}

}  // namespace pieria
