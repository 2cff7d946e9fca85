// Latents to their pages.
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct LatentWrite {
    void* cache;  // dense
    const void* value;
    int64_t value_stride, value_bytes;
    const void* key;
    int64_t key_stride, key_bytes;
    const int64_t* slots;  // -1: nowhere
    int64_t tokens;
};

}  // namespace

PIERIA_KERNEL(latent_write, LatentWrite) {
    const int64_t bytes = a.value_bytes + a.key_bytes;
    parallel_rows(a.tokens, bytes, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            if (a.slots[t] < 0) continue;
            char* to = static_cast<char*>(a.cache) + a.slots[t] * bytes;
            std::memcpy(to, static_cast<const char*>(a.value) + t * a.value_stride,
                        static_cast<size_t>(a.value_bytes));
            std::memcpy(to + a.value_bytes, static_cast<const char*>(a.key) + t * a.key_stride,
                        static_cast<size_t>(a.key_bytes));
        }
    });
}

}  // namespace pieria
