// Products with weights of few bits, the rows of an embedding of them, and how they are packed.
#include "activation.h"
#include "operands.h"
#include "pool.h"
#include "quantized_chunk.h"
#include "quantized_rows.h"
#include "rows.h"

namespace pieria {
namespace {

struct Embedding {
    int64_t dtype;
    const int64_t* tokens;
    const char* panels;
    const Layout* layout;
    void* out;
    int64_t count, rows, columns, first;
    double scale;  // 0: as they are
};

// Of one matrix. codes: [outputs][inputs]. units, minima: [outputs][inputs / group], of OUTPUTS
// [outputs], of FP8 [outputs][128 inputs] in float32. steps, steps_below: [outputs][CHUNK inputs].
struct Pack {
    const Layout* layout;
    const uint8_t* codes;
    int64_t outputs, inputs;
    const char *units, *minima;
    const uint16_t *steps, *steps_below;
    char* panels;
};

struct PanelBytes {
    const Layout* layout;
    int64_t inputs;
    int64_t* bytes;
};

enum Purpose { ROWS, SUMS };

template <class T>
char* rounded(int64_t numbers, const T* x, int64_t stride, int64_t inputs,
              const Division& division) {
    const int64_t each = row_bytes(numbers, inputs);
    char* out = scratch<char>(ROWS, division.rows * each);
    parallel(division.blocks * division.tiles, [&](int64_t i) {
        const int64_t first = division.first(i / division.tiles, i % division.tiles);
        const int64_t last = division.first(i / division.tiles, i % division.tiles + 1);
        round_rows<T>(
            numbers, [&](int64_t r) { return x + (first + r) * stride; }, last - first, inputs,
            out + first * each);
    });
    return out;
}

template <class T>
void linear_of(const Linear& a) {
    const Division division(a.rows);
    const int64_t numbers = a.matrices->layout->numbers;
    char* rows = rounded(numbers, static_cast<const T*>(a.x), a.stride, a.inputs, division);
    int64_t total = 0;
    for (int64_t m = 0; m < a.count; ++m) total += panels_of(a.matrices[m].outputs);
    parallel(division.blocks * total, [&](int64_t i) {
        const int64_t block = i / total;
        int64_t panel = i % total;
        const Matrix* matrix = a.matrices;
        for (; panel >= panels_of(matrix->outputs); ++matrix) panel -= panels_of(matrix->outputs);
        const int64_t column = panel * PANEL;
        const int64_t columns = std::min<int64_t>(PANEL, matrix->outputs - column);
        const Layout& layout = *matrix->layout;
        float* sums = scratch<float>(SUMS, Division::BLOCK * PANEL);
        multiply_block(layout, matrix->panels + panel * panel_bytes(layout, a.inputs), a.inputs,
                       rows, division, block, sums);
        each_tile(division, block, sums, [&]<int R>(int64_t first, f32(&c)[R][PANEL_VECTORS]) {
            add_bias<T, R>(matrix->bias, column, columns, c);
            write<T, R>(static_cast<T*>(matrix->out) + first * matrix->out_stride + column,
                        matrix->out_stride, columns, c);
        });
    });
}

template <class T>
void gated_of(const Gated& a) {
    const Division division(a.rows);
    const Layout &gate = *a.gate.layout, &up = *a.up.layout;
    char* rows = rounded(gate.numbers, static_cast<const T*>(a.x), a.stride, a.inputs, division);
    const int64_t total = panels_of(a.gate.outputs);
    parallel(division.blocks * total, [&](int64_t i) {
        const int64_t block = i / total, panel = i % total, column = panel * PANEL;
        const int64_t columns = std::min<int64_t>(PANEL, a.gate.outputs - column);
        float* gates = scratch<float>(SUMS, 2 * Division::BLOCK * PANEL);
        float* ups = gates + Division::BLOCK * PANEL;
        multiply_block(gate, a.gate.panels + panel * panel_bytes(gate, a.inputs), a.inputs, rows,
                       division, block, gates);
        multiply_block(up, a.up.panels + panel * panel_bytes(up, a.inputs), a.inputs, rows,
                       division, block, ups);
        const int64_t begin = division.first(block, 0);
        each_tile(division, block, gates, [&]<int R>(int64_t first, f32(&c)[R][PANEL_VECTORS]) {
            f32 other[R][PANEL_VECTORS];
            read<R>(ups + (first - begin) * PANEL, other);
            add_bias<T, R>(a.gate.bias, column, columns, c);
            add_bias<T, R>(a.up.bias, column, columns, other);
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < PANEL_VECTORS; ++v)
                    other[r][v] *= activate(a.activation, c[r][v]);
            write<T, R>(static_cast<T*>(a.gate.out) + first * a.gate.out_stride + column,
                        a.gate.out_stride, columns, other);
        });
    });
}

// body(first input, how many, [inputs][32] codes, [32] scales, [32] minima) for every run of a
// panel that shares scales.
template <class Body>
void each_run(const Layout& l, const char* panel, int64_t inputs, Body&& body) {
    const f32 none[PANEL_VECTORS] = {};
    const auto* nothing = reinterpret_cast<const float*>(none);
    if (l.numbers == OUTPUTS) {
        body(int64_t{0}, inputs, reinterpret_cast<const uint8_t*>(panel + 4 * PANEL),
             reinterpret_cast<const float*>(panel), nothing);
    } else if (l.numbers == GROUPS) {
        Chunk chunk;
        const int64_t size = std::min(l.group, ROUNDED);
        for (int64_t k = 0; k < padded(inputs); k += CHUNK) {
            const int64_t length = std::min(CHUNK, padded(inputs) - k);
            panel = read_chunk(l, panel, length, chunk);
            for (int64_t g = 0; g < length / ROUNDED; ++g) unpack(l, chunk, g);
            for (int64_t g = 0; g < length / size; ++g)
                body(k + g * size, std::min(size, inputs - k - g * size),
                     chunk.codes + g * size * PANEL, chunk.scales[g],
                     l.minima ? chunk.minima[g] : nothing);
        }
    } else {
        for (int64_t k = 0; k < inputs; k += BLOCK8) {
            const int64_t count = std::min(BLOCK8, inputs - k);
            body(k, count, reinterpret_cast<const uint8_t*>(panel + 4 * PANEL),
                 reinterpret_cast<const float*>(panel), nothing);
            panel += (4 + count) * PANEL;
        }
    }
}

// Input k of output c of a run's codes.
inline float level(const Layout& l, const uint8_t* codes, int64_t k, int64_t c) {
    if (l.numbers >= E4M3) {
        // Sixteen are read for one: nothing here needs to be fast.
        const uint8_t code[LANES] = {codes[k * PANEL + c]};
        return l.numbers == E4M3 ? load_as<f32>(reinterpret_cast<const e4m3*>(code))[0]
                                 : load_as<f32>(reinterpret_cast<const e5m2*>(code))[0];
    }
    const int byte = codes[k / 4 * 4 * PANEL + c * 4 + k % 4];
    return static_cast<float>(byte - (l.minima ? 0 : ZERO));
}

template <class T>
void embedding_of(const Embedding& a) {
    const Layout& l = *a.layout;
    const float scale = widen(narrow<T>(static_cast<float>(a.scale)));
    parallel_rows(a.count, 64 * a.columns, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            T* out = static_cast<T*>(a.out) + t * a.columns;
            const int64_t row = a.tokens[t] - a.first;
            if (row < 0 || row >= a.rows) {
                std::memset(out, 0, static_cast<size_t>(a.columns) * sizeof(T));
                continue;
            }
            const int64_t c = row % PANEL;
            const char* panel = a.panels + row / PANEL * panel_bytes(l, a.columns);
            each_run(l, panel, a.columns,
                     [&](int64_t first, int64_t count, const uint8_t* codes, const float* scales,
                         const float* minima) {
                         for (int64_t k = 0; k < count; ++k) {
                             const float x = level(l, codes, k, c) * scales[c] + minima[c];
                             out[first + k] = narrow<T>(x);
                         }
                     });
            if (a.scale != 0)
                for (int64_t i = 0; i < a.columns; ++i) out[i] = narrow<T>(widen(out[i]) * scale);
        }
    });
}

