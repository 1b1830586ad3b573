"""The Paddle networks and the geometry between them."""

from .geometry import (
    backproject,
    disp_to_depth,
    project,
    rotation_from_axisangle,
    transformation_from_parameters,
    translation_matrix,
    warp,
)
from .monodepth2 import Monodepth2, build_model
from .resnet_encoder import first_convolution

__all__ = [
    "Monodepth2",
    "backproject",
    "build_model",
    "disp_to_depth",
    "first_convolution",
    "project",
    "rotation_from_axisangle",
    "transformation_from_parameters",
    "translation_matrix",
    "warp",
]
