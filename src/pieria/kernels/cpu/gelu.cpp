// The Gaussian error linear unit.
#include "activation.h"
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct Gelu {
    int64_t dtype;
    const void* x;
    void* out;
    int64_t count;
    int64_t tanh;  // whether its approximation is meant
};

}  // namespace

PIERIA_KERNEL(gelu, Gelu) {
    with_type(a.dtype, [&]<class T>(T) {
        const int64_t activation = a.tanh ? GELU_TANH : GELU;
        parallel_rows(a.count, 4, [&](int64_t first, int64_t last) {
            const T* x = static_cast<const T*>(a.x) + first;
            T* out = static_cast<T*>(a.out) + first;
            vectors(last - first, [&](int64_t i, int64_t count) {
                store_some(out + i, activate(activation, load_some(x + i, count)), count);
            });
        });
    });
}

}  // namespace pieria
