// The operator for Paddle: shapes and types, and the CPU side. What it computes: ms_deform_attn.h.

#include <vector>

#include "ms_deform_attn_cpu.h"
#include "paddle/phi/api/all.h"  // of paddle/extension.h the part that is needed: it compiles in half the time

using ms_deform_attn::Sizes;
using paddle::Tensor;

// ms_deform_attn.cu, in a build for CUDA
void MsDeformAttnForwardCuda(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
                             const Tensor& weights, const Sizes& sizes, Tensor* output);
void MsDeformAttnBackwardCuda(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
                              const Tensor& weights, const Tensor& grad_output, const Sizes& sizes, Tensor* grad_value,
                              Tensor* grad_locations, Tensor* grad_weights);

namespace {

// ops/__init__.py says what is wrong with an input in words; this keeps pointers in their arrays, whoever calls.
Sizes Check(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
            const Tensor& weights) {
  const auto v = value.shape(), p = locations.shape(), a = weights.shape();
  PD_CHECK(v.size() == 4 && p.size() == 6 && a.size() == 5, "ms_deform_attn: wrong number of dimensions");
  const Sizes sizes{v[0], v[1], v[2], v[3], p[1], p[3], p[4]};
  PD_CHECK(p[0] == v[0] && p[2] == v[2] && p[5] == 2, "ms_deform_attn: locations do not fit value");
  PD_CHECK(std::equal(a.begin(), a.end(), p.begin()), "ms_deform_attn: weights do not fit locations");
  PD_CHECK(shapes.shape() == std::vector<int64_t>({sizes.levels, 2}), "ms_deform_attn: shapes do not fit locations");
  PD_CHECK(starts.shape() == std::vector<int64_t>({sizes.levels}), "ms_deform_attn: starts do not fit shapes");
  PD_CHECK(locations.dtype() == value.dtype() && weights.dtype() == value.dtype(), "ms_deform_attn: mixed types");
  PD_CHECK(shapes.dtype() == paddle::DataType::INT64 && starts.dtype() == paddle::DataType::INT64,
           "ms_deform_attn: shapes and starts must be int64");
  const Tensor host_shapes = shapes.copy_to(paddle::CPUPlace(), true);
  const Tensor host_starts = starts.copy_to(paddle::CPUPlace(), true);
  const int64_t *size = host_shapes.data<int64_t>(), *start = host_starts.data<int64_t>();
  int64_t total = 0;
  for (int64_t level = 0; level < sizes.levels; ++level) {
    PD_CHECK(size[2 * level] > 0 && size[2 * level + 1] > 0, "ms_deform_attn: an empty level");
    PD_CHECK(start[level] == total, "ms_deform_attn: starts do not follow from shapes");
    total += size[2 * level] * size[2 * level + 1];
  }
  PD_CHECK(total == sizes.tokens, "ms_deform_attn: the levels do not add up to the value's tokens");
  return sizes;
}

}  // namespace

std::vector<Tensor> MsDeformAttnForward(const Tensor& value, const Tensor& shapes, const Tensor& starts,
                                        const Tensor& locations, const Tensor& weights) {
  const Sizes sizes = Check(value, shapes, starts, locations, weights);
  Tensor output =
      paddle::empty({sizes.batch, sizes.queries, sizes.heads * sizes.channels}, value.dtype(), value.place());
  if (output.numel() == 0) return {output};
#ifdef PADDLE_WITH_CUDA
  if (value.is_gpu()) {
    MsDeformAttnForwardCuda(value, shapes, starts, locations, weights, sizes, &output);
    return {output};
  }
#endif
  PD_DISPATCH_FLOATING_TYPES(value.dtype(), "ms_deform_attn", ([&] {
    ms_deform_attn::forward_cpu<data_t>(value.data<data_t>(), shapes.data<int64_t>(), starts.data<int64_t>(),
                                        locations.data<data_t>(), weights.data<data_t>(), sizes,
                                        output.data<data_t>());
  }));
  return {output};
}

std::vector<Tensor> MsDeformAttnBackward(const Tensor& value, const Tensor& shapes, const Tensor& starts,
                                         const Tensor& locations, const Tensor& weights, const Tensor& grad_output) {
  const Sizes sizes = Check(value, shapes, starts, locations, weights);
  PD_CHECK(grad_output.numel() == sizes.batch * sizes.queries * sizes.heads * sizes.channels,
           "ms_deform_attn: the output's gradient does not fit");
  Tensor grad_value = paddle::empty(value.shape(), value.dtype(), value.place());
  Tensor grad_locations = paddle::empty(locations.shape(), value.dtype(), value.place());
  Tensor grad_weights = paddle::empty(weights.shape(), value.dtype(), value.place());
#ifdef PADDLE_WITH_CUDA
  if (value.is_gpu()) {
    MsDeformAttnBackwardCuda(value, shapes, starts, locations, weights, grad_output, sizes, &grad_value,
                             &grad_locations, &grad_weights);
    return {grad_value, grad_locations, grad_weights};
  }
#endif
  PD_DISPATCH_FLOATING_TYPES(value.dtype(), "ms_deform_attn_grad", ([&] {
    ms_deform_attn::backward_cpu<data_t>(value.data<data_t>(), shapes.data<int64_t>(), starts.data<int64_t>(),
                                         locations.data<data_t>(), weights.data<data_t>(), grad_output.data<data_t>(),
                                         sizes, grad_value.data<data_t>(), grad_locations.data<data_t>(),
                                         grad_weights.data<data_t>());
  }));
  return {grad_value, grad_locations, grad_weights};
}

using Shape = std::vector<int64_t>;
using paddle::DataType;

std::vector<Shape> InferShape(const Shape& value, const Shape& shapes, const Shape& starts, const Shape& locations,
                              const Shape& weights) {
  PD_CHECK(value.size() == 4 && locations.size() == 6 && weights.size() == 5,
           "ms_deform_attn: value, locations and weights must have 4, 6 and 5 dimensions");
  return {{value[0], locations[1], value[2] < 0 || value[3] < 0 ? -1 : value[2] * value[3]}};
}

std::vector<DataType> InferDtype(const DataType& value, const DataType& shapes, const DataType& starts,
                                 const DataType& locations, const DataType& weights) {
  return {value};
}

std::vector<Shape> InferGradShape(const Shape& value, const Shape& shapes, const Shape& starts, const Shape& locations,
                                  const Shape& weights, const Shape& grad_output) {
  return {value, locations, weights};
}

std::vector<DataType> InferGradDtype(const DataType& value, const DataType& shapes, const DataType& starts,
                                     const DataType& locations, const DataType& weights, const DataType& grad_output) {
  return {value, value, value};
}

PD_BUILD_OP(ms_deform_attn)
    .Inputs({"Value", "Shapes", "Starts", "Locations", "Weights"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(MsDeformAttnForward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(ms_deform_attn)
    .Inputs({"Value", "Shapes", "Starts", "Locations", "Weights", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Value"), paddle::Grad("Locations"), paddle::Grad("Weights")})
    .SetKernelFn(PD_KERNEL(MsDeformAttnBackward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferGradShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferGradDtype));
