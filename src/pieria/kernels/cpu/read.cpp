// Reads memory and does nothing else with it: what a step that streams weights can reach at best.
#include "args.h"
#include "pool.h"

namespace pieria {
namespace {

struct Read {
    const void* data;
    int64_t bytes;
    int64_t streams;  // of each thread: 1, 2, 4, 8 or 16
    int64_t* sums;    // one of each thread, so that no read can be left out
};

using i64 = int64_t __attribute__((vector_size(64)));

// As many lines as a stream is read on before the next one has its turn.
constexpr int64_t RUN = 256;

template <int S>
int64_t sum_of(const char* data, int64_t bytes) {
    const int64_t length = bytes / S / RUN * RUN;
    i64 sums[4] = {};
    for (int64_t at = 0; at < length; at += RUN)
        for (int s = 0; s < S; ++s)
            for (int64_t line = 0; line < RUN / 64; ++line)
                sums[line] += load_vector<i64>(data + s * length + at + line * 64);
    const i64 all = sums[0] + sums[1] + sums[2] + sums[3];
    int64_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += all[i];
    return sum;
}

int64_t sum_of(int64_t streams, const char* data, int64_t bytes) {
    switch (streams) {
        case 2:
            return sum_of<2>(data, bytes);
        case 4:
            return sum_of<4>(data, bytes);
        case 8:
            return sum_of<8>(data, bytes);
        case 16:
            return sum_of<16>(data, bytes);
        default:
            return sum_of<1>(data, bytes);
    }
}

}  // namespace

PIERIA_KERNEL(read, Read) {
    const int64_t threads = pool_threads(), share = a.bytes / threads;
    parallel(threads, [&](int64_t t) {
        a.sums[t] = sum_of(a.streams, static_cast<const char*>(a.data) + t * share, share);
    });
}

}  // namespace pieria
