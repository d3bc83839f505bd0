"""Experiments that a person can read: what differs, what was not made again, and what reaches nothing; by the real DVC."""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Checkout, stages_run
from ddpm.recipe import flattened, unreached
from results_tree import Tree
from test_compare import CONFIG, QUALITY, run, work_on, write_facts
from test_report import section, write
from tools import compare, experiments, outdated
from tools.report import results as reading

# --- Settings that reach nothing -----------------------------------------------------------------------------------

BEFORE = {
    "recipe_names": ["a", "b"],
    "train": {"lr": 1e-3, "steps": 10, "channels": [8, 16]},
    "figures": {"grid": {"seed": 0, "images": 4}},
    "evaluation": {"images": 20},
    "recipes": {
        "a": {"data": {"size": 8}, "train": {"steps": 20}, "figures": {"grid": {"seed": 1}}},
        "b": {"data": {"size": 8}, "train": {"steps": 30, "lr": 0.1}, "figures": {"grid": {"seed": 2}}},
        "c": {"data": {"size": 8}},
    },
}


def changed(**changes: object) -> dict:
    """BEFORE with changes, by names with __ for the dot."""
    params = json.loads(json.dumps(BEFORE))
    for name, value in changes.items():
        *parents, key = name.split("__")
        section = params
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    return params


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"train__lr": 0.5}, []),  # reaches a
        ({"figures__grid__images": 9}, []),
        ({"recipes__a__train__steps": 100}, []),
        ({"recipes__b__train__channels": [8]}, []),
        (
            {"train__steps": 100},
            ["train.steps = 100 reaches no recipe that runs, for each has its own: "
             "recipes.a.train.steps = 20, recipes.b.train.steps = 30"],
        ),
        (
            {"figures__grid__seed": 7, "recipe_names": ["b"]},
            ["figures.grid.seed = 7 reaches no recipe that runs, for each has its own: recipes.b.figures.grid.seed = 2"],
        ),
        (
            {"recipes__c__train__lr": 0.5},
            ["recipes.c.train.lr = 0.5 reaches no recipe that runs; accepted in recipe_names: c too"],
        ),
    ],
)  # fmt: skip
def test_a_setting_that_reaches_no_recipe_says_so(changes: dict, said: list[str]) -> None:
    assert unreached(changed(**changes), BEFORE) == said


@pytest.mark.slow
def test_an_override_that_reaches_no_recipe_is_a_warning_of_config(done: Checkout) -> None:
    done.params(recipes__cifar10__train__steps=6, recipes__celeba__train__steps=6)
    assert "warning:" not in done.dvc("repro", "config"), "the recipes' own settings"
    done.commit("each recipe has its own steps")
    output = done.dvc("exp", "run", "--set-param", "train.steps=100", "config")
    said = "warning: train.steps = 100 reaches no recipe that runs, for each has its own: recipes.cifar10.train.steps = 6"
    assert said in output
    assert "recipes.cifar10 has its own: train.steps" in output
    assert json.loads((done.path / "metrics/demo/cifar10/config/train.json").read_text())["steps"] == 6
    shutil.rmtree(done.path / ".git")
    done.python("-m", "stages.config", "cifar10")  # where git knows of nothing, nothing is new


@pytest.mark.slow
def test_config_works_little_longer_than_importing_torch_takes(untouched: Checkout, tmp_path: Path) -> None:
    """Of the processor's seconds, in turns: what else the machine does counts little, and how fast it is nothing."""
    checkout = untouched.copy(tmp_path / "timed")

    def seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = checkout.start(sys.executable, *command)
        assert process.wait() == 0, checkout.log.read_text()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    commands = {"torch": ("-c", "import torch"), "config": ("-m", "stages.config", "cifar10")}
    taken = {name: [seconds(*command)] for name, command in commands.items()}  # these fill the disk's cache
    for _ in range(2):
        for name, command in commands.items():
            taken[name].append(seconds(*command))
    assert min(taken["config"]) < 1.5 * min(taken["torch"]), taken


# --- One recipe, and all that follows ------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_recipe_and_all_that_follows(done: Checkout) -> None:
    """What docs/experiments.md says of targets; and its table of DVC fits 200 columns, which the whole one does not."""
    output = done.dvc("exp", "run", "--name", "faster", "--set-param", "train.lr=0.002", "--downstream", "config@cifar10")
    ran = stages_run(output)
    made = {"train", "overview", "progression", "samplers", "ema", "grid", "solvers", "path", "timing", "evaluate", "card"}
    assert set(ran) == {f"{stage}@cifar10" for stage in {"config", *made}}
    page = (ROOT / "docs/experiments.md").read_text()
    assert "--downstream config@cifar10" in page
    (drop,) = re.findall(r"dvc exp show .* --drop '([^']+)'", page)
    table = done.dvc("exp", "show", "--only-changed", "--hide-queued", "--drop", drop, COLUMNS="10000")
    assert "faster" in table
    assert "cifar10/evaluate.json:kid" in table
    assert "train.lr" in table
    assert max(map(len, table.splitlines())) <= 200
    assert max(map(len, done.dvc("exp", "show", COLUMNS="10000").splitlines())) > 200


