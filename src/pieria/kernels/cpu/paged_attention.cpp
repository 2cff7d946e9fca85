// Attention over pages (Dao 2023, arXiv:2307.08691), prompt chunks and single tokens alike.
//
// A row is a query token and a head; those that read the same keys, so neighbouring tokens and the
// heads of a group, stand side by side in a product. Keys are taken in blocks counted from the
// request's first token. What a row gets of a block, its greatest score, the sum of its weights and
// their mix of values, depends on that block alone, and blocks are joined in order. So a row's bits
// depend neither on the rows beside it nor on which thread did which blocks.
#include "activation.h"
#include "args.h"
#include "paged_attention_cache.h"

namespace pieria {
namespace {

enum Purpose { WORK = 2, KEPT };

// Between rows of scores, so that they are not all in the same sets of a cache.
constexpr int64_t STRIDE = BLOCK + LANES;

constexpr i32 LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Each row's greatest or summed lane, as a lane each. Lanes are joined in the order of `sum`.
template <class Join>
inline f32 across(const f32 (&rows)[LANES], Join&& join) {
    u32 columns[LANES];
    load_columns(reinterpret_cast<const uint32_t*>(rows), LANES, columns);
    f32 v[LANES];
    std::memcpy(v, columns, sizeof v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) v[i] = join(v[i], v[i + width]);
    return v[0];
}

// Scores become weights, 2^(factor * score - most), in their place; as pairs of T where a product
// takes those. Scores are of vectors [begin, end) of keys. A weight has its value's scale in it.
template <class S>
__attribute__((noinline)) State weigh(float* scores, int64_t rows, const Seen* seen, int64_t begin,
                                      int64_t end, float scale, float soft_cap,
                                      const float* value_scales) {
    const float factor = soft_cap ? 1.0f : scale * LOG2_E;
    f32 most[LANES], sums[LANES] = {};
    for (int64_t r = 0; r < LANES; ++r) most[r] = splat(-INFINITE);
    for (int64_t r = 0; r < rows; ++r) {
        float* row = scores + r * STRIDE;
        if (soft_cap)
            for (int64_t v = begin; v < end; ++v) {
                const f32 capped = tanh(load(row + v * LANES) * (scale / soft_cap));
                store(row + v * LANES, capped * (soft_cap * LOG2_E));
            }
        const auto hide = [&](int64_t v) {
            const i32 key = LANE + splat(static_cast<int32_t>(v * LANES));
            const auto visible = (key >= splat(static_cast<int32_t>(seen[r].first))) &
                                 (key < splat(static_cast<int32_t>(seen[r].last)));
            store(row + v * LANES, visible ? load(row + v * LANES) : splat(-INFINITE));
        };
        const int64_t whole = std::max(begin, seen[r].last / LANES);
        for (int64_t v = begin; v < end && v * LANES < seen[r].first; ++v) hide(v);
        for (int64_t v = whole; v < end; ++v) hide(v);
        for (int64_t v = begin; v < end; ++v) most[r] = max(most[r], load(row + v * LANES));
    }
    State state;
    state.most = across(most, [](f32 a, f32 b) { return max(a, b); }) * factor;
    const f32 base = state.most == -INFINITE ? f32{} : state.most;
    for (int64_t r = 0; r < rows; ++r) {
        float* row = scores + r * STRIDE;
        const f32 least = splat(base[r]), by = splat(factor);
        for (int64_t v = begin; v < end; ++v) {
            const f32 weight = exp2_negative(load(row + v * LANES) * by - least);
            sums[r] += weight;
            if constexpr (ROUNDED<S>)
                store(row + v * LANES, weight * load(value_scales + v * LANES));
            else if constexpr (Core<S>::DEPTH == 2)
                store(reinterpret_cast<S*>(row) + v * LANES, weight);
            else
                store(row + v * LANES, weight);
        }
    }
    state.sum = across(sums, [](f32 a, f32 b) { return a + b; });
    return state;
}

// c[ROWS][PANEL] += A B, with A's rows STRIDE apart and its steps side by side.
template <class M, int ROWS>
inline __attribute__((always_inline)) void multiply_rows(int64_t steps, const typename M::A* a,
                                                         const typename M::B* b,
                                                         f32 (&c)[ROWS][PANEL_VECTORS]) {
    for (int64_t k = 0; k < steps; ++k, ++a, b += PANEL) {
        decltype(M::read(b, 0)) columns[PANEL_VECTORS];
        for (int v = 0; v < PANEL_VECTORS; ++v) columns[v] = M::read(b + v * LANES, 0);
#pragma GCC unroll 14
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < PANEL_VECTORS; ++v)
                c[r][v] = M::multiply_add(c[r][v], a[r * STRIDE], columns[v], 0);
    }
}

// S: what caches hold, and queries too, unless it is rounded.
template <class S>
struct Worker {
    using M = Core<S>;
    using K = Score<S>;

