// The SiLU-gated unit.
#include "activation.h"
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct Swiglu {
    int64_t dtype;
    const void* gate;
    const void* up;
    void* out;
    int64_t count;
};

}  // namespace

PIERIA_KERNEL(swiglu, Swiglu) {
    with_type(a.dtype, [&]<class T>(T) {
        parallel_rows(a.count, 4, [&](int64_t first, int64_t last) {
            const T* gate = static_cast<const T*>(a.gate) + first;
            const T* up = static_cast<const T*>(a.up) + first;
            T* out = static_cast<T*>(a.out) + first;
            vectors(last - first, [&](int64_t i, int64_t count) {
                const f32 y = silu(load_some(gate + i, count)) * load_some(up + i, count);
                store_some(out + i, y, count);
            });
        });
    });
}

}  // namespace pieria
