"""Constants of the paper's code (NOTES 2.7): classes, mean sizes, heading bins, outputs, terms of the loss."""

import numpy as np

#: in the order of class ids, heatmap channels and mean sizes
CLASSES = ("Pedestrian", "Car", "Cyclist")
#: [3, 3] float64: height, width, length of each class, metres
MEAN_SIZES = np.array(
    [
        [1.76255119, 0.66068622, 0.84422524],
        [1.52563191462, 1.62856739989, 3.88311640418],
        [1.73698127, 0.59706367, 1.76282397],
    ]
)
#: bins of the heading; bin b is centred at b * 2 pi / 12
HEADING_BINS = 12
#: pixels of the network's input per cell of the feature map, on both axes
DOWN_RATIO = 4
#: objects per image: slots of the targets, and peaks of the heatmap
MAX_OBJECTS = 50
#: width and height of the network's input
INPUT_SIZE = (1280, 384)
#: the network's outputs and their channels: of the dense heads, and of the heads on regions of interest
DENSE_OUTPUTS = {"heatmap": len(CLASSES), "offset_2d": 2, "size_2d": 2}
ROI_OUTPUTS = {"depth": 2, "offset_3d": 2, "size_3d": 3, "heading": 2 * HEADING_BINS, "h3d_log_variance": 1}
#: the terms of the loss, in the reference's order
TERMS = ("seg_loss", "offset2d_loss", "size2d_loss", "depth_loss", "offset3d_loss", "size3d_loss", "heading_loss")
#: of RGB values in 0..1
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
