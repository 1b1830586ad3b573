// The loops of the operator on CPU: over plain pointers, threads by OpenMP, the channels in vector registers.
//
// Every number is written by one thread, in an order that does not depend on how many there are: the same bits always.
#pragma once

#include <algorithm>
#include <vector>

#include "ms_deform_attn.h"

namespace ms_deform_attn {

// The channels of the released models are known when this is compiled, so that a row stays in registers; 0: any number.
template <typename Call>
void with_channels(int64_t channels, Call call) {
  switch (channels) {
    case 32:
      return call(std::integral_constant<int64_t, 32>());
    case 64:
      return call(std::integral_constant<int64_t, 64>());
    default:
      return call(std::integral_constant<int64_t, 0>());
  }
}

// One row of the value that a query reads, with its weight. `corner`: of the query's points, four each.
template <typename T>
struct Tap {
  const T* row;
  T weight;
  int64_t corner;
};

// Appends the corners inside the level of one point; returns how many. `level`: the head's row of the first token.
template <typename T>
inline int append_taps(const Cell<T>& cell, const T* level, int64_t stride, int64_t height, int64_t width, T attention,
                       Tap<T>* taps) {
  int count = 0;
  for (int corner = 0; corner < 4; ++corner) {
    if (!inside(cell, corner, height, width)) continue;
    const int64_t token = (cell.y + corner / 2) * width + cell.x + corner % 2;
    taps[count++] = {level + token * stride, weight(cell, corner) * attention, corner};
  }
  return count;
}

template <typename T, int64_t kChannels>
void forward_rows(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                  const Sizes& sizes, int64_t first, int64_t last, T* output) {
  const int64_t channels = kChannels ? kChannels : sizes.channels, stride = sizes.heads * channels;
  std::vector<Tap<T>> taps(4 * sizes.levels * sizes.points);
  for (int64_t row = first; row < last; ++row) {  // over (image, query, head)
    const int64_t head = row % sizes.heads, image = row / sizes.heads / sizes.queries;
    const T* base = value + image * sizes.tokens * stride + head * channels;
    const T* location = locations + row * sizes.levels * sizes.points * 2;
    const T* attention = weights + row * sizes.levels * sizes.points;
    int64_t count = 0;
    for (int64_t level = 0; level < sizes.levels; ++level) {
      const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
      for (int64_t point = 0; point < sizes.points; ++point, location += 2, ++attention) {
        const Cell<T> cell = locate(location[0], location[1], height, width);
        count += append_taps(cell, base + starts[level] * stride, stride, height, width, *attention, &taps[count]);
      }
    }
    T* out = output + row * channels;
    if constexpr (kChannels > 0) {
      T sum[kChannels] = {};
      for (int64_t tap = 0; tap < count; ++tap) {
        const T* from = taps[tap].row;
        const T factor = taps[tap].weight;
#pragma omp simd
        for (int64_t c = 0; c < kChannels; ++c) sum[c] += factor * from[c];
      }
      std::copy(sum, sum + kChannels, out);
    } else {
      std::fill(out, out + channels, T(0));
      for (int64_t tap = 0; tap < count; ++tap) {
        const T* from = taps[tap].row;
        const T factor = taps[tap].weight;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) out[c] += factor * from[c];
      }
    }
  }
}

// Fills output; nothing needs to be set before.
template <typename T>
void forward_cpu(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                 const Sizes& sizes, T* output) {
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads, chunk = 256 * sizes.heads;
  const int64_t chunks = (rows + chunk - 1) / chunk;
  with_channels(sizes.channels, [&](auto channels) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t index = 0; index < chunks; ++index) {
      forward_rows<T, decltype(channels)::value>(value, shapes, starts, locations, weights, sizes, index * chunk,
                                                 std::min(rows, (index + 1) * chunk), output);
    }
  });
}

// The gradients of one level of one head of one image: only they reach that level's and head's rows of grad_value.
template <typename T, int64_t kChannels>
void backward_level(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                    const T* grad_output, const Sizes& sizes, int64_t image, int64_t head, int64_t level,
                    T* grad_value, T* grad_locations, T* grad_weights) {
  const int64_t channels = kChannels ? kChannels : sizes.channels, stride = sizes.heads * channels;
  const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
  const int64_t shift = (image * sizes.tokens + starts[level]) * stride + head * channels;
  const T* base = value + shift;
  T* grad_base = grad_value + shift;
  for (int64_t query = 0; query < sizes.queries; ++query) {
    const int64_t row = (image * sizes.queries + query) * sizes.heads + head;
    const T* grad = grad_output + row * channels;
    for (int64_t point = 0; point < sizes.points; ++point) {
      const int64_t at = (row * sizes.levels + level) * sizes.points + point;
      const Cell<T> cell = locate(locations[2 * at], locations[2 * at + 1], height, width);
      Tap<T> taps[4];
      T dots[4] = {};
      const int count = append_taps(cell, base, stride, height, width, weights[at], taps);
      for (int tap = 0; tap < count; ++tap) {
        const T* from = taps[tap].row;
        T* to = grad_base + (from - base);
        const T factor = taps[tap].weight;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < channels; ++c) {
          dot += grad[c] * from[c];
          to[c] += factor * grad[c];
        }
        dots[taps[tap].corner] = dot;
      }
      const PointGradient<T> gradient = point_gradient(cell, dots, weights[at], height, width);
      grad_locations[2 * at] = gradient.x;
      grad_locations[2 * at + 1] = gradient.y;
      grad_weights[at] = gradient.weight;
    }
  }
}

// Fills the three gradients; nothing needs to be set before.
template <typename T>
void backward_cpu(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations, const T* weights,
                  const T* grad_output, const Sizes& sizes, T* grad_value, T* grad_locations, T* grad_weights) {
  std::fill(grad_value, grad_value + sizes.batch * sizes.tokens * sizes.heads * sizes.channels, T(0));
  // Neighbouring tasks are different heads: the threads do not write to the same cache lines at a time.
  const int64_t groups = sizes.batch * sizes.heads, tasks = groups * sizes.levels;
  with_channels(sizes.channels, [&](auto channels) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t level = task / groups, image = task % groups / sizes.heads, head = task % sizes.heads;
      backward_level<T, decltype(channels)::value>(value, shapes, starts, locations, weights, grad_output, sizes, image,
                                                   head, level, grad_value, grad_locations, grad_weights);
    }
  });
}

}  // namespace ms_deform_attn
