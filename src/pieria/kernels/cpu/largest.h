// The largest of a row of numbers, in order, without sorting the row.
//
// One pass notes the largest of every few numbers. These maxima say where the largest numbers of
// the row are, and bound from below as many of them as are wanted.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "pool.h"
#include "simd.h"

namespace pieria {

enum LargestPurpose { MAXIMA = 12, ENTRIES };

constexpr float INFINITE = std::numeric_limits<float>::infinity();
constexpr int64_t GROUP = 256, GROUP_VECTORS = GROUP / LANES;

// Numbers in groups; what the last one lacks is minus infinity.
template <class T>
struct Row {
    const T* numbers;
    int64_t size, groups;
    float last[GROUP];  // the last group, if it is not whole

    Row(const T* from, int64_t count)
        : numbers(from), size(count), groups((count + GROUP - 1) / GROUP) {
        const int64_t whole = count / GROUP * GROUP;
        if (whole == count) return;
        std::fill_n(last, GROUP, -INFINITE);
        for (int64_t i = whole; i < count; ++i) last[i - whole] = widen(from[i]);
    }

    // body(the numbers of group g), which are T or float.
    template <class Body>
    auto group(int64_t g, Body&& body) const {
        return (g + 1) * GROUP <= size ? body(numbers + g * GROUP) : body(last);
    }
};

// Of each group g, maxima[g]: lane i of it has the largest number that lane i of a vector has.
// Returns the largest number of all; a NaN if there is one.
template <class T>
float largest(const Row<T>& row, f32* maxima) {
    f32 all = splat(-INFINITE);
    u32 magnitude = {};
    for (int64_t g = 0; g < row.groups; ++g) {
        row.group(g, [&](const auto* x) {
            constexpr int CHAINS = 4;
            f32 found[CHAINS];
            for (int64_t v = 0; v < GROUP_VECTORS; v += CHAINS) {
                for (int64_t c = 0; c < CHAINS; ++c) {
                    const f32 numbers = load(x + (v + c) * LANES);
                    const u32 doubled = reinterpret_cast<u32>(numbers) << 1;
                    found[c] = v == 0 ? numbers : max(found[c], numbers);
                    magnitude = magnitude > doubled ? magnitude : doubled;
                }
            }
            maxima[g] = max(max(found[0], found[1]), max(found[2], found[3]));
            all = max(all, maxima[g]);
        });
    }
    constexpr uint32_t infinite = 0xff000000u;
    if (bits(reinterpret_cast<i32>(magnitude > infinite)))
        return std::numeric_limits<float>::quiet_NaN();
    return max(all);
}

// body(place, number) for numbers that are not below `least`, but below `end`, in order; padding
// may be among them if `least` is minus infinity.
template <class T, class Body>
void each_between(const Row<T>& row, const f32* maxima, float least, float end, Body&& body) {
    for (int64_t g = 0; g < row.groups; ++g) {
        if (!bits(maxima[g] >= least)) continue;
        row.group(g, [&](const auto* x) {
            for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
                const f32 numbers = load(x + v * LANES);
                uint32_t left = bits((numbers >= least) & (numbers < end));
                for (; left; left &= left - 1) {
                    const int64_t lane = __builtin_ctz(left);
                    body(g * GROUP + v * LANES + lane, widen(x[v * LANES + lane]));
                }
            }
        });
    }
}

// The first place of a number; 0 if it is not there.
template <class T>
int64_t place_of(const Row<T>& row, const f32* maxima, float number) {
    for (int64_t g = 0; g < row.groups; ++g) {
        if (!bits(maxima[g] == number)) continue;
        for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
            const uint32_t found =
                row.group(g, [&](const auto* x) { return bits(load(x + v * LANES) == number); });
            if (found) return g * GROUP + v * LANES + __builtin_ctz(found);
        }
    }
    return 0;
}

// Whether what lies at or above a number is enough, and how many numbers that are.
enum Reach { TOO_LITTLE, ENOUGH, UNKNOWN };
struct Reached {
    Reach reach;
    int64_t count;
};

// Numbers at `below` and above are enough, at `above` and above too little.
struct Range {
    float below, above;
};

// Narrows down where enough is reached until `slack` numbers are in between, or no further.
// reach(x) -> Reached; `least`, below which nothing is looked for, is enough.
template <class Body>
Range narrowed(float top, float least, int64_t slack, Body&& reach) {
    Range range{least, std::nextafter(top, INFINITE)};
    int64_t below = std::numeric_limits<int64_t>::max(), above = 0;
    float step = 1;
    for (int i = 0; i < 40 && below - above > slack; ++i) {
        // Down in growing steps until it is enough, then by halves.
        const bool down = range.below == least;
        const float middle = down ? top - step : 0.5f * range.below + 0.5f * range.above;
        step *= 2;
        if (!(middle > range.below && middle < range.above)) break;
        const Reached found = reach(middle);
        if (found.reach == UNKNOWN) break;
        (found.reach == ENOUGH ? range.below : range.above) = middle;
        (found.reach == ENOUGH ? below : above) = found.count;
    }
    return range;
}

