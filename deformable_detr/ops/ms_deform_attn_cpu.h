// The loops of the operator on CPU: over plain pointers, threads by OpenMP, the channels in vector registers.
//
// Every number is the sum of one thread, in an order that does not depend on how many there are: the same bits always.
// The schedules are static: Paddle's libiomp5 lacks the calls that gcc makes for the others.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "ms_deform_attn.h"

namespace ms_deform_attn {

constexpr int64_t kAhead = 8;  // queries between asking for memory and needing it

// Calls with the number of channels as a constant where the released models have it, so that a row stays in registers.
template <typename Call>
void with_channels(int64_t channels, Call call) {
  switch (channels) {
    case 32:
      return call(std::integral_constant<int64_t, 32>());
    case 64:
      return call(std::integral_constant<int64_t, 64>());
    default:
      return call(channels);
  }
}

// The rows of one head of one image: row(token) = first + token * stride.
template <typename T>
struct Rows {
  T* first;
  int64_t stride;
};

// The value, or an array of its shape, of which a head's rows are read or written many times.
//
// As it is, they are heads * channels apart: a power of two in the models, so that they share few cache lines' places.
// Where the queries read enough, they are copied to lie one after the other, and the copy is what is worked on.
template <typename T>
class HeadRows {
 public:
  HeadRows(const Sizes& sizes, T* array, bool copy) : sizes_(sizes), array_(array) {
    if (copy) copy_.reset(new T[sizes.batch * sizes.heads * sizes.tokens * sizes.channels]);
  }

  Rows<T> operator()(int64_t image, int64_t head) const {
    const int64_t tokens = sizes_.tokens, heads = sizes_.heads, channels = sizes_.channels;
    if (copy_) return {copy_.get() + (image * heads + head) * tokens * channels, channels};
    return {array_ + image * tokens * heads * channels + head * channels, heads * channels};
  }

  void fetch() { move<true>(); }   // array -> copy
  void store() { move<false>(); }  // copy -> array

 private:
  template <bool kFetch>
  void move() {
    if (!copy_) return;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < sizes_.batch * sizes_.tokens; ++row) {
      const int64_t image = row / sizes_.tokens, token = row % sizes_.tokens;
      for (int64_t head = 0; head < sizes_.heads; ++head) {
        T* outer = array_ + (row * sizes_.heads + head) * sizes_.channels;
        T* inner = copy_.get() + ((image * sizes_.heads + head) * sizes_.tokens + token) * sizes_.channels;
        kFetch ? std::copy(outer, outer + sizes_.channels, inner) : std::copy(inner, inner + sizes_.channels, outer);
      }
    }
  }

  const Sizes sizes_;
  T* array_;
  std::unique_ptr<T[]> copy_;
};

// Ask for `count` numbers soon: one head's are as far apart as all heads' together, which no processor foresees.
template <int kWrite, typename T>
inline void ask(const T* array, int64_t count) {
  const int64_t line = 64 / sizeof(T);
  for (int64_t index = 0; index < count; index += line) __builtin_prefetch(array + index, kWrite);
}

inline bool worth_copying(const Sizes& sizes) {
  return sizes.heads > 1 && sizes.queries * sizes.levels * sizes.points > sizes.tokens;
}

// Rows of the four corners of a point; `outside` stands for those that lie outside the level.
template <typename T, typename Number>
inline void corner_rows(const Cell<T>& cell, Number* level, int64_t stride, int64_t height, int64_t width,
                        Number* outside, Number* (&rows)[4]) {
  Number* first = level + (cell.y * width + cell.x) * stride;
  for (int corner = 0; corner < 4; ++corner) {
    rows[corner] = inside(cell, corner, height, width) ? first + (corner / 2 * width + corner % 2) * stride : outside;
  }
}

// The outputs of some queries for one head. Channels: int64_t or a constant.
template <typename T, typename Channels>
void forward_queries(Rows<const T> value, const int64_t* shapes, const int64_t* starts, const T* locations,
                     const T* weights, const Sizes& sizes, int64_t image, int64_t head, int64_t first, int64_t last,
                     Channels channels, T* output) {
  constexpr int64_t kKnown = std::is_same<Channels, int64_t>::value ? 1 : static_cast<int64_t>(Channels());
  const int64_t points = sizes.levels * sizes.points;
  const std::vector<T> zeros(channels);
  T known[kKnown];
  for (int64_t query = first; query < last; ++query) {
    const int64_t row = (image * sizes.queries + query) * sizes.heads + head;
    if (query + kAhead < last) {
      const int64_t later = row + kAhead * sizes.heads;
      ask<0>(locations + later * points * 2, points * 2);
      ask<0>(weights + later * points, points);
      ask<1>(output + later * channels, channels);
    }
    T* out = output + row * channels;
    T* sum = kKnown > 1 ? known : out;
    std::fill(sum, sum + channels, T(0));
    int64_t at = row * points;
    for (int64_t level = 0; level < sizes.levels; ++level) {
      const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
      const T* base = value.first + starts[level] * value.stride;
      for (int64_t point = 0; point < sizes.points; ++point, ++at) {
        const Cell<T> cell = locate(locations[2 * at], locations[2 * at + 1], height, width);
        if (!cell.counts) continue;
        const T* rows[4];
        corner_rows(cell, base, value.stride, height, width, zeros.data(), rows);
        const T w0 = weight(cell, 0) * weights[at], w1 = weight(cell, 1) * weights[at];
        const T w2 = weight(cell, 2) * weights[at], w3 = weight(cell, 3) * weights[at];
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          sum[c] += (w0 * rows[0][c] + w1 * rows[1][c]) + (w2 * rows[2][c] + w3 * rows[3][c]);
        }
      }
    }
    if (kKnown > 1) std::copy(known, known + channels, out);
  }
}

