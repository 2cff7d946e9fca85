// Drawing tokens: the largest logit, or logit / temperature + noise, of each row.
//
// A token's noise comes of a hash of its number, so that every token that may win has to be hashed;
// but what a hash must be for it to win is known beforehand, so that for nearly all of them no more
// is computed. With top_k and top_p the few largest logits nearly always suffice.
#include <cmath>

#include "args.h"
#include "largest.h"
#include "rows.h"

namespace pieria {
namespace {

// Row, token and value, in columns.
struct Triplets {
    const int64_t* rows;
    const int64_t* tokens;
    const float* values;
    int64_t count;
};

// As in `ops.Draws`; null: no row uses it.
struct Sample {
    int64_t dtype;
    const void* logits;
    int64_t stride, rows, vocabulary;
    const int64_t* keys;
    const float* temperature;
    const int64_t* top_k;
    const float* top_p;
    const float* min_p;
    const float* repetition;
    const float* presence;
    const float* frequency;
    Triplets history, bias;
    int64_t* tokens;
};

enum Purpose { ADJUSTED = 14, WEIGHTS };

constexpr uint64_t STEP = 0x9E3779B97F4A7C15;
// How many of the likeliest tokens are looked at first, and then, where it is not known how many it
// takes. No more than the second are put in order.
constexpr int64_t FEW = 128, MANY = 2048;
constexpr float LOWEST = std::numeric_limits<float>::lowest();

using u64 = uint64_t __attribute__((vector_size(sizeof(f32))));
using f64 = double __attribute__((vector_size(sizeof(f32))));
using half_f32 = float __attribute__((vector_size(sizeof(f32) / 2)));
constexpr int WIDE_LANES = LANES / 2;

// SplitMix64 but for its last step, `bits ^ bits >> 31`, which leaves the upper 31 bits.
template <class U>
inline U mixed(U state) {
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9;
    return (state ^ state >> 27) * 0x94D049BB133111EB;
}

// e^x for x <= 0 to about a unit in the last place; 0 below -708, 1 at 0.
// Cody and Waite's reduction with fdlibm's halves of log 2, and Taylor's series.
inline f64 wide_exp_of_negative(f64 x) {
    const f64 low = -708.0 - f64{};
    const f64 y = x < low ? low : x;
    const f64 shift = 0x1.8p52 - f64{};
    const f64 shifted = y * LOG2_E + shift;
    const f64 n = shifted - shift;
    const f64 r = (y - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    f64 p = 1.0 / 6227020800 - f64{};
    for (const double factor :
         {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
          1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0})
        p = p * r + factor;
    // The low bits of `shifted` are n.
    const u64 scaled = reinterpret_cast<u64>(p) + (reinterpret_cast<u64>(shifted) << 52);
    return x < low ? f64{} : reinterpret_cast<f64>(scaled);
}

// One row's tokens in turn: which has the highest score.
struct Contest {
    uint64_t key;
    double temperature;
    double slack;  // more than the roundings in a score that may win
    double score = -std::numeric_limits<double>::infinity();
    int64_t token = 0;

    Contest(int64_t of, float divisor, float top)
        : key(static_cast<uint64_t>(of)),
          temperature(divisor),
          slack(1e-6 + (std::abs(scaled(top)) + 64) * 0x1p-51) {}

    double scaled(float logit) const { return logit / temperature; }

    void enter(int64_t number, float logit) {
        uint64_t hash = mixed(key + static_cast<uint64_t>(number + 1) * STEP);
        hash ^= hash >> 31;
        // -log(-log(u)) exceeds x only if 1 - u is below e^-x; and a double's bits, taken for a
        // number, are a logarithm that is too small by no more than 0.09.
        const double rest = (static_cast<double>(~hash >> 12) + 0.5) * 0x1p-52;
        int64_t exponent;
        std::memcpy(&exponent, &rest, sizeof exponent);
        const double logarithm = static_cast<double>(exponent) * 0x1p-52 - 1023;
        const double own = scaled(logit);
        if (logarithm > (own - score + slack) * LOG2_E) return;
        const double u = (static_cast<double>(hash >> 12) + 0.5) * 0x1p-52;
        const double sum = own - std::log(-std::log(u));
        if (sum > score || (sum == score && number < token)) {
            score = sum;
            token = number;
        }
    }
};

// The tokens that may be drawn: those with a larger logit, and of those with this one the first
// ones, up to a place.
struct Limit {
    float least;
    int64_t last = std::numeric_limits<int64_t>::max();

    bool admits(int64_t token, float logit) const {
        return logit > least || (logit == least && token <= last);
    }
};

template <class T>
void enter_all(Contest& contest, const Row<T>& row, const f32* maxima, float top, Limit limit) {
    contest.enter(place_of(row, maxima, top), top);
    const float scale = std::min(static_cast<float>(LOG2_E / contest.temperature), -LOWEST);
    u64 lanes;
    for (int i = 0; i < WIDE_LANES; ++i) lanes[i] = (static_cast<uint64_t>(i) + 1) * STEP;
    for (int64_t g = 0; g < row.groups; ++g) {
        // How far each lane's largest score without noise is above the best score of all; as a
        // power of two.
        const double ahead = contest.scaled(top) - contest.score + contest.slack;
        const f32 above = (maxima[g] - top) * scale + static_cast<float>(ahead * LOG2_E);
        // 1 - u is at least 2^-53.
        if (!bits((maxima[g] >= limit.least) & (above > -53.5f))) continue;
        // Only with 1 - u <= 2^above can a token win: in 31 bits, rounded so that more do.
        const f32 share = power_of_two(above < 0.0f ? above : f32{}) * 0x1.0008p31f;
        const i32 all = share > 0x1.fffff0p30f;
        const i32 fixed = __builtin_convertvector(all ? f32{} : share, i32);
        const i32 wanted = (0x7ffffffe - fixed) & ~all;
        uint64_t thresholds[LANES];
        for (int i = 0; i < LANES; ++i) thresholds[i] = static_cast<uint64_t>(wanted[i]) << 33;
        u64 state = lanes + (contest.key + static_cast<uint64_t>(g * GROUP) * STEP);
        u64 low = {}, high = {};  // the largest hashes of each lane
        for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
            const u64 first = mixed(state), second = mixed(state + WIDE_LANES * STEP);
            state += LANES * STEP;
            low = low > first ? low : first;
            high = high > second ? high : second;
        }
        for (int lane = 0; lane < LANES; ++lane) {
            const uint64_t hash = lane < WIDE_LANES ? low[lane] : high[lane - WIDE_LANES];
            if (hash < thresholds[lane]) continue;
            for (int64_t i = g * GROUP + lane; i < std::min(row.size, (g + 1) * GROUP);
                 i += LANES) {
                const float logit = widen(row.numbers[i]);
                if (limit.admits(i, logit)) contest.enter(i, logit);
            }
        }
    }
}

// What lies between two sums.
struct Interval {
    double low, high;
};

// e^(scaled - largest), summed over tokens that are likely enough.
template <class T>
struct Weights {
    const Row<T>& row;
    const f32* maxima;
    float top, least;
    double inverse;

