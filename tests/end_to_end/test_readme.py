"""The README's commands run, and all files that it names exist."""

import re
import shlex

import pytest

from backbones import BACKBONES
from harness import catalog
from harness.benchmark import main as benchmark
from harness.data.__main__ import main as data
from harness.matrix import readable_settings
from methods import METHODS
from reports.export import main as export
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
ROOMS = ("harness", "methods", "backbones", "sweeps", "reports", "tests")
FILES = [*ROOT.glob("*.md"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.md"))]
PAGES = sorted(file.relative_to(ROOT).as_posix() for file in FILES)
COMMANDS = {"harness.benchmark": benchmark, "harness.data": data, "reports.export": export}
SMALL = [
    *("seeds=[1111]", "backbones=[lmf]", "methods=[none,mixup]", "datasets=[synthetic_mosi]"),
    *("train.max_epochs=1", "launcher=inline", "size=quick", "report=false"),
]


def marked_commands():
    blocks = re.findall(
        r"<!-- run by tests/end_to_end/test_readme.py -->\n```sh\n(.*?)```", README, re.DOTALL
    )
    return [shlex.split(line)[2:] for block in blocks for line in block.splitlines()]


def test_marked_commands_run(var_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data(["synth", "synthetic_mosi", "--out", "my_features.pkl", "--clips", "60"]) == 0
    commands = marked_commands()
    assert len(commands) >= 5
    for module, *arguments in commands:
        if module != "harness.data":
            arguments.append(f"var_dir={var_dir}")
        if module == "harness.benchmark":
            chosen = {argument.split("=")[0] for argument in arguments}
            arguments += [setting for setting in SMALL if setting.split("=")[0] not in chosen]
        assert COMMANDS[module](arguments) == 0, arguments
    assert (tmp_path / "numbers.csv").exists()
    assert (tmp_path / "clips.parquet").exists()
    assert (tmp_path / "losses.parquet").exists()


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join((ROOT / page).read_text() for page in PAGES)
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= targets


def test_the_tables_are_the_catalogue(update):
    first, end = "<!-- python -m harness.catalog --markdown -->\n", "\n<!-- end -->"
    (before, rest), tables = README.split(first), "\n".join(catalog.markdown()).strip()
    written, after = rest.split(end)
    if update and written != tables:
        (ROOT / "README.md").write_text(before + first + tables + end + after)
        written = tables
    assert written == tables
    assert all(f"`{name}`" in tables for name in [*METHODS, *BACKBONES])


def test_the_catalogue_lists_everything(capsys):
    assert catalog.main([]) == 0
    text = capsys.readouterr().out
    for registry in (METHODS, BACKBONES):
        for name, entry in registry.items():
            block = text[text.index(f"\n{name}  {entry.title}: ") :].split("\n\n")[0]
            assert f"{entry.__module__.replace('.', '/')}.py" in block
            assert " ".join(entry.citation.split()) in " ".join(block.split())
            for key, value in catalog.defaults(entry).items():
                assert f"{key}:" in block, (name, key)
                assert value is None or readable_settings({key: value})[1:-1] in block
            rates = readable_settings(getattr(entry, "published_text", {}))[1:-1].replace(",", ", ")
            assert rates in block


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text, folder = (ROOT / page).read_text(), (ROOT / page).parent
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
    assert links or page != "README.md"


def test_it_is_short():
    assert len(README.splitlines()) <= 150
