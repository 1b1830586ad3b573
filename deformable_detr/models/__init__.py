"""The Paddle network, one file for each of its parts."""

from .deformable_detr import DeformableDETR, build_model

__all__ = ["DeformableDETR", "build_model"]
