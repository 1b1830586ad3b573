"""The deformable transformer: encoder of the tokens of all levels, decoder of the queries (NOTES 3.11 to 3.24)."""

import math

import paddle
from paddle import nn

from shared import InputError

from .attention import MSDeformAttn
from .layers import FeedForward, inverse_sigmoid, linear, share_first_biases
from .position_encoding import sine_embedding

PROPOSAL_SIDE = 0.05  # width and height of a proposal on the finest level; each level doubles them
PROPOSAL_BORDER = 0.01  # a number of a proposal that is nearer to 0 or 1 makes it invalid


class DeformableTransformerEncoderLayer(nn.Layer, FeedForward):
    """Self-attention and FFN, each followed by its norm (NOTES 3.15)."""

    def __init__(self, width, inner, dropout, levels, heads, points):
        super().__init__()
        self.self_attn = MSDeformAttn(width, levels, heads, points)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        self.build_ffn(width, inner)
        self.dropout2, self.dropout3 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x, position, reference_points, spatial_shapes, level_start_index, padding):
        attended = self.self_attn(x + position, reference_points, x, spatial_shapes, level_start_index, padding)
        x = self.norm1(x + self.dropout1(attended))
        return self.norm2(x + self.dropout3(self.forward_ffn(x, self.dropout2)))


class DeformableTransformerEncoder(nn.Layer):
    """forward -> memory float [N, S, C]."""

    def __init__(self, num_layers, *layer_options):
        super().__init__()
        self.layers = nn.LayerList([DeformableTransformerEncoderLayer(*layer_options) for _ in range(num_layers)])
        share_first_biases(self.layers)

    def forward(self, x, position, shapes, valid_ratios, spatial_shapes, level_start_index, padding):
        reference_points = get_reference_points(shapes, valid_ratios)
        for layer in self.layers:
            x = layer(x, position, reference_points, spatial_shapes, level_start_index, padding)
        return x


def get_reference_points(shapes, valid_ratios):
    """Each token's own position, float32 [N, S, L, 2] as x and y in 0 to 1 over each padded level (NOTES 3.14).

    shapes: (h, w) of each level; valid_ratios float32 [N, L, 2].
    """
    points = []
    for level, (h, w) in enumerate(shapes):
        ratio = valid_ratios[:, level]
        y = (paddle.arange(h, dtype="float32") + 0.5) / (ratio[:, 1:] * h)
        x = (paddle.arange(w, dtype="float32") + 0.5) / (ratio[:, :1] * w)
        grid = paddle.stack([x.unsqueeze(1).expand([-1, h, w]), y.unsqueeze(2).expand([-1, h, w])], -1)
        points.append(grid.flatten(1, 2))
    return paddle.concat(points, 1).unsqueeze(2) * valid_ratios.unsqueeze(1)


class DeformableTransformerDecoderLayer(nn.Layer, FeedForward):
    """Self-attention of the queries, deformable attention to the memory, FFN.

    The norms are not numbered in order of use: norm1 follows the second attention, norm2 the first (NOTES 3.16).
    """

    def __init__(self, width, inner, dropout, levels, heads, points):
        super().__init__()
        self.cross_attn = MSDeformAttn(width, levels, heads, points)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        # the three projections start as one Xavier matrix [3C, C] would (NOTES 3.25)
        bound = (6 / (4 * width)) ** 0.5
        start, zero = nn.initializer.Uniform(-bound, bound), nn.initializer.Constant(0.0)
        self.self_attn = nn.MultiHeadAttention(width, heads, dropout, weight_attr=start, bias_attr=zero)
        nn.initializer.XavierUniform()(self.self_attn.out_proj.weight)
        self.dropout2 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.build_ffn(width, inner)
        self.dropout3, self.dropout4 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x, position, reference_points, memory, spatial_shapes, level_start_index, padding):
        query = x + position
        x = self.norm2(x + self.dropout2(self.self_attn(query, query, x)))
        attended = self.cross_attn(x + position, reference_points, memory, spatial_shapes, level_start_index, padding)
        x = self.norm1(x + self.dropout1(attended))
        return self.norm3(x + self.dropout4(self.forward_ffn(x, self.dropout3)))


