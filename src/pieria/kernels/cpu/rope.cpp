// Turning pairs of each head's dimensions, and the angles by which they turn.
#include <cmath>

#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct Rope {
    int64_t dtype;
    const void* x;  // [tokens, heads, size], the last dense
    int64_t token_stride, head_stride;
    const float* cos;  // [tokens, pairs]
    const float* sin;
    void* out;  // dense
    int64_t tokens, heads, size, pairs, interleaved;
};

struct Rotary {
    const int64_t* positions;
    const float* frequencies;
    float* cos;  // [tokens, pairs]
    float* sin;
    int64_t tokens, pairs;
    double magnitude;
};

template <class T>
void rope_of(const Rope& a) {
    const int64_t pairs = a.pairs, whole = pairs / LANES * LANES;
    parallel_rows(a.tokens, a.heads * a.size, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            const float* cos = a.cos + t * pairs;
            const float* sin = a.sin + t * pairs;
            for (int64_t h = 0; h < a.heads; ++h) {
                const T* x = static_cast<const T*>(a.x) + t * a.token_stride + h * a.head_stride;
                T* out = static_cast<T*>(a.out) + (t * a.heads + h) * a.size;
                const int64_t step = a.interleaved ? 2 : 1, other = a.interleaved ? 1 : pairs;
                int64_t i = 0;
                if (!a.interleaved)
                    for (; i < whole; i += LANES) {
                        const f32 c = load(cos + i), s = load(sin + i);
                        const f32 p = load(x + i), q = load(x + pairs + i);
                        store(out + i, p * c - q * s);
                        store(out + pairs + i, q * c + p * s);
                    }
                for (; i < pairs; ++i) {
                    const float p = widen(x[i * step]), q = widen(x[i * step + other]);
                    out[i * step] = narrow<T>(p * cos[i] - q * sin[i]);
                    out[i * step + other] = narrow<T>(q * cos[i] + p * sin[i]);
                }
                std::memcpy(out + 2 * pairs, x + 2 * pairs,
                            static_cast<size_t>(a.size - 2 * pairs) * sizeof(T));
            }
        }
    });
}

}  // namespace

PIERIA_KERNEL(rope, Rope) {
    with_type(a.dtype, [&]<class T>(T) { rope_of<T>(a); });
}

// The product is rounded to float32, as others have it; what follows is exact to the last bit or
// so, also for angles of many turns.
PIERIA_KERNEL(rotary, Rotary) {
    parallel_rows(a.tokens, 16 * a.pairs, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t)
            for (int64_t i = 0; i < a.pairs; ++i) {
                const float angle = static_cast<float>(a.positions[t]) * a.frequencies[i];
                a.cos[t * a.pairs + i] =
                    static_cast<float>(std::cos(static_cast<double>(angle)) * a.magnitude);
                a.sin[t * a.pairs + i] =
                    static_cast<float>(std::sin(static_cast<double>(angle)) * a.magnitude);
            }
    });
}

}  // namespace pieria