    Worker(const PagedAttention& a, const Part& part, int64_t group, int64_t groups)
        : a(a),
          part(part),
          group(group),
          groups(groups),
          shared(a.heads / a.groups),
          steps(steps_of<K>(a.keys.size)),
          query_size(words(a.dtype, steps)),
          columns(padded(a.values.size)),
          key_size(ceil_div(a.keys.size, KEY_CHUNK<S>) * KEY_CHUNK<S> / K::DEPTH * PANEL),
          value_size(BLOCK / M::DEPTH * PANEL) {
        char* memory = nullptr;
        int64_t bytes = 0;
        const auto place = [&](auto*& pointer, int64_t count) {
            pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(memory + bytes);
            bytes += ceil_div(count * sizeof *pointer, 64) * 64;
        };
        for (int pass = 0; pass < 2; ++pass) {
            if (pass) memory = scratch<char>(WORK, std::exchange(bytes, 0));
            place(keys, key_size * (part.few() ? STEP : BLOCK) / PANEL);
            place(values, part.few() ? 0 : value_size * columns / PANEL);
            place(scores, (part.few() ? groups * part.rows : MAX_ROWS) * STRIDE);
            place(queries, groups * part.rows * query_size + LANES);
            place(key_scales, ROUNDED<S> ? groups * BLOCK : 0);
            place(value_scales, ROUNDED<S> ? groups * BLOCK : 0);
            place(gains, groups * Gain::size(a, part));
            place(mixed, groups * part.rows * columns);
            place(states, groups * part.tiles());
        }
    }

    // Through some blocks; kept: where their gains are to stay, or null to join them at once.
    void run(int64_t block, int64_t blocks, float* kept) {
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t tile = 0; tile < part.tiles(); ++tile) pack_queries(g, tile);
        if (!kept) clear();
        Offsets offsets[2];
        if (blocks) offsets[0].find(a, part, block);
        for (int64_t b = 0; b < blocks; ++b) {
            const Offsets& here = offsets[b % 2];
            Offsets* next = b + 1 < blocks ? &offsets[(b + 1) % 2] : nullptr;
            if (next) next->find(a, part, block + b + 1);
            const auto gain = [&](int64_t g) {
                const int64_t index = kept ? (block + b - part.block) * a.groups + group + g : g;
                return Gain(a, part, (kept ? kept : gains) + index * Gain::size(a, part));
            };
            if (part.few())
                stream(here, next, gain, !kept);
            else
                for (int64_t g = 0; g < groups; ++g) tiled(g, here, next, gain(g), !kept);
        }
        if (!kept) finish();
    }

    void merge(float* kept) {
        clear();
        for (int64_t b = 0; b < part.blocks; ++b)
            join(0, Gain(a, part, kept + (b * a.groups + group) * Gain::size(a, part)));
        finish();
    }

 private:
    void clear() {
        std::fill_n(mixed, groups * part.rows * columns, 0.0f);
        std::fill_n(states, groups * part.tiles(), State{});
    }

    // The token of the call and the head that a row is.
    std::pair<int64_t, int64_t> place(int64_t g, int64_t row) const {
        row += part.row;
        return {a.starts[part.request.index] + row / shared, (group + g) * shared + row % shared};
    }

    // Words of a packed query.
    static int64_t words(int64_t dtype, int64_t steps) {
        if constexpr (INTEGERS<S>)
            return K::words(dtype, steps);
        else
            return steps;
    }

    // body(T{}) for the type of queries and of what comes out.
    template <class Body>
    void typed(Body&& body) const {
        if constexpr (ROUNDED<S>)
            with_type(a.dtype, body);
        else
            body(S{});
    }

    void pack_queries(int64_t g, int64_t tile) {
        typed([&]<class T>(T) { pack_queries<T>(g, tile); });
    }

