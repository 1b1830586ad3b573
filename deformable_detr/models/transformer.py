"""The deformable transformer: encoder of the tokens of all levels, decoder of the queries (fact sheet 4.5 to 4.11)."""

import paddle
from paddle import nn

from shared import InputError

from .attention import MSDeformAttn
from .layers import FeedForward, inverse_sigmoid, linear, share_first_biases
from .proposals import proposal_boxes, proposal_embedding


class EncoderLayer(nn.Layer, FeedForward):
    """Self-attention and FFN, each followed by its norm (section 4.8)."""

    def __init__(self, width, inner, dropout, levels, heads, points):
        super().__init__()
        self.self_attn = MSDeformAttn(width, levels, heads, points)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        self.build_feed_forward(width, inner)
        self.dropout2, self.dropout3 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x, position, reference_points, spatial_shapes, level_start_index, padding):
        attended = self.self_attn(x + position, reference_points, x, spatial_shapes, level_start_index, padding)
        x = self.norm1(x + self.dropout1(attended))
        return self.norm2(x + self.dropout3(self.feed_forward(x, self.dropout2)))


class Encoder(nn.Layer):
    """forward -> memory float [N, S, C]."""

    def __init__(self, num_layers, *layer_options):
        super().__init__()
        self.layers = nn.LayerList([EncoderLayer(*layer_options) for _ in range(num_layers)])
        share_first_biases(self.layers)

    def forward(self, x, position, shapes, valid_ratios, spatial_shapes, level_start_index, padding):
        reference_points = encoder_reference_points(shapes, valid_ratios)
        for layer in self.layers:
            x = layer(x, position, reference_points, spatial_shapes, level_start_index, padding)
        return x


