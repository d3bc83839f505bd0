"""README.md and docs/: links lead where they say, and every command and piece of code is run by a test."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import DvcParserError, parse_args
from dvc.utils.hydra import apply_overrides
from matplotlib.mathtext import MathTextParser
from PIL import Image

import stages
from conftest import ROOT, Checkout
from ddpm.base.faults import Fault
from ddpm.data.settings import Contents
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.recipe import check, nowhere
from stages import load_params, load_yaml, params_file
from tiny import randomised, train_config
from tools import sample
from tools.links import LINK, pages, relinked

PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in pages()}
every_page = pytest.mark.parametrize("page", PAGES)
GENERATED = re.compile(r"<!-- \w+: written by .*?<!-- end", re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)


# --- Shape and links -----------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200


@every_page
def test_lines_and_pages_are_short(page: str) -> None:
    lines = GENERATED.sub("", PAGES[page]).splitlines()
    assert [line for line in lines if len(line) > 128 and not line.startswith("|")] == []
    assert len(lines) <= (260 if page == "docs/sharing.md" else 160)


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/README.md"]))
    assert linked == {Path(page).name for page in PAGES if page.startswith("docs/")} - {"README.md"}


def anchors(text: str) -> set[str]:
    """The addresses that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_files_and_headings(page: str) -> None:
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\((?!https?://)([^)]+)\)", prose(page)) + re.findall(r'<img src="([^"]+)"', prose(page))
    for target in targets:
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), target


@every_page
def test_links_to_code_lead_to_the_line_that_defines_it(page: str) -> None:
    assert relinked(ROOT / page) == PAGES[page], "stale: run `python -m tools.links`"
    assert len(re.findall(r"\.py#L", PAGES[page])) == len(LINK.findall(PAGES[page])), "a link to a line names what it defines"


def test_links_to_code_move_with_it(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("import a\n\nTABLE: dict[str, int] = {}\n\n\nclass Two:\n    def three(self):\n")
    page = tmp_path / "page.md"
    page.write_text("[`TABLE`](code.py#L1), [`Two`](code.py#L1), [`three`](code.py#L1), [`code`](code.py)")
    assert relinked(page) == "[`TABLE`](code.py#L3), [`Two`](code.py#L6), [`three`](code.py#L7), [`code`](code.py)"
    for link, said in (("[`a`](code.py#L1)", "0 lines define a"), ("[`a`](b.py#L1)", "no such file")):
        page.write_text(link)
        with pytest.raises(Fault, match=said):
            relinked(page)


def test_formulas_are_formulas() -> None:
    """In the part of TeX that matplotlib reads, too."""
    text = PAGES["docs/how-it-works.md"]
    inline = re.findall(r"\$([^$\n]+)\$", text)
    formulas = blocks("docs/how-it-works.md", "math") + inline
    assert len(inline) > 4
    assert len(formulas) > len(inline) + 4
    assert not [formula for formula in inline if re.search(r"\\[^a-z]", formula)], "GitHub takes such a backslash away"
    for formula in formulas:
        MathTextParser("path").parse(f"${' '.join(formula.split())}$")


# --- Code ----------------------------------------------------------------------------------------------------------

CHECKPOINT = "models/small/cifar10_classes/ema.safetensors"
BEFORE = {  # what a page's code takes as given
    "docs/yardstick.md": "import numpy as np\n"
    "real_images, drawn_images = np.random.default_rng(0).integers(0, 256, (2, 40, 16, 16, 3), dtype=np.uint8)\n"
}


def test_the_code_of_the_pages_runs(tmp_path: Path) -> None:
    """Every block of Python, in order, with a checkpoint of this test's own; without DVC and stages."""
    config = train_config(context_dim=10, num_timesteps=100, prediction="v")
    facts = {"size": 8, "count": 3, "origin": "test", "dataset": "cifar10", "source": "official"}
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": facts, "classes": names}
    (tmp_path / CHECKPOINT).parent.mkdir(parents=True)
    for name, seed in (("ema", 0), ("ema-001600", 1)):
        path = (tmp_path / CHECKPOINT).with_name(f"{name}.safetensors")
        save_weights(path, randomised(build_network(config), seed), metadata)
    found = {page: BEFORE.get(page, "") + "\n".join(blocks(page, "python")) for page in PAGES if blocks(page, "python")}
    assert set(found) == {"README.md", "docs/extending.md", "docs/library.md", "docs/yardstick.md"}
    script = f"for page, code in {found!r}.items(): exec(compile(code, page, 'exec'), {{}})"
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).absolute()), "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in tmp_path.iterdir()} >= {".png", ".gif", ".safetensors"}


