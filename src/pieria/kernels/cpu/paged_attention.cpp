// Attention over pages (Dao 2023, arXiv:2307.08691), prompt chunks and single tokens alike.
//
// A row is a query token and a head; those that read the same keys, so neighbouring tokens and the
// heads of a group, stand side by side in a product. Keys are taken in blocks counted from the
// request's first token. What a row gets of a block, its greatest score, the sum of its weights and
// their mix of values, depends on that block alone, and blocks are joined in order. So a row's bits
// depend neither on the rows beside it nor on which thread did which blocks.
#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "activation.h"
#include "args.h"
#include "panels.h"
#include "pool.h"

namespace pieria {
namespace {

struct Cache {
    const void* data;
    int64_t page_stride, token_stride, head_stride;
    int64_t size;  // numbers of a token and head
};

struct PagedAttention {
    int64_t dtype;
    const void* q;  // [tokens, heads, keys.size]
    int64_t token_stride, head_stride;
    int64_t heads, groups, page_tokens;
    Cache keys, values;
    const int64_t* table;  // [requests, pages]
    int64_t table_stride;
    const int64_t* starts;    // [requests + 1]
    const int64_t* contexts;  // [requests]
    int64_t requests;
    double scale;
    int64_t window;     // 0: none
    double soft_cap;    // 0: none
    const void* sinks;  // [heads]; null: none
    void* out;          // [tokens, heads, values.size]
};

enum Purpose { WORK = 2, RESULTS };

// Keys of a block.
constexpr int64_t BLOCK = 256;
// Between rows of scores, so that they are not all in the same sets of a cache.
constexpr int64_t STRIDE = BLOCK + LANES;
// Rows that a task takes at most through all keys: their results stay in the second level cache,
// and making keys and values ready is little beside what they are used for.
constexpr int64_t TASK_ROWS = MAX_ROWS * 16;

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

constexpr i32 LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a * b + c, rounded once where the processor can, whatever the compiler makes of its neighbours.
inline f32 multiply_add(f32 a, f32 b, f32 c) {
#if defined(__AVX512F__)
    return reinterpret_cast<f32>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#else
    return a * b + c;
#endif
}

// 2^x for x <= 0, within 2e-7 of it; exactly 1 at 0, exactly 0 from -127 down.
inline f32 exp2_negative(f32 x) {
    // Lifts whole numbers to the last bits of a float, as the exponent of 2 to their power.
    constexpr float SHIFT = 0x1.8p23f + 127;
    const f32 low = splat(-127.0f);
    const f32 y = low > x ? low : x;
    const f32 lifted = y + SHIFT;
    const f32 r = y - (lifted - SHIFT);
    f32 p = splat(0.001326472614891827f);
    p = p * r + 0.009671512991189957f;
    p = p * r + 0.05550733581185341f;
    p = p * r + 0.24022242426872253f;
    p = p * r + 0.6931470036506653f;
    p = p * r + 1.0f;
    return p * reinterpret_cast<f32>(reinterpret_cast<u32>(lifted) << 23);
}

// --- Transposition

#if defined(__AVX512F__)
constexpr int SQUARE = 16;
#elif defined(__AVX2__)
constexpr int SQUARE = 8;
#else
constexpr int SQUARE = 4;
#endif
using Square = uint32_t __attribute__((vector_size(4 * SQUARE)));

// The lanes of a and b in turn: those of their first half, or of their second.
template <bool SECOND>
inline Square interleave(Square a, Square b) {
    constexpr int H = SECOND ? SQUARE / 2 : 0;
#if defined(__AVX512F__)
    return __builtin_shufflevector(a, b, H, H + 16, H + 1, H + 17, H + 2, H + 18, H + 3, H + 19,
                                   H + 4, H + 20, H + 5, H + 21, H + 6, H + 22, H + 7, H + 23);
#elif defined(__AVX2__)
    return __builtin_shufflevector(a, b, H, H + 8, H + 1, H + 9, H + 2, H + 10, H + 3, H + 11);
#else
    return __builtin_shufflevector(a, b, H, H + 4, H + 1, H + 5);
#endif
}

// Interleaving the two halves of all vectors moves the first bit of an element's place to the end;
// doing so for every bit of its row exchanges row and column.
inline void transpose_square(Square (&v)[SQUARE]) {
    for (int bits = 1; bits < SQUARE; bits *= 2) {
        Square w[SQUARE];
        for (int i = 0; i < SQUARE / 2; ++i) {
            w[2 * i] = interleave<false>(v[i], v[i + SQUARE / 2]);
            w[2 * i + 1] = interleave<true>(v[i], v[i + SQUARE / 2]);
        }
        std::memcpy(&v, &w, sizeof v);
    }
}

inline void transpose(u32 (&v)[LANES]) {
    if constexpr (SQUARE == LANES) {
        transpose_square(reinterpret_cast<Square(&)[SQUARE]>(v));
    } else {
        uint32_t from[LANES][LANES], to[LANES][LANES];
        std::memcpy(from, v, sizeof v);
        for (int i = 0; i < LANES; i += SQUARE)
            for (int j = 0; j < LANES; j += SQUARE) {
                Square square[SQUARE];
                for (int r = 0; r < SQUARE; ++r)
                    std::memcpy(&square[r], &from[i + r][j], sizeof(Square));
                transpose_square(square);
                for (int r = 0; r < SQUARE; ++r)
                    std::memcpy(&to[j + r][i], &square[r], sizeof(Square));
            }
        std::memcpy(v, to, sizeof v);
    }
}

// --- Keys and values as products read them

// How numbers of type T are multiplied: in pairs where there is an instruction for it, else as
// float32, into which they are converted once for all rows.
template <class T>
using Core = std::conditional_t<Mode<T>::PARTS == 1 && Mode<T>::DEPTH == 2, Mode<T>, Single<float>>;

// Numbers are moved in lanes of 32 bits. Two of bf16 share a lane, and are parted by shifts: so a
// vector of values holds every second column, see `in_order`.
template <class T>
constexpr int PER_LANE = std::is_same_v<T, bf16> ? 2 : 1;
template <class T>
constexpr int64_t CHUNK = LANES * PER_LANE<T>;

constexpr uint32_t UPPER = 0xffff0000;

template <class T>
inline u32 chunk(const T* from) {
    if constexpr (std::is_same_v<T, f16>)
        return reinterpret_cast<u32>(load(from));
    else
        return load_vector<u32>(from);
}
// The first `count` numbers, the others 0.
template <class T>
inline u32 chunk(const T* from, int64_t count) {
    if (count >= CHUNK<T>) return chunk(from);
    T values[CHUNK<T>] = {};
    std::memcpy(values, from, static_cast<size_t>(count) * sizeof(T));
    return chunk(values);
}

// Where the tokens of a block are in a cache, for one head.
template <class T>
struct Tokens {
    const T* base;  // null: there are none
    const int64_t* offsets;