def encoder_reference_points(shapes, valid_ratios):
    """The tokens' own places, float32 [N, S, L, 2] as x and y in 0 to 1 over each padded level (section 4.8).

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


class DecoderLayer(nn.Layer, FeedForward):
    """Self-attention of the queries, deformable attention to the memory, FFN (section 4.9).

    The official numbers of the norms are not in the order of use: norm1 follows the second attention, norm2 the first.
    """

    def __init__(self, width, inner, dropout, levels, heads, points):
        super().__init__()
        self.cross_attn = MSDeformAttn(width, levels, heads, points)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        # the three projections start as one matrix [3C, C] would, in Xavier's way
        bound = (6 / (4 * width)) ** 0.5
        start, zero = nn.initializer.Uniform(-bound, bound), nn.initializer.Constant(0.0)
        self.self_attn = nn.MultiHeadAttention(width, heads, dropout, weight_attr=start, bias_attr=zero)
        nn.initializer.XavierUniform()(self.self_attn.out_proj.weight)
        self.dropout2 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.build_feed_forward(width, inner)
        self.dropout3, self.dropout4 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x, position, reference_points, memory, spatial_shapes, level_start_index, padding):
        query = x + position
        x = self.norm2(x + self.dropout2(self.self_attn(query, query, x)))
        attended = self.cross_attn(x + position, reference_points, memory, spatial_shapes, level_start_index, padding)
        x = self.norm1(x + self.dropout1(attended))
        return self.norm3(x + self.dropout4(self.feed_forward(x, self.dropout3)))


class Decoder(nn.Layer):
    """forward -> (the layers' states, the references after each layer), lists of [N, Q, C] and of [N, Q, 2 or 4].

    `bbox_embed`, where the network gives it, refines the reference after each layer; `class_embed` too belongs to the
    network, which names it here for the encoder's proposals.
    """

    def __init__(self, num_layers, *layer_options):
        super().__init__()
        self.layers = nn.LayerList([DecoderLayer(*layer_options) for _ in range(num_layers)])
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
                with paddle.no_grad():  # each layer learns from its own loss alone
                    reference = refine(self.bbox_embed[index](x), reference)
            states.append(x)
            references.append(reference)
        return states, references


def refine(delta, reference):
    """The box [N, Q, 4] in 0 to 1 that `delta` [N, Q, 4] makes of a reference [N, Q, 2 or 4] (section 4.10)."""
    logits = inverse_sigmoid(reference)
    if reference.shape[-1] == 2:
        logits = paddle.concat([logits, paddle.zeros_like(logits)], -1)
    return (delta + logits).sigmoid()


class DeformableTransformer(nn.Layer):
    """forward(sources, paddings, positions, query_embed) -> dict of what the heads and the tests look at."""

    def __init__(self, options):
        super().__init__()
        width, levels, heads = options.hidden_dim, options.num_feature_levels, options.nheads
        sizes = (width, options.dim_feedforward, options.dropout, levels, heads)
        self.encoder = Encoder(options.enc_layers, *sizes, options.enc_n_points)
        self.decoder = Decoder(options.dec_layers, *sizes, options.dec_n_points)
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
        sources: float [N, C, h, w] of each level; paddings bool [N, h, w], True outside the picture; positions float
        [N, h, w, C]; query_embed [Q, 2C], position and first state of each query, None with two stages.

        `memory` [N, S, C]; `states` and `references`, lists of the decoder layers'; `initial_reference` [N, Q, 2 or 4];
        `valid_ratios` float32 [N, L, 2] as width and height; with two stages `proposal_logits` [N, S, classes] and
        `proposal_boxes` [N, S, 4] before the sigmoid, and `chosen` int64 [N, Q], the tokens that became queries.
        """
        shapes = [tuple(source.shape[2:]) for source in sources]
        spatial_shapes = paddle.to_tensor(shapes, "int64")
        starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
        level_start_index = paddle.to_tensor(starts, "int64")
        tokens = paddle.concat([source.flatten(2).transpose([0, 2, 1]) for source in sources], 1)
        padding = paddle.concat([mask.flatten(1) for mask in paddings], 1)
        position = [encoding.flatten(1, 2) + self.level_embed[level] for level, encoding in enumerate(positions)]
        valid_ratios = paddle.stack([valid_ratio(mask) for mask in paddings], 1)
        levels = (valid_ratios, spatial_shapes, level_start_index, padding)
        memory = self.encoder(tokens, paddle.concat(position, 1), shapes, *levels)
        found = {"memory": memory, "valid_ratios": valid_ratios}
        if self.two_stage:
            found |= self._propose(memory, paddings)
            boxes = paddle.take_along_axis(found["proposal_boxes"], found["chosen"].unsqueeze(-1), 1, broadcast=True)
            boxes = boxes.detach()
            reference = boxes.sigmoid()
            query = self.pos_trans_norm(self.pos_trans(proposal_embedding(boxes, memory.shape[-1] // 2)))
            query_position, first_state = query.chunk(2, -1)
        else:
            query = query_embed.unsqueeze(0).expand([memory.shape[0], -1, -1])
            query_position, first_state = query.chunk(2, -1)
            reference = self.reference_points(query_position).sigmoid()
        states, references = self.decoder(first_state, query_position, reference, memory, *levels)
        return found | {"initial_reference": reference, "states": states, "references": references}

    def _propose(self, memory, paddings) -> dict:
        boxes, invalid = proposal_boxes(paddings)
        if paddle.in_dynamic_mode() and boxes.shape[1] < self.num_proposals:  # a static graph serves any size
            raise InputError(
                f"--num_queries {self.num_proposals}: the picture has only {boxes.shape[1]} tokens to choose from; "
                "make it larger or ask for fewer"
            )
        features = self.enc_output_norm(self.enc_output(memory.masked_fill(invalid.unsqueeze(-1), 0.0)))
        logits = self.decoder.class_embed[len(self.decoder.layers)](features)
        boxes = self.decoder.bbox_embed[len(self.decoder.layers)](features) + boxes.astype(features.dtype)
        # class 0 stands for "an object" here
        chosen = paddle.topk(logits[..., 0], self.num_proposals, axis=1)[1]
        return {"proposal_logits": logits, "proposal_boxes": boxes, "chosen": chosen}


def valid_ratio(padding):
    """The share of a padded map that its picture covers, float32 [N, 2] as width and height, of bool [N, h, w]."""
    valid = (~padding).astype("float32")
    return paddle.stack([valid[:, 0, :].mean(1), valid[:, :, 0].mean(1)], -1)
