// Keys and values that are held rounded: bytes, and a scale of each token and head.
//
// Bytes are taken as raw numbers; what one of them is worth goes into the scales. A token's key
// scale multiplies its scores, its value scale its weights, so no number has a product of its own.
// Keys that are integers meet queries cut into digits of 7 bits and a sign: their products are
// exact whatever the order, and what is left of a query is beyond what its dtype holds beside its
// greatest number.
#pragma once

#include "bytes.h"
#include "panels.h"
#include "rounding.h"

namespace pieria {

template <class S>
constexpr bool ROUNDED = sizeof(S) == 1;
template <class S>
constexpr bool INTEGERS = std::is_same_v<S, int8_t>;

// What a raw number of 1 is worth: an E4M3's exponent is read as one of float16.
template <class S>
constexpr float UNIT = std::is_same_v<S, e4m3> ? 256.0f : 1.0f;

// Numbers of a byte in a lane of 32 bits.
constexpr int64_t QUAD = 4;

// Sixteen raw numbers; with a mask those it has, and zeros.
inline f32 load_raw(const int8_t* from) {
    return __builtin_convertvector(load_vector<i8>(from), f32);
}
inline f32 load_raw(const e4m3* from) {
    f16 halves[LANES];
    for (auto& half : halves) {
        const uint8_t bits = from++->bits;
        half.bits = static_cast<uint16_t>((bits & 0x80) << 8 | (bits & 0x7f) << 7);
    }
    return load(halves);
}
#if defined(__AVX512BW__)
inline f32 load_raw(const int8_t* from, uint32_t mask) {
    return reinterpret_cast<f32>(_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), from))));
}
inline f32 load_raw(const e4m3* from, uint32_t mask) {
    const __m256i bits = _mm256_slli_epi16(
        _mm256_cvtepi8_epi16(_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), from)), 7);
    return reinterpret_cast<f32>(
        _mm512_cvtph_ps(_mm256_and_si256(bits, _mm256_set1_epi16(static_cast<int16_t>(0xbfff)))));
}
#endif

// The raw number in each lane's byte `byte`.
template <class S>
inline f32 raw_of(u32 quads, int byte) {
    const u32 top = quads << (24 - 8 * byte);
    if constexpr (INTEGERS<S>) {
        return __builtin_convertvector(reinterpret_cast<i32>(top) >> 24, f32);
    } else {
        const u32 bits = (top >> 4 & 0x07f00000u) | 112u << 23;
        const f32 normal = reinterpret_cast<f32>(bits);
        // Below the least power of two the leading one, which there is none of, and as much again.
        const f32 small = normal * 2.0f - splat(0x1p-14f);
        const f32 magnitude = normal < small ? normal : small;
        return reinterpret_cast<f32>(reinterpret_cast<u32>(magnitude) | (top & 0x80000000u));
    }
}

// A row of a query is scale * (128 * (128 * digit 0 + digit 1) + ..), with digits of a byte: three
// for float32, else two, which is 14 bits beside the row's greatest number.
struct Digits {
    using A = int32_t;   // four digits
    using B = uint32_t;  // four numbers of a key, each 128 more than it is
    static constexpr int DEPTH = QUAD, DIGITS = 3;

    static int count(int64_t dtype) { return dtype == FLOAT32 ? 3 : 2; }

    // Of a row: its digits, what sums of each start at, its scale.
    static int64_t words(int64_t dtype, int64_t steps) { return count(dtype) * (steps + 1) + 1; }

    // Rows beside one another: [count][steps][rows], starts [count][rows], scales [rows].
    template <class T>
    static void pack(int count, const T* q, int64_t size, int64_t steps, int64_t row, int64_t rows,
                     A* out) {
        float most = 0.0f, bad = 0.0f;
        for (int64_t k = 0; k < size; ++k) {
            const float x = widen(q[k]);
            most = std::max(most, std::fabs(x));
            bad += x * 0.0f;
        }
        // The largest of a first digit of 127 and others from -64 to 63.
        const float limit = count == 3 ? (127 * 128 + 63) * 128 + 63 : 127 * 128 + 63;
        const float inverse = most > LEAST && bad == 0.0f ? limit / most : 0.0f;
        int32_t totals[DIGITS] = {};
        auto* digits = reinterpret_cast<int8_t*>(out);
        for (int64_t k = 0; k < steps * QUAD; ++k) {
            int32_t left = 0;
            if (k < size && inverse > 0.0f)
                left = static_cast<int32_t>(std::lrintf(widen(q[k]) * inverse));
            for (int d = count - 1; d >= 0; --d) {
                const int32_t digit = d ? ((left + 64) & 127) - 64 : left;
                left = (left - digit) / 128;
                digits[((d * steps + k / QUAD) * rows + row) * QUAD + k % QUAD] =
                    static_cast<int8_t>(digit);
                totals[d] += digit;
            }
        }
        A* starts = out + count * steps * rows;
        for (int d = 0; d < count; ++d) starts[d * rows + row] = -128 * totals[d];
        const float scale = most / limit + bad;
        std::memcpy(starts + count * rows + row, &scale, sizeof scale);
    }
};

// Scores of ROWS rows with WIDTH keys, out[row * apart + key]; scales: of the keys.
template <int ROWS, int VECTORS, int WIDTH>
inline __attribute__((always_inline)) void score_digits(int count, int64_t steps, const int32_t* q,
                                                        const uint32_t* panel, const float* scales,
                                                        float* out, int64_t apart) {
    const int32_t* starts = q + count * steps * ROWS;
    float row_scales[ROWS];
    std::memcpy(row_scales, starts + count * ROWS, sizeof row_scales);
    for (int at = 0; at < WIDTH; at += VECTORS * LANES) {
        f32 totals[ROWS][VECTORS] = {};
        const int32_t* digits = q;
        for (int d = 0; d < count; ++d) {
            i32 sums[ROWS][VECTORS];
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) sums[r][v] = splat(starts[d * ROWS + r]);
            const uint32_t* from = panel + at;
            for (int64_t k = 0; k < steps; ++k, digits += ROWS, from += WIDTH) {
                u8 keys[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) keys[v] = load_vector<u8>(from + v * LANES);
#pragma GCC unroll 14
                for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v)
                        sums[r][v] = dot(sums[r][v], keys[v], splat(digits[r]));
            }
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v)
                    totals[r][v] = totals[r][v] * 128.0f + __builtin_convertvector(sums[r][v], f32);
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v)
                store(out + r * apart + at + v * LANES,
                      totals[r][v] * row_scales[r] * load(scales + at + v * LANES));
    }
}

}  // namespace pieria
