// Products with a weight of each head's own.
#include <algorithm>

#include "args.h"
#include "panels.h"
#include "pool.h"

namespace pieria {
namespace {

struct HeadLinear {
    int64_t dtype;
    const void* x;
    int64_t token_stride, head_stride;
    int64_t tokens, heads, inputs, outputs;
    const void* panels;
    void* out;  // dense
};

enum Purpose { ROWS = 8 };

template <class T>
void head_linear_of(const HeadLinear& a) {
    using M = Mode<T>;
    using B = typename M::B;
    const Division division(a.tokens);
    const int64_t steps = steps_of<M>(a.inputs), size = panel_size<M>(a.inputs);
    const int64_t panels = panels_of(a.outputs), stride = a.heads * a.outputs;
    // Heads share nothing, so each is a task, and more than one only where threads would idle.
    const int64_t least = 4 * pool_threads(), whole = a.heads * division.blocks;
    const int64_t parts =
        std::clamp<int64_t>((least + whole - 1) / std::max<int64_t>(whole, 1), 1, panels);
    parallel(whole * parts, [&](int64_t i) {
        const int64_t part = i % parts, head = i / parts / division.blocks;
        const int64_t block = i / parts % division.blocks, begin = division.first(block, 0);
        const int64_t rows = division.first(block, division.tiles) - begin;
        const T* x = static_cast<const T*>(a.x) + head * a.head_stride;
        auto* packed = scratch<typename M::A>(ROWS, rows * steps);
        for (int64_t tile = 0; tile < division.tiles; ++tile) {
            const int64_t first = division.first(block, tile);
            pack_rows(x + first * a.token_stride, a.token_stride,
                      division.first(block, tile + 1) - first, a.inputs,
                      packed + (first - begin) * steps);
        }
        for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; ++p) {
            const B* weights = static_cast<const B*>(a.panels) + (head * panels + p) * size;
            const int64_t columns = std::min<int64_t>(PANEL, a.outputs - p * PANEL);
            T* out = static_cast<T*>(a.out) + head * a.outputs + p * PANEL;
            for (int64_t tile = 0; tile < division.tiles; ++tile) {
                const int64_t first = division.first(block, tile);
                with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
                    f32 c[R][PANEL_VECTORS];
                    product<T, R>(steps, packed + (first - begin) * steps, weights, c, tile == 0);
                    write<T, R>(out + first * stride, stride, columns, c);
                });
            }
        }
    });
}

}  // namespace

PIERIA_KERNEL(head_linear, HeadLinear) {
    with_type(a.dtype, [&]<class T>(T) { head_linear_of<T>(a); });
}

}  // namespace pieria
