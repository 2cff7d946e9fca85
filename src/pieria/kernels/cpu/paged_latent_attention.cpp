// Attention over latents in pages: every head of every query reads the same latents, which are keys
// and values at once.
//
// Columns are (query, head) pairs. Scores are made as latents times columns, so that a softmax goes
// down vectors of columns, and weights come out as the rows that the product with values reads.
//
// What a column gives is computed in one order whatever else is in the call: its latents, counted
// from its request's first, fall into splits, and those into blocks. Blocks of a split are added
// with a running maximum; splits are computed as if alone and merged in order. Latents that a
// column does not see have weight 0, which changes nothing.
#include <algorithm>

#include "args.h"
#include "paged_attention_rounded.h"
#include "panels.h"
#include "pool.h"

namespace pieria {
namespace {

struct PagedLatentAttention {
    int64_t dtype, stored;  // of queries, and what the cache holds
    const void* value;      // what of a query meets the value; then the rest of it
    int64_t value_stride, value_head;
    const void* key;
    int64_t key_stride, key_head;
    int64_t heads, rank, size;
    const void* cache;
    const float* scales;  // [pages, page_tokens]; null: numbers are as they are
    int64_t page_tokens;
    const int64_t* table;
    int64_t table_stride;
    const int64_t* starts;
    const int64_t* contexts;
    int64_t requests;
    double scale;
    void* out;
};

// The memory of a task, what split tasks give, and what tasks there are.
enum Purpose { WORK = 8, GIVEN, TASKS };

constexpr int64_t BLOCK = 128;
constexpr int64_t SPLIT = 512;
// Panels of columns that share one reading of the latents.
constexpr int64_t PANELS = 2;

// Between chunks of a block's latents, a panel wide; a line more, as neighbours' addresses must not
// be multiples of 4096 apart.
constexpr int64_t CHUNK = BLOCK * PANEL + LANES;

constexpr float INFINITE = std::numeric_limits<float>::infinity();

// Either pairs of bfloat16, where they are multiplied at once, or float32.
template <class T>
constexpr bool PAIRS = std::is_same_v<typename Mode<T>::A, uint32_t>;
template <class T>
using Product = std::conditional_t<PAIRS<T>, Mode<T>, Single<float>>;

// Columns [first, first + count) of a request, for which latents [begin, end) are read.
struct Task {
    int64_t request, first, count;
    int64_t begin, end;
    float* given;  // where the result of a split goes; null: all splits, to `out`
};

inline int64_t lines(int64_t bytes) { return (bytes + 63) / 64; }

inline void transpose(f32 (&v)[LANES]) {
    const auto exchange = [&]<int W>(std::integral_constant<int, W>) {
        i32 low, high;
        for (int j = 0; j < LANES; ++j) {
            low[j] = j & W ? LANES + j - W : j;
            high[j] = j & W ? LANES + j : j + W;
        }
        for (int i = 0; i < LANES; ++i) {
            if (i & W) continue;
            const f32 a = v[i], b = v[i + W];
            v[i] = __builtin_shuffle(a, b, low);
            v[i + W] = __builtin_shuffle(a, b, high);
        }
    };
    exchange(std::integral_constant<int, 1>{});
    exchange(std::integral_constant<int, 2>{});
    exchange(std::integral_constant<int, 4>{});
    exchange(std::integral_constant<int, 8>{});
}

// c = A B, where A is in chunks of a panel's width, [chunks][`stride` elements], of which the first
// are the tile's rows. On the way, LINES lines of each of `next` are fetched a chunk: what the next
// block has in place of these rows.
template <class M, int LINES, int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_rows(int64_t steps, const typename M::A* a,
                                                         int64_t stride, const typename M::B* b,
                                                         f32 (&c)[ROWS][VECTORS],
                                                         const char* const (&next)[PANEL]) {
    static_assert(M::PARTS == 1);
    // Of its own, so that the compiler need not fear that it is what `a` points to.
    f32 sums[ROWS][VECTORS] = {};
    for (int64_t chunk = 0; chunk * PANEL < steps; ++chunk, a += stride) {
        const int64_t left = std::min<int64_t>(PANEL, steps - chunk * PANEL);
        for (int64_t k = 0; k < left; ++k, b += PANEL) {
            for (int line = 0; line < LINES; ++line)
                __builtin_prefetch(next[k] + (chunk * LINES + line) * 64, 0, 2);
            decltype(M::read(b, 0)) columns[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) columns[v] = M::read(b + v * LANES, 0);
#pragma GCC unroll 28
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; ++v)
                    sums[r][v] = M::multiply_add(sums[r][v], a[r * PANEL + k], columns[v], 0);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) c[r][v] = sums[r][v];
}

// The result of some columns so far: of each its largest score and the sum of its weights, then
// panels of 32 values of all of them.
struct Result {
    float *largest, *sums, *values;
    static int64_t floats(int64_t columns, int64_t panels) {
        return columns * (2 + panels * PANEL);
    }
    Result(float* at, int64_t columns)
        : largest(at), sums(at + columns), values(at + 2 * columns) {}
};

// S: what the cache holds, and queries too, unless it is rounded.
template <class S>
class Attention {
 public:
    using T = std::conditional_t<ROUNDED<S>, float, S>;  // what is computed with
    using M = Product<T>;
    using A = typename M::A;
    using B = typename M::B;

