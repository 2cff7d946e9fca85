// Keys and values: where they are in pages, and as products read them.
#pragma once

#include <type_traits>
#include <utility>

#include "paged_attention_plan.h"
#include "paged_attention_rounded.h"
#include "transpose.h"

namespace pieria {

// Keys that few rows take at once.
constexpr int64_t STEP = 2 * PANEL;

// How numbers of type T are multiplied: in pairs where there is an instruction for it, else as
// float32.
template <class T>
using Core = std::conditional_t<Mode<T>::PARTS == 1 && Mode<T>::DEPTH == 2, Mode<T>, Single<float>>;

// How queries meet keys that are held as S.
template <class S>
using Score = std::conditional_t<INTEGERS<S>, Digits, Core<S>>;

// Numbers are moved in lanes of 32 bits. Two of bf16 share a lane, and are parted by shifts: so a
// vector of values holds every second column, see `in_order`.
template <class T>
constexpr int PER_LANE = std::is_same_v<T, bf16> ? 2 : 1;
template <class T>
constexpr int64_t CHUNK = LANES * PER_LANE<T>;

// Numbers of a key that are turned at once.
template <class T>
constexpr int64_t KEY_CHUNK = ROUNDED<T> ? LANES * QUAD : CHUNK<T>;

constexpr u32 UPPER = u32{} + 0xffff0000;

// How many numbers of a chunk there are; the lanes of others are 0.
template <class T>
struct Count {
    explicit Count(int64_t left)
        : count(std::clamp<int64_t>(left, 0, CHUNK<T>)),
          mask(count >= 32 ? ~0u : (1u << count) - 1) {}

    u32 of(const T* from) const {
#if defined(__AVX512BW__)
        if constexpr (ROUNDED<T>)
            return reinterpret_cast<u32>(load_raw(from, mask));
        else if constexpr (sizeof(T) == 4)
            return reinterpret_cast<u32>(
                _mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), from));
        else if constexpr (PER_LANE<T> == 2)
            return reinterpret_cast<u32>(_mm512_maskz_loadu_epi16(mask, from));
        else
            return reinterpret_cast<u32>(
                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from)));
#else
        T values[CHUNK<T>] = {};
        if (count < CHUNK<T>) {
            std::memcpy(values, from, static_cast<size_t>(count) * sizeof(T));
            from = values;
        }
        if constexpr (ROUNDED<T>)
            return reinterpret_cast<u32>(load_raw(from));
        else if constexpr (std::is_same_v<T, f16>)
            return reinterpret_cast<u32>(load(from));
        else
            return load_vector<u32>(from);
#endif
    }

    int64_t count;
    uint32_t mask;
};

// Where the tokens of a block are in a cache, for one head.
template <class T>
struct Tokens {
    const T* base;
    const int64_t* offsets;
    const int64_t* strides;

    const T* operator[](int64_t token) const { return base + offsets[token]; }
};

// Memory that will be read next, a row of some heads of each of some tokens. It is fetched in
// order, a line for every line that is read now: neither waits for the other.
struct Ahead {
    template <int LINES>
    void fetch() {
        if (at + 64 * LINES <= end) {
#pragma GCC unroll 16
            for (int i = 0; i < LINES; ++i) __builtin_prefetch(at + 64 * i, 0, 2);
            at += 64 * LINES;
        } else {
            for (int i = 0; i < LINES && (at < end || go_on()); ++i, at += 64)
                __builtin_prefetch(at, 0, 2);
        }
    }

    // So many lines for the caller to fetch; null where they do not lie side by side, or are none.
    const char* take(int64_t lines) {
        if (at + 64 * lines > end) return nullptr;
        return std::exchange(at, at + 64 * lines);
    }

    // To the next rows that lie side by side.
    bool go_on() {
        if (tokens == 0) return false;
        const int64_t first = *offsets;
        int64_t count = 1;
        while (count < tokens && offsets[count] == first + count * row) ++count;
        at = base + first * number_bytes;
        end = at + count * row * number_bytes;
        offsets += count, tokens -= count;
        return true;
    }

    const char* base = nullptr;
    const int64_t* offsets = nullptr;
    int64_t tokens = 0, row = 0, number_bytes = 0;
    const char *at = nullptr, *end = nullptr;
};

