// How attention over pages is divided: what `paged_attention` is given, the rows and blocks of keys
// that belong together, and who does which of them. Computes nothing.
#pragma once

#include <algorithm>
#include <vector>

#include "panels.h"
#include "pool.h"
#include "softmax.h"

namespace pieria {

struct Cache {
    const void* data;
    int64_t page_stride, token_stride, head_stride;
    int64_t size;         // numbers of a token and head
    const float* scales;  // [pages, page_tokens, groups], dense; null: numbers are as they are
};

struct PagedAttention {
    int64_t dtype, stored;  // of queries, and what caches hold
    const void* q;          // [tokens, heads, keys.size]
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

// Keys of a block.
constexpr int64_t BLOCK = 256;
// Rows up to which the time is memory's, not the products'.
constexpr int64_t FEW = 32;
// Rows that a task takes at most through all keys: what they have so far stays in the second level
// cache, and making keys and values ready is little beside what they are used for.
constexpr int64_t TASK_ROWS = MAX_ROWS * 32;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
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

// Keys that a row sees: [first, last).
struct Seen {
    int64_t first, last;
};

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
          blocks(seen.last > seen.first ? ceil_div(seen.last, BLOCK) - block : 0),
          tiles_count(tiles_of(rows)),
          tile_rows(rows / tiles_count),
          longer_tiles(rows % tiles_count) {}

    bool few() const { return rows <= FEW; }
    int64_t tiles() const { return tiles_count; }
    int64_t first_row(int64_t tile) const {
        return tile * tile_rows + std::min(tile, longer_tiles);
    }

    Request request;
    int64_t row, rows;
    Seen seen;
    int64_t block, blocks;
    int64_t tiles_count, tile_rows, longer_tiles;
    // Where the gains of its blocks are kept, of one block and group after the other; -1: they are
    // not, as one task takes a group's rows through all blocks.
    int64_t kept = -1;
};

// One group's gain of one block: the state of each tile, and each row's mix of values.
struct Gain {
    Gain(const PagedAttention& a, const Part& part, float* data)
        : columns(padded(a.values.size)), states(data), mixed(data + part.tiles() * 2 * LANES) {}

    static int64_t size(const PagedAttention& a, const Part& part) {
        return part.tiles() * 2 * LANES + part.rows * padded(a.values.size);
    }

    State state(int64_t tile) const {
        return {load(states + tile * 2 * LANES), load(states + tile * 2 * LANES + LANES)};
    }
    void set_state(int64_t tile, const State& state) {
        store(states + tile * 2 * LANES, state.most);
        store(states + tile * 2 * LANES + LANES, state.sum);
    }
    float* row(int64_t row) const { return mixed + row * columns; }

    int64_t columns;
    float *states, *mixed;
};

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
    int64_t kept = 0;  // floats

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
        const bool few = request.rows <= FEW;
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
                part.kept = kept;
                kept += part.blocks * a.groups * Gain::size(a, part);
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

}  // namespace pieria