    explicit Attention(const PagedLatentAttention& a)
        : a(a), steps(steps_of<M>(a.size)), value_panels(panels_of(a.rank)) {}

    static int64_t columns_of(const Task& t) { return (t.count + LANES - 1) / LANES * LANES; }

    int64_t result_floats(const Task& t) const {
        return Result::floats(columns_of(t), value_panels);
    }

    // All of a task: one split of some columns, or all splits of them.
    void run(const Task& t) {
        allocate(t);
        const int64_t columns = columns_of(t);
        if (t.begin < t.end) pack_queries(t);
        for (int64_t begin = t.begin; begin < t.end; begin += SPLIT) {
            const bool alone = t.given || begin == 0;
            Result r(t.given ? t.given : (alone ? sum : part), columns);
            split(t, begin, std::min(begin + SPLIT, t.end), r);
            if (!alone) merge(Result(sum, columns), r, columns);
        }
        if (!t.given) write(t, Result(sum, columns));
    }

    // sum = sum and part. A part without a visible latent changes nothing.
    void merge(const Result& sum, const Result& part, int64_t columns) const {
        for (int64_t c = 0; c < columns; c += LANES) {
            const f32 before = load(sum.largest + c), other = load(part.largest + c);
            const f32 largest = max(other, before);
            const f32 keep = exp(before - largest), add = exp(other - largest);
            store(sum.largest + c, largest);
            store(sum.sums + c, load(sum.sums + c) * keep + load(part.sums + c) * add);
            for (int64_t p = 0; p < value_panels; ++p)
                for (int64_t i = 0; i < LANES; ++i)
                    for (int64_t v = 0; v < PANEL; v += LANES) {
                        const int64_t at = (p * columns + c + i) * PANEL + v;
                        store(sum.values + at,
                              load(sum.values + at) * keep[i] + load(part.values + at) * add[i]);
                    }
        }
    }

    void write(const Task& t, const Result& r) const {
        typed([&]<class Q>(Q) { write<Q>(t, r); });
    }

 private:
    // body(Q{}) for the type of queries and of what comes out.
    template <class Body>
    void typed(Body&& body) const {
        if constexpr (ROUNDED<S>)
            with_type(a.dtype, body);
        else
            body(S{});
    }

    template <class Q>
    void write(const Task& t, const Result& r) const {
        const int64_t columns = columns_of(t);
        for (int64_t i = 0; i < t.count; ++i) {
            Q* out =
                static_cast<Q*>(a.out) + (a.starts[t.request] * a.heads + t.first + i) * a.rank;
            const bool sees = limit(t, i) > 0;
            const float inverse = sees ? 1.0f / r.sums[i] : 0.0f;
            for (int64_t c = 0; c < a.rank; c += LANES) {
                const float* from = r.values + (c / PANEL * columns + i) * PANEL + c % PANEL;
                const f32 v = sees ? load(from) * inverse : f32{};
                if (c + LANES <= a.rank)
                    store(out + c, v);
                else
                    store(out + c, v, a.rank - c);
            }
        }
    }