def test_the_recipe_of_the_page_has_good_settings() -> None:
    (block,) = blocks("docs/extending.md", "yaml")
    params, own = load_params("demo"), load_yaml(block)["recipes"]
    check(params | {"recipes": params["recipes"] | own, "recipe_names": list(own), "conditional": list(own), "editing": []})


# --- Commands ------------------------------------------------------------------------------------------------------


def commands(page: str) -> list[str]:
    """The lines of the page's blocks of commands, comments left out."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    stripped = (" ".join(re.sub(r"(^|\s+)# .*", "", line).split()) for line in lines)
    return [command for command in stripped if command]


def parts(command: str) -> list[list[str]]:
    """The words of each of the commands that && joins, settings of the environment before them left out."""
    found = [shlex.split(part) for part in command.split(" && ")]
    return [[word for i, word in enumerate(words) if i or not re.match(r"[A-Z_]+=", word)] for words in found]


# In pages whose own tests run all of their commands.
OF_A_PAGE = {
    "docs/sharing.md": "test_sharing: the_commands_of_the_page_are_run",
    "docs/own-pictures.md": "test_folder: the_page_s_commands_lead_from_a_folder_to_samples",
}
# Run by another test: it, or what does the same at a test's size.
RUN_BY = {
    "make demo": "test_pipeline: a_download_without_git_runs",
    "dvc repro": "test_pipeline: a_second_run_does_nothing",
    "dvc pull": "test_pipeline: a_clone_pulls_checkpoints_and_samples",
    "dvc pull small/dvc.yaml:train@celeba": "test_tools_sample: make_samples_draws_from_a_download_without_git",
    'git commit -m "Share through our remote" .dvc/config && git push': "test_team: one_trains_and_all_pull",
    "dvc push": "test_team: one_trains_and_all_pull",
    "dvc exp push origin NAME": "test_team: one_trains_and_all_pull",
    "python -m tools.verify": "test_sharing: a_damaged_object_is_named_and_replaced",
    "dvc exp run --queue -S 'train.lr=1e-3,3e-4' && dvc queue start": "test_pipeline: a_queued_experiment_runs_its_own_copy",
    "CUDA_VISIBLE_DEVICES=0 dvc queue start": "test_queue: each_queue_worker_keeps_its_gpu",
    "CUDA_VISIBLE_DEVICES=1 dvc queue start --jobs 2": "test_queue: each_queue_worker_keeps_its_gpu",
    "make full/dvc.yaml": "test_pipeline: the_published_scale_has_the_same_pipeline",
    "torchrun --nnodes=2 --node-rank=0 --master-addr=HOST0 --nproc-per-node=8 -m stages.train cifar10 --scale full":
        "test_distributed: two_machines_without_a_shared_disk_train_one_network",
    "torchrun --nproc-per-node=4 -m tools.sample cifar10 --images 10000 --out images.npy":
        "test_distributed: two_processes_draw_the_images_of_one",
    "python -m tools.export celeba --scale small": "test_export: the_example_draws_the_library_s_images",
    "python -m tools.export celeba --scale small --format torch": "test_export: what_stands_beside_the_model",
    "python examples/sample_onnx.py exports/small-celeba 8 0": "test_export: the_example_draws_the_library_s_images",
    "python -m tools.page celeba --scale small": "test_page: the_images_are_the_library_s",
    "python -m http.server -d exports/page-small-celeba": "test_page: the_images_are_the_library_s",
    "tensorboard --logdir work": "test_preview: a_training_that_is_watched_is_bit_equal",
}  # fmt: skip
NOT_RUN = {
    "make setup && . .venv/bin/activate": "installs packages from the network",
    "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.lock": "installs packages from the network",
    "pip install -e '.[export]'": "installs packages from the network",
    "pip install -e '.[fid]'": "installs packages from the network",
    "pip install tensorboard": "installs packages from the network",
    "make test": "runs this test",
    "ruff check . && mypy && python -m pytest -n logical --dist loadfile --no-loadscope-reorder": "runs this test",
    "cd small && dvc repro train@cifar10": "takes an hour, and real images, which are not here",
    "(cd full && dvc repro preprocess@cifar10)": "fetches CIFAR-10 from its host",
    "cd full && dvc commit -f train@cifar10 && dvc repro": "takes days of a GPU before it",
    "srun --nodes=2 --ntasks-per-node=1 bash -c 'torchrun --nnodes=2 --node-rank=$SLURM_NODEID --nproc-per-node=8 "
    "--master-addr=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1) -m stages.train cifar10 --scale full'":
        "needs Slurm",
}  # fmt: skip
# Run below, in a project in which all has run, whose commit `wider` has another loss.
IN_A_PROJECT = [
    "dvc metrics diff",
    "dvc metrics diff main wider",
    "dvc exp show --only-changed",
    "dvc exp show --only-changed --hide-queued --drop 'Created|.*/(?!.*:(kid|loss)$|params)'",
    "python -m tools.experiments",
    "dvc repro --downstream train@cifar10",
    "python -m tools.compare main",
    "python -m tools.compare main wider",
    "python -m tools.report",
    "python -m tools.lanes && python -m tools.report",
    "dvc plots show",
    "dvc plots diff main",
    "dvc commit -f train",
    "dvc remote add --default team s3://bucket/ddpm",
    "dvc remote modify team verify true",
]
PAIRS = [(page, command) for page in PAGES for command in commands(page)]
SAMPLES = [
    command
    for page, command in PAIRS
    if command.startswith("python -m tools.sample") and command not in RUN_BY and page not in OF_A_PAGE
]
EXPERIMENTS = list(dict.fromkeys(command for page, command in PAIRS if "dvc exp run " in command if page != "docs/sharing.md"))
SWEEP = [command for command in commands("docs/experiments.md") if re.search(r"-n |narrow", command)]


def test_every_command_is_run_by_a_test() -> None:
    here = {*IN_A_PROJECT, *SAMPLES, *EXPERIMENTS, *SWEEP}
    elsewhere = {command for page in OF_A_PAGE for command in commands(page)}
    assert len(PAIRS) > 100
    assert [command for _, command in PAIRS if command not in here | elsewhere | {*RUN_BY, *NOT_RUN}] == []
    written = {command for _, command in PAIRS}
    assert [command for command in (*RUN_BY, *NOT_RUN, *IN_A_PROJECT) if command not in written] == [], "in no page any more"
    assert not here & NOT_RUN.keys()
    for named in (*RUN_BY.values(), *OF_A_PAGE.values()):
        file, name = named.split(": ")
        assert f"\ndef test_{name}" in (ROOT / "tests" / f"{file}.py").read_text(), named


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_experiments_have_good_settings(command: str, tmp_path: Path) -> None:
    """The stage config accepts what each sets."""
    (words,) = (words for words in parts(command) if words[:3] == ["dvc", "exp", "run"])
    overrides = [word for option, word in pairwise(words) if option == "-S"]
    assert overrides
    scale = found[1] if (found := re.match(r"cd (\w+) && ", command)) else "demo"
    path = tmp_path / "params.yaml"
    shutil.copy(params_file(scale), path)
    apply_overrides(path, [re.sub(r"=[^\[{,]+,", "=", value) for value in overrides])  # of a sweep the last
    changed = load_yaml(path.read_text())
    assert changed != load_params(scale)
    assert set(changed) == set(load_params(scale))
    check(changed, lambda name, data: Contents(("cats", "dogs"), 300) if data.is_own_folder else nowhere(name, data))


def stand_in(path: Path, size: int, classes: list[str]) -> None:
    """A checkpoint that draws images of `size` pixels in no time."""
    config = train_config(channels=[4], attention=[], neck_length=0, num_timesteps=50, prediction="v", context_dim=len(classes))
    data = {"size": size, "count": 3, "origin": "test", "dataset": "cifar10", "source": "official"}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": data, "classes": classes}
    save_weights(path, randomised(build_network(config)), metadata)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of every recipe that the pages draw from, and pictures to change."""
    folder = tmp_path_factory.mktemp("shelf")
    classes = {"cifar10_classes": ["cat", "horse", "ship"], "sprites": list("abcde"), "mine": ["cats", "dogs"]}
    for scale in ("demo", "small", "gpu"):
        for recipe in ("cifar10", "cifar10_classes", "celeba", "sprites", "mine"):
            path = folder / "models" / scale / recipe / "ema.safetensors"
            for name in ("raw-000003.safetensors", "raw-000007.safetensors", path.name):
                stand_in(path.with_name(name), 64 if recipe == "celeba" else 16, classes.get(recipe, []))
    shutil.copy(path, folder)
    for seed, name in enumerate(("me.jpg", "you.jpg")):
        Image.effect_noise((90, 70), 40 + seed).save(folder / name)
    return folder