// Keys of the tokens [first, first + WIDTH) as a panel of that width.
template <class T, int WIDTH>
__attribute__((noinline)) void pack_keys(const Tokens<T>& tokens, Ahead& ahead, int64_t first,
                                         int64_t size, typename Core<T>::B* panel) {
    for (int64_t some = first; some < first + WIDTH; some += LANES, panel += LANES) {
        // Rows that are evenly apart, as those of a page are, can be read where they are.
        const int64_t stride = tokens.strides[some / LANES];
        const bool even = !std::is_same_v<T, f16> && stride % PER_LANE<T> == 0 && stride;
        for (int64_t at = 0; at < size; at += CHUNK<T>) {
            u32 copies[LANES], v[LANES];
            const auto* rows = reinterpret_cast<const uint32_t*>(tokens[some] + at);
            int64_t apart = stride / PER_LANE<T>;
            if (!even || at + CHUNK<T> > size) {
                const Count<T> count(size - at);
                for (int i = 0; i < LANES; ++i) copies[i] = count.of(tokens[some + i] + at);
                rows = reinterpret_cast<const uint32_t*>(copies), apart = LANES;
            }
            load_columns(rows, apart, v);
            ahead.fetch<WIDTH == STEP ? 12 : LANES>();
            auto* out = panel + at / Core<T>::DEPTH * WIDTH;
            for (int i = 0; i < LANES; ++i)
                if constexpr (Core<T>::DEPTH == 1 && PER_LANE<T> == 2) {
                    store_vector(out + 2 * i * WIDTH, v[i] << 16);
                    store_vector(out + (2 * i + 1) * WIDTH, v[i] & UPPER);
                } else {
                    store_vector(out + i * WIDTH, v[i]);
                }
        }
    }
}

// Up to 64 bytes, the others 0.
inline u32 load_bytes(const void* from, int64_t count) {
#if defined(__AVX512BW__)
    const uint64_t mask = count >= 64 ? ~uint64_t{} : (uint64_t{1} << count) - 1;
    return reinterpret_cast<u32>(_mm512_maskz_loadu_epi8(mask, from));
#else
    u32 bytes = {};
    std::memcpy(&bytes, from, static_cast<size_t>(std::min<int64_t>(count, 64)));
    return bytes;
#endif
}

// The same of keys that are bytes.
template <class S, int WIDTH>
__attribute__((noinline)) void pack_bytes(const Tokens<S>& tokens, Ahead& ahead, int64_t first,
                                          int64_t size, uint32_t* panel) {
    for (int64_t some = first; some < first + WIDTH; some += LANES, panel += LANES) {
        const int64_t stride = tokens.strides[some / LANES];
        for (int64_t at = 0; at < size; at += QUAD * LANES) {
            u32 copies[LANES], v[LANES];
            const auto* rows = reinterpret_cast<const uint32_t*>(tokens[some] + at);
            int64_t apart = stride / QUAD;
            if (!stride || stride % QUAD || at + QUAD * LANES > size) {
                for (int i = 0; i < LANES; ++i)
                    copies[i] = load_bytes(tokens[some + i] + at, size - at);
                rows = reinterpret_cast<const uint32_t*>(copies), apart = LANES;
            }
            load_columns(rows, apart, v);
            ahead.fetch<LANES>();
            for (int i = 0; i < LANES; ++i)
                if constexpr (INTEGERS<S>) {
                    store_vector(panel + (at / QUAD + i) * WIDTH, v[i] ^ 0x80808080u);
                } else {
                    for (int byte = 0; byte < QUAD; ++byte)
                        store_vector(panel + (at + QUAD * i + byte) * WIDTH, raw_of<S>(v[i], byte));
                }
        }
    }
}

// Which of the columns from some on there are, for `read_values`.
template <class T>
struct Columns {
    explicit Columns(int64_t left) : first(left), second(left - LANES) {}

    Count<T> first, second;  // a chunk each
};