    void allocate(const Task& t) {
        const int64_t columns = columns_of(t), panels = panels_of(columns);
        int64_t floats = 0;
        const auto take = [&](int64_t bytes) {
            const int64_t at = floats;
            floats += lines(bytes) * 16;
            return at;
        };
        const int64_t result = result_floats(t) * int64_t{sizeof(float)};
        const int64_t at[] = {take(panels * steps * PANEL * int64_t{sizeof(B)}),
                              take((steps + PANEL - 1) / PANEL * CHUNK * int64_t{sizeof(A)}),
                              take(PAIRS<T> ? BLOCK / 2 * value_panels * PANEL * 4 : 0),
                              take(panels * BLOCK * PANEL * int64_t{sizeof(float)}),
                              take(panels * PANEL * int64_t{sizeof(float)}),
                              take(result),
                              take(result),
                              take(LANES * (steps * M::DEPTH + 2 * LANES) * int64_t{sizeof(T)})};
        float* memory = scratch<float>(WORK, floats);
        queries = reinterpret_cast<B*>(memory + at[0]);
        latents = reinterpret_cast<A*>(memory + at[1]);
        pairs = reinterpret_cast<B*>(memory + at[2]);
        weights = memory + at[3];
        factors = memory + at[4];
        sum = memory + at[5];
        part = memory + at[6];
        rows = reinterpret_cast<T*>(memory + at[7]);
    }

    int64_t slot(const Task& t, int64_t i) const {
        const int64_t page = a.table[t.request * a.table_stride + i / a.page_tokens];
        return page * a.page_tokens + i % a.page_tokens;
    }

    const S* latent(const Task& t, int64_t i) const {
        return static_cast<const S*>(a.cache) + slot(t, i) * a.size;
    }

    // How many latents a column sees.
    int64_t limit(const Task& t, int64_t i) const {
        const int64_t queries = a.starts[t.request + 1] - a.starts[t.request];
        return a.contexts[t.request] - queries + (t.first + i) / a.heads + 1;
    }

    // Columns side by side: [panels][steps][32].
    void pack_queries(const Task& t) {
        typed([&]<class Q>(Q) { pack_queries<Q>(t); });
    }

    template <class Q>
    void pack_queries(const Task& t) {
        const int64_t width = steps * M::DEPTH + 2 * LANES;
        for (int64_t c = 0; c < columns_of(t); c += LANES) {
            for (int64_t i = 0; i < LANES; ++i) {
                T* row = rows + i * width;
                std::memset(row, 0, static_cast<size_t>(width) * sizeof(T));
                if (c + i >= t.count) continue;
                const int64_t token = a.starts[t.request] + (t.first + c + i) / a.heads;
                const int64_t head = (t.first + c + i) % a.heads;
                const Q* value =
                    static_cast<const Q*>(a.value) + token * a.value_stride + head * a.value_head;
                const Q* key =
                    static_cast<const Q*>(a.key) + token * a.key_stride + head * a.key_head;
                for (int64_t k = 0; k < a.rank; ++k) row[k] = number(value[k]);
                for (int64_t k = a.rank; k < a.size; ++k) row[k] = number(key[k - a.rank]);
            }
            B* to = queries + c / PANEL * steps * PANEL + c % PANEL;
            for (int64_t k = 0; k < steps; k += LANES) {
                f32 v[LANES];
                for (int i = 0; i < LANES; ++i) {
                    if constexpr (PAIRS<T>)
                        v[i] = load_vector<f32>(rows + i * width + 2 * k);
                    else
                        v[i] = load(rows + i * width + k);
                }
                transpose(v);
                for (int64_t i = 0; i < std::min<int64_t>(LANES, steps - k); ++i)
                    store_vector(to + (k + i) * PANEL, v[i]);
            }
        }
    }

