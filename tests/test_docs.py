"""Every command in the documents runs, in their order, on small pictures; so does the notebook; the site is built.

Each page has a folder of its own with the files of `FILES`, which are what the documents name.
"""

import ast
import glob
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import leaves, photo, save

import hirez_mosaic
from hirez_mosaic.cli.main import main
from hirez_mosaic.jobs import train as training

ROOT = Path(hirez_mosaic.__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "reference" not in path.parts)]

SMALLER = {
    r"--columns \d+": "--columns 12",
    r"--tile (96|64)": "--tile 32",
    r"--width (1m|60in)": "--width 20cm",
    r"--count \d+": "--count 40",
    r"(templates edges) (--orientations \d+ --greys \d+ )?": r"\1 --orientations 2 --greys 2 ",
    r"--random \d+": "--random 40",
    r"--effort (better|best)": "--effort quick",
    r"--fit \d\d+": "--fit 2",
    r"--max-uses \d+": "--max-uses 40",
    r"--min-distance \d": "--min-distance 1",
    r"compare (.*)--tile 8 -o": r"compare \1--tile 8 --side 64 --selections L2,residual -o",
    r"compare demo(.*)-o": r"compare demo\1--side 64 --fit 1 --refine 1 -o",
    r"compare photos(.*)--selections": r"compare photos\1--side 64 --selections",
    r"train (.*)-o": r"train \1--steps 1 --batch 1 -o",
    r"--font \S+ --chars katakana": "--chars abc",
    r"--memory 4GiB": "--memory 2GiB",
    r"--device cuda": "--device cpu",
}
"""What is made smaller, so that a page takes seconds: it is the commands that are tried, not the machine."""

NOT_RUN = {
    "hirez-mosaic view": "serves until Ctrl-C; tests/test_view.py tries it",
    "hirez-mosaic bench": "measures the machine; tests/test_bench.py does that small",
    "hirez-mosaic weights": "may fetch from a network; tests/test_nets.py and test_cli.py try it",
    "hirez-mosaic render photo.jpg --templates album/ --scheduler": "needs a cluster; tests/test_cluster.py has one",
    "hirez-mosaic run pipelines/": "takes minutes; tests/test_recipe.py reads every recipe",
    "hirez-mosaic completion": "tests/test_help.py tries it",
}
"""Beginnings of the commands that do not run here, and why."""

SHELL = ("make ", "pip ", "python3 ", "python ", ". ", "uv ", "npm ", "mkdir ", "tar ", "dask ", "hirez-mosaic ")
"""What a line that is a command may begin with. All but the last need a network, another machine, or a fresh one."""


