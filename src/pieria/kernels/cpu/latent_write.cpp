// Latents to their pages, as they are or rounded.
#include <vector>

#include "args.h"
#include "rounding.h"
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

struct LatentRound {
    int64_t dtype, stored;
    void* cache;    // [slots, value_size + key_size], dense
    float* scales;  // [slots]
    const void* value;
    int64_t value_stride, value_size;
    const void* key;
    int64_t key_stride, key_size;
    const int64_t* slots;  // -1: nowhere
    int64_t tokens;
};

template <class T>
void round_latents(const LatentRound& a) {
    const int64_t size = a.value_size + a.key_size;
    parallel_rows(a.tokens, size, [&](int64_t first, int64_t last) {
        std::vector<T> latent(static_cast<size_t>(size));
        for (int64_t t = first; t < last; ++t) {
            if (a.slots[t] < 0) continue;
            std::copy_n(static_cast<const T*>(a.value) + t * a.value_stride, a.value_size,
                        latent.data());
            std::copy_n(static_cast<const T*>(a.key) + t * a.key_stride, a.key_size,
                        latent.data() + a.value_size);
            auto* codes = static_cast<uint8_t*>(a.cache) + a.slots[t] * size;
            a.scales[a.slots[t]] = round_bytes(a.stored, latent.data(), size, codes);
        }
    });
}

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

PIERIA_KERNEL(latent_round, LatentRound) {
    with_type(a.dtype, [&]<class T>(T) { round_latents<T>(a); });
}

}  // namespace pieria