class DeformableTransformerDecoder(nn.Layer):
    """forward -> (the layers' states, the references after each layer), lists of [N, Q, C] and of [N, Q, 2 or 4].

    The network sets `bbox_embed` where it refines boxes: the reference is then updated after each layer. `class_embed`,
    set with two stages, is here for its name alone (NOTES 3.1).
    """

    def __init__(self, num_layers, *layer_options):
        super().__init__()
        self.layers = nn.LayerList([DeformableTransformerDecoderLayer(*layer_options) for _ in range(num_layers)])
        share_first_biases(self.layers)
        self.bbox_embed = None
        self.class_embed = None

    def forward(self, x, position, reference, memory, valid_ratios, spatial_shapes, level_start_index, padding):
        states, references = [], []
        for index, layer in enumerate(self.layers):
            ratios = valid_ratios if reference.shape[-1] == 2 else paddle.concat([valid_ratios, valid_ratios], -1)
            points = reference.unsqueeze(2) * ratios.unsqueeze(1).astype(reference.dtype)
            x = layer(x, position, points, memory, spatial_shapes, level_start_index, padding)
            if self.bbox_embed is not None:
                with paddle.no_grad():  # a refined reference carries no gradient to the layer before (NOTES 3.18)
                    reference = refine(self.bbox_embed[index](x), reference)
            states.append(x)
            references.append(reference)
        return states, references


def refine(delta, reference):
    """The box [N, Q, 4] in 0 to 1 that `delta` [N, Q, 4] makes of a reference [N, Q, 2 or 4] (NOTES 3.18, 3.20)."""
    logits = inverse_sigmoid(reference)
    if reference.shape[-1] == 2:
        logits = paddle.concat([logits, paddle.zeros_like(logits)], -1)
    return (delta + logits).sigmoid()


