"""The Paddle networks and the geometry between them."""

from .geometry import (
    backproject_depth,
    disp_to_depth,
    get_translation_matrix,
    project_3d,
    rot_from_axisangle,
    transformation_from_parameters,
    warp,
)
from .monodepth2 import Monodepth2, build_model
from .resnet_encoder import first_convolution

__all__ = [
    "Monodepth2",
    "backproject_depth",
    "build_model",
    "disp_to_depth",
    "first_convolution",
    "get_translation_matrix",
    "project_3d",
    "rot_from_axisangle",
    "transformation_from_parameters",
    "warp",
]
