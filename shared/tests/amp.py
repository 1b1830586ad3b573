"""For tests: a loss scaler that is enabled, as it is on a GPU, which the CPU build switches off."""

from types import SimpleNamespace
from unittest import mock

import paddle
from paddle.amp import grad_scaler


def enabled_scaler(*arguments, **settings) -> paddle.amp.GradScaler:
    """Paddle's own scaler, made as if the place were a GPU; it then scales, checks and unscales on the CPU too."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    with mock.patch.object(grad_scaler, "_dygraph_tracer", lambda: SimpleNamespace(_expected_place=place)):
        return paddle.amp.GradScaler(*arguments, **settings | {"enable": True})