    const T* operator[](int64_t token) const { return base + offsets[token]; }
};

// Of a line that is to be read soon.
template <class T>
inline void fetch(const Tokens<T>& tokens, int64_t token, int64_t at) {
    if (tokens.base && at * sizeof(T) % 64 == 0) __builtin_prefetch(tokens[token] + at, 0, 2);
}

// Keys of the tokens [first, first + PANEL) as a panel: [steps][PANEL].
template <class T>
__attribute__((noinline)) void pack_keys(const Tokens<T>& tokens, const Tokens<T>& next,
                                         int64_t first, int64_t size, typename Core<T>::B* panel) {
    for (int64_t half = 0; half < PANEL; half += LANES)
        for (int64_t at = 0; at < size; at += CHUNK<T>) {
            u32 v[LANES];
            for (int i = 0; i < LANES; ++i) {
                const int64_t token = first + half + i;
                v[i] = chunk(tokens[token] + at, size - at);
                fetch(next, token, at);
            }
            transpose(v);
            auto* out = panel + at / Core<T>::DEPTH * PANEL + half;
            for (int i = 0; i < LANES; ++i)
                if constexpr (Core<T>::DEPTH == 1 && PER_LANE<T> == 2) {
                    store_vector(out + 2 * i * PANEL, v[i] << 16);
                    store_vector(out + (2 * i + 1) * PANEL, v[i] & UPPER);
                } else {
                    store_vector(out + i * PANEL, v[i]);
                }
        }
}

// Numbers [column, column + PANEL) of the values of the tokens [first, last) as a panel:
// [BLOCK / DEPTH][PANEL].
template <class T>
__attribute__((noinline)) void pack_values(const Tokens<T>& tokens, const Tokens<T>& next,
                                           int64_t first, int64_t last, int64_t column,
                                           int64_t size, typename Core<T>::B* panel) {
    const int64_t left = size - column;
    for (int64_t token = first; token < last; token += Core<T>::DEPTH) {
        auto* out = panel + token / Core<T>::DEPTH * PANEL;
        if constexpr (Core<T>::DEPTH == 2) {
            const u32 a = chunk(tokens[token] + column, left);
            const u32 b = chunk(tokens[token + 1] + column, left);
            store_vector(out, (a & ~UPPER) | b << 16);
            store_vector(out + LANES, a >> 16 | (b & UPPER));
            fetch(next, token, column);
            fetch(next, token + 1, column);
        } else if constexpr (PER_LANE<T> == 2) {
            const u32 a = chunk(tokens[token] + column, left);
            store_vector(out, a << 16);
            store_vector(out + LANES, a & UPPER);
            fetch(next, token, column);
        } else {
            for (int64_t v = 0; v < PANEL; v += LANES) {
                const int64_t count = std::max<int64_t>(0, left - v);
                store_vector(out + v, chunk(tokens[token] + column + v, count));
                fetch(next, token, column + v);
            }
        }
    }
}

// A panel's two vectors of mixed values, with their columns in order again.
template <class T>
inline void in_order(f32 (&v)[PANEL_VECTORS]) {
    if constexpr (PER_LANE<T> == 2) {
        float even[LANES], odd[LANES], all[PANEL];
        store_vector(even, v[0]);
        store_vector(odd, v[1]);
        for (int i = 0; i < LANES; ++i) all[2 * i] = even[i], all[2 * i + 1] = odd[i];
        std::memcpy(&v, all, sizeof v);
    }
}

// --- One tile of rows

// What rows have so far: their greatest score, in powers of two, and the sum of their weights
// relative to it; a lane each.
struct State {
    f32 most = splat(-INFINITE), sum = {};
};

// The factors of what rows have and of what they get, and the state they have then.
struct Joined {
    Joined(State& state, const State& more) {
        const f32 most = max(state.most, more.most);
        // Where nothing was seen yet, any number will do in place of minus infinity.
        const f32 base = most == -INFINITE ? f32{} : most;
        old_factor = exp2_negative(state.most - base);
        new_factor = exp2_negative(more.most - base);
        state.sum = multiply_add(state.sum, old_factor, more.sum * new_factor);
        state.most = most;
    }

