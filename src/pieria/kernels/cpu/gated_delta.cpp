// The gated delta rule, token by token, on a part of a head's matrix that stays in the first cache.
//
// A matrix's columns are independent of each other. So a task takes some of them through all tokens
// of a request, and every sum goes down the rows in one order, however a prompt is cut: a token
// leaves the same bits whether it is computed alone or in the middle of others, which the form of
// the rule that takes many tokens at once could not give.
#include <algorithm>
#include <cmath>

#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct GatedDelta {
    int64_t dtype;
    const void* q;
    int64_t q_stride;  // from token to token, the heads dense
    const void* k;
    int64_t k_stride;
    const void* v;
    int64_t v_stride;
    const float* decay;  // [tokens][heads]
    const float* beta;
    float* state;           // [slots][heads][size][v_size]
    const int64_t* reads;   // negative: a matrix of zeros
    const int64_t* writes;  // negative: nobody's, nothing is written
    const int64_t* starts;
    int64_t requests, groups, heads, size, v_size;
    double scale;
    void* out;
};

enum Purpose { MATRIX = 8, VECTORS_QK };

// Columns of a task: its part of a matrix of 128 rows takes 32 KiB.
constexpr int64_t WIDTH = 4 * LANES;
// Chains of additions to a sum, so that one need not wait for another.
constexpr int64_t CHAINS = 2;
constexpr float EPS = 1e-6f;

// to = x * scale / |x|.
template <class T>
void unit(const T* x, int64_t size, float scale, float* to) {
    f32 squares{};
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = std::min<int64_t>(LANES, size - i);
        const f32 v = load_some(x + i, count);
        squares += v * v;
        store(to + i, v);
    }
    const float by = scale / std::sqrt(sum(squares) + EPS);
    for (int64_t i = 0; i < size; i += LANES) store(to + i, load(to + i) * by);
}

// One token: what a matrix `from` becomes goes to `to`, and what q reads of that to y, which is the
// value before. stride: from row to row of both.
template <int V>
inline void step(const float* from, float* to, int64_t stride, int64_t size, const float* q,
                 const float* k, float kept, float beta, f32 (&y)[V]) {
    f32 found[CHAINS][V] = {}, made[CHAINS][V] = {};
    const int64_t even = size / CHAINS * CHAINS;
    const auto read = [&](int64_t row, int64_t chain) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i)
            found[chain][i] += load(from + row * stride + i * LANES) * k[row];
    };
    for (int64_t row = 0; row < even; row += CHAINS) read(row, 0), read(row + 1, 1);
    if (even < size) read(even, 0);
    f32 change[V];
    for (int i = 0; i < V; ++i) change[i] = (y[i] - (found[0][i] + found[1][i]) * kept) * beta;
    const auto write = [&](int64_t row, int64_t chain) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i) {
            const f32 now = load(from + row * stride + i * LANES) * kept + change[i] * k[row];
            store(to + row * stride + i * LANES, now);
            made[chain][i] += now * q[row];
        }
    };
    for (int64_t row = 0; row < even; row += CHAINS) write(row, 0), write(row + 1, 1);
    if (even < size) write(even, 0);
    for (int i = 0; i < V; ++i) y[i] = made[0][i] + made[1][i];
}

// Columns [first, first + columns) of a head, through all tokens of a request.
template <class T, int V>
void columns_of(const GatedDelta& a, int64_t request, int64_t head, int64_t first,
                int64_t columns) {
    const int64_t size = a.size, room = (size + LANES - 1) / LANES * LANES;
    const int64_t group = head / (a.heads / a.groups);
    float* m = scratch<float>(MATRIX, size * V * LANES);
    float* q = scratch<float>(VECTORS_QK, 2 * room);
    float* k = q + room;
    const auto part = [&](int64_t slot) {
        return a.state + (slot * a.heads + head) * size * a.v_size + first;
    };
    const auto count = [&](int i) { return std::min<int64_t>(LANES, columns - i * LANES); };
    const int64_t read = a.reads[request], written = a.writes[request];
    const int64_t begin = a.starts[request], end = a.starts[request + 1];
    // A single token goes from slot to slot, without a copy on the way.
    const bool direct = end - begin == 1 && read >= 0 && written >= 0 && columns == V * LANES;
    const float* from = direct ? part(read) : m;
    float* to = direct ? part(written) : m;
    const int64_t stride = direct ? a.v_size : V * LANES;
    for (int64_t row = 0; row < size && !direct; ++row)
        for (int i = 0; i < V; ++i)
            store(m + (row * V + i) * LANES,
                  read < 0 ? f32{} : load_some(part(read) + row * a.v_size + i * LANES, count(i)));
    for (int64_t t = begin; t < end; ++t) {
        unit(static_cast<const T*>(a.q) + t * a.q_stride + group * size, size,
             static_cast<float>(a.scale), q);
        unit(static_cast<const T*>(a.k) + t * a.k_stride + group * size, size, 1.0f, k);
        const T* value = static_cast<const T*>(a.v) + t * a.v_stride + head * a.v_size + first;
        T* out = static_cast<T*>(a.out) + (t * a.heads + head) * a.v_size + first;
        f32 y[V];
        for (int i = 0; i < V; ++i) y[i] = load_some(value + i * LANES, count(i));
        const int64_t at = t * a.heads + head;
        step<V>(from, to, stride, size, q, k, std::exp(a.decay[at]), a.beta[at], y);
        for (int i = 0; i < V; ++i) store_some(out + i * LANES, y[i], count(i));
    }
    if (direct || written < 0) return;
    for (int64_t row = 0; row < size; ++row)
        for (int i = 0; i < V; ++i)
            store_some(part(written) + row * a.v_size + i * LANES, load(m + (row * V + i) * LANES),
                       count(i));
}

template <class T>
void gated_delta_of(const GatedDelta& a) {
    const int64_t blocks = (a.v_size + WIDTH - 1) / WIDTH;
    parallel(a.requests * a.heads * blocks, [&](int64_t i) {
        const int64_t head = i / blocks % a.heads, request = i / blocks / a.heads;
        const int64_t first = i % blocks * WIDTH, columns = std::min(WIDTH, a.v_size - first);
        switch ((columns + LANES - 1) / LANES) {
            case 1:
                return columns_of<T, 1>(a, request, head, first, columns);
            case 2:
                return columns_of<T, 2>(a, request, head, first, columns);
            case 3:
                return columns_of<T, 3>(a, request, head, first, columns);
            default:
                return columns_of<T, 4>(a, request, head, first, columns);
        }
    });
}

}  // namespace

PIERIA_KERNEL(gated_delta, GatedDelta) {
    with_type(a.dtype, [&]<class T>(T) { gated_delta_of<T>(a); });
}

}  // namespace pieria