inline int64_t sum(i32 v) {
    int64_t all = 0;
    for (int i = 0; i < LANES; ++i) all += v[i];
    return all;
}

// A number that at least `count` of the row are not below, and not many more.
template <class T>
float bound(const Row<T>& row, const f32* maxima, float top, int64_t count, float least) {
    // The maxima tell it well only of numbers that are much fewer than they are.
    const bool told = count <= row.groups * LANES / 4 * 3;
    const auto reach = [&](float x) {
        i32 found = {};
        for (int64_t g = 0; g < row.groups; ++g) {
            if (told) {
                found -= maxima[g] >= x;
            } else {
                row.group(g, [&](const auto* numbers) {
                    for (int64_t v = 0; v < GROUP_VECTORS; ++v)
                        found -= load(numbers + v * LANES) >= x;
                });
            }
        }
        const int64_t all = sum(found);
        return Reached{all < count ? TOO_LITTLE : ENOUGH, all};
    };
    return narrowed(top, least, count / 4 + LANES, reach).below;
}

// A number and its place, such that entries in order are numbers in falling order.
inline uint64_t entry_of(int64_t place, float number) {
    const float zeros_are_equal = number + 0.0f;
    uint32_t rising;
    std::memcpy(&rising, &zeros_are_equal, sizeof rising);
    rising ^= rising >> 31 ? 0xffffffffu : 0x80000000u;
    return uint64_t{~rising} << 32 | static_cast<uint32_t>(place);
}
inline int64_t place_in(uint64_t entry) { return static_cast<uint32_t>(entry); }
inline float number_in(uint64_t entry) {
    uint32_t rising = ~static_cast<uint32_t>(entry >> 32);
    rising ^= rising >> 31 ? 0x80000000u : 0xffffffffu;
    float number;
    std::memcpy(&number, &rising, sizeof number);
    return number;
}

// Entries whose places rise are put in order; `other` is room for as many. Returns where they are.
inline uint64_t* ordered(uint64_t* entries, uint64_t* other, int64_t count) {
    uint64_t differing = 0;
    for (int64_t i = 1; i < count; ++i) differing |= entries[i] ^ entries[0];
    for (int shift = 32; shift < 64; shift += 8) {
        if (!(differing >> shift & 255)) continue;
        uint32_t starts[256] = {}, sum = 0;
        for (int64_t i = 0; i < count; ++i) ++starts[entries[i] >> shift & 255];
        for (uint32_t& start : starts) sum += std::exchange(start, sum);
        for (int64_t i = 0; i < count; ++i) other[starts[entries[i] >> shift & 255]++] = entries[i];
        std::swap(entries, other);
    }
    return entries;
}

// Numbers in falling order, of equals the first before others; valid until this thread asks again.
struct Sorted {
    const uint64_t* entries;
    int64_t count;
};

// Those that are not below `least`, but below `end`.
template <class T>
Sorted sorted(const Row<T>& row, const f32* maxima, float least, float end) {
    auto* entries = scratch<uint64_t>(ENTRIES, 2 * row.size);
    int64_t found = 0;
    each_between(row, maxima, least, end, [&](int64_t place, float number) {
        if (place < row.size) entries[found++] = entry_of(place, number);
    });
    return {ordered(entries, entries + row.size, found), found};
}

struct Largest {
    Sorted numbers;
    bool all;  // no number of at least `least` is missing
};

// At least `count` of those numbers that are not below `least`, or all of them.
template <class T>
Largest largest_of(const Row<T>& row, const f32* maxima, float top, int64_t count, float least) {
    const float from = count < row.size ? bound(row, maxima, top, count, least) : least;
    return {sorted(row, maxima, from, INFINITE), from == least};
}

// 2^x for x <= 0 to 2 units in the last place; below -126, what it is at -126, which is nothing
// beside a 1. The polynomial is that of Cephes' exp2f.
inline f32 power_of_two(f32 x) {
    const f32 y = max(splat(-126.0f), x);
    const f32 shift = splat(0x1.8p23f);
    const f32 shifted = y + shift;
    const f32 r = y - (shifted - shift);
    f32 p = splat(1.535336188319500e-4f);
    p = p * r + 1.339887440266574e-3f;
    p = p * r + 9.618437357674640e-3f;
    p = p * r + 5.550332471162809e-2f;
    p = p * r + 2.402264791363012e-1f;
    p = p * r + 6.931472028550421e-1f;
    p = p * r + 1.0f;
    // The low bits of `shifted` are the whole part of x.
    return reinterpret_cast<f32>(reinterpret_cast<i32>(p) + (reinterpret_cast<i32>(shifted) << 23));
}

constexpr double LOG2_E = 1.4426950408889634;

}  // namespace pieria