    f32 old_factor, new_factor;
};

inline f32 join(f32 old_value, float old_factor, f32 new_value, float new_factor) {
    return multiply_add(old_value, splat(old_factor), new_value * splat(new_factor));
}

// Keys that a row sees, from the block's first on: [first, last).
struct Seen {
    int64_t first, last;
};

// Each row's greatest or summed lane, as a lane each. Lanes are joined in the order of `sum`.
template <class Join>
inline f32 across(const f32 (&rows)[LANES], Join&& join) {
    u32 bits[LANES];
    std::memcpy(bits, rows, sizeof bits);
    transpose(bits);
    f32 v[LANES];
    std::memcpy(v, bits, sizeof v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) v[i] = join(v[i], v[i + width]);
    return v[0];
}

// Scores become weights, 2^(factor * score - most), in their place; as pairs of T where a product
// takes those. Scores are of vectors [begin, end) of keys.
template <class T>
__attribute__((noinline)) State weigh(float* scores, int64_t rows, const Seen* seen, int64_t begin,
                                      int64_t end, float scale, float soft_cap) {
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
            if constexpr (Core<T>::DEPTH == 2)
                store(reinterpret_cast<T*>(row) + v * LANES, weight);
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

// --- Division of the work

inline int64_t padded(int64_t size) { return ceil_div(size, PANEL) * PANEL; }

struct Request {
    Request(const PagedAttention& a, int64_t r)
        : index(r),
          rows((a.starts[r + 1] - a.starts[r]) * (a.heads / a.groups)),
          position(a.contexts[r] - (a.starts[r + 1] - a.starts[r])) {}

    int64_t index;
    int64_t rows;      // of one group: row i is token i / (heads / groups)
    int64_t position;  // of the first query token
};

// Keys that a row of a request sees.
inline Seen seen_of(const PagedAttention& a, const Request& request, int64_t row) {
    const int64_t position = request.position + row / (a.heads / a.groups);
    const int64_t last = std::max<int64_t>(0, position + 1);
    return {a.window ? std::max<int64_t>(0, last - a.window) : 0, last};
}

// Neighbouring rows of each group of a request, with the blocks of keys that any of them sees.
struct Part {
    Part(const PagedAttention& a, const Request& request, int64_t row, int64_t rows)
        : request(request),
          row(row),
          rows(rows),
          seen{seen_of(a, request, row).first, seen_of(a, request, row + rows - 1).last},
          block(seen.first / BLOCK),
          blocks(seen.last > seen.first ? ceil_div(seen.last, BLOCK) - block : 0) {}

    int64_t tiles() const { return tiles_of(rows); }
    int64_t first_row(int64_t tile) const { return rows * tile / tiles(); }

    Request request;
    int64_t row, rows;
    Seen seen;
    int64_t block, blocks;
    // Where the results of its blocks are kept, one of a block and group after the other; -1: they
    // are not, as one task takes a group's rows through all blocks.
    int64_t results = -1;
};

// Floats of the result of a block and group: the state of each tile, and each row's mix.
inline int64_t result_size(const PagedAttention& a, const Part& part) {
    return part.tiles() * 2 * LANES + part.rows * padded(a.values.size);
}

// Some groups of a part through some of its blocks.
struct Task {
    int64_t part, group, groups, block, blocks;
};

struct Plan {
    explicit Plan(const PagedAttention& a) {
        const int64_t threads = pool_threads();
        int64_t work = 0;
        for (int64_t r = 0; r < a.requests; ++r) work += work_of(a, Request(a, r));
        // One thread does best with few long tasks, several with some more tasks than they are.
        const int64_t wanted = threads == 1 ? 1 : threads * 4;
        for (int64_t r = 0; r < a.requests; ++r) {
            const Request request(a, r);
            if (request.rows == 0) continue;
            // A request without keys has no work, but rows that are to be zero.
            add(a, request,
                std::max<int64_t>(
                    1, ceil_div(work_of(a, request) * wanted, std::max<int64_t>(1, work))));
        }
    }

    std::vector<Part> parts;
    std::vector<Task> tasks;
    int64_t results = 0;  // floats

 private:
    // Counted in rows through a block; to make a block ready is worth as much as a few.
    static int64_t work_of(const PagedAttention& a, const Request& request) {
        if (request.rows == 0) return 0;
        return Part(a, request, 0, request.rows).blocks * a.groups * (request.rows + 8);
    }

    // As about so many tasks.
    void add(const PagedAttention& a, const Request& request, int64_t wanted) {
        const int64_t blocks = std::max<int64_t>(1, Part(a, request, 0, request.rows).blocks);
        // Few rows are done for all groups in turn, as their keys lie side by side.
        const bool few = request.rows <= 32;
        const int64_t by_row = ceil_div(request.rows, TASK_ROWS);
        const int64_t by_block =
            by_row > 1 ? 1 : std::clamp<int64_t>(ceil_div(wanted, few ? 1 : a.groups), 1, blocks);
        const int64_t by_group = few ? std::min(a.groups, ceil_div(wanted, by_block)) : a.groups;
        const int64_t rows = std::max(ceil_div(wanted, by_group * by_block), by_row);
        const int64_t step =
            std::max<int64_t>(ceil_div(ceil_div(request.rows, rows), MAX_ROWS), 4) * MAX_ROWS;
        // Later rows see more keys, and long tasks should start first.
        for (int64_t row = (request.rows - 1) / step * step; row >= 0; row -= step) {
            Part part(a, request, row, std::min(step, request.rows - row));
            const int64_t ranges = std::min(by_block, std::max<int64_t>(1, part.blocks));
            if (ranges > 1) {
                part.results = results;
                results += part.blocks * a.groups * result_size(a, part);
            }
            for (int64_t range = 0; range < ranges; ++range) {
                const int64_t block = part.blocks * range / ranges;
                const int64_t end = part.blocks * (range + 1) / ranges;
                for (int64_t g = 0; g < by_group; ++g) {
                    const int64_t group = a.groups * g / by_group;
                    tasks.push_back({static_cast<int64_t>(parts.size()), group,
                                     a.groups * (g + 1) / by_group - group, part.block + block,
                                     end - block});
                }
            }
            parts.push_back(part);
        }
    }
};

// --- A task

// Where the tokens of a block are in both caches. In place of those that none of a part's rows
// sees there is the nearest that one does: so all that is read is finite if the request's own is.
struct Offsets {
    void find(const PagedAttention& a, const Part& part, int64_t block) {
        first = std::max<int64_t>(0, part.seen.first - block * BLOCK);
        last = std::min(BLOCK, part.seen.last - block * BLOCK);
        const int64_t* pages = a.table + part.request.index * a.table_stride;
        int64_t page = (block * BLOCK + first) / a.page_tokens;
        int64_t slot = (block * BLOCK + first) % a.page_tokens;
        for (int64_t t = first; t < last; ++t) {
            keys[t] = pages[page] * a.keys.page_stride + slot * a.keys.token_stride;
            values[t] = pages[page] * a.values.page_stride + slot * a.values.token_stride;
            if (++slot == a.page_tokens) ++page, slot = 0;
        }
        for (int64_t t = first / PANEL * PANEL; t < first; ++t)
            keys[t] = keys[first], values[t] = values[first];
        for (int64_t t = last; t < padded(last); ++t)
            keys[t] = keys[last - 1], values[t] = values[last - 1];
    }

    int64_t first, last;  // the tokens that are seen
    int64_t keys[BLOCK], values[BLOCK];
};

template <class T>
struct Worker {
    using M = Core<T>;

    Worker(const PagedAttention& a, const Part& part, int64_t groups)
        : a(a),
          part(part),
          shared(a.heads / a.groups),
          steps(steps_of<M>(a.keys.size)),
          columns(padded(a.values.size)) {
        const int64_t key_steps = ceil_div(a.keys.size, CHUNK<T>) * CHUNK<T> / M::DEPTH;
        int64_t bytes = 0;
        const auto place = [&](int64_t size) {
            return std::exchange(bytes, bytes + ceil_div(size, 64) * 64);
        };
        const int64_t at_keys = place(BLOCK * key_steps * sizeof(typename M::B));
        const int64_t at_values = place(BLOCK / M::DEPTH * columns * sizeof(typename M::B));
        const int64_t at_scores = place(MAX_ROWS * STRIDE * sizeof(float));
        const int64_t at_queries = place(groups * part.rows * steps * sizeof(typename M::A));
        const int64_t at_mixed = place(groups * part.rows * columns * sizeof(float));
        const int64_t at_states = place(groups * part.tiles() * sizeof(State));
        char* memory = scratch<char>(WORK, bytes);
        key_size = key_steps * PANEL;
        value_size = BLOCK / M::DEPTH * PANEL;
        keys = reinterpret_cast<typename M::B*>(memory + at_keys);
        values = reinterpret_cast<typename M::B*>(memory + at_values);
        scores = reinterpret_cast<float*>(memory + at_scores);
        queries = reinterpret_cast<typename M::A*>(memory + at_queries);
        mixed = reinterpret_cast<float*>(memory + at_mixed);
        states = reinterpret_cast<State*>(memory + at_states);
    }

    void run(const Task& task, float* results) {
        for (int64_t g = 0; g < task.groups; ++g)
            for (int64_t tile = 0; tile < part.tiles(); ++tile)
                pack_queries(task.group + g, g, tile);
        if (!results) clear(task.groups);
        Offsets offsets[2];
        if (task.blocks) offsets[0].find(a, part, task.block);
        for (int64_t b = 0; b < task.blocks; ++b) {
            const Offsets &here = offsets[b % 2], &following = offsets[(b + 1) % 2];
            if (b + 1 < task.blocks) offsets[(b + 1) % 2].find(a, part, task.block + b + 1);
            for (int64_t g = 0; g < task.groups; ++g) {
                const int64_t group = task.group + g;
                const bool same = g + 1 < task.groups, any = same || b + 1 < task.blocks;
                const Offsets& next = same ? here : following;
                const int64_t next_group = same ? group + 1 : task.group;
                const Tokens<T> k = tokens(a.keys, here.keys, group),
                                v = tokens(a.values, here.values, group);
                const Tokens<T> next_k = any ? tokens(a.keys, next.keys, next_group) : Tokens<T>{},
                                next_v =
                                    any ? tokens(a.values, next.values, next_group) : Tokens<T>{};
                float* result = nullptr;
                if (results)
                    result = results + ((task.block + b - part.block) * a.groups + group) *
                                           result_size(a, part);
                for (int64_t tile = 0; tile < part.tiles(); ++tile)
                    with_rows(part.first_row(tile + 1) - part.first_row(tile), [&]<int R>() {
                        attend<R>(task.block + b, g, tile, here, k, v, next_k, next_v, result);
                    });
            }
        }
        if (!results)
            for (int64_t g = 0; g < task.groups; ++g)
                for (int64_t tile = 0; tile < part.tiles(); ++tile) finish(task.group + g, g, tile);
    }

    // Joins the results of all blocks of one group.
    void merge(int64_t group, const float* results) {
        clear(1);
        for (int64_t b = 0; b < part.blocks; ++b) {
            const float* result = results + (b * a.groups + group) * result_size(a, part);
            const float* from = result + part.tiles() * 2 * LANES;
            for (int64_t tile = 0; tile < part.tiles(); ++tile) {
                const State more{load(result + tile * 2 * LANES),
                                 load(result + tile * 2 * LANES + LANES)};
                const Joined joined(states[tile], more);
                for (int64_t row = part.first_row(tile); row < part.first_row(tile + 1); ++row) {
                    const int64_t lane = row - part.first_row(tile);
                    for (int64_t c = row * columns; c < (row + 1) * columns; c += LANES)
                        store(mixed + c, join(load(mixed + c), joined.old_factor[lane],
                                              load(from + c), joined.new_factor[lane]));
                }
            }
        }
        for (int64_t tile = 0; tile < part.tiles(); ++tile) finish(group, 0, tile);
    }

 private:
    static Tokens<T> tokens(const Cache& cache, const int64_t* offsets, int64_t group) {
        return {static_cast<const T*>(cache.data) + group * cache.head_stride, offsets};
    }

    void clear(int64_t groups) {
        std::fill_n(mixed, groups * part.rows * columns, 0.0f);
        std::fill_n(states, groups * part.tiles(), State{});
    }

    // The token of the call and the head that a row of the part is.
    std::pair<int64_t, int64_t> place(int64_t group, int64_t row) const {
        row += part.row;
        return {a.starts[part.request.index] + row / shared, group * shared + row % shared};
    }

    void pack_queries(int64_t group, int64_t g, int64_t tile) {
        const int64_t first = part.first_row(tile), rows = part.first_row(tile + 1) - first;
        typename M::A* out = queries + (g * part.rows + first) * steps;
        for (int64_t r = 0; r < rows; ++r) {
            const auto [token, head] = place(group, first + r);
            const T* q = static_cast<const T*>(a.q) + token * a.token_stride + head * a.head_stride;
            for (int64_t k = 0; k < a.keys.size / M::DEPTH; ++k)
                if constexpr (M::DEPTH == 2)
                    std::memcpy(&out[k * rows + r], q + 2 * k, sizeof *out);
                else
                    out[k * rows + r] = widen(q[k]);
            if (a.keys.size % M::DEPTH) {
                typename M::A last{};
                std::memcpy(&last, q + a.keys.size - 1, sizeof(T));
                out[(steps - 1) * rows + r] = last;
            }
        }
    }

    // One tile of rows through one block. The first tile makes the block's keys and values ready
    // for all.
    template <int R>
    __attribute__((noinline)) void attend(int64_t block, int64_t g, int64_t tile,
                                          const Offsets& here, const Tokens<T>& k,
                                          const Tokens<T>& v, const Tokens<T>& next_k,
                                          const Tokens<T>& next_v, float* result) {
        const int64_t first = part.first_row(tile);
        Seen seen[R];
        for (int r = 0; r < R; ++r) {
            const Seen all = seen_of(a, part.request, part.row + first + r);
            seen[r] = {std::clamp<int64_t>(all.first - block * BLOCK, 0, BLOCK),
                       std::clamp<int64_t>(all.last - block * BLOCK, 0, BLOCK)};
        }
        const int64_t begin = seen[0].first / PANEL, end = ceil_div(seen[R - 1].last, PANEL);
        const int64_t all_begin = here.first / PANEL, all_end = ceil_div(here.last, PANEL);
        const bool packs = tile == 0, once = part.tiles() == 1;

        const auto* q = queries + (g * part.rows + first) * steps;
        for (int64_t p = packs ? all_begin : begin; p < (packs ? all_end : end); ++p) {
            auto* panel = keys + (once ? 0 : p * key_size);
            if (packs) pack_keys(k, next_k, p * PANEL, a.keys.size, panel);
            if (p < begin || p >= end) continue;
            f32 c[R][PANEL_VECTORS] = {};
            multiply<M, R, PANEL_VECTORS>(steps, q, R, panel, PANEL, c);
            for (int r = 0; r < R; ++r)
                for (int i = 0; i < PANEL_VECTORS; ++i)
                    store(scores + r * STRIDE + p * PANEL + i * LANES, c[r][i]);
        }

        const State more = weigh<T>(scores, R, seen, begin * PANEL_VECTORS, end * PANEL_VECTORS,
                                    static_cast<float>(a.scale), static_cast<float>(a.soft_cap));
        float *into = mixed + (g * part.rows + first) * columns, factors[2][LANES];
        if (result) {
            store(result + tile * 2 * LANES, more.most);
            store(result + tile * 2 * LANES + LANES, more.sum);
            into = result + part.tiles() * 2 * LANES + first * columns;
        } else {
            const Joined joined(states[g * part.tiles() + tile], more);
            store(factors[0], joined.old_factor);
            store(factors[1], joined.new_factor);
        }

        const auto* weights = reinterpret_cast<const typename M::A*>(scores);
        for (int64_t column = 0; column < columns; column += PANEL) {
            auto* panel = values + (once ? 0 : column / PANEL * value_size);
            if (packs)
                pack_values(v, next_v, all_begin * PANEL, all_end * PANEL, column, a.values.size,
                            panel);
            const int64_t skipped = begin * PANEL / M::DEPTH;
            f32 c[R][PANEL_VECTORS] = {};
            multiply_rows<M, R>((end - begin) * PANEL / M::DEPTH, weights + skipped,
                                panel + skipped * PANEL, c);
            for (int r = 0; r < R; ++r)
                for (int i = 0; i < PANEL_VECTORS; ++i) {
                    float* to = into + r * columns + column + i * LANES;
                    store(to,
                          result ? c[r][i] : join(load(to), factors[0][r], c[r][i], factors[1][r]));
                }
        }
    }

    void finish(int64_t group, int64_t g, int64_t tile) {
        const int64_t first = part.first_row(tile), rows = part.first_row(tile + 1) - first;
        State& state = states[g * part.tiles() + tile];
        f32 factor = splat(1.0f);
        if (a.sinks) {
            // One more key, of a value of zero, for those that saw any.
            f32 sinks = {};
            for (int64_t r = 0; r < rows; ++r)
                sinks[r] = widen(static_cast<const T*>(a.sinks)[place(group, first + r).second]);
            factor = Joined(state, State{sinks * LOG2_E, splat(1.0f)}).old_factor;
        }
        factor = state.sum == f32{} ? f32{} : factor / state.sum;
        for (int64_t r = 0; r < rows; ++r) {
            const auto [token, head] = place(group, first + r);
            T* out = static_cast<T*>(a.out) + (token * a.heads + head) * a.values.size;
            const float* from = mixed + (g * part.rows + first + r) * columns;
            for (int64_t column = 0; column < a.values.size; column += PANEL) {
                f32 v[PANEL_VECTORS];
                // Adding zero leaves no negative zero, which can come of how far a tile reaches.
                for (int i = 0; i < PANEL_VECTORS; ++i)
                    v[i] = load(from + column + i * LANES) * splat(factor[r]) + 0.0f;
                in_order<T>(v);
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
    int64_t shared, steps, columns, key_size, value_size;
    typename M::B *keys, *values;  // panels of a block
    float* scores;                 // [MAX_ROWS][STRIDE]
    typename M::A* queries;        // of each group and tile [steps][rows]
    float* mixed;                  // [groups][rows][columns]
    State* states;                 // [groups][tiles]
};

template <class T>
void attention_of(const PagedAttention& a) {
    const Plan plan(a);
    float* results = plan.results ? scratch<float>(RESULTS, plan.results) : nullptr;
    parallel(static_cast<int64_t>(plan.tasks.size()), [&](int64_t i) {
        const Task& task = plan.tasks[i];
        const Part& part = plan.parts[task.part];
        Worker<T>(a, part, task.groups)
            .run(task, part.results < 0 ? nullptr : results + part.results);
    });
    if (!plan.results) return;
    parallel(static_cast<int64_t>(plan.parts.size()) * a.groups, [&](int64_t i) {
        const Part& part = plan.parts[i / a.groups];
        if (part.results >= 0) Worker<T>(a, part, 1).merge(i % a.groups, results + part.results);
    });
}

}  // namespace

PIERIA_KERNEL(paged_attention, PagedAttention) {
    with_type(a.dtype, [&]<class T>(T) { attention_of<T>(a); });
}

}  // namespace pieria