class DeformableTransformer(nn.Layer):
    """forward(sources, paddings, positions, query_embed) -> dict of states, references and proposals."""

    def __init__(self, options):
        super().__init__()
        width, levels, heads = options.hidden_dim, options.num_feature_levels, options.nheads
        sizes = (width, options.dim_feedforward, options.dropout, levels, heads)
        self.encoder = DeformableTransformerEncoder(options.enc_layers, *sizes, options.enc_n_points)
        self.decoder = DeformableTransformerDecoder(options.dec_layers, *sizes, options.dec_n_points)
        self.level_embed = self.create_parameter([levels, width], default_initializer=nn.initializer.Normal(0.0, 1.0))
        self.two_stage, self.num_proposals = options.two_stage, options.num_queries
        if self.two_stage:
            self.enc_output = linear(width, width, "xavier")
            self.enc_output_norm = nn.LayerNorm(width)
            self.pos_trans = linear(2 * width, 2 * width, "xavier")
            self.pos_trans_norm = nn.LayerNorm(2 * width)
        else:
            self.reference_points = linear(width, 2, "xavier", "zero")

    def forward(self, sources, paddings, positions, query_embed=None) -> dict:
        """
        sources: float [N, C, h, w] of each level; paddings bool [N, h, w], True where padded; positions float
        [N, h, w, C]; query_embed [Q, 2C], position and initial state of each query, None with two stages.

        `memory` [N, S, C]; `states` and `references`, lists with one entry a decoder layer; `init_reference`
        [N, Q, 2 or 4]; `valid_ratios` float32 [N, L, 2] as width and height; with two stages `enc_logits`
        [N, S, classes], `enc_boxes` [N, S, 4] before the sigmoid, and `topk_index` int64 [N, Q], the tokens that became
        queries.
        """
        shapes = [tuple(source.shape[2:]) for source in sources]
        spatial_shapes = paddle.to_tensor(shapes, "int64")
        starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
        level_start_index = paddle.to_tensor(starts, "int64")
        tokens = paddle.concat([source.flatten(2).transpose([0, 2, 1]) for source in sources], 1)
        padding = paddle.concat([mask.flatten(1) for mask in paddings], 1)
        position = [encoding.flatten(1, 2) + self.level_embed[level] for level, encoding in enumerate(positions)]
        valid_ratios = paddle.stack([get_valid_ratio(mask) for mask in paddings], 1)
        levels = (valid_ratios, spatial_shapes, level_start_index, padding)
        memory = self.encoder(tokens, paddle.concat(position, 1), shapes, *levels)
        parts = {"memory": memory, "valid_ratios": valid_ratios}
        if self.two_stage:
            parts |= self._propose(memory, paddings)
            boxes = paddle.take_along_axis(parts["enc_boxes"], parts["topk_index"].unsqueeze(-1), 1, broadcast=True)
            boxes = boxes.detach()
            reference = boxes.sigmoid()
            query = self.pos_trans_norm(self.pos_trans(get_proposal_pos_embed(boxes, memory.shape[-1] // 2)))
            query_position, initial_state = query.chunk(2, -1)
        else:
            query = query_embed.unsqueeze(0).expand([memory.shape[0], -1, -1])
            query_position, initial_state = query.chunk(2, -1)
            reference = self.reference_points(query_position).sigmoid()
        states, references = self.decoder(initial_state, query_position, reference, memory, *levels)
        return parts | {"init_reference": reference, "states": states, "references": references}

    def _propose(self, memory, paddings) -> dict:
        """The first stage: every token proposes one box (NOTES 3.22)."""
        boxes, invalid = gen_encoder_output_proposals(paddings)
        if paddle.in_dynamic_mode() and boxes.shape[1] < self.num_proposals:  # a static graph serves any size
            raise InputError(
                f"--num_queries {self.num_proposals}: the image has only {boxes.shape[1]} tokens to choose from; "
                "make it larger or ask for fewer"
            )
        features = self.enc_output_norm(self.enc_output(memory.masked_fill(invalid.unsqueeze(-1), 0.0)))
        logits = self.decoder.class_embed[len(self.decoder.layers)](features)
        boxes = self.decoder.bbox_embed[len(self.decoder.layers)](features) + boxes.astype(features.dtype)
        # class 0 stands for "an object" here
        topk_index = paddle.topk(logits[..., 0], self.num_proposals, axis=1)[1]
        return {"enc_logits": logits, "enc_boxes": boxes, "topk_index": topk_index}


def get_valid_ratio(padding):
    """The valid fraction of a padded map's sides, float32 [N, 2] as width and height, of bool [N, h, w]."""
    valid = (~padding).astype("float32")
    return paddle.stack([valid[:, 0, :].mean(1), valid[:, :, 0].mean(1)], -1)


def gen_encoder_output_proposals(paddings: list) -> tuple:
    """(boxes before the sigmoid float32 [N, S, 4], invalid bool [N, S]) of the levels' paddings bool [N, h, w].

    Invalid are padded tokens and boxes that reach the border of the valid part; their boxes are inf (NOTES 3.21).
    """
    boxes = []
    for level, mask in enumerate(paddings):
        n, h, w = mask.shape
        valid = (~mask).astype("float32")
        width, height = valid[:, 0, :].sum(1).reshape([n, 1, 1]), valid[:, :, 0].sum(1).reshape([n, 1, 1])
        x = ((paddle.arange(w, dtype="float32") + 0.5).reshape([1, 1, w]) / width).expand([n, h, w])
        y = ((paddle.arange(h, dtype="float32") + 0.5).reshape([1, h, 1]) / height).expand([n, h, w])
        side = paddle.full([n, h, w], PROPOSAL_SIDE * 2.0**level, "float32")
        boxes.append(paddle.stack([x, y, side, side], -1).reshape([n, h * w, 4]))
    boxes = paddle.concat(boxes, 1)
    inside = ((boxes > PROPOSAL_BORDER) & (boxes < 1 - PROPOSAL_BORDER)).all(-1)
    invalid = paddle.concat([mask.flatten(1) for mask in paddings], 1) | ~inside
    logits = paddle.log(boxes / (1 - boxes))
    # overwritten, not multiplied: outside 0 to 1 the logarithm is NaN or Inf
    return logits.masked_fill(invalid.unsqueeze(-1), math.inf), invalid


def get_proposal_pos_embed(boxes, channels: int):
    """Proposals [N, Q, 4] before the sigmoid -> [N, Q, 4 * channels]: sine embeddings of the four numbers in turn."""
    return sine_embedding(boxes.sigmoid() * (2 * math.pi), channels).flatten(2)
