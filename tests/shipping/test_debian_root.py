"""The Dockerfile's own steps in an empty Debian, and its container without an engine: process 1 of namespaces of its own.

    python -m pytest -m slow tests/shipping                                       # the CPU image
    AGENT57_LOCK=requirements-cuda.lock python -m pytest -m slow tests/shipping   # the packages of the GPU image

Needs root, debootstrap and a Debian mirror, that of this machine.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import string
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.shipping import dockerfile

LOCK = os.environ.get("AGENT57_LOCK", "requirements-cpu.lock")
COIN = ("train", "--config=configs/random_coin.py:smoke", "--workdir=/runs/coin", "--config.logging.period_seconds=1")
ENDLESS = (*COIN, "--config.total_steps=1000000000")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# As the engine does it: a mount and a process namespace, in which the command is process 1.
ENTER = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot --userspec="$1" "$0" env --ignore-environment "${@:2}"'
# What a build on this machine needs to reach its registries, and an image does not keep.
BUILD = ("PIP_", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs debootstrap"),
]


def mirror(suite: str) -> str:
    """The archive from which this machine has its Debian packages."""
    command = ["apt-get", "indextargets", "--format=$(REPO_URI)", "Created-By: Packages", f"Release: {suite}", "Component: main"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if not found:
        pytest.skip(f"apt has no mirror of {suite}")
    return found[0]


class Image:
    """What building the Dockerfile leaves: a root, and how its container is started."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.environment, self.arguments = {"PATH": PATH}, {"LOCK": LOCK}
        self.folder, self.user = "/", "0:0"
        for instruction in dockerfile.read():
            self._obey(instruction)

    def _obey(self, instruction: dockerfile.Instruction) -> None:
        value = instruction.value
        match instruction.name:
            case "FROM":
                self._install_debian(value)
            case "RUN":
                self.build(value)
            case "COPY":
                self._copy(*string.Template(value).substitute(self.environment | self.arguments).split())
            case "ENV":
                self.environment |= dockerfile.pairs(value)
            case "ARG":
                self.arguments = dockerfile.pairs(value) | self.arguments
            case "LABEL":
                assert dockerfile.pairs(value)
            case "WORKDIR":
                self.folder = value
                self._inside(value).mkdir(parents=True, exist_ok=True)
            case "VOLUME":
                assert self._inside(value).is_dir()
            case "USER":
                self.user = value
            case "STOPSIGNAL":
                self.stop = signal.Signals[value]
            case "HEALTHCHECK":
                self.health = json.loads(value.partition("CMD ")[2])
            case "ENTRYPOINT":
                self.entrypoint = json.loads(value)
            case "CMD":
                self.default = json.loads(value)
            case name:
                raise AssertionError(f"what does {name} do?")

    def _inside(self, path: str) -> pathlib.Path:
        """Where an absolute path of the image lies on this machine."""
        return self.root / path.lstrip("/")

    def command(self, *words: str, **environment: str) -> list[str]:
        """How this machine runs a command of the container."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-euc", ENTER, str(self.root), self.user]
        return [*enter, *self._settled(self.environment | environment), *words]

    def _settled(self, environment: dict[str, str]) -> list[str]:
        """What `env` is told of the image."""
        return [f"--chdir={self.folder}", *(f"{name}={value}" for name, value in environment.items())]

    def inside(self, process: int, *words: str) -> list[str]:
        """How a command joins a container that runs, whose process 1 has this number outside."""
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), "env", "--ignore-environment"]
        return ["nsenter", f"--target={process}", "--mount", "--pid", *chroot, *self._settled(self.environment), *words]

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the image."""
        return subprocess.run(self.command(*words, **environment), capture_output=True, text=True, check=False, timeout=3000)

    def build(self, script: str) -> None:
        """A step of the build, which may use the machine's way to the registries."""
        own = {name: value for name, value in os.environ.items() if name.startswith(BUILD)}
        done = self.run("sh", "-c", script, **own, DEBIAN_FRONTEND="noninteractive", **self.arguments)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"

    def _install_debian(self, base: str) -> None:
        """With the Python of the base's tag where the base has it, in /usr/local."""
        found = re.fullmatch(r"python:(3\.\d+)-slim-(\w+)", base)
        assert found, base
        python, suite = found.groups()
        where = ["--include=ca-certificates", suite, str(self.root), mirror(suite)]
        done = subprocess.run(["debootstrap", "--variant=minbase", *where], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        for file in pathlib.Path("/etc/apt/apt.conf.d").iterdir():
            if file.read_text().lstrip().startswith("Acquire::"):
                shutil.copy(file, self.root / "etc/apt/apt.conf.d")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # the engine writes it
        certificates = "/etc/ssl/certs/ca-certificates.crt"
        shutil.copy(certificates, self._inside(certificates))
        for file, copy in ((pathlib.Path("/etc/pip.conf"), "etc"), (pathlib.Path.home() / ".config/pip/pip.conf", "usr/local")):
            if file.exists():
                shutil.copy(file, self.root / copy)
        self.build(f"apt-get update && apt-get install --yes --no-install-recommends python{python} python{python}-venv")
        self.build(f"python{python} -m venv /usr/local")

    def _copy(self, source: str, target: str) -> None:
        assert target in (".", "./")
        names = dockerfile.context()
        for name in names if source == "." else [source]:
            assert name in names, f"{name} is not in the build context"
            copy = self._inside(self.folder) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dockerfile.ROOT / name, copy)


