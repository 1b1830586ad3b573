// Multi-scale deformable attention: sizes and geometry, for CPU loops and CUDA kernels alike (NOTES 4.1, 4.2).
//
// All arrays are contiguous and row-major:
//   value     [batch, tokens, heads, channels]
//   shapes    [levels, 2]  height, width of each level; starts [levels]  its first token
//   locations [batch, queries, heads, levels, points, 2]  x, y; 0 and 1 are the borders of a level
//   weights   [batch, queries, heads, levels, points]
//   output    [batch, queries, heads, channels]
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MSDA_INLINE __host__ __device__ __forceinline__
#else
#define MSDA_INLINE inline
#endif

namespace ms_deform_attn {

struct Sizes {
  int64_t batch, tokens, heads, channels, queries, levels, points;
};

// The four cells around a sampling point, in the order (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1).
template <typename T>
struct Cell {
  bool counts;     // false: the point lies a whole cell or more outside the level, or is NaN, and adds nothing
  int64_t y, x;    // of the first cell; -1 and the last line of cells have neighbours outside
  T below, right;  // the point's distance from that cell's centre, in [0, 1)
};

template <typename T>
MSDA_INLINE Cell<T> locate(T x, T y, int64_t height, int64_t width) {
  const T u = x * static_cast<T>(width) - static_cast<T>(0.5);
  const T v = y * static_cast<T>(height) - static_cast<T>(0.5);
  Cell<T> cell{};
  cell.counts = u > -1 && v > -1 && u < static_cast<T>(width) && v < static_cast<T>(height);
  if (cell.counts) {  // otherwise the conversion to an integer could overflow
    const T left = std::floor(u), top = std::floor(v);
    cell.x = static_cast<int64_t>(left);
    cell.y = static_cast<int64_t>(top);
    cell.right = u - left;
    cell.below = v - top;
  }
  return cell;
}

// Whether corner 0..3 lies in the level: outside it the value is zero, and so is its gradient.
template <typename T>
MSDA_INLINE bool inside(const Cell<T>& cell, int corner, int64_t height, int64_t width) {
  const int64_t y = cell.y + corner / 2, x = cell.x + corner % 2;
  return cell.counts && y >= 0 && y < height && x >= 0 && x < width;
}

// The bilinear weight of corner 0..3.
template <typename T>
MSDA_INLINE T weight(const Cell<T>& cell, int corner) {
  const T vertical = corner / 2 ? cell.below : 1 - cell.below;
  const T horizontal = corner % 2 ? cell.right : 1 - cell.right;
  return vertical * horizontal;
}

// Gradients of one point from dots[c] = <gradient of the output, value at corner c>, zero outside the level.
template <typename T>
struct PointGradient {
  T x, y, weight;
};

template <typename T>
MSDA_INLINE PointGradient<T> point_gradient(
    const Cell<T>& cell, const T (&dots)[4], T attention, int64_t height, int64_t width) {
  const T above = 1 - cell.below, left = 1 - cell.right;
  PointGradient<T> gradient;
  gradient.weight = above * (left * dots[0] + cell.right * dots[1]) +
                    cell.below * (left * dots[2] + cell.right * dots[3]);
  gradient.x = static_cast<T>(width) * attention *
               (above * (dots[1] - dots[0]) + cell.below * (dots[3] - dots[2]));
  gradient.y = static_cast<T>(height) * attention *
               (left * (dots[2] - dots[0]) + cell.right * (dots[3] - dots[1]));
  return gradient;
}

}  // namespace ms_deform_attn