    // Of all, known to be at least the sum of some; each lane's largest counts for all of its
    // numbers.
    Interval guessed(double some) const {
        f32 sum = {};
        for (int64_t g = 0; g < row.groups; ++g) sum += rounded(maxima[g]);
        return {some, 1.01 * GROUP_VECTORS * static_cast<double>(pieria::sum(sum))};
    }

    struct Above {
        Interval sum;
        int64_t count;
    };

    // Of logits that are not below a number. The roundings in exponents of up to 126 and in sums
    // of a group's vectors come to less than 2e-5.
    Above above(float from) const {
        f64 sums[2] = {};
        i32 count = {};
        for (int64_t g = 0; g < row.groups; ++g) {
            if (!bits(maxima[g] >= from)) continue;
            f32 sum = {};
            row.group(g, [&](const auto* x) {
                for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
                    const f32 numbers = load(x + v * LANES);
                    const i32 counts = numbers >= from;
                    sum += counts ? rounded(numbers) : f32{};
                    count -= counts;
                }
            });
            for (int i = 0; i < 2; ++i) sums[i] += half(sum, i);
        }
        const double sum = total(sums[0] + sums[1]);
        return {{sum * (1 - 2e-5), sum * (1 + 2e-5)}, pieria::sum(count)};
    }

    struct Exact {
        double above, all;
    };

