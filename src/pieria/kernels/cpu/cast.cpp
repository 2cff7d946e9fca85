// Numbers in another format.
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct Cast {
    int64_t from, to;  // dtypes
    const void* x;
    void* out;
    int64_t count;
};

}  // namespace

PIERIA_KERNEL(cast, Cast) {
    with_type(a.from, [&]<class From>(From) {
        with_type(a.to, [&]<class To>(To) {
            parallel_rows(a.count, 1, [&](int64_t first, int64_t last) {
                const From* x = static_cast<const From*>(a.x) + first;
                To* out = static_cast<To*>(a.out) + first;
                vectors(last - first, [&](int64_t i, int64_t count) {
                    store_some(out + i, load_some(x + i, count), count);
                });
            });
        });
    });
}

}  // namespace pieria
