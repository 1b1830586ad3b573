"""What every paper's training promises: a folder's tests/test_training.py runs it on its own small training.

Most of it runs in this process, through train.py's `main`; what signals end runs in processes of its own.
"""

import importlib
import json
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest

from shared import InputError
from shared.tests.amp import enabled_scaler
from shared.tests.scripts import Script, call_script
from shared.tests.training_case import damaged, one_line, replace, resumed, small_disk
from shared.weights import load_checkpoint, read_weights, write_pdparams


class TrainingSuite:
    """A module fixture `case` gives the folder's Case."""

    # -------------------------------------------------------------------------------------------- a whole training

    def test_a_training_leaves_checkpoints_logs_and_scalars(self, case):
        whole, latest = case.whole, load_checkpoint(case.whole / "latest")
        assert latest.state["step"] == case.steps and latest.state["world"] == 1 and latest.state["seconds"] > 0
        assert set(latest.arrays) == set(case.files)
        assert load_checkpoint(whole / "best").state["best"] is not None
        log = (whole / "train.log").read_text()
        assert log.count("| batch ") == log.count("time left:") == (case.batches or case.steps)
        assert "validation after" in log and not list(whole.rglob(".tmp*"))
        assert list((whole / "visualdl").glob("vdlrecords*"))

    # ------------------------------------------------------------------------------------------ stopping and going on

    def test_killed_and_stopped_it_resumes_to_the_same_bits(self, case, tmp_path):
        """SIGINT and SIGTERM after a step, which save; then SIGKILL at random moments. With workers and without.

        None leaves a process behind.
        """
        choose, resume, output_dir, stopped = random.Random(0), [], tmp_path / "o", []
        stops = [(signal.SIGINT, 130), (signal.SIGTERM, 143)] + [(signal.SIGKILL, -9)] * case.kills
        for turn, (number, status) in enumerate(stops):
            kills = number == signal.SIGKILL
            words = ["--num_workers", 2 * (turn % 2), *["--checkpoint_steps", 1] * kills, *resume]
            training, lines = Script(case.folder / "train.py", *case.words(output_dir, *words)), 0
            wanted = choose.randint(1, 2) if kills and case.steps > 4 else 1
            for line in training.lines():
                lines += "| batch " in line or not kills  # a signal may come with any line
                if lines == wanted:
                    while kills and not (output_dir / "latest").exists():
                        time.sleep(0.01)
                    time.sleep(choose.random() * 0.3 * kills)  # in a step, a validation, the writing of a checkpoint
                    os.kill(training.process.pid, number)
                    break
            finished = training.wait()
            assert finished.returncode in (0, status), finished.stderr  # 0: it was faster than the signal
            stopped += [number] * (finished.returncode == status)
            resume = ["--resume", output_dir / "latest"]
            if finished.returncode == status and not kills:
                assert finished.stderr.strip().splitlines()[-1].endswith(f"--resume {output_dir / 'latest'}")
            if finished.returncode == 0 or load_checkpoint(output_dir / "latest").state["step"] >= case.steps - 1:
                shutil.rmtree(output_dir)  # little is left to interrupt: from the beginning again
                resume = []
        assert len(stopped) > case.kills // 2 + 1 and set(stopped) == {signal.SIGKILL, signal.SIGINT, signal.SIGTERM}
        assert case.run(output_dir, *resume) == 0
        assert case.outcome(output_dir) == case.outcome(case.whole)

    def test_under_a_loss_scaler_it_resumes_to_the_same_bits(self, case, tmp_path, monkeypatch):
        """Stopped within an epoch, then at the end of one, with a scaler as on a GPU under --amp.

        Its powers of two change no bit of float32 gradients: the end is that of the training without one.
        """
        expected = case.outcome(case.whole)  # of a training without this scaler
        settings = {"init_loss_scaling": 4.0, "incr_every_n_steps": 2}
        for module in ("engine", "trainer"):
            monkeypatch.setattr(f"{module}.build_scaler", lambda options: enabled_scaler(**settings), raising=False)
        as_on_a_gpu = partial(paddle.amp.auto_cast, enable=False, dtype="float16")
        monkeypatch.setattr("engine.mixed_precision", lambda options: as_on_a_gpu())
        resume, file = [], tmp_path / "latest/state.json"
        for steps in case.stops:
            assert case.run(tmp_path, "--max_steps", steps, *resume) == 0
            state, resume = json.loads(file.read_text()), ["--resume", tmp_path / "latest"]
            assert state["step"] == steps and state["scaler"]["scale"] == [4.0 * 2 ** (steps // 2)]
            assert state["scaler"]["incr_count"] == steps % 2
        for scaler in (None, state["scaler"] | {"scale": ["x"]}, state["scaler"] | {"scale": 4.0}):
            replace(file, state | {"scaler": scaler})
            assert "scaler" in case.refusal(tmp_path / "o", *resume)
        replace(file, state)
        assert case.run(tmp_path, *resume) == 0
        assert case.outcome(tmp_path) | {"scaler": {}} == expected
        for name in case.logs:
            assert (tmp_path / name).read_text() == (case.whole / name).read_text()

    def test_what_is_restored_is_what_was_saved(self, case, tmp_path):
        """Saved again before the next step, a checkpoint is the same bytes, but for options that may change."""
        latest = case.whole / "latest"
        trainer = case.built(tmp_path, "--resume", latest)
        trainer.state.save(tmp_path, "latest")
        for name in case.files:
            assert (tmp_path / "latest" / name).read_bytes() == (latest / name).read_bytes(), name
        states = [json.loads((folder / "latest/state.json").read_text()) for folder in (tmp_path, case.whole)]
        assert states[0] | {"options": {}} == states[1] | {"options": {}} and trainer.step == case.steps

    def test_another_training_is_not_resumed(self, case, tmp_path):
        output_dir, resume = tmp_path / "o", ["--resume", case.whole / "latest"]
        rate = getattr(case.options(output_dir), case.rate.strip("-"))
        line = case.refusal(output_dir, *resume, case.rate, 0.5)
        assert f"{case.rate} {rate}, not 0.5" in line and str(case.whole / "latest") in line
        assert "nothing: no such" in case.refusal(output_dir, "--resume", tmp_path / "nothing")
        copy = case.copy(tmp_path / "copy")
        state = json.loads((copy / "state.json").read_text())
        for name, says in (("samples", "samples"), ("world", "processes")):
            replace(copy / "state.json", state | {name: 2 * state[name]})
            line = case.refusal(output_dir, "--resume", copy)
            assert f"{2 * state[name]} {says}, here are {state[name]}" in line
        assert not output_dir.exists()

    # ------------------------------------------------------------------------------------------ damaged checkpoints

    def test_damaged_weights_and_moments_are_refused(self, case, tmp_path):
        copy, output_dir = case.copy(tmp_path / "copy"), tmp_path / "o"
        trainer, limits = resumed(case, output_dir)
        other = (copy / case.files[1]).read_bytes()  # tensors, but of other names
        for name in case.files:
            content = (copy / name).read_bytes()
            for damage in {content[: len(content) // 2], b"words", b"", other} - {content}:
                replace(copy / name, damage)
                with pytest.raises(InputError, match=name):
                    trainer.state.restore(copy, limits)
            (copy / name).unlink()
            assert f"an incomplete checkpoint, without {name}" in case.refusal(output_dir, "--resume", copy)
            replace(copy / name, content)
        assert not output_dir.exists()

    def test_a_damaged_state_is_refused(self, case, tmp_path):
        """A value that is missing or of another kind, however deep; counters out of range; no JSON; nested deeply."""
        copy, output_dir, accepted = case.copy(tmp_path / "copy"), tmp_path / "o", []
        state = json.loads((copy / "state.json").read_text())
        for text in ("{}", "[1]", "", '{"step": 1', "[" * 10**5, '{"step": ' * 10**5):
            replace(copy / "state.json", text)
            assert "state.json" in case.refusal(output_dir, "--resume", copy)
        for name in case.files:  # the state is checked before the tensors, which are not needed for it
            replace(copy / name, b"")
            write_pdparams(copy / name, {"small": np.zeros(1, np.float32)})
        trainer, limits = resumed(case, output_dir)
        counters = [name for name, value in state.items() if type(value) is int]
        out_of_range = [((name,), state | {name: value}) for name in counters for value in (-1, 10**9)]
        for where, changed in [*out_of_range, *damaged(state)]:
            if where == ("scaler",) or len(where) > 1 and where[0] in ("scaler", *case.free):
                continue
            replace(copy / "state.json", changed)
            with pytest.raises(InputError) as refused:
                trainer.state.restore(copy, limits)
            if any(name in str(refused.value) for name in case.files):
                accepted.append(where)
            else:
                assert str(copy) in str(refused.value) and "\n" not in str(refused.value)
            if where[0] not in changed:
                assert "state" in case.refusal(output_dir, "--resume", copy)
        assert not accepted and not output_dir.exists()

    def test_network_options_in_a_state_are_checked(self, case, tmp_path):
        """By every script that takes weights, as the command line checks them."""
        copy = case.copy(tmp_path / "copy")
        state = json.loads((copy / "state.json").read_text())
        for name, value in case.unfit.items():
            for wrong in (value, [], {}):
                replace(copy / "state.json", state | {"options": state["options"] | {name: wrong}})
                for option in ("--resume", "--weights"):
                    assert f"state.json: {name} is" in case.refusal(tmp_path / "o", option, copy)
            lacking = {key: kept for key, kept in state["options"].items() if key != name}
            replace(copy / "state.json", state | {"options": lacking})
            assert f"lacks the option {name}" in case.refusal(tmp_path / "o", "--weights", copy)
        assert not (tmp_path / "o").exists()

    def test_whose_network_is_trained(self, case, tmp_path):
        """That of --resume, or else of --weights; what the command line says wins."""
        name, value = case.other
        latest, given, copy = case.whole / "latest", list(case.network), case.copy(tmp_path / "copy")
        state = json.loads((copy / "state.json").read_text())
        replace(copy / "state.json", state | {"options": state["options"] | {name: value}})
        case.network = ()
        try:
            own = {key: getattr(case.options(tmp_path, "--weights", latest), key) for key in case.unfit}
            assert own == {key: state["options"][key] for key in case.unfit}
            model = case.built(tmp_path / "o", "--weights", latest).state.model.state_dict()
            for words in (["--resume", latest, "--weights", copy], ["--weights", copy, "--resume", latest]):
                assert getattr(case.options(tmp_path, *words), name) == state["options"][name]
            assert getattr(case.options(tmp_path, "--weights", copy), name) == value
        finally:
            case.network = given
        for key, array in read_weights(latest / "model.pdparams").tensors.items():
            np.testing.assert_array_equal(model[key].numpy(), array)
        fresh = case.built(tmp_path / "o").state.model.state_dict()
        assert any(not np.array_equal(fresh[key].numpy(), value.numpy()) for key, value in model.items())

    # ------------------------------------------------------------------------------------------------- what goes wrong

    def test_a_training_that_diverges_keeps_what_it_had(self, case, tmp_path, capsys):
        assert case.run(tmp_path, *case.diverging, "--checkpoint_steps", 1) == 3
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("error: ") and case.diverges in line and case.rate in line
        latest = load_checkpoint(tmp_path / "latest")
        assert 1 <= latest.state["step"] < case.steps
        assert all(np.isfinite(value).all() for value in latest.arrays["model.pdparams"].tensors.values())

    def test_a_full_disk_keeps_what_was_there(self, case, tmp_path):
        output_dir = tmp_path / "o"
        for label in ("latest", "best"):
            case.copy(output_dir / "checkpoints" / label)
            (output_dir / label).symlink_to(Path("checkpoints") / label)
        before = case.outcome(output_dir), (output_dir / "best").readlink()
        with small_disk((output_dir / "latest/model.pdparams").stat().st_size // 2):
            line = case.refusal(output_dir, "--max_steps", 1)
        assert "not written" in line and str(output_dir / "checkpoints") in line
        assert (case.outcome(output_dir), (output_dir / "best").readlink()) == before
        assert not list(tmp_path.rglob(".tmp*"))

    def test_missing_data_weights_and_folders(self, case, tmp_path):
        output_dir, evaluate = tmp_path / "o", importlib.import_module("evaluate").main
        words = case.words(output_dir, "--data_path", tmp_path / "absent")
        line = one_line(call_script(case.folder / "train.py", *words))
        assert "absent" in line and "draw_mini.py" in line
        assert str(case.broken) in case.refusal(case.broken)  # a file where the output folder would be
        with pytest.raises(InputError, match="--data_path is missing"):
            case.train.main(case.words(output_dir)[2:])
        with pytest.raises(InputError, match="--weights.* is missing"):
            evaluate(["--data_path", str(case.data)])
        cut = (case.whole / "latest/model.pdparams").read_bytes()[:999]
        for name, content in (("absent", None), ("cut.pdparams", cut), ("empty.pth", b""), ("words.pth", b"words")):
            says, words = (name if content is not None else "no such file"), ["--weights", str(tmp_path / name)]
            if content is not None:
                (tmp_path / name).write_bytes(content)
            assert says in case.refusal(output_dir, *words)
            with pytest.raises(InputError, match=says):
                evaluate(["--data_path", str(case.data), *words])
        assert not output_dir.exists()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_broken_file_of_the_data_is_named(self, case, tmp_path, workers):
        copy = shutil.copytree(case.data, tmp_path / "data")
        broken = copy / case.broken.relative_to(case.data)
        for content in (broken.read_bytes()[: broken.stat().st_size // 2], b"these are words\n" * 40, b""):
            broken.write_bytes(content)
            assert str(broken) in case.refusal(tmp_path / "o", "--data_path", copy, "--num_workers", workers)

    def test_values_that_options_do_not_take(self, case, tmp_path):
        for words in case.wrong:
            with pytest.raises(SystemExit) as ended:
                case.train.main([*case.words(tmp_path / "o")[:4], *words.split()])
            assert ended.value.code == 2, words
        assert not (tmp_path / "o").exists()

    def test_a_gpu_that_is_not_there(self, case, tmp_path):
        data, weights = ["--data_path", case.data], ["--weights", case.whole / "latest"]
        scripts = dict.fromkeys(["evaluate.py", *case.further_scripts], [*data, *weights])
        scripts |= {"train.py": data, "export.py": weights, "demo.py": ["--image_path", case.broken, *weights]}
        for script, words in scripts.items():
            finished = call_script(case.folder / script, *words, "--device", "gpu")
            assert "--device gpu: this Paddle is the CPU build" in one_line(finished), script
        with_a_device = {file.name for file in case.folder.glob("*.py") if "use_device(" in file.read_text()}
        assert with_a_device <= set(scripts)

    # --------------------------------------------------------------------------------------------------- further runs

    def test_mixed_precision_keeps_float32_weights(self, case, tmp_path):
        assert case.run(tmp_path, "--amp", "--max_steps", 1) == 0
        for value in load_checkpoint(tmp_path / "latest").arrays["model.pdparams"].tensors.values():
            assert value.dtype == np.float32 or value.ndim == 0

    def test_two_processes_train_as_one(self, case):
        """A step in float64 as that of one process; and a training that is stopped, to the same bits."""
        whole, stopped = (case.outcome(case.two_processes / name) for name in ("whole", "stopped"))
        assert whole == stopped and (whole["step"], whole["world"]) == (case.two_stops[1], 2)
