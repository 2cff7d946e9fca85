// How likely each row's token is, its rank, and the likeliest tokens.
#include <cmath>

#include "args.h"
#include "largest.h"
#include "rows.h"

namespace pieria {
namespace {

struct TokenLogprobs {
    int64_t dtype;
    const void* logits;
    int64_t stride, rows, vocabulary;
    const int64_t* tokens;
    int64_t top;
    float* logprobs;
    int64_t* ranks;
    float* top_logprobs;  // [rows, top]
    int64_t* top_tokens;
};

// The sum of e^(x - largest), and how many tokens are likelier than this one.
struct Seen {
    double sum;
    int64_t likelier;
};

template <class T>
Seen seen(const Row<T>& row, float top, int64_t token) {
    const float own = widen(row.numbers[token]);
    const float above_own = std::nextafter(own, INFINITE);
    double sums[LANES] = {};
    i32 likelier = {};
    for (int64_t g = 0; g < row.groups; ++g) {
        // Of equals, those before it are likelier; in its own group they are counted below.
        const float least = g < token / GROUP ? own : above_own;
        f32 sum = {};
        row.group(g, [&](const auto* x) {
            for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
                const f32 numbers = load(x + v * LANES);
                sum += power_of_two((numbers - top) * static_cast<float>(LOG2_E));
                likelier -= numbers >= least;
            }
        });
        for (int i = 0; i < LANES; ++i) sums[i] += sum[i];
    }
    Seen all{};
    for (int i = 0; i < LANES; ++i) {
        all.sum += sums[i];
        all.likelier += likelier[i];
    }
    for (int64_t i = token / GROUP * GROUP; i < token; ++i)
        all.likelier += widen(row.numbers[i]) == own;
    return all;
}

template <class T>
void report(const TokenLogprobs& a, int64_t r) {
    const Row<T> row(static_cast<const T*>(a.logits) + r * a.stride, a.vocabulary);
    auto* maxima = scratch<f32>(MAXIMA, row.groups);
    const float top = largest(row, maxima);
    const Seen all = seen(row, top, a.tokens[r]);
    const double total = top + std::log(all.sum);
    a.logprobs[r] = static_cast<float>(widen(row.numbers[a.tokens[r]]) - total);
    a.ranks[r] = 1 + all.likelier;
    if (a.top == 0) return;
    const Sorted found = largest_of(row, maxima, top, a.top, -INFINITE).numbers;
    for (int64_t i = 0; i < a.top; ++i) {
        // With a NaN among them there may be too few.
        const bool there = i < found.count;
        a.top_logprobs[r * a.top + i] =
            there ? static_cast<float>(number_in(found.entries[i]) - total)
                  : std::numeric_limits<float>::quiet_NaN();
        a.top_tokens[r * a.top + i] = there ? place_in(found.entries[i]) : 0;
    }
}

}  // namespace

PIERIA_KERNEL(token_logprobs, TokenLogprobs) {
    with_type(a.dtype, [&]<class T>(T) {
        parallel_rows(a.rows, a.vocabulary, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) report<T>(a, r);
        });
    });
}

}  // namespace pieria
