"""All networks of the paper in one Layer, under the names of the reference's trainer (NOTES 3.7 to 3.9)."""

import argparse
from collections.abc import Sequence

import paddle
from paddle import nn

from shared.norms import BatchNorm2D

from .depth_decoder import DepthDecoder
from .geometry import transformation_from_parameters
from .pose_networks import PoseCNN, PoseDecoder
from .resnet_encoder import ResnetEncoder
from options import sources


class Monodepth2(nn.Layer):
    """`encoder` and `depth`, and depending on the options `pose_encoder`, `pose` and `predictive_mask`.

    Three buffers, int64 without dimensions, hold what the reference saves beside the weights: `height` and `width` of
    the input they were trained for, and `use_stereo`.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.pose_type, self.pose_input = options.pose_model_type, options.pose_model_input
        self.frame_ids, self.sources = list(options.frame_ids), sources(options)
        self.freezes_norms = options.freeze_bn
        for name in ("height", "width", "use_stereo"):
            self.register_buffer(name, paddle.to_tensor(int(getattr(options, name)), dtype="int64"))

        self.encoder = ResnetEncoder(options.num_layers)
        channels = self.encoder.num_ch_enc
        self.depth = DepthDecoder(channels, options.scales)
        frames = 2 if self.pose_input == "pairs" else len(self.frame_ids)
        if len(self.frame_ids) > 1:
            if self.pose_type == "separate_resnet":
                self.pose_encoder = ResnetEncoder(options.num_layers, frames)
                # at least two motions, as in the reference: pairs do not use the second
                self.pose = PoseDecoder(channels, 1, max(2, frames - 1))
            elif self.pose_type == "shared":
                self.pose = PoseDecoder(channels, frames)
            else:
                self.pose = PoseCNN(frames)
        if options.predictive_mask:
            self.predictive_mask = DepthDecoder(channels, options.scales, len(self.sources))

    def train(self) -> None:
        super().train()
        if self.freezes_norms:
            for layer in self.sublayers():
                if isinstance(layer, BatchNorm2D):
                    layer.eval()

    def predict_disparity(self, images) -> dict:
        """images [N, 3, H, W] in [0, 1] -> {("disp", s): [N, 1, H / 2^s, W / 2^s]}."""
        return self.depth(self.encoder(images))

    def predict_pose(self, frames) -> tuple:
        """frames [N, 3 * n, H, W] in [0, 1], in order of time -> (axisangle, translation), each [N, motions, 1, 3].

        n is 2, or with --pose_model_input all the number of frames. The separate ResNet predicts two motions, of which
        pairs use the first.
        """
        if self.pose_type == "posecnn":
            return self.pose(frames)
        if self.pose_type == "separate_resnet":
            return self.pose([self.pose_encoder(frames)])
        return self.pose(self._features(frames.split(frames.shape[1] // 3, axis=1)))

    def _features(self, images: Sequence) -> list:
        """The encoder's features of each image, all from one pass, so that they share the batch's statistics."""
        joined = self.encoder(paddle.concat(list(images)))
        return list(zip(*(feature.split(len(images)) for feature in joined), strict=True))

    def forward(self, inputs: dict) -> dict:
        """A batch with ("color_aug", f, 0) of all frames -> the outputs that the losses need.

        ("disp", s); of each integer source f ("axisangle", 0, f), ("translation", 0, f) and ("cam_T_cam", 0, f)
        [N, 4, 4]; ("predictive_mask", s) [N, sources, H / 2^s, W / 2^s].
        """
        if self.pose_type == "shared" and len(self.frame_ids) > 1:
            frames = [0, *self.sources]
            features = dict(zip(frames, self._features([inputs["color_aug", f, 0] for f in frames]), strict=True))
        else:
            features = {0: self.encoder(inputs["color_aug", 0, 0])}
        outputs = self.depth(features[0])
        if hasattr(self, "predictive_mask"):
            masks = self.predictive_mask(features[0])
            outputs |= {("predictive_mask", scale): mask for (_, scale), mask in masks.items()}
        if len(self.frame_ids) > 1:
            outputs |= self._predict_poses(inputs, features)
        return outputs

    def _predict_poses(self, inputs: dict, features: dict) -> dict:
        """Camera motion from frame 0 to each integer source frame."""
        outputs, all_motions = {}, None
        if self.pose_input == "all":
            all_motions = self._pose_of(self.frame_ids, inputs, features)
        for index, f in enumerate(self.frame_ids[1:]):
            # pairs go in by order of time, so the motion to an earlier frame is inverted
            pair = [f, 0] if f < 0 else [0, f]
            axisangle, translation = all_motions or self._pose_of(pair, inputs, features)
            index, invert = (index, False) if all_motions else (0, f < 0)
            motion = transformation_from_parameters(axisangle[:, index], translation[:, index], invert)
            outputs |= {("axisangle", 0, f): axisangle, ("translation", 0, f): translation}
            outputs["cam_T_cam", 0, f] = motion
        return outputs

    def _pose_of(self, frames: list, inputs: dict, features: dict) -> tuple:
        if self.pose_type == "shared":
            return self.pose([features[f] for f in frames])
        return self.predict_pose(paddle.concat([inputs["color_aug", f, 0] for f in frames], axis=1))

    def idle_layers(self) -> list[nn.Layer]:
        """The layers of the official checkpoint that are never used: the ResNets' classifiers."""
        encoders = (getattr(self, name, None) for name in ("encoder", "pose_encoder"))
        return [layer for encoder in encoders if encoder is not None for layer in encoder.idle_layers()]


def build_model(options: argparse.Namespace) -> Monodepth2:
    """The networks of `options`, freshly initialised (NOTES 3.3), in train mode."""
    return Monodepth2(options)