// Fills output; nothing needs to be set before.
template <typename T>
void forward_cpu(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                 const Sizes& sizes, T* output) {
  HeadRows<T> values(sizes, const_cast<T*>(value), worth_copying(sizes));
  values.fetch();
  const int64_t length = 512, chunks = (sizes.queries + length - 1) / length;
  with_channels(sizes.channels, [&](auto channels) {
#pragma omp parallel for schedule(static, 1)
    for (int64_t task = 0; task < sizes.batch * sizes.heads * chunks; ++task) {
      const int64_t group = task / chunks, first = task % chunks * length;
      const int64_t image = group / sizes.heads, head = group % sizes.heads;
      const Rows<T> rows = values(image, head);
      forward_queries<T>({rows.first, rows.stride}, shapes, starts, locations, weights, sizes, image, head, first,
                         std::min(first + length, sizes.queries), channels, output);
    }
  });
}

// One row at a time, for the four may be one: those outside the level share it.
template <typename T, typename Channels>
inline void add_row(T* sums, T factor, const T* row, Channels channels) {
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) sums[c] += factor * row[c];
}

// What a level's points of one query add to the gradients of the level's rows; the points' own gradients are set.
// `outside`: a row of zeros to read, and one to write to that nobody reads. Not inlined: a fifth faster (gcc 12).
template <typename T, typename Channels>
__attribute__((noinline)) void backward_query(Rows<T> value, Rows<T> grad_value, int64_t height, int64_t width,
                                              const T* location, const T* attention, const T* grad, int64_t points,
                                              Channels channels, T* outside, T* grad_location, T* grad_attention) {
  for (int64_t point = 0; point < points; ++point) {
    const Cell<T> cell = locate(location[2 * point], location[2 * point + 1], height, width);
    PointGradient<T> gradient{};
    if (cell.counts) {
      T *rows[4], *to[4];
      corner_rows(cell, value.first, value.stride, height, width, outside, rows);
      corner_rows(cell, grad_value.first, grad_value.stride, height, width, outside + channels, to);
      const T w0 = weight(cell, 0) * attention[point], w1 = weight(cell, 1) * attention[point];
      const T w2 = weight(cell, 2) * attention[point], w3 = weight(cell, 3) * attention[point];
      T d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3)
      for (int64_t c = 0; c < channels; ++c) {
        d0 += grad[c] * rows[0][c];
        d1 += grad[c] * rows[1][c];
        d2 += grad[c] * rows[2][c];
        d3 += grad[c] * rows[3][c];
      }
      add_row(to[0], w0, grad, channels);
      add_row(to[1], w1, grad, channels);
      add_row(to[2], w2, grad, channels);
      add_row(to[3], w3, grad, channels);
      const T dots[4] = {d0, d1, d2, d3};
      gradient = point_gradient(cell, dots, attention[point], height, width);
    }
    grad_location[2 * point] = gradient.x;
    grad_location[2 * point + 1] = gradient.y;
    grad_attention[point] = gradient.weight;
  }
}

// The gradients of one level of one head of one image: they alone reach those rows of the value's gradient.
template <typename T, typename Channels>
void backward_level(Rows<T> value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                    const T* grad_output, const Sizes& sizes, int64_t image, int64_t head, int64_t level,
                    Channels channels, Rows<T> grad_value, T* grad_locations, T* grad_weights) {
  const int64_t height = shapes[2 * level], width = shapes[2 * level + 1], points = sizes.points;
  value.first += starts[level] * value.stride;
  grad_value.first += starts[level] * grad_value.stride;
  for (int64_t token = 0; token < height * width; ++token) {
    std::fill_n(grad_value.first + token * grad_value.stride, static_cast<int64_t>(channels), T(0));
  }
  std::vector<T> outside(2 * channels);
  for (int64_t query = 0; query < sizes.queries; ++query) {
    const int64_t row = (image * sizes.queries + query) * sizes.heads + head;
    const int64_t later = row + std::min(kAhead, sizes.queries - 1 - query) * sizes.heads;
    const int64_t at = (row * sizes.levels + level) * points, soon = (later * sizes.levels + level) * points;
    ask<0>(grad_output + later * channels, channels);
    ask<0>(locations + 2 * soon, 2 * points);
    ask<0>(weights + soon, points);
    ask<1>(grad_locations + 2 * soon, 2 * points);
    ask<1>(grad_weights + soon, points);
    backward_query(value, grad_value, height, width, locations + 2 * at, weights + at, grad_output + row * channels,
                   points, channels, outside.data(), grad_locations + 2 * at, grad_weights + at);
  }
}

// Fills the three gradients; nothing needs to be set before.
template <typename T>
void backward_cpu(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                  const T* grad_output, const Sizes& sizes, T* grad_value, T* grad_locations, T* grad_weights) {
  HeadRows<T> values(sizes, const_cast<T*>(value), worth_copying(sizes));
  HeadRows<T> gradients(sizes, grad_value, worth_copying(sizes));
  values.fetch();
  // Neighbouring tasks are different heads, so that threads seldom write to one cache line at a time.
  const int64_t groups = sizes.batch * sizes.heads;
  with_channels(sizes.channels, [&](auto channels) {
#pragma omp parallel for schedule(static, 1)
    for (int64_t task = 0; task < groups * sizes.levels; ++task) {
      const int64_t level = task / groups, image = task % groups / sizes.heads, head = task % sizes.heads;
      backward_level<T>(values(image, head), shapes, starts, locations, weights, grad_output, sizes, image, head, level,
                        channels, gradients(image, head), grad_locations, grad_weights);
    }
  });
  gradients.store();
}

}  // namespace ms_deform_attn
