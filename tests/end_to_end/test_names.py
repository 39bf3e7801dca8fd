"""Names are untrusted: paths made of them stay in their folder, and displayed names are escaped."""

import re
from pathlib import PurePosixPath
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.checks import MAX_DATASET_BYTES, check_name
from harness.cli import make_console
from harness.config.compose import load_benchmark
from harness.config.grammar import parse
from harness.errors import StoreError, UserError, visible
from harness.files import safe_name
from harness.plan import make_plan
from harness.study.display import LiveDisplay, show_datasets
from harness.tracking.tracker import Tracker
from reports.export import main as export
from reports.figures.parts import style
from reports.mlflow_links import LOCAL, Links
from reports.page.html import Failure, Report, page
from reports.tables.markup import LATEX
from reports.tables.table import Column, Part, Table, Value, to_markdown
from tests.support.browser import elements

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", r"$\input{/etc/passwd}$"]
HOSTILE += [r"\write18{id}%", "[red]x[/red]", "[x](javascript:alert(1))", "|a|b|", "../../x", "/etc/x"]
HOSTILE += ["..", ".", ".hidden", "-rf", "trailing. .", " ", "a\0b", "a\nb", "a:x:b :smile:", "é" * 100]
HOSTILE += ["\N{GRINNING FACE}" * 50, "\U00020000" * 50, "\u202eabc\u2066", "%2e%2e%2f%00", "both ' and \""]
HOSTILE += ["`x` *y* ~z~ #", "\ud800", "x" * 5000]
SIGNS = [*HOSTILE[:18], "/", "\\", "%", "'", '"', "a"]
NAMES = st.sampled_from(HOSTILE) | st.text() | st.lists(st.sampled_from(SIGNS), max_size=4).map("".join)
SEEN = r"[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]*"