// Puts output c's codes of 8 bits in their places, four at a time; what is missing is zero.
void put_bytes(const uint8_t* row, int64_t inputs, int64_t c, char* codes) {
    const int64_t whole = inputs / 4 * 4;
    for (int64_t k = 0; k < whole; k += 4) std::memcpy(codes + k * PANEL + c * 4, row + k, 4);
    std::memcpy(codes + whole * PANEL + c * 4, row + whole, static_cast<size_t>(inputs - whole));
}

// The same of `bits` bits from bit `from` on, in a plane of a chunk; inputs: a multiple of 4.
void put_plane(const uint8_t* row, int64_t inputs, int64_t c, int64_t from, int64_t bits,
               char* plane) {
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    const int64_t shared = 8 / bits;  // steps that share bytes
    for (int64_t step = 0; step < inputs / 4; ++step) {
        char* place = plane + (step / shared * PANEL + c) * 4;
        uint32_t four, held;
        std::memcpy(&four, row + step * 4, sizeof four);
        std::memcpy(&held, place, sizeof held);
        held |= (four >> from & mask) << (step % shared * bits);
        std::memcpy(place, &held, sizeof held);
    }
}

void pack_groups(const Pack& a, const Layout& l, int64_t panel) {
    char* to = a.panels + panel * panel_bytes(l, a.inputs);
    const int64_t columns = std::min<int64_t>(PANEL, a.outputs - panel * PANEL);
    const int64_t width = unit_bytes(l.units), all = padded(a.inputs);
    for (int64_t begin = 0; begin < all; begin += CHUNK) {
        const int64_t length = std::min(CHUNK, all - begin);
        const int64_t groups = std::max<int64_t>(1, length / l.group);
        const int64_t size = groups * width * PANEL;
        char* minima = to + size;
        const int64_t narrow = l.minima == ZEROS ? 1 : width;
        char* steps = minima + (l.minima ? groups * narrow * PANEL : 0);
        for (int64_t c = 0; c < columns; ++c) {
            const int64_t row = panel * PANEL + c, whole = row * (a.inputs / l.group);
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t from = whole + begin / l.group + g;
                std::memcpy(to + (g * PANEL + c) * width, a.units + from * width,
                            static_cast<size_t>(width));
                if (l.minima)
                    std::memcpy(minima + (g * PANEL + c) * narrow, a.minima + from * narrow,
                                static_cast<size_t>(narrow));
            }
            if (l.units == STEPS) {
                const int64_t from = row * (a.inputs / CHUNK) + begin / CHUNK;
                std::memcpy(steps + 2 * c, a.steps + from, 2);
                if (l.minima == SAME) std::memcpy(steps + 2 * (PANEL + c), a.steps_below + from, 2);
            }
        }
        to += header_bytes(l, length);
        for (int64_t c = 0; c < columns; ++c) {
            const uint8_t* row = a.codes + (panel * PANEL + c) * a.inputs + begin;
            const int64_t low = low_bits(l.bits);
            if (l.bits == 8) {
                put_bytes(row, length, c, to);
                continue;
            }
            put_plane(row, length, c, 0, low, to);
            if (l.bits > low)
                put_plane(row, length, c, low, l.bits - low, to + length * PANEL * low / 8);
        }
        to += length * PANEL * l.bits / 8;
    }
}

