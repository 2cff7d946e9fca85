// Keys and values to their pages, as they are or rounded.
#include "args.h"
#include "bytes.h"
#include "rounding.h"
#include "rows.h"

namespace pieria {
namespace {

struct KvWrite {
    int64_t k_bytes, v_bytes;  // of a token
    void* k_cache;             // [slots], dense
    void* v_cache;
    const void* k;
    int64_t k_stride;  // bytes from token to token
    const void* v;
    int64_t v_stride;
    const int64_t* slots;
    int64_t tokens;
};

struct Rounded {
    int64_t size;   // of a token and head
    void* cache;    // [slots, groups, size], dense
    float* scales;  // [slots, groups]
    const void* x;  // [tokens, groups, size]
    int64_t token_stride, head_stride;
};

struct KvRound {
    int64_t dtype, stored;
    Rounded keys, values;
    const int64_t* slots;
    int64_t tokens, groups;
};

}  // namespace

// A negative slot is nobody's: nothing is written.
PIERIA_KERNEL(kv_write, KvWrite) {
    const auto copy = [](void* cache, int64_t slot, const void* from, int64_t token, int64_t stride,
                         int64_t bytes) {
        std::memcpy(static_cast<char*>(cache) + slot * bytes,
                    static_cast<const char*>(from) + token * stride, static_cast<size_t>(bytes));
    };
    parallel_rows(a.tokens, a.k_bytes + a.v_bytes, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            if (a.slots[t] < 0) continue;
            copy(a.k_cache, a.slots[t], a.k, t, a.k_stride, a.k_bytes);
            copy(a.v_cache, a.slots[t], a.v, t, a.v_stride, a.v_bytes);
        }
    });
}

PIERIA_KERNEL(kv_round, KvRound) {
    parallel_rows(
        a.tokens, a.groups * (a.keys.size + a.values.size), [&](int64_t first, int64_t last) {
            for (int64_t t = first; t < last; ++t) {
                if (a.slots[t] < 0) continue;
                for (const Rounded& r : {a.keys, a.values})
                    for (int64_t g = 0; g < a.groups; ++g) {
                        const int64_t at = a.slots[t] * a.groups + g;
                        const int64_t from = t * r.token_stride + g * r.head_stride;
                        auto* codes = static_cast<uint8_t*>(r.cache) + at * r.size;
                        with_type(a.dtype, [&]<class T>(T) {
                            r.scales[at] = round_bytes(a.stored, static_cast<const T*>(r.x) + from,
                                                       r.size, codes);
                        });
                    }
            }
        });
}

}  // namespace pieria
