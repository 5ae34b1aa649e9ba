"""Help at the terminal, and what shells complete."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from conftest import leaves

from hirez_mosaic.cli.help import HEADINGS
from hirez_mosaic.cli.main import main


@pytest.mark.parametrize("name", ["render", "batch"])
def test_options_stand_below_their_headings_once(name: str) -> None:
    text = CliRunner().invoke(main, [name, "--help"], terminal_width=80).output
    headings = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == list(HEADINGS)  # and no "Others"
    for option in main.commands[name].params:
        if isinstance(option, click.Option):
            flag = max(option.opts, key=len)
            assert len(re.findall(rf"^  (?:-\w, )?{flag}(?![\w-])", text, re.MULTILINE)) == 1, flag


def test_no_option_is_below_two_headings() -> None:
    names = " ".join(HEADINGS.values()).split()
    assert len(names) == len(set(names))


@pytest.mark.parametrize("label", [label for label, _ in leaves(main)])
def test_help_fits_80_columns_and_every_option_has_a_sentence(label: str) -> None:
    text = CliRunner().invoke(main, [*label.split("."), "--help"], terminal_width=80).output
    assert all(len(line) <= 80 for line in text.splitlines())
    command = dict(leaves(main))[label]
    for option in command.params:
        if isinstance(option, click.Option):
            sentence = (option.help or "").split("  [default")[0].rstrip()
            assert sentence[:1].isupper() or sentence.split(":")[0].islower(), option.name
            assert sentence.endswith((".", "...", ")")), option.name


def completed(words: Sequence[str], begun: str) -> list[str]:
    found = ShellComplete(main, {}, "hirez-mosaic", "_HIREZ_MOSAIC_COMPLETE").get_completions(list(words), begun)
    return [item.value if item.type == "plain" else f"{item.type}:{item.value}" for item in found]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("wall.toml", "photo.jpg", "wide [1].toml"):
        (tmp_path / name).touch()


def test_values_are_completed(here: None) -> None:
    render = ["render", "photo.jpg"]
    assert completed([], "comp") == ["compare", "completion"]
    assert completed([*render, "--device"], "")[:3] == ["auto", "cpu", "cuda"]
    assert completed([*render, "--decoder"], "s") == ["ssim"]
    assert completed([*render, "--decoder"], "mine") == ["file:mine"]
    assert completed([*render, "--crop"], "f") == ["faces"]
    assert completed([*render, "--background"], "b") == ["black"]
    assert completed(["batch", "photos", "--format"], "d") == ["dzi"]
    assert completed(["print", "wall.tif", "--paper"], "A") == [f"A{number}" for number in range(7)]
    assert completed(["train", "--recipe"], "p") == ["paper"]
    assert completed(["run"], "w") == ["wall.toml", "wide [1].toml"]
    assert completed(["run"], "ph") == ["file:ph"]
    assert completed(["completion"], "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_program_by_its_name(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert f"_HIREZ_MOSAIC_COMPLETE={shell}_complete" in script
    assert "hirez-mosaic" in script


def test_bash_completes_what_the_program_answers(here: None, tmp_path: Path) -> None:
    """The function that the script defines, called as bash would call it."""
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    program = tmp_path / "hirez-mosaic"
    code = "from hirez_mosaic.cli.main import main; main(prog_name='hirez-mosaic')"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore -c "{code}"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(script)
    asked = (
        f"source ./script; compopt() {{ :; }}; COMP_WORDS=(hirez-mosaic render a --effort b); COMP_CWORD=4; "
        f"_hirez_mosaic_completion {program}; echo ${{COMPREPLY[*]}}"
    )
    done = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["better", "best"], done.stderr