void pack_outputs(const Pack& a, const Layout& l, int64_t panel) {
    char* to = a.panels + panel * panel_bytes(l, a.inputs);
    const int64_t columns = std::min<int64_t>(PANEL, a.outputs - panel * PANEL);
    const int64_t row = panel * PANEL;
    std::memcpy(to, a.units + 4 * row, static_cast<size_t>(4 * columns));
    for (int64_t c = 0; c < columns; ++c)
        put_bytes(a.codes + (row + c) * a.inputs, a.inputs, c, to + 4 * PANEL);
}

void pack_floats(const Pack& a, const Layout& l, int64_t panel) {
    char* to = a.panels + panel * panel_bytes(l, a.inputs);
    const int64_t columns = std::min<int64_t>(PANEL, a.outputs - panel * PANEL);
    const int64_t groups = (a.inputs + BLOCK8 - 1) / BLOCK8;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t count = std::min(BLOCK8, a.inputs - g * BLOCK8);
        for (int64_t c = 0; c < columns; ++c) {
            const int64_t row = panel * PANEL + c;
            std::memcpy(to + 4 * c, a.units + 4 * (row * groups + g), 4);
            for (int64_t k = 0; k < count; ++k)
                to[(4 + k) * PANEL + c] =
                    static_cast<char>(a.codes[row * a.inputs + g * BLOCK8 + k]);
        }
        to += (4 + count) * PANEL;
    }
}

}  // namespace

PIERIA_KERNEL(quantized_panel_bytes, PanelBytes) { *a.bytes = panel_bytes(*a.layout, a.inputs); }

PIERIA_KERNEL(quantized_linear, Linear) {
    with_type(a.dtype, [&]<class T>(T) { linear_of<T>(a); });
}

PIERIA_KERNEL(quantized_gated_linear, Gated) {
    with_type(a.dtype, [&]<class T>(T) { gated_of<T>(a); });
}

PIERIA_KERNEL(quantized_embedding, Embedding) {
    with_type(a.dtype, [&]<class T>(T) { embedding_of<T>(a); });
}

PIERIA_KERNEL(pack_quantized, Pack) {
    const Layout& l = *a.layout;
    parallel(panels_of(a.outputs), [&](int64_t panel) {
        const int64_t size = panel_bytes(l, a.inputs);
        std::memset(a.panels + panel * size, 0, static_cast<size_t>(size));
        if (l.numbers == OUTPUTS)
            pack_outputs(a, l, panel);
        else if (l.numbers == GROUPS)
            pack_groups(a, l, panel);
        else
            pack_floats(a, l, panel);
    });
}

}  // namespace pieria
