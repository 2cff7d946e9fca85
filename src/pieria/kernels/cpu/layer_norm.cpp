// Layer norms.
#include <cmath>

#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct LayerNorm {
    int64_t dtype;
    const void* x;
    const void* weight;
    const void* bias;
    void* out;
    int64_t rows, columns;
    double eps;
};

// The sum of body(offset, count) over a row's vectors. The lanes behind its end must be 0.
template <class Body>
inline float total(int64_t columns, Body&& body) {
    f32 sums[4] = {};
    vectors(columns, [&](int64_t i, int64_t count) { sums[i / LANES % 4] += body(i, count); });
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T>
void layer_norm_of(const LayerNorm& a) {
    const auto* weight = static_cast<const T*>(a.weight);
    const auto* bias = static_cast<const T*>(a.bias);
    const auto columns = static_cast<float>(a.columns), eps = static_cast<float>(a.eps);
    i32 lane;
    for (int i = 0; i < LANES; ++i) lane[i] = i;
    parallel_rows(a.rows, a.columns, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const T* x = static_cast<const T*>(a.x) + row * a.columns;
            T* out = static_cast<T*>(a.out) + row * a.columns;
            const float mean =
                total(a.columns, [&](int64_t i, int64_t n) { return load_some(x + i, n); }) /
                columns;
            const float variance =
                total(a.columns,
                      [&](int64_t i, int64_t n) {
                          const f32 off = load_some(x + i, n) - mean;
                          return lane < static_cast<int32_t>(n) ? off * off : f32{};
                      }) /
                columns;
            const float scale = 1.0f / std::sqrt(variance + eps);
            vectors(a.columns, [&](int64_t i, int64_t n) {
                const f32 y = (load_some(x + i, n) - mean) * scale;
                store_some(out + i, y * load_some(weight + i, n) + load_some(bias + i, n), n);
            });
        }
    });
}

}  // namespace

PIERIA_KERNEL(layer_norm, LayerNorm) {
    with_type(a.dtype, [&]<class T>(T) { layer_norm_of<T>(a); });
}

}  // namespace pieria