class Container:
    """A container that runs."""

    def __init__(self, image: Image, log: pathlib.Path, *words: str) -> None:
        self.image, self.log = image, log
        self.began = time.monotonic()
        # So that every program is kept, also those that this machine compiles within a second.
        command = image.command(*image.entrypoint, *words, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
        with log.open("wb") as out:
            self.engine = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def process(self) -> int:
        """Number of its process 1 on this machine."""
        return int(pathlib.Path(f"/proc/{self.engine.pid}/task/{self.engine.pid}/children").read_text().split()[0])

    def wait_for(self, what: str, seconds: float = 300) -> float:
        """Until its log has matched; returns seconds since the start."""
        while not re.search(what, self.text()):
            assert time.monotonic() - self.began < seconds and self.engine.poll() is None, self.text()
            time.sleep(0.1)
        return time.monotonic() - self.began

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, seconds: float = 60) -> int:
        """`docker stop`; returns the exit code."""
        os.kill(self.process(), self.image.stop)
        return self.engine.wait(timeout=seconds)

    def health(self, *flags: str) -> tuple[int, str]:
        """Exit code and words of the image's health check."""
        command = self.image.inside(self.process(), *self.image.health, *flags)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout.strip()


@contextlib.contextmanager
def container(image: Image, log: pathlib.Path, *words: str) -> Iterator[Container]:
    running = Container(image, log, *words)
    try:
        yield running
    finally:
        running.engine.kill()  # --kill-child takes the container with it
        running.engine.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("image") / "root"
    began = time.monotonic()
    try:
        built = Image(root)
        size = subprocess.run(["du", "-sm", str(root)], capture_output=True, text=True, check=True).stdout.split()[0]
        print(f"\nbuilt with {LOCK} in {time.monotonic() - began:.0f} s, {size} MB")
        yield built
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_without_a_word_it_says_which_there_are(image: Image) -> None:
    done = image.run(*image.entrypoint, *image.default)
    assert done.returncode == 0 and "train,evaluate,doctor" in done.stdout


def test_a_training_is_stopped_goes_on_compiles_nothing_anew_and_is_judged(image: Image, tmp_path: pathlib.Path) -> None:
    cache = image._inside(image.environment["JAX_COMPILATION_CACHE_DIR"])
    starts, kept = [], []
    # The second start compiles what only a resumed run needs; the third nothing.
    for start in range(3):
        with container(image, tmp_path / f"{start}.log", *ENDLESS) as running:
            if start == 0:
                running.wait_for("new run in /runs/coin")
                assert running.health()[0] == 0
            else:
                running.wait_for("resumed from checkpoint")
            starts.append(running.wait_for("updates [1-9]"))
            code, words = running.health("--seconds=30")
            assert code == 0 and "metrics were written" in words
            os.kill(running.process(), signal.SIGSTOP)
            time.sleep(3)
            code, words = running.health("--seconds=2")
            assert code == 1 and "no metrics were written for" in words
            os.kill(running.process(), signal.SIGCONT)
            assert running.stop() == 0, running.text()
            assert "stopped by signal; saved checkpoint" in running.text()
        kept.append({file.name for file in cache.iterdir() if file.name.endswith("-cache")})
    print(f"\nseconds to the first updates: {', '.join(f'{seconds:.1f}' for seconds in starts)}; programs kept: {[*map(len, kept)]}")
    assert kept[0] and kept[0] <= kept[1] == kept[2]

    owners = {path.lstat().st_uid for path in (image.root / "runs").rglob("*")}
    assert owners == {int(image.user.split(":")[0])} and owners != {0}
    done = image.run(*image.entrypoint, *COIN, "--config.total_steps=2000")
    assert done.returncode == 0 and "finished; saved checkpoint" in done.stdout, done.stdout + done.stderr
    done = image.run(*image.entrypoint, "evaluate", "--workdir=/runs/coin", "--episodes=2")
    assert done.returncode == 0 and "mean return" in done.stdout, done.stdout + done.stderr
    assert len(json.loads((image.root / "runs/coin/evaluation.json").read_text())["returns"]) == 2


def test_a_signal_ends_what_is_no_training(image: Image, tmp_path: pathlib.Path) -> None:
    with container(image, tmp_path / "log", "tensorboard", "--logdir=/runs", "--port=0", "--bind_all") as running:
        running.wait_for("http://")
        assert running.health() == (0, "healthy: this container does not train")
        assert running.stop() == 128 + signal.SIGTERM


def test_games_of_every_library_start(image: Image) -> None:
    """Procgen's needs Qt, the others nothing."""
    code = (
        "import envpool\n"
        "for task in ('Zaxxon-v5', 'LunarLander-v3', 'CoinrunHard-v0'):\n"
        "    print(task, envpool.make_gymnasium(task, num_envs=1).reset()[0].shape)"
    )
    done = image.run("python", "-c", code)
    assert done.returncode == 0 and "CoinrunHard-v0 (1, " in done.stdout, done.stdout + done.stderr