@pytest.mark.parametrize("command", dict.fromkeys(SAMPLES))
def test_samples_are_drawn(
    command: str, shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each writes the picture that it names, by the stand-ins."""
    for module in (stages, sample):
        monkeypatch.setattr(module, "ROOT", shelf)
    monkeypatch.chdir(shelf)
    ((_, _, _, *words),) = parts(command)
    monkeypatch.setattr(sys, "argv", ["sample", *words])
    sample.main(sample.arguments())
    said = capsys.readouterr().out
    if "--list" in words:
        assert "celeba --scale small" in said
        return
    (written,) = re.findall(r"wrote (\S+): ", said)
    assert (shelf / written).stat().st_size > 0
    if "--out" in words:
        assert written == words[words.index("--out") + 1]
    (shelf / written).unlink()


@pytest.mark.slow
def test_commands_work_in_a_finished_project(done: Checkout) -> None:
    path = done.path / "metrics/demo/cifar10/train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": 123.5}))
    done.commit("worse")
    done.git("tag", "wider")
    done.git("checkout", "--quiet", "-B", "main", "HEAD~1")
    said = {command: done.run("bash", "-c", command) for command in IN_A_PROJECT}
    assert "123.5" in said["dvc metrics diff main wider"]
    assert "123.5" not in said["dvc metrics diff"]
    assert "KID" in said["python -m tools.compare main wider"] or "kid" in said["python -m tools.compare main wider"]
    assert (done.path / "report.html").exists()
    assert "s3://bucket/ddpm" in done.dvc("remote", "list")


@pytest.mark.slow
def test_the_page_s_sweep_runs(done: Checkout) -> None:
    """Three experiments, and what compares them."""
    done.params(train__channels=[8, 8, 16], train__attention=[3])
    done.dvc("repro")
    done.commit("three levels, as the page's network has")
    said = {command: done.run("bash", "-c", command) for command in SWEEP}
    assert len([command for command in said if command.startswith("dvc exp run -n")]) == 3
    shown = done.dvc("exp", "show", "--json")
    assert all(f'"{name}"' in shown for name in ("narrow", "eps", "seed1"))
    assert "narrow" in said["python -m tools.compare main narrow --recipes cifar10"]
    table = done.run(sys.executable, "-m", "tools.experiments")
    differ = {"narrow": "train.channels = [8, 16, 32]", "eps": 'train.prediction = "eps"', "seed1": "train.seed = 1"}
    for name, settings in differ.items():  # of each these alone: none starts from what another one left
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        assert line.endswith(f"   {settings}"), table


# --- Commands in sentences -----------------------------------------------------------------------------------------


def inline(page: str) -> list[str]:
    """What stands between backticks and begins as a command does."""
    found = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]
    return [span for span in found if re.match(r"(dvc|make|python -m|git|FRESH=1 dvc) ", span)]


def options_of(module: str) -> Any:
    """What reads the command line of `python -m module`, or None: it takes no arguments, or reads them where it starts."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    return getattr(found, "arguments", None)


@every_page
def test_commands_have_the_options_that_they_name(
    page: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """DVC's own parser, those of the tools and the Makefile know what the page writes, in blocks and in sentences."""
    targets = set(re.findall(r"^([a-z./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    sentences = inline(page)
    for command in [*commands(page), *sentences]:
        for words in parts(command):
            if words[0] == "dvc" and len(words) > 1 and "..." not in command:
                try:
                    parse_args(words[1:])
                except DvcParserError:  # a sentence may leave out what a command is to work on
                    assert command in sentences, command
                    assert "arguments are required" in caplog.text, command
            elif words[0] == "make":
                assert set(words[1:]) <= targets, command
            elif words[:2] == ["python", "-m"] and words[2].startswith(("tools.", "benchmarks.")):
                read = options_of(words[2])
                if read is not None and len(words) > 3:
                    monkeypatch.setattr(sys, "argv", words[2:])
                    read()