    template <class T>
    void pack_queries(int64_t g, int64_t tile) {
        const int64_t first = part.first_row(tile), rows = part.first_row(tile + 1) - first;
        typename K::A* out = packed_queries(g, tile);
        const T* from[MAX_ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            const auto [token, head] = place(g, first + r);
            from[r] = static_cast<const T*>(a.q) + token * a.token_stride + head * a.head_stride;
            if constexpr (INTEGERS<S>)
                K::pack(K::count(a.dtype), from[r], a.keys.size, steps, r, rows, out);
        }
        if constexpr (!INTEGERS<S>) pack_tile(from, rows, out);
    }

    // As a product takes them, [query_size][rows]. What is stored beyond a step's rows belongs to
    // the next, which comes later.
    template <class T>
    void pack_tile(const T* const* from, int64_t rows, typename K::A* out) {
        for (int64_t at = 0; at < a.keys.size; at += CHUNK<T>) {
            const Count<T> count(a.keys.size - at);
            u32 copies[LANES] = {}, v[LANES];
            for (int64_t r = 0; r < rows; ++r) copies[r] = count.of(from[r] + at);
            load_columns(reinterpret_cast<const uint32_t*>(copies), LANES, v);
            const int64_t some = ceil_div(count.count, PER_LANE<T>);
            for (int64_t i = 0; i < some; ++i) {
                if constexpr (M::DEPTH == 1 && PER_LANE<T> == 2) {
                    store_vector(out, v[i] << 16);
                    out += rows;
                    if (2 * i + 1 == count.count) break;
                    store_vector(out, v[i] & UPPER);
                } else {
                    store_vector(out, v[i]);
                }
                out += rows;
            }
        }
    }

    typename K::A* packed_queries(int64_t g, int64_t tile) {
        return queries + (g * part.rows + part.first_row(tile)) * query_size;
    }

    // What raw numbers of a group's keys and values are worth.
    void find_scales(const Offsets& here, int64_t g) {
        if constexpr (ROUNDED<S>)
            for (int64_t t = here.begin(); t < here.end(); ++t) {
                const int64_t at = here.slots[t] + group + g;
                key_scales[g * BLOCK + t] = a.keys.scales[at] * UNIT<S>;
                value_scales[g * BLOCK + t] = a.values.scales[at] * UNIT<S>;
            }
    }

    Tokens<S> tokens(const Cache& cache, const int64_t* offsets, int64_t g,
                     const int64_t* strides = nullptr) const {
        return {static_cast<const S*>(cache.data) + (group + g) * cache.head_stride, offsets,
                strides};
    }

    Ahead ahead(const Cache& cache, const int64_t* offsets, int64_t count) const {
        return {static_cast<const char*>(cache.data) +
                    static_cast<size_t>(group * cache.head_stride) * sizeof(S),
                offsets, count, (groups - 1) * cache.head_stride + cache.size, sizeof(S)};
    }

    template <class Body>
    void each_tile(Body&& body) {
        for (int64_t tile = 0; tile < part.tiles(); ++tile)
            with_rows(part.first_row(tile + 1) - part.first_row(tile),
                      [&]<int R>() { body.template operator()<R>(tile); });
    }