    Exact exact(float from) const {
        f64 above = {}, all = {};
        for (int64_t g = 0; g < row.groups; ++g) {
            if (!bits(maxima[g] >= least)) continue;
            row.group(g, [&](const auto* x) {
                for (int64_t v = 0; v < GROUP_VECTORS; ++v) {
                    const f32 numbers = load(x + v * LANES);
                    const f32 counted = numbers >= least ? numbers : splat(-INFINITE);
                    for (int i = 0; i < 2; ++i) {
                        const f64 logits = half(counted, i), weights = exact(logits);
                        above += logits >= static_cast<double>(from) ? weights : f64{};
                        all += weights;
                    }
                }
            });
        }
        return {total(above), total(all)};
    }

    f32 rounded(f32 logits) const {
        return power_of_two((logits - top) * static_cast<float>(inverse * LOG2_E));
    }
    f64 exact(f64 logits) const {
        return wide_exp_of_negative((logits - static_cast<double>(top)) * inverse);
    }
    // Of sorted tokens; valid until this thread asks again.
    const double* exact(Sorted tokens) const {
        auto* weights = scratch<double>(WEIGHTS, tokens.count + WIDE_LANES);
        for (int64_t i = 0; i < tokens.count; i += WIDE_LANES) {
            f64 logits;
            for (int64_t lane = 0; lane < WIDE_LANES; ++lane)
                logits[lane] = number_in(tokens.entries[std::min(i + lane, tokens.count - 1)]);
            store_vector(weights + i, exact(logits));
        }
        return weights;
    }

    static f64 half(f32 v, int i) {
        half_f32 halves[2];
        std::memcpy(halves, &v, sizeof v);
        return __builtin_convertvector(halves[i], f64);
    }
    static double total(f64 v) {
        double sum = 0;
        for (int lane = 0; lane < WIDE_LANES; ++lane) sum += v[lane];
        return sum;
    }
};

// How many of some tokens in order it takes for their weights, with those before them, to reach
// `wanted`: `count` if it takes all or more, -1 if it is not known well enough.
int64_t reaching(const double* weights, int64_t count, double before, Interval wanted) {
    for (int64_t i = 0; i < count; ++i) {
        if (before >= wanted.low) return before >= wanted.high ? i : -1;
        before += weights[i];
    }
    return count;
}

// How many of the likeliest tokens top_p leaves; `count` if more than these. all: more do not
// count.
template <class T>
int64_t leading(const Weights<T>& of, Sorted tokens, double top_p, bool all) {
    const double* weights = of.exact(tokens);
    double sum = 0;
    for (int64_t i = 0; i < tokens.count; ++i) sum += weights[i];
    const auto with = [&](Interval total) {
        const Interval wanted{top_p * total.low, top_p * total.high};
        const int64_t found = reaching(weights + 1, tokens.count - 1, weights[0], wanted);
        return found < 0 ? found : found + 1;
    };
    if (all) return with({sum, sum});
    int64_t found = with(of.guessed(sum));
    if (found < 0 || found == tokens.count) found = with(of.above(of.least).sum);
    if (found < 0) {
        const double exact = of.exact(INFINITE).all;
        found = with({exact, exact});
    }
    return found;
}

// Where top_p cuts if it leaves many tokens.
template <class T>
Limit cut(const Weights<T>& of, double top_p) {
    const Interval all = of.above(of.least).sum;
    const auto reach = [&](float x) {
        const auto found = of.above(x);
        const Reach reach = found.sum.low >= top_p * all.high  ? ENOUGH
                            : found.sum.high < top_p * all.low ? TOO_LITTLE
                                                               : UNKNOWN;
        return Reached{reach, found.count};
    };
    const Range range = narrowed(of.top, of.least, MANY, reach);
    const auto exact = of.exact(range.above);
    const double wanted = top_p * exact.all;
    const Sorted tokens = sorted(of.row, of.maxima, range.below, range.above);
    const int64_t left = reaching(of.exact(tokens), tokens.count, exact.above, {wanted, wanted});
    if (left == 0) return {range.above};
    const uint64_t last = tokens.entries[left - 1];
    return {number_in(last), place_in(last)};
}

// Those of the tokens with at least this logit that top_k, then top_p leave.
template <class T>
void enter_likeliest(Contest& contest, const Row<T>& row, const f32* maxima, float top, float least,
                     int64_t top_k, double top_p) {
    const Weights<T> weights{row, maxima, top, least, 1 / contest.temperature};
    const bool counted = top_k > 0 && top_k < row.size;
    // With top_p alone nobody knows how many it takes.
    for (int64_t wanted : {FEW, MANY}) {
        auto [found, all] = largest_of(row, maxima, top, counted ? top_k : wanted, least);
        all |= counted;
        if (counted) found.count = std::min(top_k, found.count);
        const int64_t left = top_p < 1 ? leading(weights, found, top_p, all) : found.count;
        if (left == found.count && !all) continue;
        for (int64_t i = 0; i < left; ++i)
            contest.enter(place_in(found.entries[i]), number_in(found.entries[i]));
        return;
    }
    enter_all(contest, row, maxima, top, cut(weights, top_p));
}

// The smallest float32 that, divided by the temperature, is not below the bound of min_p.
float least_of(double temperature, float top, double min_p) {
    const double bound = top / temperature + std::log(min_p);
    auto least = static_cast<float>(bound * temperature);
    while (least / temperature >= bound) least = std::nextafter(least, -INFINITE);
    while (least / temperature < bound) least = std::nextafter(least, INFINITE);
    return std::max(least, LOWEST);
}

template <class T>
int64_t drawn(const Sample& a, int64_t r, const Row<T>& row, const f32* maxima, float top) {
    const double top_p = a.top_p ? a.top_p[r] : 1;
    const int64_t top_k = a.top_k ? a.top_k[r] : 0;
    if (!a.temperature || !(a.temperature[r] > 0) || !std::isfinite(top))
        return place_of(row, maxima, top);
    Contest contest(a.keys[r], a.temperature[r], top);
    const float least =
        a.min_p && a.min_p[r] != 0 ? least_of(contest.temperature, top, a.min_p[r]) : LOWEST;
    if (!(top >= least)) return 0;
    if (top_p < 1 || (top_k > 0 && top_k < row.size))
        enter_likeliest(contest, row, maxima, top, least, top_k, top_p);
    else
        enter_all(contest, row, maxima, top, {least});
    return contest.token;
}

// Triplets, and whether their rows rise, so that those of a row are found without looking at all.
struct ByRow {
    const Triplets& all;
    bool rising;