    static T number(T x) { return x; }
    template <class Q>
        requires(!std::is_same_v<Q, T>)
    static T number(Q x) {
        return widen(x);
    }

    // Latents [begin, end) in chunks, and as pairs of rows where those are multiplied at once.
    void read_block(const Task& t, int64_t begin, int64_t end) {
        constexpr int64_t WIDTH = PANEL * M::DEPTH;  // numbers of a chunk
        for (int64_t i = begin; i < end; ++i) {
            const S* from = latent(t, i);
            A* to = latents + (i - begin) * PANEL;
            const float scale = ROUNDED<S> ? a.scales[slot(t, i)] * UNIT<S> : 1.0f;
            int64_t k = 0;
            for (; k + WIDTH <= a.size; k += WIDTH, to += CHUNK) copy(from + k, WIDTH, scale, to);
            if (k < a.size) copy(from + k, a.size - k, scale, to);
        }
        if constexpr (PAIRS<T>) {
            for (int64_t i = 0; i < end - begin; i += 2)
                for (int64_t c = 0; c < value_panels * PANEL; c += LANES) {
                    const A* low = latents + c / WIDTH * CHUNK + i * PANEL + c % WIDTH / 2;
                    u32 both = __builtin_convertvector(load_vector<u16>(low), u32);
                    if (begin + i + 1 < end)
                        both |= __builtin_convertvector(load_vector<u16>(low + PANEL), u32) << 16;
                    store_vector(pairs + (c / PANEL * BLOCK / 2 + i / 2) * PANEL + c % PANEL, both);
                }
        }
    }

    static void copy(const S* from, int64_t count, float scale, A* to) {
        if constexpr (ROUNDED<S>) {
            for (int64_t k = 0; k < count; k += LANES) {
                S some[LANES] = {};
                const int64_t left = std::min<int64_t>(LANES, count - k);
                std::memcpy(some, from + k, static_cast<size_t>(left));
                store(to + k, load_raw(some) * scale, left);
            }
        } else if constexpr (PAIRS<T>) {
            if (count % 2) to[count / 2] = 0;
            std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
        } else {
            int64_t k = 0;
            for (; k + LANES <= count; k += LANES) store(to + k, load(from + k));
            if (k < count) store(to + k, load(from + k, count - k), count - k);
        }
    }

    // Scores of one panel's columns, of which there are VECTORS vectors, for `count` latents.
    template <int VECTORS>
    void score(const Task& t, int64_t begin, int64_t count, const B* panel, float* scores,
               bool fetch) {
        constexpr int ROWS = MAX_ROWS * PANEL_VECTORS / VECTORS;
        const int64_t tiles = (count + ROWS - 1) / ROWS;
        const f32 scale = splat(static_cast<float>(a.scale));
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t first = count * tile / tiles;
            with_rows<ROWS>(count * (tile + 1) / tiles - first, [&]<int R>() {
                f32 c[R][VECTORS];
                const char* next[PANEL];
                for (int64_t r = 0; r < PANEL; ++r) {
                    const int64_t ahead = begin + BLOCK + first + std::min<int64_t>(r, R - 1);
                    next[r] = reinterpret_cast<const char*>(
                        latent(t, fetch && ahead < t.end ? ahead : begin));
                }
                // None of bytes, of which a chunk is less than a line.
                constexpr int LINES = PANEL * M::DEPTH * int{sizeof(S)} / 64;
                multiply_rows<M, LINES>(steps, latents + first * PANEL, CHUNK, panel, c, next);
                for (int r = 0; r < R; ++r)
                    for (int v = 0; v < VECTORS; ++v)
                        store(scores + (first + r) * PANEL + v * LANES, c[r][v] * scale);
            });
        }
    }

