"""What the README says of sweeps on a machine with several GPUs: each queue worker keeps the GPU it was started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Checkout, wait_for

PIPELINE = """
stages:
  show:
    cmd: sleep 5; echo device=$CUDA_VISIBLE_DEVICES; date > done.txt
    params: [x]
    outs: [{done.txt: {cache: false}}]
"""


@pytest.mark.slow
def test_each_queue_worker_keeps_its_gpu(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = Checkout(tmp_path / "project")
    project.git("init", "--quiet", "--initial-branch=main")
    project.dvc("init", "--quiet")
    (project.path / "dvc.yaml").write_text(PIPELINE)
    (project.path / "params.yaml").write_text("x: 0\n")
    project.dvc("repro", CUDA_VISIBLE_DEVICES="none")
    project.commit("begin")
    names = [f"sweep-{number}" for number in range(1, 5)]
    for number, name in enumerate(names, 1):
        project.dvc("exp", "run", "--queue", "--name", name, "--set-param", f"x={number}")
    project.dvc("queue", "start", CUDA_VISIBLE_DEVICES="0")
    project.dvc("queue", "start", "--jobs", "2", CUDA_VISIBLE_DEVICES="1")
    wait_for(lambda: project.dvc("queue", "status").count("Success") == 4, "the queue", 300)
    logs = "\n".join(project.dvc("queue", "logs", name) for name in names).splitlines()
    assert {line for line in logs if line.startswith("device=")} == {"device=0", "device=1"}, logs
