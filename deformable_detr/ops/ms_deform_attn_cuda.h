// The kernels of the operator on GPU, over plain device pointers; nothing of Paddle. For nvcc.
//
// The gradient of the value is summed with atomic additions, whose order is not fixed: unlike on CPU, its last bits can
// differ from run to run, as they do in the official code. All else is the same each time.
#pragma once

#include <algorithm>

#include "ms_deform_attn.h"

namespace ms_deform_attn {

constexpr int kThreads = 256, kWarp = 32;
constexpr int64_t kMostBlocks = 1 << 20;  // the kernels stride over what is beyond

template <typename T>
__global__ void forward_kernel(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations,
                               const T* weights, Sizes sizes, T* output) {
  const int64_t stride = sizes.heads * sizes.channels;
  const int64_t numbers = sizes.batch * sizes.queries * stride, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  // a thread for each output number, channels side by side
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < numbers; index += step) {
    const int64_t row = index / sizes.channels, image = row / sizes.heads / sizes.queries;
    const T* base = value + image * sizes.tokens * stride + index % stride;
    int64_t at = row * sizes.levels * sizes.points;
    T sum = 0;
    for (int64_t level = 0; level < sizes.levels; ++level) {
      const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
      for (int64_t point = 0; point < sizes.points; ++point, ++at) {
        const Cell<T> cell = locate(locations[2 * at], locations[2 * at + 1], height, width);
        for (int corner = 0; corner < 4; ++corner) {
          if (!inside(cell, corner, height, width)) continue;
          const int64_t token = starts[level] + (cell.y + corner / 2) * width + cell.x + corner % 2;
          sum += weights[at] * weight(cell, corner) * base[token * stride];
        }
      }
    }
    output[index] = sum;
  }
}

template <typename T>
__device__ T sum_of_warp(T number) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    number += __shfl_xor_sync(0xffffffff, number, distance);
  }
  return number;
}

// grad_value must be zero before.
template <typename T>
__global__ void backward_kernel(const T* value, const int64_t* shapes, const int64_t* starts, const T* locations,
                                const T* weights, const T* grad_output, Sizes sizes, T* grad_value, T* grad_locations,
                                T* grad_weights) {
  const int64_t stride = sizes.heads * sizes.channels;
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads, step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  const int lane = threadIdx.x;
  // a warp for each query and head, its lanes over the channels
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += step) {
    const int64_t image = row / sizes.heads / sizes.queries;
    const int64_t first = image * sizes.tokens * stride + row % sizes.heads * sizes.channels;
    const T* grad = grad_output + row * sizes.channels;
    int64_t at = row * sizes.levels * sizes.points;
    for (int64_t level = 0; level < sizes.levels; ++level) {
      const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
      for (int64_t point = 0; point < sizes.points; ++point, ++at) {
        const Cell<T> cell = locate(locations[2 * at], locations[2 * at + 1], height, width);
        T dots[4] = {};
        for (int corner = 0; corner < 4; ++corner) {
          if (!inside(cell, corner, height, width)) continue;  // the same for the whole warp
          const int64_t token = starts[level] + (cell.y + corner / 2) * width + cell.x + corner % 2;
          const int64_t from = first + token * stride;
          const T factor = weights[at] * weight(cell, corner);
          for (int64_t c = lane; c < sizes.channels; c += kWarp) {
            dots[corner] += grad[c] * value[from + c];
            atomicAdd(grad_value + from + c, factor * grad[c]);
          }
          dots[corner] = sum_of_warp(dots[corner]);
        }
        if (lane == 0) {
          PointGradient<T> gradient{};
          if (cell.counts) gradient = point_gradient(cell, dots, weights[at], height, width);
          grad_locations[2 * at] = gradient.x;
          grad_locations[2 * at + 1] = gradient.y;
          grad_weights[at] = gradient.weight;
        }
      }
    }
  }
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>(std::min((items + per_block - 1) / per_block, kMostBlocks));
}

// Starts the kernel on the stream; the error says whether it could start. Some output is needed: no empty grid starts.
template <typename T>
cudaError_t forward_cuda(cudaStream_t stream, const T* value, const int64_t* shapes, const int64_t* starts,
                         const T* locations, const T* weights, const Sizes& sizes, T* output) {
  const int64_t numbers = sizes.batch * sizes.queries * sizes.heads * sizes.channels;
  forward_kernel<T><<<blocks_for(numbers, kThreads), kThreads, 0, stream>>>(value, shapes, starts, locations, weights,
                                                                            sizes, output);
  return cudaGetLastError();
}

// As forward_cuda. Fills the three gradients; nothing needs to be set before.
template <typename T>
cudaError_t backward_cuda(cudaStream_t stream, const T* value, const int64_t* shapes, const int64_t* starts,
                          const T* locations, const T* weights, const T* grad_output, const Sizes& sizes, T* grad_value,
                          T* grad_locations, T* grad_weights) {
  const int64_t numbers = sizes.batch * sizes.tokens * sizes.heads * sizes.channels;
  const cudaError_t cleared = cudaMemsetAsync(grad_value, 0, numbers * sizeof(T), stream);
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  if (cleared != cudaSuccess || rows == 0) return cleared;
  const dim3 threads(kWarp, kThreads / kWarp);
  backward_kernel<T><<<blocks_for(rows, threads.y), threads, 0, stream>>>(value, shapes, starts, locations, weights,
                                                                         grad_output, sizes, grad_value,
                                                                         grad_locations, grad_weights);
  return cudaGetLastError();
}

}  // namespace ms_deform_attn
