// Squares of sixteen by sixteen numbers of 32 bits, rows for columns.
#pragma once

#include "simd.h"

namespace pieria {

#if defined(__AVX512F__)
// In each quarter of a and b their lower, or upper, 32 or 64 bits' lanes in turn.
template <bool UPPER>
inline u32 alternate(u32 a, u32 b) {
    constexpr int H = UPPER ? 2 : 0;
    return __builtin_shufflevector(a, b, H, H + 16, H + 1, H + 17, H + 4, H + 20, H + 5, H + 21,
                                   H + 8, H + 24, H + 9, H + 25, H + 12, H + 28, H + 13, H + 29);
}
template <bool UPPER>
inline u32 alternate_pairs(u32 a, u32 b) {
    using u64 = uint64_t __attribute__((vector_size(64)));
    constexpr int H = UPPER ? 1 : 0;
    return reinterpret_cast<u32>(__builtin_shufflevector(reinterpret_cast<u64>(a),
                                                         reinterpret_cast<u64>(b), H, H + 8, H + 2,
                                                         H + 10, H + 4, H + 12, H + 6, H + 14));
}
#endif

// v[i]: number i of each of sixteen rows, which are `stride` apart.
inline void load_columns(const uint32_t* rows, int64_t stride, u32 (&v)[LANES]) {
#if defined(__AVX512F__)
    const auto quarter = [](const uint32_t* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    };
    // Four rows are addressed from each of these. The compiler is kept from working out the places
    // of all 64 quarters beforehand, for which there are no registers.
    const uint32_t *first = rows, *second = rows + 4 * stride, *third = rows + 8 * stride,
                   *fourth = rows + 12 * stride;
    int64_t far = 3 * stride;
    __asm__("" : "+r"(first), "+r"(second), "+r"(third), "+r"(fourth), "+r"(stride), "+r"(far));
#pragma GCC unroll 4
    for (int at = 0; at < LANES; at += 4) {
        // Four numbers of rows i, i + 4, i + 8 and i + 12; the rest happens within quarters.
        u32 x[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const int64_t row = (i == 3 ? far : i * stride) + at;
            __m512i y = _mm512_castsi128_si512(quarter(first + row));
            y = _mm512_inserti32x4(y, quarter(second + row), 1);
            y = _mm512_inserti32x4(y, quarter(third + row), 2);
            y = _mm512_inserti32x4(y, quarter(fourth + row), 3);
            x[i] = reinterpret_cast<u32>(y);
        }
        const u32 a = alternate<false>(x[0], x[1]), b = alternate<true>(x[0], x[1]);
        const u32 c = alternate<false>(x[2], x[3]), d = alternate<true>(x[2], x[3]);
        v[at] = alternate_pairs<false>(a, c);
        v[at + 1] = alternate_pairs<true>(a, c);
        v[at + 2] = alternate_pairs<false>(b, d);
        v[at + 3] = alternate_pairs<true>(b, d);
    }
#else
    uint32_t columns[LANES][LANES];
    for (int r = 0; r < LANES; r += 4)
        for (int at = 0; at < LANES; at += 4) {
            using Four = uint32_t __attribute__((vector_size(16)));
            Four x[4];
            for (int i = 0; i < 4; ++i) x[i] = load_vector<Four>(rows + (r + i) * stride + at);
            const Four a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5);
            const Four b = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
            const Four c = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
            const Four d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
            store_vector(&columns[at][r], __builtin_shufflevector(a, c, 0, 1, 4, 5));
            store_vector(&columns[at + 1][r], __builtin_shufflevector(a, c, 2, 3, 6, 7));
            store_vector(&columns[at + 2][r], __builtin_shufflevector(b, d, 0, 1, 4, 5));
            store_vector(&columns[at + 3][r], __builtin_shufflevector(b, d, 2, 3, 6, 7));
        }
    std::memcpy(v, columns, sizeof v);
#endif
}

}  // namespace pieria