# --- What was not made again ---------------------------------------------------------------------------------------

PIPELINE = """
stages:
  train:
    matrix: {name: [one]}
    cmd: mkdir -p models/demo/one && echo ${weights} > models/demo/one/ema.safetensors
    params: [weights]
    outs: [models/demo/one]
  grid:
    matrix: {name: [one]}
    cmd: cp models/demo/one/ema.safetensors metrics/demo/one/grid.txt
    deps: [models/demo/one/ema.safetensors]
    plots: [metrics/demo/one/grid.txt: {cache: false}]
  evaluate:
    matrix: {name: [one]}
    cmd: cp metrics/demo/one/measured.json metrics/demo/one/evaluate.json
    deps: [models/demo/one/ema.safetensors]
    plots: [metrics/demo/one/evaluate.json: {cache: false}]
  ema:
    matrix: {name: [one]}
    cmd: ls models/demo/one > metrics/demo/one/ema.txt
    deps: [models/demo/one]
    plots: [metrics/demo/one/ema.txt: {cache: false}]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A pipeline without networks at `main`, and three experiments: `whole`, `untouched`, and `half`, which only trained."""
    checkout = Checkout(tmp_path_factory.mktemp("swept") / "project")
    runtime = {"device": "cpu", "workers": 1, "save_seconds": 1.0, "preview_every": 0.0, "tensorboard": False, "launcher": ""}
    write_facts(checkout.path, "one", QUALITY)
    measured = checkout.path / "metrics/demo/one/evaluate.json"
    measured.rename(measured.with_name("measured.json"))
    params = {"recipe_names": ["one"], "weights": "a", "recipes": {"one": {}}, "runtime": runtime}
    files = {
        ".dvc/config": CONFIG, ".dvc/.gitignore": "/tmp\n/cache\n", ".gitignore": "/models\n", "dvc.yaml": PIPELINE,
        "params.yaml": json.dumps(params),
    }  # fmt: skip
    for name, text in files.items():
        (checkout.path / name).parent.mkdir(exist_ok=True)
        (checkout.path / name).write_text(text)
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.dvc("repro", "--quiet")
    checkout.dvc("push", "--quiet")
    checkout.commit("main")
    config = checkout.path / "metrics/demo/one/config/train.json"
    for name, weights, settings, targets in (
        ("whole", "b", {"lr": 0.01}, []),
        ("half", "c", {"lr": 0.02, "dropout": 0.5}, ["train@one", "ema@one"]),
    ):
        config.write_text(json.dumps(json.loads(config.read_text()) | settings))
        measures = measured.with_name("measured.json")
        measures.write_text(json.dumps(QUALITY | {"kid": 0.05}))
        checkout.dvc("exp", "run", "--quiet", "--name", name, "--set-param", f"weights={weights}", *targets)
        checkout.git("checkout", "--quiet", ".")
    checkout.dvc("checkout", "--quiet")
    return checkout


