"""Passwords in addresses are never shown, however wrong the address and whatever library reports it."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import mlflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.benchmark import main as benchmark
from harness.claims.ledger import Ledger
from harness.config.compose import load_benchmark
from harness.databases import redact, without_secrets
from harness.errors import StoreError, UserError
from harness.launchers.cluster import check_address
from harness.plan import make_plan
from harness.study.description import MATRIX_FILE, announcement
from harness.study.session import announce
from harness.tracking.tracker import Tracker
from reports import build, export, ui
from reports.mlflow_links import Links
from sweeps.run import main as sweep
from sweeps.storage import open_storage

SECRET = "S3CRET"
PASSWORDS = st.tuples(st.text(max_size=5), st.text(max_size=5)).map(SECRET.join)
AWKWARD = [SECRET, f"a@{SECRET}", f"{SECRET}@b", f"/{SECRET}?#", f"a:{SECRET}:b", f"'{SECRET}\""]
FORMS = [
    "{scheme}://me:{password}@127.0.0.1:9/db",
    "{scheme}://{password}@127.0.0.1:9/db",
    "{scheme}:/me:{password}@127.0.0.1:9/db",
    "{scheme}:me:{password}@127.0.0.1:9/db",
    "{scheme}://me:{password}@127.0.0.1:port/db",
    "{scheme}://me:{password}@[bad/db",
    "me:{password}@127.0.0.1:9",
]
SCHEMES = ["postgresql", "postgres", "postgresql+nosuch", "mysql", "http", "https", "foo"]
SCHEMES += ["ray", "sqlite", "file"]
WAYS = [str, quote, quote_plus]


def addresses():
    for form in FORMS:
        for scheme in SCHEMES if "{scheme}" in form else SCHEMES[:1]:
            for password in AWKWARD:
                # After three slashes, the rest is a path.
                if not (scheme in ("sqlite", "file") and "//{" in form and password.startswith("/")):
                    yield form.format(scheme=scheme, password=password)


@given(PASSWORDS, st.sampled_from(FORMS), st.sampled_from(SCHEMES[:-2]), st.sampled_from(WAYS))
@settings(deadline=None)
def test_no_password_is_shown_in_any_form_of_an_address(password, form, scheme, written):
    uri = form.format(scheme=scheme, password=written(password))
    assert SECRET not in redact(uri)
    for said in (f"bad {uri!s}.", f"bad {uri!r}.", f'for "me" with {password}', f"me:{written(password)}"):
        if repr(uri) in said and "\\" in repr(uri):
            continue  # the decoded password differs from the password as typed
        assert SECRET not in without_secrets(said, uri)


@pytest.mark.parametrize("key", ["password", "Password", "passwd", "pwd", "sslpassword", "auth_token"])
@given(password=PASSWORDS.filter(lambda text: "&" not in text and "@" not in text))
@settings(deadline=None)
def test_no_password_of_a_query_is_shown(key, password):
    uri = f"postgresql://host/db?a=1&{key}={password}&sslmode=on"
    assert redact(uri) == f"postgresql://host/db?a=1&{key}=***&sslmode=on"
    assert SECRET not in without_secrets(f"invalid value {password}: {uri}", uri)


@pytest.mark.parametrize("uri", ["sqlite:////a:b@c/x.db", "postgresql://host/db", "var/x", "", "C:/x"])
def test_what_is_said_of_an_address_without_secrets_stays(uri):
    assert without_secrets(f"a {uri} b: c@d", uri) == f"a {uri} b: c@d"
    assert redact(uri) == uri


def test_a_password_of_two_letters_leaves_the_sentence_readable():
    uri = "postgresql://me:an@h/db"
    assert without_secrets(f"cannot read {uri}", uri) == "cannot read postgresql://h/db"


@pytest.mark.parametrize("kind", [UserError, StoreError])
def test_an_error_that_quotes_an_address_loses_the_password(kind):
    sentence = f"no file 'https:/me:{SECRET}@host/x.pkl' nor http://me:{SECRET}@h; write a://USER:PASSWORD@H."
    said = str(kind(sentence))
    assert said == "no file 'https:/host/x.pkl' nor http://h; write a://USER:PASSWORD@H."


@pytest.mark.parametrize("opened", ["tracking", "ledger", "sweep", "ray"])
def test_no_store_tells_the_password_of_a_wrong_address(opened, tmp_path, monkeypatch):
    openers = {
        "tracking": lambda uri: Tracker(uri, tmp_path, "s"),
        "ledger": lambda uri: Ledger(uri, "s"),
        "sweep": lambda uri: open_storage(uri, tmp_path / "journal"),
        "ray": check_address,
    }
    monkeypatch.chdir(tmp_path)
    for uri in addresses():
        with pytest.raises(UserError) as caught:
            openers[opened](uri)
        assert SECRET not in str(caught.value), uri
    assert list(tmp_path.iterdir()) == [], "nothing is made of a wrong address"


URI = f"postgresql:/me:{SECRET}@127.0.0.1:9/db"


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        (benchmark, f"tracking.uri={URI}"),
        (benchmark, f"ledger.uri={URI}"),
        (benchmark, URI),
        (benchmark, f"tracking.url={URI}"),
        (benchmark, f"ledger.uri=postgresql://me:{SECRET}${{x}}@h/db"),
        (benchmark, f"study={URI}"),
        (benchmark, f"jobs={URI}"),
        (benchmark, f"seeds=[{URI}]"),
        (benchmark, f"launcher.address=ray://me:{SECRET}@h:1"),
        (sweep, f"sweep.storage={URI}"),
        (sweep, f"tracking.uri=foo://me:{SECRET}@h"),
        (export.main, f"tracking.uri={URI}"),
        (build.main, f"tracking.uri=http://me:{SECRET}@[bad"),
        (ui.main, f"tracking.uri=foo://me:{SECRET}@h"),
    ],
)
def test_a_command_that_is_given_a_wrong_address_says_one_sentence(command, argument, var_dir, capfd):
    small = ["report=false", "backbones=[lmf]", "methods=[ms_mix]", "seeds=[1]", "train.max_epochs=1"]
    small += ["dataset.synthetic_mosi.clips=30", "launcher=ray" if "ray" in argument else "launcher=inline"]
    more = {benchmark: small, sweep: [*small[:2], *small[3:], "param=delta"], export.main: ["out=x"]}
    assert command([f"var_dir={var_dir}", "study=s", *more.get(command, []), argument]) == 2
    out, err = capfd.readouterr()
    assert SECRET not in out + err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_the_request_is_kept_without_passwords_and_with_its_paths(tmp_path):
    path, files = "data_root=/a:b@c/x", {}
    secret = [f"ledger.uri=postgresql://me:{SECRET}@h/db", f"tracking.uri=http://h?token={SECRET}"]
    plan = make_plan(load_benchmark([f"var_dir={tmp_path}", "dataset.synthetic_mosi.clips=30"]))
    tracker = SimpleNamespace(var_dir=tmp_path, folder=tmp_path.joinpath, study_file=lambda name: None)
    tracker.announce = lambda announced, description: files.update(announced)
    announce(tracker, announcement(plan, [path, *secret]))
    assert SECRET not in "".join(files.values())
    assert path in files[MATRIX_FILE]


def test_the_link_to_a_server_holds_no_password(monkeypatch, capsys):
    class Served:
        uri, experiment_id = f"http://me:{SECRET}@127.0.0.1:9/", "7"

    monkeypatch.setattr("harness.tracking.tracker.Tracker", lambda *_, **__: Served())
    assert ui.main(["study=s", f"tracking.uri={Served.uri}"]) == 0
    assert capsys.readouterr().out == f"Open {Links('http://127.0.0.1:9', '7').study()}\n"


def test_mlflow_prints_no_link_with_the_address_of_a_server(monkeypatch):
    """Where a run ends, it would; and it would ask the server for it."""
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", said)
    mlflow.MlflowClient(f"http://me:{SECRET}@127.0.0.1:9")._tracking_client._log_url("x")
    assert said.getvalue() == ""


CHECK = """
import harness.tracking.tracker
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.telemetry.utils import is_telemetry_disabled
assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get()
assert is_telemetry_disabled()
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
"""


@pytest.mark.slow
def test_mlflow_sends_nothing_home():
    others = ("MLFLOW", "CI", "PYTEST", "DO_NOT_TRACK", "GITHUB")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
