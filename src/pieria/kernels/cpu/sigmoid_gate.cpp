// What a sigmoid lets through.
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct SigmoidGate {
    int64_t dtype;
    const void* x;
    int64_t x_stride;  // from token to token, the features dense
    const void* gate;
    int64_t gate_stride;
    void* out;
    int64_t rows, columns, gates;  // one gate for all columns, or one for each
};

inline f32 sigmoid(f32 x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace

PIERIA_KERNEL(sigmoid_gate, SigmoidGate) {
    with_type(a.dtype, [&]<class T>(T) {
        parallel_rows(a.rows, 2 * a.columns, [&](int64_t first, int64_t last) {
            for (int64_t row = first; row < last; ++row) {
                const T* x = static_cast<const T*>(a.x) + row * a.x_stride;
                const T* gate = static_cast<const T*>(a.gate) + row * a.gate_stride;
                T* out = static_cast<T*>(a.out) + row * a.columns;
                const f32 one = sigmoid(splat(widen(*gate)));
                vectors(a.columns, [&](int64_t i, int64_t count) {
                    const f32 by = a.gates == 1 ? one : sigmoid(load_some(gate + i, count));
                    store_some(out + i, load_some(x + i, count) * by, count);
                });
            }
        });
    });
}

}  // namespace pieria
