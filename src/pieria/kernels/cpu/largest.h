// The largest of a row of numbers, in order, without sorting the row.
//
// One pass notes of every sixteen numbers the largest. Those few say where the largest numbers of
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
constexpr int64_t GROUP_VECTORS = 16, GROUP = GROUP_VECTORS * LANES;

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
            f32 found = load(x);
            for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
                const f32 numbers = load(x + v * LANES);
                const u32 doubled = reinterpret_cast<u32>(numbers) << 1;
                found = max(found, numbers);
                magnitude = magnitude > doubled ? magnitude : doubled;
            }
            maxima[g] = found;
            all = max(all, found);
        });
    }
    constexpr uint32_t infinite = 0xff000000u;
    if (bits(reinterpret_cast<i32>(magnitude > infinite)))
        return std::numeric_limits<float>::quiet_NaN();
    return max(all);
}

// body(place, numbers that hold `least` or more, a bit each), in order; padding may be among them
// if `least` is minus infinity.
template <class T, class Body>
void each_from(const Row<T>& row, const f32* maxima, float least, Body&& body) {
    for (int64_t g = 0; g < row.groups; ++g) {
        if (!bits(maxima[g] >= least)) continue;
        row.group(g, [&](const auto* x) {
            for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
                const f32 numbers = load(x + v * LANES);
                for (uint32_t left = bits(numbers >= least); left; left &= left - 1) {
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

// A number that at least `count` of the row are not below, and not many more; minus infinity if
// the maxima do not tell.
inline float bound(const f32* maxima, int64_t groups, float top, int64_t count) {
    const auto not_below = [&](float x) {
        i32 found = {};
        for (int64_t g = 0; g < groups; ++g) found -= maxima[g] >= x;
        int64_t sum = 0;
        for (int i = 0; i < LANES; ++i) sum += found[i];
        return sum;
    };
    float above = top, below = top;
    int64_t found = 0;
    for (float step = 1; found < count; step *= 2) {
        above = below;
        below = top - step;
        if (below == -INFINITE) return below;
        found = not_below(below);
    }
    for (int i = 0; i < 12 && found > count + count / 4 + LANES; ++i) {
        const float middle = 0.5f * below + 0.5f * above;
        const int64_t there = not_below(middle);
        if (there < count) {
            above = middle;
        } else {
            below = middle;
            found = there;
        }
    }
    return below;
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
    uint32_t starts[4][256] = {};
    for (int64_t i = 0; i < count; ++i)
        for (int digit = 0; digit < 4; ++digit)
            ++starts[digit][entries[i] >> (32 + 8 * digit) & 255];
    for (int digit = 0; digit < 4 && count > 1; ++digit) {
        const int shift = 32 + 8 * digit;
        uint32_t* start = starts[digit];
        if (start[entries[0] >> shift & 255] == count) continue;
        uint32_t sum = 0;
        for (int i = 0; i < 256; ++i) sum += std::exchange(start[i], sum);
        for (int64_t i = 0; i < count; ++i)
            other[start[entries[i] >> shift & 255]++] = entries[i];
        std::swap(entries, other);
    }
    return entries;
}

// Largest numbers in falling order, of equals the first before others.
struct Largest {
    const uint64_t* entries;  // valid until this thread asks again
    int64_t count;
    bool all;  // no number of at least `least` is missing
};

// At least `count` of those numbers that are not below `least`, or all of them.
template <class T>
Largest largest_of(const Row<T>& row, const f32* maxima, float top, int64_t count, float least) {
    // Of more than that, the maxima would tell little.
    const bool told = count <= row.groups * LANES / 2;
    const float from = told ? std::max(bound(maxima, row.groups, top, count), least) : least;
    auto* entries = scratch<uint64_t>(ENTRIES, 2 * row.size);
    int64_t found = 0;
    each_from(row, maxima, from, [&](int64_t place, float number) {
        if (place < row.size) entries[found++] = entry_of(place, number);
    });
    return {ordered(entries, entries + row.size, found), found, from == least};
}

// e^x for x <= 0 to 2 units in the last place; below -87, what it is at -87, which is nothing
// beside a 1. The reduction and polynomial of `exp`, without what that does for other numbers.
inline f32 exp_of_negative(f32 x) {
    const f32 y = max(splat(-87.0f), x);
    const f32 shift = splat(0x1.8p23f);
    const f32 shifted = y * 1.44269504088896341f + shift;
    const f32 n = shifted - shift;
    const f32 r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
    f32 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    // The low bits of `shifted` are n.
    return reinterpret_cast<f32>(reinterpret_cast<i32>(p) + (reinterpret_cast<i32>(shifted) << 23));
}

}  // namespace pieria
