"""The Paddle networks and the geometry between them."""

from .monodepth2 import Monodepth2, build_model

__all__ = ["Monodepth2", "build_model"]
