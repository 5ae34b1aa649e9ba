"""Recipes: they do what the command line does, `--print-recipe` writes them, and what is wrong with one is said with
its line.
"""

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner, Result
from conftest import leaves, photo, save
from hypothesis import given, settings
from hypothesis import strategies as st

from hirez_mosaic.cli.main import main
from hirez_mosaic.cli.recipe import FileOr, RecipeCommand, read_recipe

PIPELINES = Path(__file__).parent.parent / "pipelines"
FILES = ("decoder.safetensors", "ア [1].txt", 'quoted "name".png', "back\\slash", "-dash", "two\nlines")
"""Files that are there, with names that TOML, patterns and command lines have other uses for."""


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


COMMANDS = {label: command for label, command in leaves(main) if label != "run"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# Round trips

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
paths = st.sampled_from(FILES) | texts.filter(lambda text: not set(text) & set("*?[") and "://" not in text)
"""What names no file may be a pattern in a recipe, or an address."""


def values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Words that the parameter takes."""
    kind = parameter.type
    if isinstance(kind, click.Path):
        return paths
    if isinstance(kind, FileOr):
        return paths | st.sampled_from(kind.words)
    if isinstance(kind, click.Choice):
        return st.sampled_from(kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        make = st.integers if isinstance(kind, click.IntRange) else st.floats
        return make(kind.min, kind.max).map(lambda one: str(one + 0))  # type: ignore[operator]  # minus 0 is 0
    if isinstance(kind, click.types.IntParamType):
        return st.integers().map(str)
    return st.floats().map(lambda one: str(one + 0)) if isinstance(kind, click.types.FloatParamType) else texts


@st.composite
def calls(draw: st.DrawFn, command: click.Command) -> list[str]:
    """The words of a call, after the command."""
    options, arguments = [], []
    for parameter in command.params:
        several = parameter.nargs == -1 or (isinstance(parameter, click.Option) and parameter.multiple)
        if parameter.name == "print_recipe" or not (parameter.required or draw(st.booleans())):
            continue
        if isinstance(parameter, click.Argument):
            arguments += draw(st.lists(values(parameter), min_size=1, max_size=3 if several else 1))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            options += [draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts]))]
        else:
            for value in draw(st.lists(values(parameter), min_size=1, max_size=3 if several else 1)):
                options += [draw(st.sampled_from(parameter.opts)), value]
    return [*options, "--", *arguments]


def understood(command: click.Command, words: list[str], folder: Path) -> dict[str, str]:
    """What a call means: every parameter's value, paths from the root but where they are defaults."""
    found = {}
    with command.make_context("x", list(words)) as context:
        for parameter in command.params:
            value = context.params[str(parameter.name)]
            is_path = isinstance(parameter.type, click.Path) or (isinstance(parameter.type, FileOr) and value in FILES)
            if is_path and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
                value = (
                    [folder / one for one in value]
                    if isinstance(value, tuple)
                    else None
                    if value is None
                    else folder / value
                )
            found[str(parameter.name)] = str(value)
    return found


@pytest.mark.parametrize("label", COMMANDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_call_and_its_recipe_mean_the_same(label: str, data: st.DataObject) -> None:
    command = COMMANDS[label]
    words = data.draw(calls(command))
    with tempfile.TemporaryDirectory() as scratch:
        here, elsewhere = Path(scratch).resolve() / "here", Path(scratch) / "elsewhere"
        here.mkdir()
        elsewhere.mkdir()
        for name in FILES:
            (here / name).touch()
        with contextlib.chdir(here):
            printed = call(*label.split("."), "--print-recipe", *words)
            assert printed.exit_code == 0, printed.output
        (elsewhere / "job.toml").write_bytes(printed.stdout_bytes)
        (job,) = read_recipe(elsewhere / "job.toml", main.commands)
        assert job.label == label
        meant = understood(command, words, here)
        assert understood(command, job.words, elsewhere) == meant
        assert (
            call(*job.line[: len(label.split("."))], "--print-recipe", *job.words).stdout_bytes == printed.stdout_bytes
        )


def test_every_command_but_run_prints_its_recipe_and_no_default(here: Path) -> None:
    assert all(isinstance(command, RecipeCommand) for command in COMMANDS.values())
    printed = call(
        "render",
        "a.png",
        "--templates",
        "t",
        "--tile",
        "32",
        "--plane",
        "1",
        "--columns",
        "9",
        "--mirror",
        "--print-recipe",
    )
    source, templates = json.dumps(str(here / "a.png")), json.dumps(str(here / "t"))
    assert printed.stdout == f"[render]\nsource = {source}\ntemplates = {templates}\ncolumns = 9\nmirror = true\n"
    assert list(here.iterdir()) == []
    assert call("weights", "--print-recipe").stdout == "[weights]\n"


def test_what_the_recipe_says_is_what_the_call_would_have_made(here: Path) -> None:
    words = ["templates", "edges", "--orientations", "2", "--greys", "2", "--tile", "9", "--thickness", "0.3"]
    assert call(*words, "-o", "by call").exit_code == 0
    (here / "deep").mkdir()
    (here / "deep" / "job.toml").write_bytes(call(*words, "-o", "by recipe", "--print-recipe").stdout_bytes)
    assert not (here / "by recipe").exists()
    assert call("run", "deep/job.toml").exit_code == 0
    made = [{path.name: path.read_bytes() for path in (here / folder).iterdir()} for folder in ("by call", "by recipe")]
    assert made[0] == made[1]


def test_a_name_that_no_recipe_can_hold_is_refused(here: Path) -> None:
    result = call("render", "\udcff.png", "--templates", "t", "--print-recipe")
    assert result.exit_code == 2
    assert "is no UTF-8, and TOML is; rename the file" in result.stderr


def test_an_address_is_no_path(here: Path) -> None:
    (here / "job.toml").write_text('[render]\nsource = "s3://bucket/a.zarr"\ntemplates = "t"\n')
    (job,) = read_recipe(here / "job.toml", main.commands)
    assert job.words == ["--templates", str(here / "t"), "--", "s3://bucket/a.zarr"]


# Reading

RECIPE = """# two jobs
[[render]]
source = "photos/a.png"
templates = "templates"
tile = 8
output = "a.png"
fit = 0

[[render]]
source = "photos/b.png"
templates = "templates"
tile = "8x6"
output = "b.png"
decoder = "l2"
quiet = true
"""


def test_a_recipe_runs_its_jobs_with_paths_from_where_it_lies(
    here: Path, own_cache: Path, with_random_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("photos", "templates", "elsewhere"):
        (here / folder).mkdir()
    for number, name in enumerate("ab"):
        save(here / "photos" / f"{name}.png", photo(40, 48, seed=number))
    for number in range(8):
        save(here / "templates" / f"{number}.png", photo(24, 24, seed=number))
    (here / "jobs.toml").write_text(RECIPE)
    monkeypatch.chdir(here / "elsewhere")
    result = call("run", "../jobs.toml")
    assert result.exit_code == 0, result.output
    assert {path.name for path in here.iterdir()} == {"photos", "templates", "elsewhere", "jobs.toml", "a.png", "b.png"}
    assert "hirez-mosaic render --templates ../templates --tile 8" in result.stderr


def words_of(folder: Path, text: str) -> list[str]:
    (folder / "jobs.toml").write_text(text, "utf-8")
    return [shlex.join(job.line) for job in read_recipe(folder / "jobs.toml", main.commands)]


def test_jobs_run_in_the_order_they_are_written_in(here: Path) -> None:
    job = 'source = "a.png"\ntemplates = "t"\n'
    last = '[templates]\nglyphs.output = "g"\nglyphs.chars = """\n[render]\n"""\n'
    tables = [
        f"[[render]]\n{job}",
        '[templates.edges] # twelve\n"output" = "e"\n',
        f"[[render]]\n{job}columns = 4\n",
        last,
        "[weights]\n",
    ]
    found = words_of(here, "\n".join(tables))
    assert [line.split(" --")[0] for line in found] == [
        "render",
        "templates edges",
        "render",
        "templates glyphs",
        "weights",
    ]
    assert "--columns 4" in found[2]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_recipe_may_come_from_any_editor(newline: str, here: Path) -> None:
    text = '# ア\n[templates.edges]\noutput = "ア"\n'.replace("\n", newline)
    (here / "jobs.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (job,) = read_recipe(here / "jobs.toml", main.commands)
    assert job.words == ["--output", str(here / "ア")]


def test_a_recipe_can_leave_out_what_an_option_has_a_no_for(here: Path) -> None:
    text = (
        '[templates.augment]\npictures = ["photos"]\nmirror = false\nrotate = true\n'
        'overwrite = false\noutput = "made"\n'
    )
    assert words_of(here, text) == [f"templates augment --no-mirror --rotate --output {here}/made -- {here}/photos"]


def test_a_decoder_is_a_file_beside_the_recipe_unless_it_is_a_word(here: Path) -> None:
    (here / "mine.safetensors").touch()
    (here / "auto").touch()
    for decoder, word in (("mine.safetensors", str(here / "mine.safetensors")), ("auto", "auto"), ("l2", "l2")):
        (line,) = words_of(here, f'render.source = "a"\nrender.templates = "t"\nrender.decoder = "{decoder}"\n')
        assert f"--decoder {word} " in line


def test_patterns_are_expanded_unless_they_name_a_file(here: Path) -> None:
    for name in ("b1.png", "a1.png", "a[1].png"):
        (here / name).touch()
    (line,) = words_of(here, '[compare]\nsources = ["?1.png", "a[1].png", "none*.png"]\ntemplates = "t"\n')
    assert shlex.split(line.split(" -- ")[1]) == [
        str(here / name) for name in ("a1.png", "b1.png", "a[1].png", "none*.png")
    ]


RENDER = '[render]\nsource = "a.png"\ntemplates = "t"\n'
BAD = {
    "unknown job": ("# one\n[rendre]\n", "jobs.toml, line 2: there is no job [rendre]; did you mean render"),
    "unknown maker": ("\n\n[templates.edgs]\n", "line 3: there is no job [templates.edgs]; did you mean edges"),
    "no job of its own": (
        '[run]\nrecipe = "jobs.toml"\n',
        "line 1: there is no job [run]; use some of assemble, batch",
    ),
    "no table": ('render = "a.png"\n', "line 1: render is no table; write [render] and its options below"),
    "unknown key": (
        RECIPE.replace('decoder = "l2"', 'decodr = "l2"'),
        "line 14: render has no option decodr; did you mean decoder",
    ),
    "a key of another command": (f"{RENDER}images = 'x'\n", "line 4: render has no option images"),
    "the key of printing": (f"{RENDER}print-recipe = true\n", "line 4: render has no option print-recipe"),
    "wrong value": (RECIPE.replace("fit = 0", 'fit = "many"'), "line 7: Invalid value for '--fit'"),
    "no whole number": (
        f"{RENDER}columns = 2.5\n",
        "line 4: Invalid value for '--columns': '2.5' is not a valid integer",
    ),
    "no number": (f"{RENDER}columns = nan\n", "line 4: Invalid value for '--columns': 'nan' is not a valid integer"),
    "wrong word": (
        f"{RENDER}\nprecision = 'half'\n",
        "line 5: Invalid value for '--precision': 'half' is not one of 'auto'",
    ),
    "out of range": (
        "[templates.edges]\noutput = 'e'\ngreys = 99999999999999999999\n",
        "line 3: Invalid value for '--greys'",
    ),
    "wrong flag": (RECIPE.replace("quiet = true", 'quiet = "yes"'), "line 15: quiet is 'yes'; use true or false"),
    "a flag for a number": (f"{RENDER}columns = true\n", "line 4: columns is true or false; write text or a number"),
    "a table": (f"{RENDER}tile = {{ width = 3 }}\n", "line 4: tile is a table; write text or a number"),
    "a table of its own": (f"{RENDER}\n[render.tile]\nwidth = 3\n", "line 5: tile is a table; write text or a number"),
    "a dotted key": (f"{RENDER}tile.width = 3\n", "line 4: tile is a table; write text or a number"),
    "a date": (f"{RENDER}output = 2024-05-27\n", "line 4: output is a date or time; write text or a number"),
    "a list": (f"{RENDER}output = [\n'a.tif',\n'b.tif']\n", "line 4: output is a list; write one value"),
    "a list in a list": (
        f"{RENDER}tile = [\n[3],\n4]\n",
        "line 4: tile is a list within a list; write text or a number",
    ),
    "two sources": (RENDER.replace('"a.png"', '["a.png", "b.png"]'), "line 1: Got unexpected extra argument"),
    "empty": (f"{RENDER}output = ''\n", "line 4: output is empty; name a path"),
    "null": (f'{RENDER}output = "a\\u0000.tif"\n', "line 4: output holds a null character; leave it out"),
    "below a text with brackets": (
        f'{RENDER}decoder = """\n[render]\ncolumns = 1\n"""\ncolumns = "x"\n',
        "line 8: Invalid value for '--columns'",
    ),
    "in the second of three": (
        f"[[render]]\n{RENDER[9:]}[[render]]\nsource = 1\n[[render]]\n",
        "line 4: Missing option '--templates'",
    ),
    "missing option": ('[render]\nsource = "photos/a.png"\n', "line 1: Missing option '--templates'"),
    "missing source": ('[compare]\ntemplates = "t"\nsources = []\n', "line 3: Missing argument 'SOURCES...'"),
    "twice the key": (f"{RENDER}tile = 3\ntile = 4\n", "is no TOML: Cannot overwrite a value (at line 5, column 9)"),
    "twice the table": (f"{RENDER}{RENDER}", "is no TOML: Cannot declare ('render',) twice (at line 4, column 8)"),
    "no TOML": ("[render\n", "is no TOML"),
    "too long a number": (f"{RENDER}columns = {'9' * 5000}\n", "is no TOML"),
    "too deep": (f"{RENDER}tile = {'[' * 5000}\n", "is no TOML"),
    "nothing": ("", "holds no job; begin one with [render]"),
    "comments": ("# nothing\n", "holds no job"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_recipe_is_refused_with_its_line_before_anything_runs(case: str, here: Path) -> None:
    text, sentence = BAD[case]
    (here / "jobs.toml").write_text(f"{text}", "utf-8")
    result = call("run", "jobs.toml")
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert [path.name for path in here.iterdir()] == ["jobs.toml"]


def test_a_recipe_that_is_no_text_is_refused(here: Path) -> None:
    (here / "jobs.toml").write_bytes(RENDER.encode("utf-16"))
    assert "is no UTF-8 text; save it as such" in call("run", "jobs.toml").stderr
    assert "cannot be read: No such file" in call("run", "none.toml").stderr


@pytest.mark.parametrize("recipe", sorted(PIPELINES.glob("*.toml")), ids=lambda path: path.name)
def test_the_recipes_of_the_project_are_valid(recipe: Path) -> None:
    assert read_recipe(recipe, main.commands)


def test_a_job_finds_what_the_jobs_before_it_made(here: Path) -> None:
    (here / "in [1]").mkdir()
    recipe = here / "in [1]" / "jobs.toml"
    jobs = ["[compare]", 'sources = ["made/*.png"]', 'templates = "t"', RENDER.rstrip(), 'decoder = "d.safetensors"']
    recipe.write_text("\n".join(jobs))
    compare, later = read_recipe(recipe, main.commands)
    assert "made/*.png" in compare.words[-1]
    (recipe.parent / "made").mkdir()
    for name in ("made/b.png", "made/a.png", "d.safetensors"):
        (recipe.parent / name).touch()
    assert compare.words[-2:] == [str(recipe.parent / "made" / name) for name in ("a.png", "b.png")]
    assert str(recipe.parent / "d.safetensors") in later.words


def test_an_error_is_told_once(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hirez_mosaic", "run", "none.toml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["Error: The recipe none.toml cannot be read: No such file or directory."]