@pytest.fixture
def sweep(swept: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    work_on(swept, monkeypatch)
    return swept


def test_what_an_experiment_did_not_make_again_is_known(sweep: Checkout, tmp_path: Path, monkeypatch) -> None:
    of = {name: outdated.outdated(compare.side_of(name).revision, "demo", "one") for name in ("main", "whole", "half")}
    assert of == {"main": [], "whole": [], "half": ["evaluate", "grid"]}
    assert outdated.outdated(None, "demo", "one") == []
    assert outdated.outdated(None, "demo", "two") == outdated.outdated(None, "small", "one") == []
    # In a clone, the list of the checkpoint's files comes out of the store, or from nowhere.
    clone = Checkout(tmp_path / "clone")
    sweep.git("clone", "--quiet", sweep.path, clone.path)
    work_on(clone, monkeypatch)
    lock = clone.path / "dvc.lock"
    was = lock.read_text()
    (md5,) = set(re.findall(r"path: models/demo/one/ema.safetensors\n      hash: md5\n      md5: (\w+)", was))
    lock.write_text(was.replace(md5, "0" * 32))
    assert outdated.outdated(None, "demo", "one") == ["evaluate", "grid"]
    shutil.rmtree(clone.path / "store")
    outdated.files_of.cache_clear()
    assert outdated.outdated(None, "demo", "one") == []


def test_a_comparison_names_what_is_older_than_the_training(sweep: Checkout, monkeypatch, capsys) -> None:
    run(monkeypatch, "main", "half")
    output = capsys.readouterr().out
    assert (
        "older at half than what they are made from: evaluate, grid; made again where half is the working tree by: " in output
    )
    assert "dvc repro evaluate@one grid@one" in output
    assert "the measures are not comparable; on the two sides differ: evaluate.json (current / outdated)" in output
    assert [line.split()[-2:] for line in output.splitlines() if line.startswith("kid ")] == [["not", "comparable"]]
    run(monkeypatch, "main", "whole")
    output = capsys.readouterr().out
    assert "older at" not in output
    assert [line.split()[-1] for line in output.splitlines() if line.startswith("kid ")] == ["better"]


def test_the_list_shows_what_differs(sweep: Checkout, monkeypatch, capsys) -> None:
    def listed(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["experiments", *words])
        experiments.main(experiments.arguments())
        return [re.sub(" {2,}", " | ", line) for line in capsys.readouterr().out.splitlines()]

    half = "train.lr = 0.02, train.dropout = 0.5"
    assert listed() == [
        "one | KID | FD | bits/dim | loss | seconds | settings that differ",
        "HEAD | 0.2 ± 0.03 | 10 | 4 ± 0.5 | 0.1 | 12.5",
        "whole | 0.05 ± 0.03 | 10 | 4 ± 0.5 | 0.1 | 12.5 | train.lr = 0.01",
        f"half | outdated | outdated | outdated | 0.1 | 12.5 | {half}",
        "",
        "outdated: measured before the training that stands beside it",
    ]
    file = sweep.path / "metrics/demo/one/evaluate.json"
    before = file.read_text()
    file.write_text(json.dumps(QUALITY | {"samples": 5, "kid": 0.3}))
    try:
        found = listed("--rev", "main")
    finally:
        file.write_text(before)
    assert "workspace | 0.3 ± 0.03* | 10* | 4 ± 0.5* | 0.1 | 12.5" in found
    assert "* not measured as the first line was; what differs: python -m tools.compare main NAME" in found
    assert max(map(len, found)) < 160
    with pytest.raises(compare.Fault, match="--recipes two; accepted: one"):
        listed("--recipes", "two")
    with pytest.raises(compare.Fault, match="accepted: a commit, branch or tag"):
        listed("--rev", "workspace")
    sweep.git("commit", "--quiet", "--allow-empty", "--message", "next")
    assert listed() == ["no experiment of HEAD differs from it; `dvc exp list --all` names those of all commits"]
    sweep.git("reset", "--quiet", "--hard", "HEAD~1")


def test_many_settings_stand_below_each_other() -> None:
    own, other = (compare.Facts({f"train.key{i}": at for i in range(20)}, {}, {}, {}) for at in (0, 1))
    lines = experiments.wrapped(own, other, 60)
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert ", ".join(f"train.key{i} = 0" for i in range(20)) == " ".join(lines)


def test_the_report_shows_no_figure_of_an_earlier_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    tree = Tree(tmp_path / "project")
    tree.use(monkeypatch)
    for stages, shown in ((["grid", "classes", "evaluate"], False), ([], True)):
        monkeypatch.setattr(reading, "outdated", lambda revision, scale, recipe, stages=stages: stages)
        monkeypatch.setattr(compare, "outdated", lambda revision, scale, recipe, stages=stages: stages)
        found = section(write(monkeypatch, tree), "sprites")
        pictures = [picture["alt"] for picture in found.all("img")]
        for alt in ("Grid of samples", "Samples of the class", "Samples at"):
            assert any(picture.startswith(alt) for picture in pictures) == shown, alt
        assert any(picture.startswith("Samples of one model") for picture in pictures)
        for command in ("dvc repro grid@sprites", "dvc repro classes@sprites", "dvc repro evaluate@sprites"):
            assert (f"since what it is made from changed: {command}" in found.text) == (not shown), command
        assert ("is older than its training: dvc repro evaluate@sprites" in found.text) == (not shown)


def test_lists_are_one_setting() -> None:
    nested = {"figures": {"grid": {"seed": 0}, "samplers": {"compared": ["ddim 2"]}}, "data": {}}
    assert flattened(nested) == {"figures.grid.seed": 0, "figures.samplers.compared": ["ddim 2"]}
