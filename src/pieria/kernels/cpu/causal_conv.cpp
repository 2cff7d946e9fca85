// A short convolution over the last tokens of each channel, then SiLU.
#include <algorithm>

#include "activation.h"
#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct CausalConv {
    int64_t dtype;
    const void* x;
    int64_t x_stride;
    const void* weight;     // [channels][taps]
    void* state;            // [slots][taps - 1][channels]
    const int64_t* reads;   // negative: zeros
    const int64_t* writes;  // negative: nobody's, nothing is written
    const int64_t* starts;
    int64_t requests, channels, taps;
    void* out;
};

enum Purpose { WEIGHTS = 8, SEEN };

// Channels of a task.
constexpr int64_t WIDTH = 16 * LANES;

// Channels [first, first + width) of a request.
template <class T>
void channels_of(const CausalConv& a, int64_t request, int64_t first, int64_t width) {
    const int64_t begin = a.starts[request], tokens = a.starts[request + 1] - begin;
    const int64_t taps = a.taps, before = taps - 1;
    const T* x = static_cast<const T*>(a.x) + begin * a.x_stride + first;
    const auto row_of = [&](int64_t slot, int64_t row) {
        return static_cast<T*>(a.state) + (slot * before + row) * a.channels + first;
    };
    const auto size = static_cast<size_t>(width) * sizeof(T);

    float* weights = scratch<float>(WEIGHTS, taps * WIDTH);
    for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < width; ++c)
            weights[tap * WIDTH + c] =
                widen(static_cast<const T*>(a.weight)[(first + c) * taps + tap]);

    // The rows before the first token, as the state may be written where it was read.
    T* earlier = scratch<T>(SEEN, std::max<int64_t>(1, before) * WIDTH);
    const int64_t read = a.reads[request], written = a.writes[request];
    for (int64_t row = 0; row < before; ++row)
        if (read >= 0)
            std::memcpy(earlier + row * WIDTH, row_of(read, row), size);
        else
            std::memset(earlier + row * WIDTH, 0, size);
    // Of the rows before the first token and the tokens, in order.
    const auto seen = [&](int64_t row) {
        return row < before ? earlier + row * WIDTH : x + (row - before) * a.x_stride;
    };

    for (int64_t t = 0; t < tokens; ++t) {
        T* out = static_cast<T*>(a.out) + (begin + t) * a.channels + first;
        vectors(width, [&](int64_t i, int64_t count) {
            f32 y{};
            for (int64_t tap = 0; tap < taps; ++tap)
                y += load_some(seen(t + tap) + i, count) * load(weights + tap * WIDTH + i);
            store_some(out + i, silu(y), count);
        });
    }
    if (written < 0) return;
    for (int64_t row = 0; row < before; ++row)
        std::memcpy(row_of(written, row), seen(tokens + row), size);
}

}  // namespace

PIERIA_KERNEL(causal_conv, CausalConv) {
    const int64_t blocks = (a.channels + WIDTH - 1) / WIDTH;
    with_type(a.dtype, [&]<class T>(T) {
        parallel(a.requests * blocks, [&](int64_t i) {
            const int64_t first = i % blocks * WIDTH;
            channels_of<T>(a, i / blocks, first, std::min(WIDTH, a.channels - first));
        });
    });
}

}  // namespace pieria
