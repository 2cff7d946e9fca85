// y = x W^T + b for several W that share x, and activation(x G^T) * (x U^T).
//
// x is packed once a call; each task takes one panel of a weight through one block of rows.
#include "activation.h"
#include "operands.h"
#include "panels.h"
#include "pool.h"
#include "transpose.h"

namespace pieria {
namespace {

struct PackWeight {
    int64_t dtype;
    const void* weight;
    int64_t stride, outputs, inputs;
    void* panels;
};

enum Purpose { ROWS };

// Bytes of packed rows that a thread keeps in its second level cache, beside a panel.
constexpr int64_t PACKED_BYTES = 1 << 20;

#if defined(__AVX512F__)
// The first lanes; none for a count below 1, all for one beyond them.
inline void store_first(void* to, u32 v, int count) {
    const auto mask =
        static_cast<__mmask16>(count >= LANES ? 0xffff : (1u << (count < 0 ? 0 : count)) - 1);
    _mm512_mask_storeu_epi32(to, mask, reinterpret_cast<__m512i>(v));
}

// Sixteen steps of some of sixteen rows, which are numbers of 32 bits or pairs of 16.
template <class A>
inline void pack_square(const uint32_t* x, int64_t stride, int64_t rows, A* out) {
    u32 v[LANES];
    load_columns(x, stride, v);
    const auto count = static_cast<int>(rows);
#pragma GCC unroll 16
    for (int k = 0; k < LANES; ++k, out += rows) {
        if constexpr (sizeof(A) == sizeof(uint32_t)) {
            store_first(out, v[k], count);
        } else {
            const u32 low = v[k] << 16, high = v[k] & 0xffff0000;
            store_first(out,
                        __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                                6, 22, 7, 23),
                        2 * count);
            store_first(out + LANES / 2,
                        __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                                29, 14, 30, 15, 31),
                        2 * count - LANES);
        }
    }
}
#endif

// Rows that are `stride` apart, as a tile reads them; `there`: how many may be read.
template <class T>
inline void pack_tile(const T* x, int64_t stride, int64_t rows, [[maybe_unused]] int64_t there,
                      int64_t inputs, typename Mode<T>::A* out) {
    using M = Mode<T>;
    int64_t step = 0;
#if defined(__AVX512F__)
    if (!std::is_same_v<T, f16> && there >= LANES && stride % M::DEPTH == 0)
        for (; (step + LANES) * M::DEPTH <= inputs; step += LANES)
            pack_square(reinterpret_cast<const uint32_t*>(x + step * M::DEPTH), stride / M::DEPTH,
                        rows, out + step * rows);
#endif
    const int64_t done = step * M::DEPTH;
    if (done < inputs) pack_rows(x + done, stride, rows, inputs - done, out + step * rows);
}

// Packs as many blocks of rows at a time as all threads' caches hold, and calls body(begin, end,
// rows), where rows are those of the blocks [begin, end).
template <class T, class Body>
void in_turns(const T* x, int64_t stride, int64_t inputs, const Division& division, Body&& body) {
    using A = typename Mode<T>::A;
    const int64_t steps = steps_of<Mode<T>>(inputs);
    const int64_t block_size = Division::BLOCK * steps;
    const int64_t held = PACKED_BYTES / static_cast<int64_t>(block_size * sizeof(A));
    const int64_t most = std::max<int64_t>(1, held) * pool_threads();
    const int64_t turns = (division.blocks + most - 1) / most;
    auto* out = scratch<A>(ROWS, std::min(most * block_size, division.rows * steps));
    for (int64_t turn = 0; turn < turns; ++turn) {
        const int64_t begin = division.blocks * turn / turns;
        const int64_t end = division.blocks * (turn + 1) / turns;
        const int64_t origin = division.first(begin, 0);
        parallel((end - begin) * division.tiles, [&](int64_t i) {
            const int64_t block = begin + i / division.tiles, tile = i % division.tiles;
            const int64_t first = division.first(block, tile);
            pack_tile(x + first * stride, stride, division.first(block, tile + 1) - first,
                      division.rows - first, inputs, out + (first - origin) * steps);
        });
        body(begin, end, out);
    }
}