def refusal(call, *arguments):
    """Return the error message of a call, or an empty string."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def is_allowed(name):
    return not refusal(check_name, name, "study", "study")


@given(NAMES)
@settings(deadline=None)
def test_a_name_is_one_component_below_its_folder(name):
    safe = safe_name(name)
    assert PurePosixPath("base", safe).name == safe not in (".", "..")
    assert len(safe.encode()) <= 200
    assert not re.search(r"[\x00-\x1f/\\ ]", safe)
    assert not safe.startswith(".")
    said = refusal(check_name, name, "study", "study")
    assert re.fullmatch(SEEN, said)
    if not said:
        # MLflow parses the artifact location as a URI, and decodes it.
        assert unquote(safe) not in ("", ".", "..")
        assert "/" not in unquote(safe)


@given(NAMES, NAMES)
@example("\u0301F", "\u301f")  # a code point of four digits after one of three
@example("\xd7", "\xd77")
@example("", "_")
@settings(deadline=None)
def test_folders_of_different_names_differ(name, other):
    assert (safe_name(name) == safe_name(other)) == (name == other)


@given(NAMES)
@settings(deadline=None)
def test_a_dataset_has_no_name_that_could_be_a_path(name):
    setting = f"dataset.{name}.path=x"
    said = refusal(parse, [setting])
    assert re.fullmatch(SEEN, said)
    if not said:
        [(key, _)] = parse([setting])
        assert not set("/\\\0 ") & set(key)
        assert all(key.split(".")), "a dot stands between two parts only"


@pytest.mark.parametrize("size", [MAX_DATASET_BYTES + 1, 300])
def test_names_that_no_file_can_have_are_refused(tmp_path, size):
    name = "x" * size
    with pytest.raises(UserError, match=f"is not a valid dataset name; use up to {MAX_DATASET_BYTES} bytes"):
        make_plan(load_benchmark([f"var_dir={tmp_path}", f"datasets=[{name}]", f"dataset.{name}.path=x"]))
    with pytest.raises(UserError, match="is not valid UTF-8"):
        make_plan(load_benchmark([f"var_dir={tmp_path}/\udcff"]))


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("x" * 300, "File name too long"),
        ("file/x.csv", "Not a directory|non-existent directory"),
        ("", "is|busy"),
        ("no/x", "exist|No"),
    ],
)
def test_a_file_that_cannot_be_written_is_a_sentence(out, reason, var_dir, tmp_path, capsys, monkeypatch):
    Tracker(None, var_dir, "s")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for key in ("out", "predictions"):
        # Predictions are no CSV.
        file = out if key == "out" else out.replace(".csv", ".parquet")
        assert export([f"var_dir={var_dir}", "study=s", f"{key}={file}"]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(rf"Error: .*({reason}).*\.\n", said), said
    assert sorted(tmp_path.iterdir()) == before
    assert export([f"var_dir={var_dir}", "study=s", f"out={'x' * 255}"]) == 0, "a long name is the user's own"
    assert (tmp_path / ("x" * 255)).is_file()


# Shown


def report(name):
    """A report that shows a name wherever it can."""
    value = Value(name, order=name, link=name)
    table = Table(name, name, [Part([Column(name), Column(name)], [[[value, value]] * 4])], [name])
    fill = Table("empty", name, [], [name], fill=name)
    failures = [Failure(name, "failed", name, name)]
    texts = {"summary": [name], "notes": [(name, [name])], "facts": {name: name}, "requested_note": name}
    return Report(name, name, name, tables=[table, fill], failures=failures, runs_link=name, **texts)


PLAIN = elements(page(report("a"))) | {("a", "target"), ("a", "rel"), ("a", "href")}


@given(NAMES)
@settings(deadline=None)
def test_no_element_of_a_page_comes_from_a_name(name):
    text = page(report(name))
    assert elements(text) <= PLAIN | {("option", "selected")}
    assert re.fullmatch(SEEN, text.replace("\n", ""))


@given(NAMES)
@settings(deadline=None)
def test_no_element_of_a_markdown_table_comes_from_a_name(name):
    part = Part([Column("x"), Column("y")], [[[Value(f"a{name}"), Value(name)]]])
    text = to_markdown(Table("t", f"a{name}", [part], [f"a{name}"]))
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    kinds = {token.type for token in tokens}
    inline = {child.type for token in tokens for child in token.children or ()}
    assert not {"fence", "code_block", "html_block", "blockquote_open", "hr"} & kinds
    assert inline <= {"text", "text_special"}
    assert sum(token.type == "td_open" for token in tokens) == 2
    assert re.fullmatch(SEEN, text.replace("\n", ""))


@given(NAMES)
@settings(deadline=None)
def test_no_command_of_latex_comes_from_a_name(name):
    text = LATEX.text(name)
    rest = re.sub(r"\\(text(backslash|asciitilde|asciicircum|less|greater|bar)|dag|ddag)\{\}", "", text)
    rest = re.sub(r"\$(\\(pm|uparrow|downarrow|times)|\^\{[+=2-]\})\$|\\[&%$#_{}]|\{[\[*]\}", "", rest)
    assert not re.search(r"[\\&%$#_{}~^<>|*\[\n]", rest)
    assert re.fullmatch(SEEN, text)


@pytest.mark.parametrize("name", [name for name in HOSTILE if visible(name) == name and len(name) < 50])
def test_the_terminal_shows_a_name_as_it_stands(name, capsys):
    console, cell = make_console(), SimpleNamespace(run_name=name, cell_id="0")
    data = SimpleNamespace(name=name, source=name, fingerprint="f", synthetic=False, notes=[name])
    show_datasets(console, SimpleNamespace(datasets={name: data}, notes=[name]))
    display = LiveDisplay(console)
    display.ended(cell, "")
    display.ended(cell, name)
    display.say(name)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    shown = name.strip()
    expected = [f"{name}: {name}", name, name, f"1/0 {name}", f"failed {name}: {name}", name]
    assert lines == [line.strip() for line in expected], shown


def test_what_a_terminal_would_obey_or_cannot_write_is_spelt_out(capsys):
    name = "a\x1b[2J\u202eb\udcff"
    data = SimpleNamespace(name="mine", source=name, fingerprint="f", synthetic=False, notes=[name])
    show_datasets(make_console(), SimpleNamespace(datasets={"mine": data}, notes=[]))
    spelt = r"a\u001b[2J\u202eb\udcff"
    assert capsys.readouterr().out.split() == ["mine:", spelt, spelt]


@pytest.mark.parametrize("kind", [UserError, StoreError])
def test_an_error_is_one_line_whatever_it_quotes(kind):
    assert str(kind("found: a\nb\x1b[2J, ü.")) == r"found: a\u000ab\u001b[2J, ü."


@given(NAMES.filter(is_allowed))
@settings(deadline=None)
def test_a_link_filters_by_the_name_that_it_was_given(name):
    link = Links(LOCAL, "7").runs({"sweep": name})
    place, query = link.split("?")
    assert re.fullmatch(r"[\w.~%=&-]+", query, re.ASCII)
    assert place == f"{LOCAL}/#/experiments/7/runs"
    text = unquote(query.rpartition("searchFilter=")[2])
    how, quoted = re.fullmatch(r"tags\.kind = 'cell' and tags\.sweep (=|LIKE) (.*)", text, re.DOTALL).groups()
    assert quoted[0] == quoted[-1] not in quoted[1:-1]
    assert quoted[1:-1] == (name if how == "=" else name.replace("'", "_"))


def test_a_figure_of_a_name_that_the_font_lacks_says_nothing(tmp_path, recwarn):
    with style.styled():
        figure = style.placeholder("\U00020000 \N{GRINNING FACE} $x$", "\u7814\u7a76", "fill")
        style.save(figure, tmp_path, "x")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
