"""The compiled operator: built once by paddle.utils.cpp_extension, kept in a cache, loaded from there.

The cache is the folder $DEFORMABLE_DETR_BUILD, by default `build` beside this package. A library's name there is
a hash of all that it depends on: sources, flags, compiler, processor, Python and Paddle. The library is compiled in a
temporary folder by a process of its own, under a lock, and renamed at the end: of processes that start at once one
compiles and the others wait, and a killed one leaves nothing that another would load.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import paddle

from shared import InputError
from shared.files import one_line, remove_stale, sync_folder, temporary_name

HERE = Path(__file__).resolve().parent
NAME = "ms_deform_attn"
SOURCES = [HERE / f"{NAME}.cc"] + ([HERE / f"{NAME}.cu"] if paddle.is_compiled_with_cuda() else [])
HEADERS = sorted(HERE.glob("*.h"))
# -march=native: the name in the cache covers the processor's features. No -ffast-math: NaN must stay NaN.
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]


class CannotBuild(InputError):
    """The operator could not be compiled or loaded; the text is one line."""


def cache_folder() -> Path:
    """The folder of compiled operators."""
    return Path(os.environ.get("DEFORMABLE_DETR_BUILD") or HERE.parent / "build")


def library() -> Path:
    """The compiled operator for this machine; compiles it when it is not in the cache (about 20 s).

    CannotBuild when there is no compiler, it fails, or the cache cannot be written.
    """
    folder = cache_folder()
    path = folder / f"{NAME}-{_key()}.so"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system when this process ends, however it ends
            if not path.is_file():
                remove_stale(folder)
                _compile(folder, path)
    except OSError as error:
        raise CannotBuild(one_line(f"{folder}: {error.strerror or error}")) from error
    return path


def load() -> None:
    """Make the compiled operator known to Paddle, once in a process. CannotBuild as for `library`."""
    from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op

    path = library()
    try:
        load_op_meta_info_and_register_op(str(path))
    except Exception as error:
        raise CannotBuild(one_line(f"{path} does not load: {str(error)[:200]}")) from error


def _compiler() -> str:
    """The C++ compiler that paddle.utils.cpp_extension takes, as setuptools finds it."""
    command = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()[0]
    found = shutil.which(command)
    if not found:
        raise CannotBuild(f"no C++ compiler ({command}) is installed")
    return found


def _key() -> str:
    """The hash of all that the library depends on."""
    version = subprocess.run([_compiler(), "--version"], capture_output=True, text=True).stdout
    features = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat"))]
    parts = [*FLAGS, version, platform.machine(), *features[:1], sys.version, paddle.version.full_version]
    parts += [paddle.version.commit, str(paddle.version.cuda())]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in [*SOURCES, *HEADERS]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


def _compile(folder: Path, target: Path) -> None:
    """Compile in a temporary folder of `folder`, and move the library to `target`."""
    print("deformable_detr: compiling the attention operator, once for this machine", file=sys.stderr, flush=True)
    temporary = folder / temporary_name()
    temporary.mkdir()
    try:
        command = [sys.executable, __file__, str(temporary), str(os.getpid())]
        # a launcher's variables would make the child join its processes
        settings = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE_", "FLAGS_"))}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, errors="replace", check=False)
        made = temporary / NAME / f"{NAME}.so"
        if done.returncode or not made.is_file():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
            raise CannotBuild(one_line(f"the compiler failed: {(lines or ['no message'])[0][:200]}"))
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(target)
        sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main() -> None:
    """Compile into the folder on the command line, for the process there; `load` proves the operator usable."""
    from paddle.utils import cpp_extension

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent, also when that was killed
    if os.getppid() != int(sys.argv[2]):
        return
    # Paddle's own OpenMP runtime: a second one would compete for the cores
    libraries = Path(paddle.__file__).parent / "libs"
    runtime = [f"-L{libraries}", "-l:libiomp5.so"] if (libraries / "libiomp5.so").is_file() else ["-fopenmp"]
    cpp_extension.load(
        name=NAME,
        sources=[str(source) for source in SOURCES],
        extra_cxx_cflags=FLAGS,
        extra_ldflags=runtime,
        build_directory=sys.argv[1],
        verbose=True,
    )


if __name__ == "__main__":
    main()