template <class T>
void linear_of(const Linear& a) {
    using M = Mode<T>;
    const Division division(a.rows);
    const int64_t steps = steps_of<M>(a.inputs), size = panel_size<M>(a.inputs);
    int64_t total = 0;
    for (int64_t m = 0; m < a.count; ++m) total += panels_of(a.matrices[m].outputs);
    const auto multiply_some = [&](int64_t begin, int64_t end, const typename M::A* rows) {
        const int64_t origin = division.first(begin, 0);
        parallel((end - begin) * total, [&](int64_t i) {
            const int64_t block = begin + i / total;
            int64_t panel = i % total;
            const Matrix* matrix = a.matrices;
            for (; panel >= panels_of(matrix->outputs); ++matrix)
                panel -= panels_of(matrix->outputs);
            const int64_t column = panel * PANEL;
            const int64_t columns = std::min<int64_t>(PANEL, matrix->outputs - column);
            const auto* weights =
                reinterpret_cast<const typename M::B*>(matrix->panels) + panel * size;
            for (int64_t tile = 0; tile < division.tiles; ++tile) {
                const int64_t first = division.first(block, tile);
                with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
                    f32 c[R][PANEL_VECTORS];
                    product<T, R>(steps, rows + (first - origin) * steps, weights, c, tile == 0);
                    add_bias<T, R>(matrix->bias, column, columns, c);
                    write<T, R>(static_cast<T*>(matrix->out) + first * matrix->out_stride + column,
                                matrix->out_stride, columns, c);
                });
            }
        });
    };
    in_turns(static_cast<const T*>(a.x), a.stride, a.inputs, division, multiply_some);
}

template <class T>
void gated_of(const Gated& a) {
    using M = Mode<T>;
    const Division division(a.rows);
    const int64_t steps = steps_of<M>(a.inputs), size = panel_size<M>(a.inputs);
    const int64_t total = panels_of(a.gate.outputs);
    const auto multiply_some = [&](int64_t begin, int64_t end, const typename M::A* rows) {
        const int64_t origin = division.first(begin, 0);
        parallel((end - begin) * total, [&](int64_t i) {
            const int64_t block = begin + i / total, panel = i % total, column = panel * PANEL;
            const int64_t columns = std::min<int64_t>(PANEL, a.gate.outputs - column);
            const auto* gates =
                reinterpret_cast<const typename M::B*>(a.gate.panels) + panel * size;
            const auto* ups = reinterpret_cast<const typename M::B*>(a.up.panels) + panel * size;
            for (int64_t tile = 0; tile < division.tiles; ++tile) {
                const int64_t first = division.first(block, tile);
                with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
                    f32 gate[R][PANEL_VECTORS], up[R][PANEL_VECTORS];
                    product<T, R>(steps, rows + (first - origin) * steps, gates, gate, tile == 0);
                    add_bias<T, R>(a.gate.bias, column, columns, gate);
                    product<T, R>(steps, rows + (first - origin) * steps, ups, up, tile == 0);
                    add_bias<T, R>(a.up.bias, column, columns, up);
                    for (int r = 0; r < R; ++r)
                        for (int v = 0; v < PANEL_VECTORS; ++v)
                            up[r][v] *= activate(a.activation, gate[r][v]);
                    write<T, R>(static_cast<T*>(a.gate.out) + first * a.gate.out_stride + column,
                                a.gate.out_stride, columns, up);
                });
            }
        });
    };
    in_turns(static_cast<const T*>(a.x), a.stride, a.inputs, division, multiply_some);
}

template <class T>
void pack_of(const PackWeight& a) {
    using M = Mode<T>;
    const int64_t size = panel_size<M>(a.inputs);
    parallel(panels_of(a.outputs), [&](int64_t panel) {
        auto* out = static_cast<typename M::B*>(a.panels) + panel * size;
        std::memset(out, 0, static_cast<size_t>(size) * sizeof *out);
        const int64_t columns = std::min<int64_t>(PANEL, a.outputs - panel * PANEL);
        const T* rows = static_cast<const T*>(a.weight) + panel * PANEL * a.stride;
        // Along the outputs first: what is written lies side by side.
        for (int64_t k = 0; k < a.inputs; k += M::DEPTH) {
            const auto count = static_cast<size_t>(std::min<int64_t>(M::DEPTH, a.inputs - k));
            auto* step = out + k / M::DEPTH * PANEL;
            for (int64_t c = 0; c < columns; ++c)
                std::memcpy(step + c, rows + c * a.stride + k, count * sizeof(T));
        }
    });
}

}  // namespace

PIERIA_KERNEL(linear, Linear) {
    with_type(a.dtype, [&]<class T>(T) { linear_of<T>(a); });
}

PIERIA_KERNEL(gated_linear, Gated) {
    with_type(a.dtype, [&]<class T>(T) { gated_of<T>(a); });
}

PIERIA_KERNEL(pack_weight, PackWeight) {
    with_type(a.dtype, [&]<class T>(T) { pack_of<T>(a); });
}

}  // namespace pieria
