"""The Paddle network, one file for each of its parts."""

from .deformable_detr import DeformableDETR, PostProcess, build_model

__all__ = ["DeformableDETR", "PostProcess", "build_model"]
