"""What a training continues from: saved and restored as one, and checked when it is read.

What must be the same in a continuation beyond its options, and how the schedule follows the step, the paper says.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from shared import InputError
from shared.checked_json import read_as
from shared.convert import load_official
from shared.files import finite, one_line
from shared.weights import as_numpy, load_checkpoint, save_checkpoint

MODEL, OPTIMIZER, TENSORS = "model.pdparams", "optimizer.pdopt", "criterion.pdparams"


class TrainingState:
    """The network, the optimiser, the loss scaler, further networks and tensors, and the progress of a training.

    `progress` is a dataclass with the fields `step` and `seconds`, whose fields are annotated with int, float, bool,
    str, None, Any, list, dict, unions of them and further dataclasses; `restore` fills it. `networks` are further
    networks by their file's stem ({"ema": average}), `tensors` trained tensors outside the network by name. `identity`
    is what a continuation must share ({"samples": 120}); `free` names the options that it may change.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        model: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        scaler: paddle.amp.GradScaler,
        progress: Any,
        identity: Mapping[str, Any],
        free: Set[str],
        networks: Mapping[str, paddle.nn.Layer] | None = None,
        tensors: Mapping[str, paddle.Tensor] | None = None,
    ):
        self.options, self.model, self.optimizer, self.scaler = options, model, optimizer, scaler
        self.progress, self.free = progress, free
        self.identity = dict(identity) | {"world": dist.get_world_size()}
        self.networks, self.tensors = dict(networks or {}), dict(tensors or {})

    def save(self, folder: Path, label: str) -> None:
        """Write the checkpoint `folder/label`, all of it or nothing. InputError if it cannot be written.

        Call it in every process: the first writes, and the others wait for it.
        """
        if dist.get_rank() == 0:
            arrays = {MODEL: _as_arrays(self.model.state_dict()), OPTIMIZER: _as_arrays(self._moments())}
            arrays |= {f"{name}.pdparams": _as_arrays(net.state_dict()) for name, net in self.networks.items()}
            if self.tensors:
                arrays[TENSORS] = _as_arrays(self.tensors)
            scaler = {name: np.asarray(value).tolist() for name, value in self.scaler.state_dict().items()}
            state = dataclasses.asdict(self.progress) | self.identity
            save_checkpoint(folder, label, arrays, finite(state | {"scaler": scaler, "options": vars(self.options)}))
        if dist.get_world_size() > 1:
            dist.barrier()

    def restore(self, path: str | Path, limits: Mapping[str, int]) -> None:
        """Continue the training whose checkpoint is `path`; the schedule is left to the caller.

        `limits` gives the largest value of counters of the progress ({"epoch": epochs}). InputError, in one line, for
        a checkpoint that is not whole or not of this training.
        """
        checkpoint = load_checkpoint(path)
        file = checkpoint.path / "state.json"
        progress = read_as(type(self.progress), checkpoint.state, file)
        for name, limit in {**limits, "seconds": 10**10}.items():  # no training took three centuries
            if not 0 <= (value := getattr(progress, name)) <= limit:
                raise InputError(f"{file}: {name} is {value}, not from 0 to {limit}; resume from another")
        self._require_same_training(checkpoint.state, path)
        further = [f"{name}.pdparams" for name in self.networks] + [TENSORS] * bool(self.tensors)
        arrays = {name: _tensors_of(checkpoint, name) for name in (MODEL, OPTIMIZER, *further)}
        load_official(self.model, checkpoint.path / MODEL)
        for name, network in self.networks.items():
            load_official(network, checkpoint.path / f"{name}.pdparams")
        if self.tensors:
            _assign(self.tensors, arrays[TENSORS], checkpoint.path / TENSORS)
        self._restore_moments(arrays[OPTIMIZER], checkpoint.path / OPTIMIZER)
        self._restore_scaler(checkpoint.state.get("scaler"), file)
        for field in dataclasses.fields(progress):
            setattr(self.progress, field.name, getattr(progress, field.name))

    def _require_same_training(self, state: Mapping, path: str | Path) -> None:
        then = state.get("options")
        if not isinstance(then, dict):
            raise InputError(f"{path}: its state.json holds no options; resume from another")
        for name, now in vars(self.options).items():
            if name not in self.free and then.get(name) != finite(now):
                was = one_line(_words(then.get(name)))[:80]
                raise InputError(f"{path}: was trained with --{name} {was}, not {_words(now)}; give the same options")
        for name, now in self.identity.items():
            if state.get(name) != finite(now):
                was, here = (one_line(_words(value))[:80] for value in (state.get(name), now))
                what = "processes" if name == "world" else name
                then = f"other {what}" if was == here else f"{was} {what}, here are {here}"
                raise InputError(f"{path}: was trained with {then}; resume with the same")

    # ------------------------------------------------------------------------------ optimiser and scaler

    def _names(self) -> dict[str, str]:
        """Paddle's own name of each parameter -> its name in the network, or among the further tensors."""
        names = {parameter.name: name for name, parameter in self.model.named_parameters()}
        return names | {tensor.name: name for name, tensor in self.tensors.items()}

    def _moments(self) -> dict[str, paddle.Tensor]:
        """The optimiser's tensors by parameter and kind, sorted: after a resume it has them in another order."""
        names = self._names()
        moments = {
            f"{names[parameter]}|{kind}": tensor
            for kind, tensors in self.optimizer._accumulators.items()
            for parameter, tensor in tensors.items()
        }
        return dict(sorted(moments.items()))

    def _restore_moments(self, moments: dict[str, np.ndarray], path: Path) -> None:
        """Fill the optimiser's tensors, which it makes at the first step of each parameter that has a gradient."""
        names, had = self._names(), {name.split("|")[0] for name in moments}
        for group in self.optimizer._param_groups:
            parameters = group["params"] if isinstance(group, dict) else [group]
            parameters = [parameter for parameter in parameters if names[parameter.name] in had]
            if parameters:
                self.optimizer._create_accumulators(paddle.static.default_main_program().global_block(), parameters)
        _assign(self._moments(), moments, path)

    def _restore_scaler(self, then: Any, file: Path) -> None:
        now = self.scaler.state_dict()
        if not now or then == {}:  # no mixed precision here, or none then
            return
        shapes = {name: np.shape(value) for name, value in now.items()}
        if not isinstance(then, dict) or {name: np.shape(value) for name, value in then.items()} != shapes:
            raise InputError(f"{file}: scaler is not the state of a loss scaler; resume from another")
        read_as(dict[str, float | bool | list[float]], then, file, "scaler")
        self.scaler.load_state_dict(then | {"scale": np.array(then["scale"], np.float32)})


def _as_arrays(tensors: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    return {name: as_numpy(value) for name, value in tensors.items()}


def _tensors_of(checkpoint: Any, name: str) -> dict[str, np.ndarray]:
    if name not in checkpoint.arrays:
        raise InputError(f"{checkpoint.path}: holds no {name}; resume from another, or with the same options")
    return checkpoint.arrays[name].tensors


def _assign(tensors: Mapping[str, paddle.Tensor], arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Fill tensors with arrays of the same names, shapes and dtypes; InputError for others."""
    if set(tensors) != set(arrays):
        name = one_line(min(set(tensors) ^ set(arrays)))[:80]
        raise InputError(f"{path}: not of this optimiser or network ({name}); resume with the same options")
    for name, tensor in tensors.items():
        array = arrays[name]
        if list(array.shape) != tensor.shape or array.dtype.name != str(tensor.dtype).rpartition(".")[2]:
            raise InputError(f"{path}: {name} is {array.dtype} {list(array.shape)}, not {tensor.dtype} {tensor.shape}")
    for name, tensor in tensors.items():
        paddle.assign(paddle.to_tensor(arrays[name]), tensor)


def _words(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        return str(len(value))
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
