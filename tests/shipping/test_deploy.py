"""The job files and compose.yaml: their form, and that our programs understand the commands in them."""

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
from typing import Any

import pytest
import yaml

from agent57_jax import __main__ as words
from agent57_jax import parallel
from tests.shipping.dockerfile import ROOT

SCRIPTS = ("deploy/slurm.sbatch", "deploy/slurm_nodes.sbatch")
# A training up to where it would start JAX, then what the settings ask of so many devices.
PARSE = """
import sys
from agent57_jax import config
from agent57_jax.commands import command_line, train
sys.argv[0] = "train.py"
devices = int(sys.argv.pop(1))
command_line.parse_flags(sys.argv)
train.is_one_of_several()
settings = command_line.complete_settings(train._CONFIG.value)
problems = config.device_problems(settings, devices)
print(train._WORKDIR.value, *problems, sep="\\n")
sys.exit(len(problems))
"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / name).read_text()))


def workdir_of(flags: list[str], devices: int) -> str:
    """The folder of the run that train.py understands; a flag or setting that it refuses fails."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(devices), *flags], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "command",
    [
        "check-jsonschema --builtin-schema vendor.compose-spec compose.yaml",
        *(f"kubernetes-validate --strict deploy/{name}.yaml" for name in ("kubernetes", "kubernetes_nodes")),
        *(f"bash -n {script}" for script in SCRIPTS),
        *(f"shellcheck {script}" for script in SCRIPTS),
        "hadolint --failure-threshold=style Dockerfile",
    ],
)
def test_files_fit_their_schema_or_shell(command: str) -> None:
    name, *arguments = command.split()
    program = shutil.which(name, path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if name in ("shellcheck", "hadolint") and program is None:
        pytest.skip(f"needs {name}")
    done = subprocess.run([str(program), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_refused_flag_is_seen() -> None:
    with pytest.raises(AssertionError, match="no setting 'sed'"):
        workdir_of(["--config=configs/zaxxon.py", "--config.sed=1"], 1)
    with pytest.raises(AssertionError, match="not divisible by the 7 devices"):
        workdir_of(["--config=configs/zaxxon.py"], 7)


# compose ----------------------------------------------------------------------------------------------------------------------------


def test_compose() -> None:
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", (ROOT / "compose.yaml").read_text())
    compose = yaml.safe_load(text)
    train, board = compose["services"]["train"], compose["services"]["tensorboard"]
    for service in (train, board):
        assert service["command"][0] in words.WORDS and service["user"] == "1000:1000"
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert train["volumes"] == ["./runs:/runs"] and board["volumes"] == ["./runs:/runs:ro"]
    assert train["stop_grace_period"] == "2m" and train["restart"] == "on-failure:3"
    assert board["ports"] == ["127.0.0.1:6006:6006"]  # only this machine sees it
    assert workdir_of(train["command"][1:], 1) == "/runs/zaxxon"


# Slurm ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_slurm_script_starts_a_training(script: str, tmp_path: pathlib.Path) -> None:
    """What it hands to srun, with the arguments that its head documents."""
    text = (ROOT / script).read_text()
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$JAX_COMPILATION_CACHE_DIR" "$SRUN_CPUS_PER_TASK" "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    documented = re.sub(r"\\\n#", "", text).split(f"{script} ")[-1].splitlines()[0].split()
    asked = dict(re.findall(r"--([\w-]+)=(\S+)", " ".join(re.findall(r"^#SBATCH (.*)", text, re.M))))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": asked["cpus-per-task"]}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        ["bash", ROOT / script, *documented], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    cache, cpus, *command = done.stdout.splitlines()
    assert cpus == asked["cpus-per-task"]  # else srun gives one core to each task
    assert cache == f"{ROOT}/.jax_cache"
    if command[0].startswith("--"):
        assert command.pop(0) == "--kill-on-bad-exit=1"
    assert command[:2] == [".venv/bin/python", "train.py"]
    devices = int(asked["nodes"]) * int(asked["gpus-per-node"])
    assert workdir_of(command[2:], devices) == "/shared/zaxxon"
    assert ("--distributed" in command) == (devices > 1)
    assert asked["signal"] == "TERM@120"
    if devices > 1:
        assert asked["ntasks-per-node"] == asked["gpus-per-node"]  # JAX gives each task one GPU


# Kubernetes -------------------------------------------------------------------------------------------------------------------------


def check_job(job: dict[str, Any]) -> dict[str, Any]:
    """What every Job of ours has; returns its container."""
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job") and job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 120
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == security["fsGroup"] == 1000
    (container,) = pod["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["livenessProbe"]["exec"]["command"] == ["python", "-m", "agent57_jax", "healthcheck"]
    assert "command" not in container and container["args"][0] == "train"  # the image's entry point stays
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]} and mounts["runs"] == "/runs"
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    # The exit code of a training that was stopped is one that Kubernetes tries again, as often as it comes.
    (code,) = [int(flag.split("=")[1]) for flag in container["args"] if flag.startswith("--stopped_exit_code=")]
    (rule,) = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert code != 0 and rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [code]}
    return container


def test_kubernetes_job() -> None:
    (job,) = documents("deploy/kubernetes.yaml")
    container = check_job(job)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert workdir_of(container["args"][1:], 1) == "/runs/zaxxon"
    rules = {rule["action"]: rule["onExitCodes"] for rule in job["spec"]["podFailurePolicy"]["rules"]}
    assert rules["FailJob"] == {"containerName": container["name"], "operator": "In", "values": [2]}


def test_kubernetes_job_of_several_nodes() -> None:
    service, job = documents("deploy/kubernetes_nodes.yaml")
    container = check_job(job)
    spec, name = job["spec"], job["metadata"]["name"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 4
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
    port = service["spec"]["ports"][0]["port"]
    assert container["ports"][0]["containerPort"] == port
    flags = container["args"][1:]
    assert f"--coordinator={name}-0.{service['metadata']['name']}:{port}" in flags
    assert f"--num_processes={spec['completions']}" in flags
    number = [flag.replace("$(JOB_COMPLETION_INDEX)", "3") for flag in flags]  # as Kubernetes does
    assert number != flags
    assert workdir_of(number, spec["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]) == "/runs/zaxxon"


# Vertex AI --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vertex", "vertex_nodes"])
def test_vertex_job(name: str) -> None:
    (job,) = documents(f"deploy/{name}.yaml")
    assert set(job) == {"workerPoolSpecs", "scheduling"}
    pools = job["workerPoolSpecs"]
    for pool in pools:
        assert set(pool) == {"replicaCount", "machineSpec", "diskSpec", "containerSpec"}
        assert set(pool["machineSpec"]) == {"machineType", "acceleratorType", "acceleratorCount"}
        container = pool["containerSpec"]
        assert set(container) == {"imageUri", "args", "env"}  # no command: the image's entry point stays
        assert container["args"][0] == "train"
        assert all(set(variable) == {"name", "value"} and variable["value"].startswith("/gcs/BUCKET/") for variable in container["env"])
        assert {**pool, "replicaCount": 1} == pools[0]  # Vertex wants one machine in the first pool, all others in the second
    devices = sum(pool["replicaCount"] * pool["machineSpec"]["acceleratorCount"] for pool in pools)
    flags = pools[0]["containerSpec"]["args"][1:]
    assert workdir_of(flags, devices) == "/gcs/BUCKET/zaxxon"
    assert ("--distributed" in flags) == (len(pools) > 1) == (devices > 1)
    assert re.fullmatch(r"\d+s", job["scheduling"]["timeout"])


def test_vertex_tells_each_machine_its_number() -> None:
    pools = {
        "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
        "workerpool1": [f"cmle-training-workerpool1-ab-{i}:2222" for i in range(3)],
    }
    for number, (pool, index) in enumerate([("workerpool0", 0), ("workerpool1", 0), ("workerpool1", 1), ("workerpool1", 2)]):
        said = json.dumps({"cluster": pools, "environment": "cloud", "task": {"type": pool, "index": index}})
        assert parallel.vertex_processes(said) == ("cmle-training-workerpool0-ab-0:12345", 4, number)
    unknown = {"cluster": pools, "task": {"type": "workerpool2", "index": 0}}
    for wrong in ("", "[]", "{}", json.dumps(unknown), json.dumps({"cluster": {}, "task": {}})):
        with pytest.raises(parallel.DeviceError, match="give --coordinator"):
            parallel.vertex_processes(wrong)


# What the documents say ---------------------------------------------------------------------------------------------------------------


def test_documented_containers_have_a_word_and_flags_that_are_understood() -> None:
    """Every `docker run` of the page and of the Dockerfile's head."""
    text = (ROOT / "docs/shipping.md").read_text() + (ROOT / "Dockerfile").read_text()
    lines = re.findall(r"docker run (.*)", text)
    commands = [re.split(r" agent57_jax(?::cpu)? ", line.split("  ")[0]) for line in lines if " agent57_jax" in line]
    assert len(commands) >= 6 and all(len(command) == 2 for command in commands)
    for options, command in commands:
        word, *flags = command.split()
        assert word in words.WORDS
        assert "runs:/runs" in options or word == "doctor"
        if word == "train":
            assert workdir_of(flags, 1).startswith("/runs/")
            assert "--stop-timeout 120" in options or "--rm" in options


def test_documented_files_are_there() -> None:
    text = (ROOT / "docs/shipping.md").read_text() + (ROOT / "docs/scaling.md").read_text()
    named = set(re.findall(r"\bdeploy/[\w.]+", text))
    assert named == {str(path.relative_to(ROOT)) for path in (ROOT / "deploy").iterdir()}