def commands(text: str) -> list[str]:
    """Every line that is indented as a command, outside of fences."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in plain.splitlines() if line.startswith("    ") and line.strip()]


def programs(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def why_not(command: str) -> str | None:
    return next((why for beginning, why in NOT_RUN.items() if command.startswith(beginning)), None)


def smaller(command: str) -> str:
    for wanted, small in SMALLER.items():
        command = re.sub(wanted, small, command)
    return command


def pictures(folder: Path, count: int, size: int = 24) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        save(folder / f"{number:03d}.png", photo(size, size, seed=number))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documents name."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("album", "guests", "emoji", "hubble", "demo/templates", "demo/emoji"):
        pictures(folder / name, 40)
    for name in ("photo.jpg", "couple.jpg", "demo/astronaut.png", "demo/sheet.png", "sprites.png"):
        save(folder / name, photo(102, 136, seed=50))
    for name in ("photos/a.png", "photos/b.png", "paintings/a.jpg", "paintings/b.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        save(folder / name, photo(96, 128, seed=len(name) + ord(name[-5])))
    for name in ("cat", "coffee", "rocket"):
        (folder / "demo/photos").mkdir(exist_ok=True)
        save(folder / f"demo/photos/{name}.png", photo(80, 120, seed=len(name)))
    (folder / "demo/gallery").mkdir()
    (folder / "banned.txt").write_text("001.png\n002.png\n")
    (folder / "family.txt").write_text("003.png\n004.png\n")
    return folder


@pytest.fixture
def here(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_cache: Path,
    with_random_weights: None,
    random_alexnet: dict[str, torch.Tensor],
) -> Path:
    """A current folder of its own with a copy of `files`; all weights are RANDOM."""
    folder = tmp_path / "here"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("hirez_mosaic.jobs.compare.resolve_alexnet", lambda *_: random_alexnet)
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)  # as without the extra `eye`, whose models take their time
    monkeypatch.setattr(training, "CROP_SIDE", 64)
    monkeypatch.setattr(training, "_why_not_cached", lambda *_, **__: "")  # one step need not make it better
    return folder


def run(command: str) -> None:
    """Run a command as a shell would: patterns are expanded, and what comes behind > is a file."""
    words = [
        found
        for word in shlex.split(command)[1:]
        for found in (sorted(glob.glob(word)) if "*" in word and "/" in word else []) or [word]  # noqa: PTH207
    ]
    words, file = (words[:-2], words[-1]) if ">" in words else (words, None)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, f"{command}\n{result.output}"
    if file is not None:
        Path(file).write_text(result.stdout, "utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run(page: Path, here: Path) -> None:
    text = page.read_text("utf-8")
    for command in commands(text):
        if command.startswith("hirez-mosaic ") and why_not(command) is None:
            run(smaller(command))
    names: dict[str, Any] = {}
    for program in programs(text):
        exec(compile(program.replace("columns=100", "columns=12"), page.name, "exec"), names)


def test_every_indented_line_is_a_command() -> None:
    for page in PAGES:
        for line in commands(page.read_text("utf-8")):
            assert line.startswith(SHELL) or line.startswith(("- ", "say ", "to ")) or line[0].isdigit(), (page, line)


def test_what_is_not_run_is_there() -> None:
    lines = [line for page in PAGES for line in commands(page.read_text("utf-8"))]
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for line in lines), beginning


def words() -> list[str]:
    return [f"hirez-mosaic {label.replace('.', ' ')}" for label, _ in leaves(main)]


def test_every_command_stands_in_a_guide() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for command in words():
        assert command in text


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 100
    assert all(len(line) <= 120 for line in lines if not line.startswith("|"))


def test_what_the_readme_links_is_there() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith(("https://", "http://")) or (ROOT / link).exists(), link


def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """mkdocs breaks off at a broken link, and at a page that is in no menu. The site loads nothing from elsewhere."""
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\s\">]+)", page.read_text("utf-8"))
        loaded += re.findall(r"<link[^>]*rel=\"?stylesheet\"?[^>]*href=\"?([^\s\">]+)", page.read_text("utf-8"))
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
    shown = (tmp_path / "site" / "reference" / "commands.html").read_text("utf-8")
    for name, command in leaves(main):
        assert f"hirez-mosaic {name.replace('.', ' ')}" in shown
        for option in command.params:
            if isinstance(option, click.Option):
                assert any(flag in shown for flag in option.opts), (name, option.name)
    keys = (tmp_path / "site" / "reference" / "recipes.html").read_text("utf-8")
    assert "no-repeat-neighbours" in keys
    names = (tmp_path / "site" / "reference" / "python.html").read_text("utf-8")
    for name in set(hirez_mosaic.__all__) - {"__version__", "errors"}:
        assert f'id="{name.lower()}"' in names, name
    files = (tmp_path / "site" / "reference" / "files.html").read_text("utf-8")
    for word in ("runner_up", "index_map", "page.js", "uses/N"):
        assert word in files


def shown(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, as a notebook shows it."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_runs_from_top_to_bottom(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((DOCS / "notebook.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    (here / "docs").mkdir()
    monkeypatch.chdir(here / "docs")
    names: dict[str, Any] = {"__name__": "__main__"}
    values = [shown("".join(cell["source"]).replace("side=256", "side=128"), names) for cell in cells]
    result, part, changed, page = (value for value in values if value is not None)
    assert "<img" in result._repr_html_()
    assert part.size == (result.size[0] // 4, result.size[1] // 4)
    assert changed.is_file()
    assert "<iframe" in page._repr_html_()
    assert [row.selection for row in names["rows"]] == ["L2", "residual"]


def test_the_gallery_names_its_pictures_and_commands() -> None:
    sys.path.insert(0, str(ROOT / "pipelines"))
    try:
        import gallery
    finally:
        sys.path.pop(0)
    text = (DOCS / "gallery.md").read_text("utf-8")
    found = gallery.entries(text)
    assert len(found) == text.count("](gallery/") >= 12
    assert {f"{entry.name}.jpg" for entry in found} == {path.name for path in (DOCS / "gallery").iterdir()}
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) <= 1_200_000
    assert all(path.stat().st_size <= 60_000 for path in (DOCS / "gallery").iterdir())


def test_a_gallery_picture_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(ROOT / "pipelines"))
    try:
        import gallery
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "gallery.md")
    (tmp_path / "gallery").mkdir()
    save(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8))
    gallery.make(gallery.Entry("noise", (0.9, 0.1), f"hirez-mosaic render a.png -o {tmp_path / 'noise.png'}"))
    assert (tmp_path / "gallery" / "noise.jpg").stat().st_size <= gallery.MOST_BYTES


def release() -> Any:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".github" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_release_has_absolute_links() -> None:
    readme = release().absolute((ROOT / "README.md").read_text("utf-8"), "v9.9.9", "https://example.org/a/b")
    links = re.findall(r"\]\(([^)]+)", readme)
    assert all(link.startswith(("https://", "http://")) for link in links)
    assert "https://example.org/a/b/raw/v9.9.9/pipelines/demo.jpg" in links
    assert "https://example.org/a/b/blob/v9.9.9/docs/quickstart.md" in links
    assert "https://github.com/schani/metapixel" in links


def test_a_tag_of_another_version_is_no_release() -> None:
    project, cited = '[project]\nversion = "1.2.3"\n', "title: a\nversion: 1.2.3\n"
    release().check("v1.2.3", project, "## 1.2.3 (2026-01-02)\n", cited)
    for tag, changes, citation in (
        ("v1.2.4", "## 1.2.3 (2026-01-02)\n", cited),
        ("v1.2.3", "## 1.2.3, not released\n", cited),
        ("v1.2.3", "## 1.2.3 (2026-01-02)\n", "version: 1.2.2\n"),
    ):
        with pytest.raises(SystemExit, match=r"\."):
            release().check(tag, project, changes, citation)


def test_the_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
