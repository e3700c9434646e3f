"""The examples of training on several machines: Kubernetes' manifest, and Slurm's script."""

import os
import subprocess

import pytest
import yaml

import conftest
from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import supervise

EXAMPLES = conftest.REPOSITORY / "examples"


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict]:
    """The objects of Kubernetes by kind."""
    text = (EXAMPLES / "kubernetes" / "train.yaml").read_text(encoding="utf-8")
    return {entry["kind"]: entry for entry in yaml.safe_load_all(text)}


def parse(flags: list[str]) -> dict[type, config.Config]:
    """What the flags of `supervise` say, by the class of the config."""
    classes = conftest.configs_of("deeplab_tf.supervise")
    return dict(zip(classes, command_line.parse(flags, *classes)))


def test_every_pod_starts_the_worker_whose_name_the_others_know(manifest):
    service, job = manifest["Service"], manifest["Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    count = job["spec"]["completions"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["parallelism"] == count
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["restartPolicy"] == "OnFailure"

    python, option, module, *flags = container["command"]
    assert (python, option, module) == ("python", "-m", "deeplab_tf.supervise")
    (port,) = service["spec"]["ports"]
    hosts = [
        f"{job['metadata']['name']}-{index}.{pod['subdomain']}:{port['port']}"
        for index in range(count)
    ]
    for index in range(count):
        own = [flag.replace("$(JOB_COMPLETION_INDEX)", str(index)) for flag in flags]
        configs = parse(own)
        arguments = configs[supervise.Arguments]
        assert list(arguments.hosts) == hosts
        assert arguments.index == index
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert configs[config.TrainConfig].train_batch_size % (count * gpus) == 0
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for path in (arguments.run_dir, configs[config.DataConfig].data_dir):
        assert path.startswith(f"{mounts['data']}/")


STAND_INS = {
    # "show hostnames" lists them; "requeue" is noted.
    "scontrol": 'if [ "$1" = show ]; then printf "a\\nb\\n"; else echo "$@" >> "$NOTES"; fi',
    # Runs the command once for each task.
    "srun": ('shift; code=0; for i in 0 1; do SLURM_PROCID=$i "$@" || code=$?; done; exit "$code"'),
    # Notes its arguments in place of training.
    "python": 'echo "$@" >> "$NOTES"; exit "$CODE"',
}


@pytest.mark.parametrize("code", [0, 1, 75])
@pytest.mark.skipif(os.name != "posix", reason="a script for Slurm, which runs on Linux")
def test_slurm_starts_a_worker_on_each_machine_and_queues_again_what_was_saved(tmp_path, code):
    for name, script in STAND_INS.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    notes = tmp_path / "notes"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "[a-b]",
        "SLURM_JOB_ID": "7",
        "NOTES": str(notes),
        "CODE": str(code),
    }
    script = EXAMPLES / "slurm" / "train.sbatch"
    done = subprocess.run(
        ["bash", str(script), "--run_dir=/shared/a run", "--data_dir=/shared/records"],
        env=environment,
    )
    assert done.returncode == code
    own = "--run_dir=/shared/a run --data_dir=/shared/records"
    started = [
        f"-m deeplab_tf.supervise --hosts=a:2222,b:2222 --index={index} {own}" for index in (0, 1)
    ]
    requeued = ["requeue 7"] if code == 75 else []
    assert notes.read_text().splitlines() == started + requeued
