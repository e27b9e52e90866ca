"""Build, from what apt, pip and Maven bring, the images that the compose file and the container backend need.

``python -m tests.containers.images`` in the reach of a Docker daemon (``DOCKER_HOST``) makes

- ``tidecast-local/base``: Debian with Python, a Java runtime and Redis, by debootstrap (2 minutes, once);
- ``tidecast-local/kafka`` and ``tidecast-local/redis``, which honour what ``apache/kafka`` and ``redis`` do;
- ``tidecast-local/python``: the base with wheels, so that a build needs no index;
- ``tidecast:local``: the project's real Dockerfile on these;
- with ``TEST_TORCH=1`` in the environment ``tidecast-train:local``, too: the same Dockerfile's image for training, on
  ``tidecast-local/torch``, the base with torch's wheels. That is 3 GB to fetch and 20 GB of disk; else the control
  worker runs in ``tidecast:local``, and can start no training.

`environment` returns the variables that make ``docker-compose.yml`` and `tests.real.containers` use them. What has not
changed is not built again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

import docker
from docker.errors import BuildError, ImageNotFound

from tests.containers.daemon import CACHE, DaemonError
from tests.real.servers import kafka_jars

_HERE = Path(__file__).parent
_ROOT = Path(__file__).parents[2]
_PACKAGES = "python3,python3-venv,openjdk-17-jre-headless,redis-server,ca-certificates"
BASE, KAFKA, REDIS, PYTHON = (f"tidecast-local/{name}:1" for name in ("base", "kafka", "redis", "python"))
TORCH = "tidecast-local/torch:1"
TIDECAST = "tidecast:local"
WITH_TORCH = os.environ.get("TEST_TORCH", "") == "1"
TRAIN = "tidecast-train:local" if WITH_TORCH else TIDECAST


def environment() -> dict[str, str]:
    """Return the variables that name the local images."""
    return {
        "KAFKA_IMAGE": KAFKA,
        "REDIS_IMAGE": REDIS,
        "PYTHON_IMAGE": BASE,
        "PYTHON_BUILD_IMAGE": PYTHON,
        "TIDECAST_IMAGE": TIDECAST,
        "TIDECAST_TRAIN_IMAGE": TRAIN,
        "TRAIN_TARGET": "train" if WITH_TORCH else "worker",
        "TORCH_BUILD_IMAGE": TORCH if WITH_TORCH else BASE,
    }


def build_all(client: docker.DockerClient) -> None:
    """Build every image that is missing or out of date."""
    build_servers(client)
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = project["project"]
    wheels = _wheels(project["build-system"]["requires"] + parts["dependencies"])
    _build(client, PYTHON, _HERE / "python" / "Dockerfile", {"wheels": wheels}, {"BASE": BASE})
    bases = {"BASE": BASE, "BUILD_BASE": PYTHON}
    sources = {name: _ROOT / name for name in _shipped()}
    _build(client, TIDECAST, _ROOT / "Dockerfile", sources, bases, target="worker")
    if WITH_TORCH:
        wheels = _wheels(parts["optional-dependencies"]["train"])
        _build(client, TORCH, _HERE / "python" / "Dockerfile", {"wheels": wheels}, {"BASE": BASE})
        _build(client, TRAIN, _ROOT / "Dockerfile", sources, {**bases, "TORCH_BASE": TORCH}, target="train")


def build_servers(client: docker.DockerClient) -> None:
    """Build the base, Kafka's and Redis' images."""
    _import_base(client)
    kafka = {"libs": kafka_jars(), "run.sh": _HERE / "kafka" / "run.sh"}
    _build(client, KAFKA, _HERE / "kafka" / "Dockerfile", kafka, {"BASE": BASE})
    _build(client, REDIS, _HERE / "redis" / "Dockerfile", {}, {"BASE": BASE})


def _import_base(client: docker.DockerClient) -> None:
    archive = CACHE / f"base-{hashlib.sha256(_PACKAGES.encode()).hexdigest()[:12]}.tar"
    if not archive.exists():
        _debootstrap(archive)
    label = archive.stem
    if _label(client, BASE) != label:
        _say(f"importing {BASE}")
        repository, tag = BASE.split(":")
        changes = [f"LABEL tidecast.inputs={label}", "ENV LANG=C.UTF-8"]
        client.api.import_image_from_file(str(archive), repository=repository, tag=tag, changes=changes)


def _debootstrap(archive: Path) -> None:
    tool = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin:/sbin")
    if tool is None:
        raise DaemonError("debootstrap is missing; repair: apt-get install debootstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    _say("making a root file system of Debian packages (2 minutes, once)")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        root = Path(folder) / "root"
        _run(tool, "--variant=minbase", f"--include={_PACKAGES}", "bookworm", root, *_mirror())
        # "python" is the name in the official image; what only a package manager or a reader needs stays out.
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for part in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
            shutil.rmtree(root / part, ignore_errors=True)
        partial = Path(folder) / "root.tar"
        _run("tar", "--numeric-owner", "--one-file-system", "-C", root, "-cf", partial, ".")
        partial.rename(archive)


def _mirror() -> list[str]:
    """Return the mirror that this machine's apt uses, for debootstrap (none found: debootstrap's own default)."""
    wanted = ("--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm", "Component: main")
    found = subprocess.run(["apt-get", "indextargets", *wanted], capture_output=True, text=True, check=False)
    return found.stdout.split()[:1]


def _wheels(wanted: Sequence[str]) -> Path:
    """Return a folder of the wheels that installing these takes."""
    constraints = _ROOT / "constraints.txt"
    key = hashlib.sha256("\n".join(wanted).encode() + constraints.read_bytes()).hexdigest()[:12]
    wheels = CACHE / f"wheels-{key}"
    if not wheels.exists():
        _say("fetching wheels")
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            target = Path(folder) / "wheels"
            _run(sys.executable, "-m", "pip", "wheel", "-q", "-w", target, "-c", constraints, *wanted)
            target.chmod(0o755)
            target.rename(wheels)
    return wheels


def _shipped() -> list[str]:
    return [line[1:] for line in (_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]


def _build(
    client: docker.DockerClient,
    tag: str,
    dockerfile: Path,
    context: dict[str, Path],
    arguments: dict[str, str],
    target: str | None = None,
) -> None:
    """Build `tag` from a context of named files and folders, unless an image of the same inputs is there."""
    bases = [client.images.get(image).id for image in arguments.values()]
    key = _digest([dockerfile, *context.values()], bases)
    if _label(client, tag) == key:
        return
    _say(f"building {tag}")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        shutil.copy(dockerfile, Path(folder) / "Dockerfile")
        for name, source in context.items():
            destination = Path(folder) / name
            if source.is_dir():
                copy = os.link if source.parent == CACHE else shutil.copy2  # wheels may be gigabytes
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(source, destination, ignore=ignored, copy_function=copy)
            else:
                shutil.copy(source, destination)
        try:
            labels = {"tidecast.inputs": key}
            client.images.build(path=folder, tag=tag, buildargs=arguments, target=target, labels=labels, rm=True)
        except BuildError as error:
            log = "".join(str(line.get("stream", line.get("error", ""))) for line in error.build_log)
            raise DaemonError(f"{tag} could not be built:\n{log[-4_000:]}") from error


def _digest(paths: Iterable[Path], more: Iterable[str]) -> str:
    digest = hashlib.sha256("\n".join(more).encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(path.parent)  # wherever the checkout lies
                digest.update(str(name).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _label(client: docker.DockerClient, tag: str) -> str | None:
    try:
        labels = client.images.get(tag).labels
    except ImageNotFound:
        return None
    found = labels.get("tidecast.inputs")
    return str(found) if found is not None else None


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr)[-4_000:]
        raise DaemonError(f"{command[0]} ended with {done.returncode}:\n{output}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Build everything and print the variables for a shell."""
    client = docker.from_env(timeout=600)
    try:
        build_servers(client) if "--servers" in sys.argv else build_all(client)
    finally:
        client.close()
    for name, value in environment().items():
        print(f"export {name}={value}")


if __name__ == "__main__":
    os.umask(0o022)
    main()
