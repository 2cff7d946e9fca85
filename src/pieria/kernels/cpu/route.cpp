// Which experts each token goes to, and how much each of them counts.
#include <algorithm>

#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct Route {
    int64_t dtype;
    const void* logits;
    int64_t stride;
    const void* bias;  // null: none
    int64_t tokens, experts, top;
    int64_t score, renormalise;
    double scale;
    int64_t groups, top_groups, of_group;
    float* weights;
    int64_t* chosen;
};

enum Score : int64_t { SOFTMAX = 0, SIGMOID = 1, TWIN = 2 };
enum Purpose { SCORES = 8, CHOICE, GROUPS };

// Sigmoids may all be zero.
constexpr float TINY = 1e-20f;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// A number that orders floats, a NaN above all.
inline int32_t rank(float x) {
    if (x != x) return INT32_MAX;
    int32_t bits;
    x += 0.0f;  // so that the zeros are equal
    std::memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

// Places of the `count` largest of n numbers, best first; of equal ones the first is better.
inline void best(const float* x, int64_t n, int64_t count, int64_t* places) {
    int64_t held = 0;
    for (int64_t i = 0; i < n; ++i) {
        const int32_t r = rank(x[i]);
        if (held == count && r <= rank(x[places[held - 1]])) continue;
        int64_t at = held < count ? held++ : count - 1;
        for (; at > 0 && rank(x[places[at - 1]]) < r; --at) places[at] = places[at - 1];
        places[at] = i;
    }
}

// body(first, values) of each vector of a row; behind the row's end are `rest`.
template <class T, class Body>
inline void vectors(const T* x, int64_t n, float rest, Body&& body) {
    for (int64_t i = 0; i < n; i += LANES) {
        if (i + LANES <= n) {
            body(i, load(x + i));
        } else {
            f32 v = load(x + i, n - i);
            for (int64_t lane = n - i; lane < LANES; ++lane) v[lane] = rest;
            body(i, v);
        }
    }
}

// `scores` has room for whole vectors.
template <class T>
void score(const Route& a, const T* logits, float* scores) {
    if (a.score == SIGMOID) {
        vectors(logits, a.experts, 0.0f,
                [&](int64_t i, f32 x) { store(scores + i, 1.0f / (1.0f + exp(-x))); });
        return;
    }
    f32 largest = splat(-INFINITE), total{};
    vectors(logits, a.experts, -INFINITE, [&](int64_t, f32 x) { largest = max(x, largest); });
    const float shift = max(largest);
    vectors(logits, a.experts, -INFINITE, [&](int64_t i, f32 x) {
        const f32 e = exp(x - shift);
        total += e;
        store(scores + i, e);
    });
    const float all = sum(total);
    for (int64_t i = 0; i < a.experts; i += LANES) store(scores + i, load(scores + i) / all);
}

// Experts that are not in one of the best groups are never chosen.
void keep_groups(const Route& a, float* choice, float* values) {
    const int64_t members = a.experts / a.groups;
    auto* kept = scratch<int64_t>(GROUPS, a.groups);
    for (int64_t g = 0; g < a.groups; ++g) {
        int64_t places[2];
        best(choice + g * members, members, a.of_group, places);
        values[g] = 0.0f;
        for (int64_t i = 0; i < a.of_group; ++i) values[g] += choice[g * members + places[i]];
    }
    best(values, a.groups, a.top_groups, kept);
    for (int64_t g = 0; g < a.groups; ++g) {
        if (std::find(kept, kept + a.top_groups, g) != kept + a.top_groups) continue;
        std::fill_n(choice + g * members, members, -INFINITE);
    }
}

void choose_twin(const float* scores, int64_t experts, float* weights, int64_t* chosen) {
    best(scores, experts, 2, chosen);
    if (chosen[0] < 2 || chosen[1] < 2) {
        chosen[0] = 0, chosen[1] = 1;
        weights[0] = weights[1] = 1.0f;
        return;
    }
    const float other = exp(splat(scores[chosen[1]] - scores[chosen[0]]))[0];
    weights[0] = 1.0f / (1.0f + other);
    weights[1] = other / (1.0f + other);
}

template <class T>
void route_one(const Route& a, const T* logits, float* weights, int64_t* chosen) {
    const int64_t room = (a.experts + LANES - 1) / LANES * LANES;
    float* scores = scratch<float>(SCORES, room);
    score(a, logits, scores);
    if (a.score == TWIN) return choose_twin(scores, a.experts, weights, chosen);
    float* choice = scratch<float>(CHOICE, room + a.groups);
    for (int64_t e = 0; e < a.experts; ++e)
        choice[e] = a.bias ? scores[e] + widen(static_cast<const T*>(a.bias)[e]) : scores[e];
    if (a.groups > 1) keep_groups(a, choice, choice + room);
    best(choice, a.experts, a.top, chosen);
    float all = 0.0f;
    for (int64_t i = 0; i < a.top; ++i) all += weights[i] = scores[chosen[i]];
    for (int64_t i = 0; i < a.top; ++i) {
        if (a.renormalise) weights[i] /= all + TINY;
        weights[i] *= static_cast<float>(a.scale);
    }
}

}  // namespace

PIERIA_KERNEL(route, Route) {
    with_type(a.dtype, [&]<class T>(T) {
        parallel_rows(a.tokens, 4 * a.experts, [&](int64_t first, int64_t last) {
            for (int64_t t = first; t < last; ++t)
                route_one(a, static_cast<const T*>(a.logits) + t * a.stride, a.weights + t * a.top,
                          a.chosen + t * a.top);
        });
    });
}

}  // namespace pieria
