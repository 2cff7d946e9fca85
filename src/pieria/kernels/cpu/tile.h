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
    static f32 read(const B* b) { return load(b); }
    static f32 multiply_add(f32 c, A a, f32 b) { return a * b + c; }
};

#if defined(__AVX512BF16__)
// A step takes two neighbours along k, as the instruction does.
struct Pair {
    using A = uint32_t;
    using B = uint32_t;
    static constexpr int DEPTH = 2;
    static u32 read(const B* b) { return load_vector<u32>(b); }
    static f32 multiply_add(f32 c, A a, u32 b) {
        return reinterpret_cast<f32>(
            _mm512_dpbf16_ps(reinterpret_cast<__m512>(c),
                             reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                             reinterpret_cast<__m512bh>(b)));
    }
};
#endif

// How a stored type is multiplied.
template <class T>
struct ModeOf {
    using type = Single<T>;
};
#if defined(__AVX512BF16__)
template <>
struct ModeOf<bf16> {
    using type = Pair;
};
#endif
template <class T>
using Mode = typename ModeOf<T>::type;

// a: [steps][lda], of which a step uses ROWS. b: [steps][ldb], of which it uses VECTORS vectors.
// Every step fetches LINES cache lines from `next` on, which something will read soon.
template <class M, int ROWS, int VECTORS, int LINES = 0>
inline __attribute__((always_inline)) void multiply(int64_t steps, const typename M::A* a,
                                                    int64_t lda, const typename M::B* b,
                                                    int64_t ldb, f32 (&c)[ROWS][VECTORS],
                                                    const char* next = nullptr) {
    for (int64_t k = 0; k < steps; ++k, a += lda, b += ldb) {
#pragma GCC unroll 4
        for (int line = 0; line < LINES; ++line)
            __builtin_prefetch(next + (k * LINES + line) * 64, 0, 2);
        decltype(M::read(b)) columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) columns[v] = M::read(b + v * LANES);
#pragma GCC unroll 14
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) c[r][v] = M::multiply_add(c[r][v], a[r], columns[v]);
    }
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
