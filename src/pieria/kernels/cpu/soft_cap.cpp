// A limit that values near smoothly.
#include "activation.h"
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct SoftCap {
    int64_t dtype;
    const void* x;
    void* out;
    int64_t count;
    double cap;
};

}  // namespace

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
