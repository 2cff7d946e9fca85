// Gated networks of which each token uses some.
//
// Pairs of a token and one of its experts are sorted by expert, so that every expert's panels are
// read once for all of its rows. What the pairs give is added up for each token in the order of its
// list, when all are there.
#include <algorithm>

#include "activation.h"
#include "operands.h"
#include "pool.h"
#include "quantized_rows.h"
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
    Stack gate, up, down;
    int64_t activation;  // CLAMPED, or one of activation.h
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

// Rows as products with a stack of `inputs` read them, and the panels they are multiplied with.
template <class T>
struct Operand {
    using M = Mode<T>;
    using A = typename M::A;
    using B = typename M::B;

    // How rows are made ready; rows of one rule can be shared.
    int64_t rule() const {
        return stack.layouts ? std::min<int64_t>(stack.layouts->numbers, E4M3) : -1;
    }
    int64_t row_bytes() const {
        return stack.layouts ? pieria::row_bytes(stack.layouts->numbers, inputs)
                             : steps_of<M>(inputs) * int64_t{sizeof(A)};
    }
    template <class RowOf>
    void ready(RowOf&& row_of, int64_t count, char* out) const {
        if (stack.layouts)
            round_rows<T>(stack.layouts->numbers, row_of, count, inputs, out);
        else
            pack_rows<T>(row_of, count, inputs, reinterpret_cast<A*>(out));
    }
    // sums [rows of the block][32] = the block's rows times a panel of an expert that has `panels`.
    void multiply(int64_t expert, int64_t panels, int64_t panel, char* rows,
                  const Division& division, int64_t block, float* sums) const {
        const int64_t at = expert * panels + panel;
        if (stack.layouts) {
            const Layout& layout = stack.layouts[expert];
            multiply_block(layout, stack.panels + at * panel_bytes(layout, inputs), inputs, rows,
                           division, block, sums);
            return;
        }
        const B* weights = reinterpret_cast<const B*>(stack.panels) + at * panel_size<M>(inputs);
        const int64_t begin = division.first(block, 0), steps = steps_of<M>(inputs);
        for (int64_t tile = 0; tile < division.tiles; ++tile) {
            const int64_t first = division.first(block, tile);
            with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
                f32 c[R][PANEL_VECTORS];
                product<T, R>(steps, reinterpret_cast<const A*>(rows) + first * steps, weights, c,
                              tile == 0);
                std::memcpy(sums + (first - begin) * PANEL, c, sizeof c);
            });
        }
    }
    const T* bias(int64_t expert, int64_t outputs) const {
        return stack.bias ? static_cast<const T*>(stack.bias) + expert * outputs : nullptr;
    }

    const Stack& stack;
    int64_t inputs;
};

// The pairs of some experts, through all of their network.
template <class T>
void group_of(const Experts& a, const Sorted& s, const Part* parts, int64_t n, T* made) {
    const Operand<T> gate{a.gate, a.size}, up{a.up, a.size}, down{a.down, a.features};
    const int64_t panels = panels_of(a.features), panels_out = panels_of(a.size);
    const Part& end = parts[n - 1];
    const int64_t begin = parts->begin, rows = end.begin + end.division.rows - begin;
    T* hidden = scratch<T>(HIDDEN, rows * a.features);
    const bool shared = gate.rule() == up.rule();
    const int64_t each = gate.row_bytes(), other = up.row_bytes(), inside = down.row_bytes();
    char* ready = scratch<char>(ROWS, rows * std::max(each + (shared ? 0 : other), inside));
    char* ready_up = shared ? ready : ready + rows * each;

    // row_of(p, r): row r of a part.
    const auto make_ready = [&](const Operand<T>& operand, char* out, auto&& row_of) {
        const auto tiles = [](const Part& p) { return p.division.blocks * p.division.tiles; };
        const int64_t size = operand.row_bytes();
        parallel_parts(parts, n, s.starts, tiles, [&](const Part& p, int64_t i) {
            const int64_t block = i / p.division.tiles, tile = i % p.division.tiles;
            const int64_t first = p.division.first(block, tile);
            operand.ready([&](int64_t r) { return row_of(p, first + r); },
                          p.division.first(block, tile + 1) - first,
                          out + (p.begin - begin + first) * size);
        });
    };
    const auto token = [&](const Part& p, int64_t r) {
        return static_cast<const T*>(a.x) + s.tokens[p.begin + r] * a.x_stride;
    };
    make_ready(gate, ready, token);
    if (!shared) make_ready(up, ready_up, token);

    const auto gates = [&](const Part& p) { return p.division.blocks * panels; };
    parallel_parts(parts, n, s.starts, gates, [&](const Part& p, int64_t i) {
        const int64_t block = i / panels, panel = i % panels, column = panel * PANEL;
        const int64_t columns = std::min<int64_t>(PANEL, a.features - column), at = p.begin - begin;
        alignas(64) float opened[Division::BLOCK * PANEL], given[Division::BLOCK * PANEL];
        gate.multiply(p.expert, panels, panel, ready + at * each, p.division, block, opened);
        up.multiply(p.expert, panels, panel, ready_up + at * other, p.division, block, given);
        const T* gate_bias = gate.bias(p.expert, a.features);
        const T* up_bias = up.bias(p.expert, a.features);
        const int64_t start = p.division.first(block, 0);
        each_tile(p.division, block, opened, [&]<int R>(int64_t first, f32(&g)[R][PANEL_VECTORS]) {
            f32 u[R][PANEL_VECTORS];
            std::memcpy(u, given + (first - start) * PANEL, sizeof u);
            add_bias<T, R>(gate_bias, column, columns, g);
            add_bias<T, R>(up_bias, column, columns, u);
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < PANEL_VECTORS; ++v) u[r][v] = gated(a, g[r][v], u[r][v]);
            write<T, R>(hidden + (at + first) * a.features + column, a.features, columns, u);
        });
    });

    make_ready(down, ready, [&](const Part& p, int64_t r) {
        return hidden + (p.begin - begin + r) * a.features;
    });
    const auto downs = [&](const Part& p) { return p.division.blocks * panels_out; };
    parallel_parts(parts, n, s.starts, downs, [&](const Part& p, int64_t i) {
        const int64_t block = i / panels_out, panel = i % panels_out, column = panel * PANEL;
        const int64_t columns = std::min<int64_t>(PANEL, a.size - column);
        alignas(64) float sums[Division::BLOCK * PANEL];
        down.multiply(p.expert, panels_out, panel, ready + (p.begin - begin) * inside, p.division,
                      block, sums);
        const T* bias = down.bias(p.expert, a.size);
        each_tile(p.division, block, sums, [&]<int R>(int64_t first, f32(&c)[R][PANEL_VECTORS]) {
            add_bias<T, R>(bias, column, columns, c);
            write<T, R>(made + (p.begin + first) * a.size + column, a.size, columns, c);
        });
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
