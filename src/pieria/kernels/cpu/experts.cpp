// Gated networks of which each token uses some.
//
// Pairs of a token and one of its experts are sorted by expert, so that every expert's panels are
// read once for all of its rows. What the pairs give is added up for each token in the order of its
// list, when all are there.
#include <algorithm>

#include "activation.h"
#include "args.h"
#include "panels.h"
#include "pool.h"
#include "rows.h"

namespace pieria {
namespace {

struct Experts {
    int64_t dtype;
    const void* x;
    int64_t x_stride;
    const float* weights;
    int64_t weights_stride;
    const int64_t* chosen;
    int64_t chosen_stride;
    int64_t tokens, top, size, features;
    int64_t first, count;  // the experts that are here
    const void *gate, *up, *down;
    const void *gate_bias, *up_bias, *down_bias;  // null: none
    int64_t activation;                           // CLAMPED, or one of activation.h
    double limit, slope;
    void* out;
};

constexpr int64_t CLAMPED = 3;

enum Purpose { ORDER = 8, ROWS, HIDDEN, MADE };

// What the pairs of as many tokens as are computed at once give, at most.
constexpr int64_t MADE_BYTES = 32 << 20;
// As many pairs are packed at once, unless one expert alone has more.
constexpr int64_t GROUP = 2048;

// The pairs of one expert: rows [begin, begin + division.rows) of all that are here.
struct Part {
    int64_t expert, begin;
    Division division;
};

// Tokens [first, last) and their pairs, by expert.
struct Sorted {
    int64_t pairs, count;
    Part* parts;      // of the experts that have pairs
    int64_t* tokens;  // of each pair
    int64_t* places;  // [tokens][top] the pair; -1: an expert that is not here
    int64_t* starts;  // room for `count` numbers
};

Sorted sorted(const Experts& a, int64_t first, int64_t last) {
    const int64_t all = (last - first) * a.top;
    auto* memory = scratch<int64_t>(
        ORDER, 2 * all + 2 * a.count + 1 + a.count * int64_t{sizeof(Part) / sizeof(int64_t)});
    Sorted s{};
    s.tokens = memory;
    s.places = s.tokens + all;
    s.starts = s.places + all;
    int64_t* ends = s.starts + a.count;
    s.parts = reinterpret_cast<Part*>(ends + a.count + 1);
    const auto each = [&](auto&& body) {
        for (int64_t t = first; t < last; ++t)
            for (int64_t i = 0; i < a.top; ++i)
                body(t, (t - first) * a.top + i, a.chosen[t * a.chosen_stride + i] - a.first);
    };
    std::fill_n(ends, a.count + 1, 0);
    each([&](int64_t, int64_t, int64_t e) {
        if (e >= 0 && e < a.count) ++ends[e + 1];
    });
    for (int64_t e = 0; e < a.count; ++e) {
        if (ends[e + 1]) s.parts[s.count++] = {e, s.pairs, Division(ends[e + 1])};
        s.pairs += ends[e + 1];
        ends[e + 1] = s.pairs;
    }
    each([&](int64_t t, int64_t pair, int64_t e) {
        const bool here = e >= 0 && e < a.count;
        s.places[pair] = here ? ends[e]++ : -1;
        if (here) s.tokens[s.places[pair]] = t;
    });
    return s;
}

// body(part, i) for every i below count(part), all parts at once.
template <class Count, class Body>
void parallel_parts(const Part* parts, int64_t n, int64_t* starts, Count&& count, Body&& body) {
    int64_t total = 0;
    for (int64_t p = 0; p < n; ++p) {
        starts[p] = total;
        total += count(parts[p]);
    }
    parallel(total, [&](int64_t i) {
        const int64_t p = std::upper_bound(starts, starts + n, i) - starts - 1;
        body(parts[p], i - starts[p]);
    });
}

inline f32 gated(const Experts& a, f32 gate, f32 up) {
    if (a.activation != CLAMPED) return activate(a.activation, gate) * up;
    const f32 limit = splat(static_cast<float>(a.limit));
    const f32 g = gate > limit ? limit : gate;
    const f32 u = up > limit ? limit : (up < -limit ? -limit : up);
    return g / (1.0f + exp(static_cast<float>(-a.slope) * g)) * (u + 1.0f);
}

// Offset into a bias of expert e; nothing where there is none.
template <class T>
inline const T* bias_of(const void* bias, int64_t e, int64_t outputs) {
    return bias ? static_cast<const T*>(bias) + e * outputs : nullptr;
}

// The pairs of some experts, through all of their network.
template <class T>
void group_of(const Experts& a, const Sorted& s, const Part* parts, int64_t n, T* made) {
    using M = Mode<T>;
    using A = typename M::A;
    using B = typename M::B;
    const int64_t steps = steps_of<M>(a.size), steps_inside = steps_of<M>(a.features);
    const int64_t size = panel_size<M>(a.size), size_inside = panel_size<M>(a.features);
    const int64_t panels = panels_of(a.features), panels_out = panels_of(a.size);
    const Part& end = parts[n - 1];
    const int64_t begin = parts->begin, rows = end.begin + end.division.rows - begin;
    auto* packed = scratch<A>(ROWS, rows * steps);
    auto* hidden = scratch<A>(HIDDEN, rows * steps_inside);

    const auto tiles = [](const Part& p) { return p.division.blocks * p.division.tiles; };
    parallel_parts(parts, n, s.starts, tiles, [&](const Part& p, int64_t i) {
        const int64_t block = i / p.division.tiles, tile = i % p.division.tiles;
        const int64_t first = p.division.first(block, tile);
        const int64_t* tokens = s.tokens + p.begin + first;
        pack_rows<T>([&](int64_t r) { return static_cast<const T*>(a.x) + tokens[r] * a.x_stride; },
                     p.division.first(block, tile + 1) - first, a.size,
                     packed + (p.begin - begin + first) * steps);
    });

    const auto inside = [&](const Part& p) { return p.division.blocks * panels; };
    parallel_parts(parts, n, s.starts, inside, [&](const Part& p, int64_t i) {
        const int64_t block = i / panels, panel = i % panels, column = panel * PANEL;
        const int64_t columns = std::min<int64_t>(PANEL, a.features - column);
        const int64_t at = (p.expert * panels + panel) * size;
        const B *gates = static_cast<const B*>(a.gate) + at,
                *ups = static_cast<const B*>(a.up) + at;
        const T* gate_bias = bias_of<T>(a.gate_bias, p.expert, a.features);
        const T* up_bias = bias_of<T>(a.up_bias, p.expert, a.features);
        for (int64_t tile = 0; tile < p.division.tiles; ++tile) {
            const int64_t first = p.division.first(block, tile), row = p.begin - begin + first;
            with_rows(p.division.first(block, tile + 1) - first, [&]<int R>() {
                f32 gate[R][PANEL_VECTORS], up[R][PANEL_VECTORS];
                product<T, R>(steps, packed + row * steps, gates, gate, tile == 0);
                add_bias<T, R>(gate_bias, column, columns, gate);
                product<T, R>(steps, packed + row * steps, ups, up, tile == 0);
                add_bias<T, R>(up_bias, column, columns, up);
                for (int r = 0; r < R; ++r)
                    for (int v = 0; v < PANEL_VECTORS; ++v)
                        up[r][v] = gated(a, gate[r][v], up[r][v]);
                T numbers[R][PANEL];
                write<T, R>(numbers[0], PANEL, columns, up);
                pack_rows(numbers[0], PANEL, R, columns,
                          hidden + row * steps_inside + column / M::DEPTH * R);
            });
        }
    });

    const auto outside = [&](const Part& p) { return p.division.blocks * panels_out; };
    parallel_parts(parts, n, s.starts, outside, [&](const Part& p, int64_t i) {
        const int64_t block = i / panels_out, panel = i % panels_out, column = panel * PANEL;
        const int64_t columns = std::min<int64_t>(PANEL, a.size - column);
        const B* downs =
            static_cast<const B*>(a.down) + (p.expert * panels_out + panel) * size_inside;
        const T* bias = bias_of<T>(a.down_bias, p.expert, a.size);
        for (int64_t tile = 0; tile < p.division.tiles; ++tile) {
            const int64_t first = p.division.first(block, tile), row = p.begin - begin + first;
            with_rows(p.division.first(block, tile + 1) - first, [&]<int R>() {
                f32 c[R][PANEL_VECTORS];
                product<T, R>(steps_inside, hidden + row * steps_inside, downs, c, tile == 0);
                add_bias<T, R>(bias, column, columns, c);
                write<T, R>(made + (p.begin + first) * a.size + column, a.size, columns, c);
            });
        }
    });
}

// out = sum over a token's experts of weight * what the pair gave.
template <class T>
void add_up(const Experts& a, const Sorted& s, int64_t first, int64_t last, const T* made) {
    parallel_rows(last - first, (a.top + 1) * a.size, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const float* weights = a.weights + (first + t) * a.weights_stride;
            const int64_t* places = s.places + t * a.top;
            T* out = static_cast<T*>(a.out) + (first + t) * a.size;
            for (int64_t column = 0; column < a.size; column += LANES) {
                const int64_t count = std::min<int64_t>(LANES, a.size - column);
                f32 y{};
                for (int64_t i = 0; i < a.top; ++i) {
                    if (places[i] < 0) continue;
                    const T* from = made + places[i] * a.size + column;
                    y += (count == LANES ? load(from) : load(from, count)) * weights[i];
                }
                if (count == LANES)
                    store(out + column, y);
                else
                    store(out + column, y, count);
            }
        }
    });
}

template <class T>
void experts_of(const Experts& a) {
    const int64_t token = a.top * a.size * int64_t{sizeof(T)};
    const int64_t chunk = std::max<int64_t>(1, MADE_BYTES / token);
    const int64_t chunks = (a.tokens + chunk - 1) / chunk;
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t first = a.tokens * c / chunks, last = a.tokens * (c + 1) / chunks;
        const Sorted s = sorted(a, first, last);
        T* made = scratch<T>(MADE, s.pairs * a.size);
        for (int64_t p = 0, n; p < s.count; p += n) {
            const int64_t begin = s.parts[p].begin;
            for (n = 1; p + n < s.count; ++n) {
                const Part& part = s.parts[p + n];
                if (part.begin + part.division.rows - begin > GROUP) break;
            }
            group_of<T>(a, s, s.parts + p, n, made);
        }
        add_up<T>(a, s, first, last, made);
    }
}

}  // namespace

PIERIA_KERNEL(experts, Experts) {
    with_type(a.dtype, [&]<class T>(T) { experts_of<T>(a); });
}

}  // namespace pieria
