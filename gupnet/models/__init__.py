"""The network of the paper."""

from .dla import DLA34
from .gupnet import GUPNet, build_model
from .rois import BrokenBoxes, find_peaks, local_maxima, probabilities

__all__ = ["BrokenBoxes", "DLA34", "GUPNet", "build_model", "find_peaks", "local_maxima", "probabilities"]
