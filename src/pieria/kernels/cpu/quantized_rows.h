// How rows of x are rounded for products with weights of few bits.
#pragma once

#include "quantized.h"
#include "rounding.h"

namespace pieria {

// NaN where one of the lanes is none or infinite, else 0.
inline float poison(f32 x) { return sum(x * 0.0f); }

inline f32 magnitude(f32 x) { return x < 0.0f ? -x : x; }

template <class T>
inline f32 load_part(const T* row, int64_t at, int64_t inputs) {
    const int64_t left = inputs - at;
    return left >= LANES ? load(row + at) : left > 0 ? load(row + at, left) : f32{};
}

inline int32_t sum(i32 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(v));
#else
    int32_t x[LANES];
    store_vector(x, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x[i] += x[i + width];
    return x[0];
#endif
}

// 16 numbers from `at` on, times `inverse`, as codes of a row; gives them.
template <class T>
inline i32 round16(const T* row, int64_t at, int64_t inputs, float inverse, uint32_t* out,
                   int64_t rows) {
    const i32 whole = nearest(load_part(row, at, inputs) * inverse);
    const i8 bytes = low_bytes(whole);
    uint32_t four[4];
    std::memcpy(four, &bytes, sizeof four);
    for (int i = 0; i < 4; ++i) out[(at / 4 + i) * rows] = four[i];
    return whole;
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
            i32 totals{};
            for (int64_t at = begin; at < begin + size; at += LANES) {
                const i32 part = round16(row, at, inputs, inverse, out.codes + r, rows);
                totals += part;
                if (groups) out.starts16[at / LANES * rows + r] = -ZERO * sum(part);
            }
            const int32_t total = sum(totals);
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

}  // namespace pieria
