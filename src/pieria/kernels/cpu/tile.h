// Products of small tiles: C[ROWS][COLUMNS] += A B, the core of every matrix product here.
//
// Every output is one chain of additions over k in order, whatever the tile's shape. So a row's
// bits do not depend on how many rows are computed beside it.
#pragma once

#include <type_traits>

#include "simd.h"

namespace pieria {

// Rows of a tile at most, and accumulators at once, so that they fit into registers.
#if defined(__AVX512F__)
constexpr int MAX_ROWS = 14, ACCUMULATORS = 28;
#else
constexpr int MAX_ROWS = 6, ACCUMULATORS = 12;
#endif

// How many of a tile's `all` registers of columns are gone through at once.
constexpr int width_of(int rows, int all) {
    int width = all;
    while (width > 1 && rows * width > ACCUMULATORS) width /= 2;
    return width;
}

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
    template <class V = f32>
    static V read(const B* b, int) {
        return load_as<V>(b);
    }
    template <class V>
    static V multiply_add(V c, A a, V b, int) {
        return a * b + c;
    }
};

#if defined(__AVX512BF16__)
// A step takes two neighbours along k, as the instruction does.
struct Pair {
    using A = uint32_t;
    using B = uint32_t;
    static constexpr int DEPTH = 2;
    static A join(bf16 low, bf16 high) { return low.bits | uint32_t{high.bits} << 16; }
    static constexpr int PARTS = 1;
    template <class V = f32>
    static u32 read(const B* b, int) {
        return load_vector<u32>(b);
    }
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
    template <class V = f32>
    static V read(const B* b, int part) {
        using Bits = std::conditional_t<sizeof(V) == sizeof(f32), u32, lane_bits>;
        const auto both = load_vector<Bits>(b);
        return reinterpret_cast<V>(part ? both & 0xffff0000u : both << 16);
    }
    template <class V>
    static V multiply_add(V c, const A& a, V b, int part) {
        return a.half[part] * b + c;
    }
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

// Steps that are done in a row, where they are short.
constexpr int unrolled(int rows, int width) { return rows * width <= 4 ? 4 : 1; }

constexpr auto NOTHING = [](int64_t) {};

// As below, on as many columns as there are registers for.
template <class M, int ROWS, int WIDTH, class Each>
inline __attribute__((always_inline)) void pass(int64_t steps, const typename M::A* a, int64_t lda,
                                                const typename M::B* b, int64_t ldb,
                                                lanes (&c)[ROWS][WIDTH], const Each& each) {
    // Of its own, so that the compiler need not fear that it is what `a` points to.
    lanes sums[ROWS][WIDTH];
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int w = 0; w < WIDTH; ++w) sums[r][w] = c[r][w];
    const auto step = [&](int64_t k) __attribute__((always_inline)) {
        each(k);
#pragma GCC unroll 2
        for (int part = 0; part < M::PARTS; ++part) {
            decltype(M::template read<lanes>(b, part)) columns[WIDTH];
#pragma GCC unroll 8
            for (int w = 0; w < WIDTH; ++w)
                columns[w] = M::template read<lanes>(b + w * REGISTER, part);
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
                for (int w = 0; w < WIDTH; ++w)
                    sums[r][w] = M::multiply_add(sums[r][w], a[r], columns[w], part);
        }
        a += lda, b += ldb;
    };
    constexpr int AT_ONCE = unrolled(ROWS, WIDTH);
    int64_t k = 0;
    for (; k + AT_ONCE <= steps; k += AT_ONCE)
#pragma GCC unroll 4
        for (int i = 0; i < AT_ONCE; ++i) step(k + i);
    if constexpr (AT_ONCE > 1)
        for (; k < steps; ++k) step(k);
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int w = 0; w < WIDTH; ++w) c[r][w] = sums[r][w];
}

// a: [steps][lda], of which a step uses ROWS. b: [steps][ldb], of which it uses VECTORS vectors.
// each(step) is called once before every step, to fetch what something will read soon; a lambda
// that does only that has to be always_inline, as GCC leaves out calls of what has no effect.
template <class M, int ROWS, int VECTORS, class Each = decltype(NOTHING)>
inline __attribute__((always_inline)) void multiply(int64_t steps, const typename M::A* a,
                                                    int64_t lda, const typename M::B* b,
                                                    int64_t ldb, f32 (&c)[ROWS][VECTORS],
                                                    const Each& each = NOTHING) {
    constexpr int ALL = VECTORS * LANES / REGISTER, WIDTH = width_of(ROWS, ALL);
    if constexpr (std::is_same_v<lanes, f32> && WIDTH == VECTORS) {
        pass<M>(steps, a, lda, b, ldb, c, each);
    } else {
        for (int first = 0; first < ALL; first += WIDTH) {
            lanes part[ROWS][WIDTH];
            const auto place = [&](int r) { return reinterpret_cast<lanes*>(c[r]) + first; };
            for (int r = 0; r < ROWS; ++r) std::memcpy(part[r], place(r), sizeof part[r]);
            if (first == 0)
                pass<M>(steps, a, lda, b, ldb, part, each);
            else
                pass<M>(steps, a, lda, b + first * REGISTER, ldb, part, NOTHING);
            for (int r = 0; r < ROWS; ++r) std::memcpy(place(r), part[r], sizeof part[r]);
        }
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