    // Scores of a vector of columns to weights; what was added before is to be multiplied by
    // `factor`.
    void weigh(const Task& t, int64_t column, int64_t begin, int64_t count, float* scores,
               float* factor, const Result& r, bool fresh) {
        i32 limits;
        bool whole = true;
        for (int i = 0; i < LANES; ++i) {
            limits[i] = static_cast<int32_t>(
                column + i < t.count ? std::clamp<int64_t>(limit(t, column + i) - begin, 0, BLOCK)
                                     : 0);
            whole = whole && limits[i] >= count;
        }
        const f32 before = fresh ? splat(-INFINITE) : load(r.largest + column);
        f32 largest = before;
        for (int64_t k = 0; k < count; ++k) {
            f32 s = load(scores + k * PANEL);
            if (!whole) {
                s = limits > splat(static_cast<int32_t>(k)) ? s : splat(-INFINITE);
                store(scores + k * PANEL, s);
            }
            largest = max(s, largest);
        }
        // Where nothing is visible, weights are to be 0 and not NaN.
        const f32 shift = largest == splat(-INFINITE) ? f32{} : largest;
        f32 total{};
        f32 even{};
        for (int64_t k = 0; k < count; ++k) {
            const f32 w = exp(load(scores + k * PANEL) - shift);
            total += w;
            if constexpr (PAIRS<T>) {
                if (k % 2 == 0) {
                    even = w;
                    if (k + 1 < count) continue;
                }
                store_vector(scores + k / 2 * PANEL, k % 2 ? joined(even, w) : joined(w, f32{}));
            } else {
                store(scores + k * PANEL, w);
            }
        }
        const f32 keep = exp(before - shift);
        store(factor, keep);
        store(r.largest + column, largest);
        store(r.sums + column, fresh ? total : load(r.sums + column) * keep + total);
    }

    static u32 joined(f32 low, f32 high) {
        uint16_t l[LANES], h[LANES];
        store(reinterpret_cast<bf16*>(l), low);
        store(reinterpret_cast<bf16*>(h), high);
        return __builtin_convertvector(load_vector<u16>(l), u32) |
               __builtin_convertvector(load_vector<u16>(h), u32) << 16;
    }

    // Latents [begin, end) as if there were no others before them.
    void split(const Task& t, int64_t begin, int64_t end, const Result& r) {
        for (int64_t block = begin; block < end; block += BLOCK)
            add_block(t, block, std::min(block + BLOCK, end), r, block == begin);
    }

    void add_block(const Task& t, int64_t begin, int64_t end, const Result& r, bool fresh) {
        const int64_t columns = columns_of(t);
        read_block(t, begin, end);
        for (int64_t column = 0; column < columns; column += PANEL) {
            const int64_t panel = column / PANEL;
            const int64_t vectors = std::min<int64_t>(PANEL, columns - column) / LANES;
            const B* q = queries + panel * steps * PANEL;
            float* scores = weights + panel * BLOCK * PANEL;
            if (vectors == 1)
                score<1>(t, begin, end - begin, q, scores, column == 0);
            else
                score<2>(t, begin, end - begin, q, scores, column == 0);
            for (int64_t v = 0; v < vectors; ++v)
                weigh(t, column + v * LANES, begin, end - begin, scores + v * LANES,
                      factors + column + v * LANES, r, fresh);
        }
        const int64_t count = (end - begin + M::DEPTH - 1) / M::DEPTH;
        for (int64_t p = 0; p < value_panels; ++p) {
            const B* values;
            if constexpr (PAIRS<T>)
                values = pairs + p * BLOCK / 2 * PANEL;
            else
                values = latents + p * CHUNK;
            for (int64_t column = 0; column < columns; column += PANEL) {
                const A* w = reinterpret_cast<const A*>(weights + column * BLOCK);
                const int64_t rows = std::min<int64_t>(PANEL, columns - column);
                const int64_t tiles = tiles_of(rows);
                for (int64_t tile = 0; tile < tiles; ++tile) {
                    const int64_t first = rows * tile / tiles;
                    float* sums = r.values + (p * columns + column + first) * PANEL;
                    const float* keep = factors + column + first;
                    with_rows(rows * (tile + 1) / tiles - first, [&]<int R>() {
                        f32 c[R][PANEL_VECTORS];
                        for (int i = 0; i < R; ++i)
                            for (int v = 0; v < PANEL_VECTORS; ++v)
                                c[i][v] =
                                    fresh ? f32{} : load(sums + i * PANEL + v * LANES) * keep[i];
                        multiply<M, R, PANEL_VECTORS>(count, w + first, PANEL, values, PANEL, c);
                        for (int i = 0; i < R; ++i)
                            for (int v = 0; v < PANEL_VECTORS; ++v)
                                store(sums + i * PANEL + v * LANES, c[i][v]);
                    });
                }
            }
        }
    }

