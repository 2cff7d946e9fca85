// What is done to each number by itself: gates and caps.
#include "activation.h"
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

struct SoftCap {
    int64_t dtype;
    const void* x;
    void* out;
    int64_t count;
    double cap;
};

// body(offset, count) for each vector of a row.
template <class Body>
inline void vectors(int64_t columns, Body&& body) {
    for (int64_t i = 0; i < columns; i += LANES) body(i, std::min<int64_t>(LANES, columns - i));
}

template <class T>
inline f32 load_some(const T* from, int64_t count) {
    return count == LANES ? load(from) : load(from, count);
}

template <class T>
inline void store_some(T* to, f32 v, int64_t count) {
    if (count == LANES)
        store(to, v);
    else
        store(to, v, count);
}

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

PIERIA_KERNEL(soft_cap, SoftCap) {
    with_type(a.dtype, [&]<class T>(T) {
        const float cap = static_cast<float>(a.cap), inverse = 1.0f / cap;
        parallel_rows(a.count, 4, [&](int64_t first, int64_t last) {
            const T* x = static_cast<const T*>(a.x) + first;
            T* out = static_cast<T*>(a.out) + first;
            vectors(last - first, [&](int64_t i, int64_t count) {
                store_some(out + i, cap * tanh(load_some(x + i, count) * inverse), count);
            });
        });
    });
}

}  // namespace pieria