// Values of DEPTH tokens as a product's step takes them, PANEL columns from `column` on.
template <class T>
inline void read_values(const Tokens<T>& tokens, int64_t token, int64_t column,
                        const Columns<T>& columns, u32 (&out)[PANEL_VECTORS]) {
    const u32 a = columns.first.of(tokens[token] + column);
    if constexpr (Core<T>::DEPTH == 2) {
        const u32 b = columns.first.of(tokens[token + 1] + column);
        out[0] = (a & ~UPPER) | b << 16;
        out[1] = a >> 16 | (b & UPPER);
    } else if constexpr (PER_LANE<T> == 2) {
        out[0] = a << 16;
        out[1] = a & UPPER;
    } else {
        out[0] = a;
        out[1] = columns.second.of(tokens[token] + column + LANES);
    }
}

// The same of the tokens [first, last) as a panel: [BLOCK / DEPTH][PANEL].
template <class T>
__attribute__((noinline)) void pack_values(const Tokens<T>& tokens, Ahead& ahead, int64_t first,
                                           int64_t last, int64_t column, int64_t size,
                                           typename Core<T>::B* panel) {
    const Columns<T> columns(size - column);
    for (int64_t token = first; token < last; token += Core<T>::DEPTH) {
        u32 v[PANEL_VECTORS];
        read_values(tokens, token, column, columns, v);
        auto* out = panel + token / Core<T>::DEPTH * PANEL;
        for (int i = 0; i < PANEL_VECTORS; ++i) store_vector(out + i * LANES, v[i]);
        ahead.fetch<Core<T>::DEPTH>();
    }
}

// A panel's two vectors of mixed values, with their columns in order again.
template <class T>
inline void in_order(f32 (&v)[PANEL_VECTORS]) {
    if constexpr (PER_LANE<T> == 2) {
        const f32 even = v[0], odd = v[1];
        v[0] = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                       7, 23);
        v[1] = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                       30, 15, 31);
    }
}

// Where the tokens of a block are in both caches. In place of those that none of a part's rows
// sees there is the nearest that one does: so all that is read is finite if the request's own is.
struct Offsets {
    void find(const PagedAttention& a, const Part& part, int64_t block) {
        start = block * BLOCK;
        first = std::max<int64_t>(0, part.seen.first - start);
        last = std::min(BLOCK, part.seen.last - start);
        const int64_t* pages = a.table + part.request.index * a.table_stride;
        int64_t page = (start + first) / a.page_tokens;
        int64_t slot = (start + first) % a.page_tokens;
        for (int64_t t = first; t < last; ++page, slot = 0) {
            int64_t key = pages[page] * a.keys.page_stride + slot * a.keys.token_stride;
            int64_t value = pages[page] * a.values.page_stride + slot * a.values.token_stride;
            const int64_t stop = std::min(last, t + a.page_tokens - slot);
            if (a.keys.scales)
                for (int64_t i = t, at = pages[page] * a.page_tokens + slot; i < stop; ++i, ++at)
                    slots[i] = at * a.groups;
            for (; t < stop; ++t, key += a.keys.token_stride, value += a.values.token_stride)
                keys[t] = key, values[t] = value;
        }
        const auto repeat = [&](int64_t t, int64_t from) {
            keys[t] = keys[from], values[t] = values[from];
            if (a.keys.scales) slots[t] = slots[from];
        };
        for (int64_t t = begin(); t < first; ++t) repeat(t, first);
        for (int64_t t = last; t < end(); ++t) repeat(t, last - 1);
        for (int64_t t = begin(); t < end(); t += LANES) {
            const int64_t stride = keys[t + 1] - keys[t];
            bool even = true;
            for (int i = 1; i < LANES; ++i) even &= keys[t + i] - keys[t + i - 1] == stride;
            strides[t / LANES] = even ? stride : 0;
        }
    }

    // The tokens that are seen, to whole panels.
    int64_t begin() const { return first / STEP * STEP; }
    int64_t end() const { return ceil_div(last, STEP) * STEP; }

    int64_t start;        // the block's first token
    int64_t first, last;  // the tokens that are seen, from there on
    int64_t keys[BLOCK], values[BLOCK];
    int64_t slots[BLOCK];            // of the first group's scales, where there are any
    int64_t strides[BLOCK / LANES];  // of the keys of sixteen tokens; 0: they are not evenly apart
};

}  // namespace pieria
