// A sum of two tensors.
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct Add {
    int64_t dtype;
    const void* x;
    const void* y;
    int64_t y_stride;  // from row to row; 0: the same for all
    void* out;
    int64_t rows, columns;
};

}  // namespace

PIERIA_KERNEL(add, Add) {
    with_type(a.dtype, [&]<class T>(T) {
        parallel_rows(a.rows, a.columns, [&](int64_t first, int64_t last) {
            for (int64_t row = first; row < last; ++row) {
                const T* x = static_cast<const T*>(a.x) + row * a.columns;
                const T* y = static_cast<const T*>(a.y) + row * a.y_stride;
                T* out = static_cast<T*>(a.out) + row * a.columns;
                vectors(a.columns, [&](int64_t i, int64_t count) {
                    store_some(out + i, load_some(x + i, count) + load_some(y + i, count), count);
                });
            }
        });
    });
}

}  // namespace pieria
