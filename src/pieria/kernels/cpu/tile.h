// Products of small tiles: C[ROWS][COLUMNS] += A B, the core of every matrix product here.
//
// Every output is one chain of additions over k in order, whatever the tile's shape. So a row's
// bits do not depend on how many rows are computed beside it.
#pragma once

#include "simd.h"

namespace pieria {

// Rows of a tile at most, for two vectors of columns: accumulators that fit into registers.
#if defined(__AVX512F__)
constexpr int MAX_ROWS = 14;
#elif defined(__AVX2__)
constexpr int MAX_ROWS = 3;
#else
constexpr int MAX_ROWS = 2;
#endif

// How many tiles share `rows`, evenly: a tile of few rows is slow.
inline int64_t tiles_of(int64_t rows) { return (rows + MAX_ROWS - 1) / MAX_ROWS; }

// A step takes one element of A's row, broadcast, and a vector of B's.
template <class T>
struct Single {
    using A = float;
    using B = T;
    static constexpr int DEPTH = 1;  // elements along k in a step
    static constexpr int PARTS = 1;  // that it is done in
    static A join(T x) { return widen(x); }
    static f32 read(const B* b, int) { return load(b); }
    static f32 multiply_add(f32 c, A a, f32 b, int) { return a * b + c; }
};

#if defined(__AVX512BF16__)
// A step takes two neighbours along k, as the instruction does.
struct Pair {
    using A = uint32_t;
    using B = uint32_t;
    static constexpr int DEPTH = 2;
    static A join(bf16 low, bf16 high) { return low.bits | uint32_t{high.bits} << 16; }
    static constexpr int PARTS = 1;
    static u32 read(const B* b, int) { return load_vector<u32>(b); }
    static f32 multiply_add(f32 c, A a, u32 b, int) {
        return reinterpret_cast<f32>(
            _mm512_dpbf16_ps(reinterpret_cast<__m512>(c),
                             reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                             reinterpret_cast<__m512bh>(b)));
    }
};
#else
// The same, each half widened: one instruction for a half, whatever the number of rows.
struct Pair {
    struct A {
        float half[2];
    };
    using B = uint32_t;
    static constexpr int DEPTH = 2;
    static constexpr int PARTS = 2;
    static A join(bf16 low, bf16 high) { return {{widen(low), widen(high)}}; }
    static f32 read(const B* b, int part) {
        const u32 both = load_vector<u32>(b);
        return reinterpret_cast<f32>(part ? both & 0xffff0000u : both << 16);
    }
    static f32 multiply_add(f32 c, const A& a, f32 b, int part) { return a.half[part] * b + c; }
};
#endif

// How a stored type is multiplied.
template <class T>
struct ModeOf {
    using type = Single<T>;
};
template <>
struct ModeOf<bf16> {
    using type = Pair;
};
template <class T>
using Mode = typename ModeOf<T>::type;

// a: [steps][lda], of which a step uses ROWS. b: [steps][ldb], of which it uses VECTORS vectors.
// Every step fetches LINES cache lines from `next` on, which something will read soon.
template <class M, int ROWS, int VECTORS, int LINES = 0>
inline __attribute__((always_inline)) void multiply(int64_t steps, const typename M::A* a,
                                                    int64_t lda, const typename M::B* b,
                                                    int64_t ldb, f32 (&c)[ROWS][VECTORS],
                                                    const char* next = nullptr) {
    // Of its own, so that the compiler need not fear that it is what `a` points to.
    f32 sums[ROWS][VECTORS];
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = c[r][v];
    for (int64_t k = 0; k < steps; ++k, a += lda, b += ldb) {
#pragma GCC unroll 4
        for (int line = 0; line < LINES; ++line)
            __builtin_prefetch(next + (k * LINES + line) * 64, 0, 2);
#pragma GCC unroll 2
        for (int part = 0; part < M::PARTS; ++part) {
            decltype(M::read(b, part)) columns[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) columns[v] = M::read(b + v * LANES, part);
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v)
                    sums[r][v] = M::multiply_add(sums[r][v], a[r], columns[v], part);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) c[r][v] = sums[r][v];
}

// Call body.template operator()<ROWS>() for a number that is known only now.
template <int ROWS = MAX_ROWS, class Body>
inline void with_rows(int64_t rows, Body&& body) {
    if constexpr (ROWS == 1) {
        body.template operator()<1>();
    } else if (rows == ROWS) {
        body.template operator()<ROWS>();
    } else {
        with_rows<ROWS - 1>(rows, body);
    }
}

}  // namespace pieria