    explicit ByRow(const Triplets& t) : all(t), rising(std::is_sorted(t.rows, t.rows + t.count)) {}

    // body(token, value) for each of the row's.
    template <class Body>
    void each(int64_t row, Body&& body) const {
        const int64_t* end = all.rows + all.count;
        const int64_t* at = rising ? std::lower_bound(all.rows, end, row) : all.rows;
        for (; at < end && (*at == row || !rising); ++at)
            if (*at == row) body(all.tokens[at - all.rows], all.values[at - all.rows]);
    }
};

// The product in float32, which no compiler joins with a sum: in float64 it is exact.
float product(float a, float b) { return static_cast<float>(static_cast<double>(a) * b); }

float penalized(const Sample& a, int64_t r, float logit, float times) {
    if (a.repetition) logit = logit > 0 ? logit / a.repetition[r] : product(logit, a.repetition[r]);
    if (a.frequency) logit -= product(a.frequency[r], times);
    if (a.presence) logit -= times > 0 ? a.presence[r] : 0.0f;
    return logit;
}

template <class T>
int64_t token_of(const Sample& a, int64_t r, const ByRow& bias, const ByRow& history) {
    const Row<T> row(static_cast<const T*>(a.logits) + r * a.stride, a.vocabulary);
    auto* maxima = scratch<f32>(MAXIMA, row.groups);
    const float top = largest(row, maxima);
    if (!std::isfinite(top)) return -1;
    bool changed = false;
    const auto see = [&](int64_t, float) { changed = true; };
    bias.each(r, see);
    history.each(r, see);
    if (!changed) return drawn(a, r, row, maxima, top);
    auto* logits = scratch<float>(ADJUSTED, a.vocabulary);
    const int64_t whole = a.vocabulary / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) store(logits + i, load(row.numbers + i));
    for (int64_t i = whole; i < a.vocabulary; ++i) logits[i] = widen(row.numbers[i]);
    bias.each(r, [&](int64_t token, float value) { logits[token] += value; });
    history.each(r, [&](int64_t token, float times) {
        logits[token] = penalized(a, r, logits[token], times);
    });
    const Row<float> adjusted(logits, a.vocabulary);
    return drawn(a, r, adjusted, maxima, largest(adjusted, maxima));
}

}  // namespace

PIERIA_KERNEL(sample, Sample) {
    const ByRow bias(a.bias), history(a.history);
    with_type(a.dtype, [&]<class T>(T) {
        parallel_rows(a.rows, a.vocabulary, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) a.tokens[r] = token_of<T>(a, r, bias, history);
        });
    });
}

}  // namespace pieria