    // Few rows wait for memory: keys are read in the order in which they lie, all groups' of some
    // tokens after one another, then values are.
    template <class GainOf>
    void stream(const Offsets& here, const Offsets* next, GainOf&& gain, bool joins) {
        const int64_t begin = here.begin(), end = here.end();
        for (int64_t g = 0; g < groups; ++g) find_scales(here, g);
        for (int64_t at = begin; at < end; at += STEP) {
            Ahead more = at + STEP < end ? ahead(a.keys, here.keys + at + STEP, STEP)
                                         : ahead(a.values, here.values + begin, STEP);
            for (int64_t g = 0; g < groups; ++g) {
                make_keys<STEP>(here, g, more, at, keys);
                each_tile([&]<int R>(int64_t tile) {
                    score<R, STEP>(packed_queries(g, tile), keys, key_scales + g * BLOCK + at,
                                   row_of_scores(g, tile) + at, tile == 0 ? &more : nullptr);
                });
            }
        }
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t tile = 0; tile < part.tiles(); ++tile)
                gain(g).set_state(tile,
                                  weigh_tile(g, tile, here, begin, end, row_of_scores(g, tile)));
        for (int64_t at = begin; at < end; at += STEP) {
            Ahead more;
            if (at + STEP < end)
                more = ahead(a.values, here.values + at + STEP, STEP);
            else if (next)
                more = ahead(a.keys, next->keys + next->begin(), STEP);
            for (int64_t g = 0; g < groups; ++g)
                each_tile([&]<int R>(int64_t tile) {
                    mix<R>(row_of_scores(g, tile), tokens(a.values, here.values, g), more, at,
                           gain(g).row(part.first_row(tile)), at == begin);
                });
        }
        for (int64_t g = 0; joins && g < groups; ++g) join(g, gain(g));
    }

    float* row_of_scores(int64_t g, int64_t tile) {
        return scores + (g * part.rows + part.first_row(tile)) * STRIDE;
    }

    // Many rows: the first tile makes a block's keys and values ready, and every tile takes them
    // from the cache.
    void tiled(int64_t g, const Offsets& here, const Offsets* next, Gain gain, bool joins) {
        Ahead more_keys, more_values;
        if (next) {
            more_keys = ahead(a.keys, next->keys + next->begin(), next->end() - next->begin());
            more_values =
                ahead(a.values, next->values + next->begin(), next->end() - next->begin());
        }
        find_scales(here, g);
        each_tile([&]<int R>(int64_t tile) {
            const int64_t begin =
                std::max(here.begin(), seen_here(here, part.first_row(tile)).first / PANEL * PANEL);
            const int64_t end =
                std::min(here.end(), padded(seen_here(here, part.first_row(tile + 1) - 1).last));
            if (tile == 0)
                for (int64_t at = here.begin(); at < here.end(); at += PANEL)
                    make_keys<PANEL>(here, g, more_keys, at, keys + at / PANEL * key_size);
            for (int64_t at = begin; at < end; at += PANEL)
                score<R, PANEL>(packed_queries(g, tile), keys + at / PANEL * key_size,
                                key_scales + g * BLOCK + at, scores + at, nullptr);
            gain.set_state(tile, weigh_tile(g, tile, here, begin, end, scores));
            const auto* weights = reinterpret_cast<const typename M::A*>(scores) + begin / M::DEPTH;
            for (int64_t column = 0; column < columns; column += PANEL) {
                auto* panel = values + column / PANEL * value_size;
                if (tile == 0)
                    pack_values(tokens(a.values, here.values, g), more_values, here.begin(),
                                here.end(), column, a.values.size, panel);
                f32 c[R][PANEL_VECTORS] = {};
                multiply_rows<M, R>((end - begin) / M::DEPTH, weights,
                                    panel + begin / M::DEPTH * PANEL, c);
                for (int r = 0; r < R; ++r)
                    for (int i = 0; i < PANEL_VECTORS; ++i)
                        store(gain.row(part.first_row(tile) + r) + column + i * LANES, c[r][i]);
            }
            if (joins) join(g, tile, gain);
        });
    }

    // Keys of this block that a row sees.
    Seen seen_here(const Offsets& here, int64_t row) const {
        const Seen all = seen_of(a, part.request, part.row + row);
        return {std::clamp<int64_t>(all.first - here.start, 0, BLOCK),
                std::clamp<int64_t>(all.last - here.start, 0, BLOCK)};
    }

    // More chains of additions where there are few rows.
    template <int R>
    static constexpr int PANELS = R <= MAX_ROWS / 2 ? 2 : 1;

    template <int WIDTH>
    void make_keys(const Offsets& here, int64_t g, Ahead& ahead, int64_t first,
                   typename K::B* panel) {
        const auto keys = tokens(a.keys, here.keys, g, here.strides);
        if constexpr (ROUNDED<S>)
            pack_bytes<S, WIDTH>(keys, ahead, first, a.keys.size,
                                 reinterpret_cast<uint32_t*>(panel));
        else
            pack_keys<S, WIDTH>(keys, ahead, first, a.keys.size, panel);
    }

    // ahead: of which some lines are fetched meanwhile; null: none. Raw keys of one byte fetch
    // theirs when they are packed.
    template <int R, int WIDTH>
    __attribute__((noinline)) void score(const typename K::A* q, const typename K::B* panel,
                                         const float* scales, float* out, Ahead* ahead) {
        constexpr int VECTORS = std::min<int>(PANELS<R> * PANEL, WIDTH) / LANES;
        if constexpr (INTEGERS<S>) {
            score_digits<R, VECTORS, WIDTH>(K::count(a.dtype), steps, q, panel, scales, out,
                                            STRIDE);
        } else {
            const char* next = nullptr;
            if (ahead && !ROUNDED<S>) next = ahead->take(steps * WIDTH / PANEL / PANELS<R>);
            for (int at = 0; at < WIDTH; at += VECTORS * LANES) {
                f32 c[R][VECTORS] = {};
                if (next)
                    multiply<M, R, VECTORS>(steps, q, R, panel + at, WIDTH, c,
                                            [&](int64_t k) __attribute__((always_inline)) {
                                                __builtin_prefetch(
                                                    next + (at / VECTORS / LANES * steps + k) * 64,
                                                    0, 2);
                                            });
                else
                    multiply<M, R, VECTORS>(steps, q, R, panel + at, WIDTH, c);
                for (int r = 0; r < R; ++r)
                    for (int i = 0; i < VECTORS; ++i) {
                        if constexpr (ROUNDED<S>) c[r][i] *= load(scales + at + i * LANES);
                        store(out + r * STRIDE + at + i * LANES, c[r][i]);
                    }
            }
        }
    }

    State weigh_tile(int64_t g, int64_t tile, const Offsets& here, int64_t begin, int64_t end,
                     float* rows) {
        Seen seen[MAX_ROWS];
        const int64_t first = part.first_row(tile), count = part.first_row(tile + 1) - first;
        for (int64_t r = 0; r < count; ++r) seen[r] = seen_here(here, first + r);
        return weigh<S>(rows, count, seen, begin / LANES, end / LANES, static_cast<float>(a.scale),
                        static_cast<float>(a.soft_cap), value_scales + g * BLOCK);
    }

    // Adds the values of STEP tokens by their weights to what rows have of the tokens before.
    template <int R>
    __attribute__((noinline)) void mix(const float* rows, const Tokens<S>& v, Ahead& more,
                                       int64_t at, float* out, bool first) {
        constexpr int VECTORS = PANELS<R> * PANEL_VECTORS;
        constexpr int AT_ONCE = 4;
        // A panel's part of a token is a line, or half of one.
        constexpr int LINES = AT_ONCE * PANELS<R> * M::DEPTH / (ROUNDED<S> ? 2 : 1);
        const auto* weights = reinterpret_cast<const typename M::A*>(rows) + at / M::DEPTH;
        for (int64_t column = 0; column < columns; column += VECTORS * LANES) {
            const int64_t left = columns - column;
            const Columns<S> count[2] = {Columns<S>(a.values.size - column),
                                         Columns<S>(a.values.size - column - PANEL)};
            f32 c[R][VECTORS] = {};
            if (!first)
                for (int r = 0; r < R; ++r)
                    for (int i = 0; i < VECTORS; ++i)
                        if (i * LANES < left)
                            c[r][i] = load(out + r * columns + column + i * LANES);
            for (int64_t step = 0; step < STEP / M::DEPTH; ++step) {
                if (step % AT_ONCE == 0) more.fetch<LINES>();
                u32 x[PANELS<R>][PANEL_VECTORS];
#pragma GCC unroll 2
                for (int p = 0; p < PANELS<R>; ++p)
                    read_values(v, at + step * M::DEPTH, column + p * PANEL, count[p], x[p]);
#pragma GCC unroll 14
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                    for (int i = 0; i < VECTORS; ++i)
                        c[r][i] = M::multiply_add(c[r][i], weights[step + r * STRIDE],
                                                  reinterpret_cast<decltype(M::read(values, 0))>(
                                                      x[i / PANEL_VECTORS][i % PANEL_VECTORS]),
                                                  0);
            }
            for (int r = 0; r < R; ++r)
                for (int i = 0; i < VECTORS; ++i)
                    if (i * LANES < left) store(out + r * columns + column + i * LANES, c[r][i]);
        }
    }

    void join(int64_t g, const Gain& gain) {
        for (int64_t tile = 0; tile < part.tiles(); ++tile) join(g, tile, gain);
    }

    void join(int64_t g, int64_t tile, const Gain& gain) {
        const Joined joined(states[g * part.tiles() + tile], gain.state(tile));
        const int64_t first = part.first_row(tile), rows = part.first_row(tile + 1) - first;
        for (int64_t r = 0; r < rows; ++r) {
            float* to = mixed + (g * part.rows + first + r) * columns;
            const float* from = gain.row(first + r);
            const f32 old_factor = splat(joined.old_factor[r]);
            const f32 new_factor = splat(joined.new_factor[r]);
            for (int64_t c = 0; c < columns; c += LANES)
                store(to + c, multiply_add(load(to + c), old_factor, load(from + c) * new_factor));
        }
    }

    void finish() {
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t tile = 0; tile < part.tiles(); ++tile) finish(g, tile);
    }

    void finish(int64_t g, int64_t tile) {
        typed([&]<class T>(T) { finish<T>(g, tile); });
    }

    template <class T>
    void finish(int64_t g, int64_t tile) {
        const int64_t first = part.first_row(tile), rows = part.first_row(tile + 1) - first;
        State& state = states[g * part.tiles() + tile];
        f32 factor = splat(1.0f);
        if (a.sinks) {
            // One more key, of a value of zero, for those that saw any.
            f32 sinks = {};
            for (int64_t r = 0; r < rows; ++r)
                sinks[r] = widen(static_cast<const T*>(a.sinks)[place(g, first + r).second]);
            factor = Joined(state, State{sinks * LOG2_E, splat(1.0f)}).old_factor;
        }
        factor = state.sum == f32{} ? f32{} : factor / state.sum;
        for (int64_t r = 0; r < rows; ++r) {
            const auto [token, head] = place(g, first + r);
            T* out = static_cast<T*>(a.out) + (token * a.heads + head) * a.values.size;
            const float* from = mixed + (g * part.rows + first + r) * columns;
            for (int64_t column = 0; column < a.values.size; column += PANEL) {
                f32 v[PANEL_VECTORS];
                // Adding zero leaves no negative zero, which can come of how far a tile reaches.
                for (int i = 0; i < PANEL_VECTORS; ++i)
                    v[i] = load(from + column + i * LANES) * splat(factor[r]) + 0.0f;
                in_order<S>(v);
                for (int i = 0; i < PANEL_VECTORS; ++i) {
                    const int64_t left = a.values.size - column - i * LANES;
                    if (left >= LANES)
                        store(out + column + i * LANES, v[i]);
                    else if (left > 0)
                        store(out + column + i * LANES, v[i], left);
                }
            }
        }
    }

    const PagedAttention& a;
    const Part& part;
    const int64_t group, groups, shared, steps, query_size, columns, key_size, value_size;
    typename K::B* keys;     // panels of a block: [BLOCK / PANEL][key_size]
    typename M::B* values;   // [columns / PANEL][value_size]
    float* scores;           // [rows][STRIDE]
    typename K::A* queries;  // of each group and tile [query_size][rows]
    float* key_scales;       // [groups][BLOCK]
    float* value_scales;
    float* gains;   // of each group
    float* mixed;   // [groups][rows][columns]
    State* states;  // [groups][tiles]
};

template <class S>
void attention_of(const PagedAttention& a) {
    const Plan plan(a);
    float* kept = plan.kept ? scratch<float>(KEPT, plan.kept) : nullptr;
    parallel(static_cast<int64_t>(plan.tasks.size()), [&](int64_t i) {
        const Task& task = plan.tasks[i];
        const Part& part = plan.parts[task.part];
        Worker<S>(a, part, task.group, task.groups)
            .run(task.block, task.blocks, part.kept < 0 ? nullptr : kept + part.kept);
    });
    if (!plan.kept) return;
    parallel(static_cast<int64_t>(plan.parts.size()) * a.groups, [&](int64_t i) {
        const Part& part = plan.parts[i / a.groups];
        if (part.kept >= 0) Worker<S>(a, part, i % a.groups, 1).merge(kept + part.kept);
    });
}

}  // namespace

PIERIA_KERNEL(paged_attention, PagedAttention) {
    if (a.stored == STORED_INT8)
        attention_of<int8_t>(a);
    else if (a.stored == STORED_E4M3)
        attention_of<e4m3>(a);
    else
        with_type(a.dtype, [&]<class T>(T) { attention_of<T>(a); });
}

}  // namespace pieria
