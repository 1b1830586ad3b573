// The GPU side of the operator for Paddle; the kernels are in ms_deform_attn_cuda.h.

#include "ms_deform_attn_cuda.h"
#include "paddle/phi/api/all.h"

using ms_deform_attn::Sizes;
using paddle::Tensor;

void MsDeformAttnForwardCuda(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
                             const Tensor& weights, const Sizes& sizes, Tensor* output) {
  const Tensor device_shapes = shapes.copy_to(value.place(), true), device_starts = starts.copy_to(value.place(), true);
  PD_DISPATCH_FLOATING_TYPES(value.dtype(), "ms_deform_attn", ([&] {
    const cudaError_t error = ms_deform_attn::forward_cuda<data_t>(
        value.stream(), value.data<data_t>(), device_shapes.data<int64_t>(), device_starts.data<int64_t>(),
        locations.data<data_t>(), weights.data<data_t>(), sizes, output->data<data_t>());
    PD_CHECK(error == cudaSuccess, "ms_deform_attn: ", cudaGetErrorString(error));
  }));
}

void MsDeformAttnBackwardCuda(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
                              const Tensor& weights, const Tensor& grad_output, const Sizes& sizes, Tensor* grad_value,
                              Tensor* grad_locations, Tensor* grad_weights) {
  const Tensor device_shapes = shapes.copy_to(value.place(), true), device_starts = starts.copy_to(value.place(), true);
  PD_DISPATCH_FLOATING_TYPES(value.dtype(), "ms_deform_attn_grad", ([&] {
    const cudaError_t error = ms_deform_attn::backward_cuda<data_t>(
        value.stream(), value.data<data_t>(), device_shapes.data<int64_t>(), device_starts.data<int64_t>(),
        locations.data<data_t>(), weights.data<data_t>(), grad_output.data<data_t>(), sizes, grad_value->data<data_t>(),
        grad_locations->data<data_t>(), grad_weights->data<data_t>());
    PD_CHECK(error == cudaSuccess, "ms_deform_attn_grad: ", cudaGetErrorString(error));
  }));
}