    const PagedLatentAttention& a;
    int64_t steps, value_panels;

    B* queries;
    A* latents;
    B* pairs;
    float *weights, *factors, *sum, *part;
    T* rows;
};

template <class S>
void attend(const PagedLatentAttention& a) {
    // Groups of columns, then how many of their splits are tasks of their own: all, where one group
    // has more than a thread's fair share.
    const auto groups_of = [&](int64_t r) {
        const int64_t columns = (a.starts[r + 1] - a.starts[r]) * a.heads;
        return (panels_of(columns) + PANELS - 1) / PANELS;
    };
    int64_t groups = 0, splits = 0, work = 0;
    for (int64_t r = 0; r < a.requests; ++r) {
        const int64_t columns = (a.starts[r + 1] - a.starts[r]) * a.heads;
        const int64_t context = std::max<int64_t>(a.contexts[r], 0);
        groups += groups_of(r);
        splits += groups_of(r) * ((context + SPLIT - 1) / SPLIT);
        work += columns * context;
    }
    const int64_t share = work / (2 * pool_threads());
    Attention<S> shape(a);
    auto* tasks = scratch<Task>(TASKS, groups + splits + groups);
    Task* wholes = tasks + groups + splits;
    int64_t count = 0, cut = 0, floats = 0;
    for (int64_t r = 0; r < a.requests; ++r) {
        const int64_t queries = a.starts[r + 1] - a.starts[r], columns = queries * a.heads;
        const int64_t panels = panels_of(columns), n = groups_of(r);
        for (int64_t g = 0; g < n; ++g) {
            const int64_t first = panels * g / n * PANEL;
            const int64_t last = std::min(columns, panels * (g + 1) / n * PANEL);
            const int64_t end =
                std::max<int64_t>(a.contexts[r] - queries + (last - 1) / a.heads + 1, 0);
            Task task{r, first, last - first, 0, end, nullptr};
            if ((last - first) * end <= share || end <= SPLIT || pool_threads() == 1) {
                tasks[count++] = task;
                continue;
            }
            wholes[cut++] = task;
            floats += (end + SPLIT - 1) / SPLIT * shape.result_floats(task);
        }
    }
    float* given = scratch<float>(GIVEN, floats);
    for (int64_t i = 0; i < cut; ++i) {
        wholes[i].given = given;
        for (int64_t begin = 0; begin < wholes[i].end; begin += SPLIT) {
            Task task = wholes[i];
            task.begin = begin, task.end = std::min(begin + SPLIT, task.end), task.given = given;
            tasks[count++] = task;
            given += shape.result_floats(task);
        }
    }
    parallel(count, [&](int64_t i) { Attention<S>(a).run(tasks[i]); });
    parallel(cut, [&](int64_t i) {
        const Task& t = wholes[i];
        const int64_t columns = Attention<S>::columns_of(t), size = shape.result_floats(t);
        const Result sum(t.given, columns);
        for (int64_t s = 1; s * SPLIT < t.end; ++s)
            shape.merge(sum, Result(t.given + s * size, columns), columns);
        shape.write(t, sum);
    });
}

}  // namespace

PIERIA_KERNEL(paged_latent_attention, PagedLatentAttention) {
    if (a.stored == STORED_INT8)
        attend<int8_t>(a);
    else if (a.stored == STORED_E4M3)
        attend<e4m3>(a);
    else
        with_type(a.dtype, [&]<class T>(T) { attend<T>(a); });
}

}  // namespace pieria
