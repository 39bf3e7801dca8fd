"""Shell commands that fill the empty tables and figures of a study's report.

Each repeats the last request of the benchmark, with the settings changed that left the table empty.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping

from harness.cli import PLAIN_NAME
from harness.config.grammar import split_list
from harness.config.tuned import tuned_label
from reports.names import base_method
from reports.runs.study import Study
from reports.stats.comparison import BASELINE

STUDIED = "ms_mix"
PLAIN = re.compile(r"[\w.=,\[\]]*")  # texts that need no quotes, even inside those of make
LOCATING = ("study", "var_dir", "tracking.uri")
# Settings that a sweep does not accept, or that would give it cells of its own.
NOT_OF_SWEEPS = (
    *("methods", "seeds", "matrix", "tuned", "retry"),
    *("occlusion.protocols", "occlusion.train_ratios", "evaluate.test_curve"),
)


def again(study: Study, changes: Mapping[str, str] | None = None) -> str:
    """Return the command of the last request with some settings changed, and with tests on clean data."""
    request, changes = _request(study), dict(changes or {})
    if "datasets" in changes:  # the new ones may have no tokens for a text encoder
        request = {k: v for k, v in request.items() if k != "text" and not k.startswith("bert.")}
    if "methods" in changes:
        request.pop("matrix", None)
    if changes.get("matrix") == "ablation":  # without methods=, of ms_mix; it excludes tuned settings
        request = {k: v for k, v in request.items() if k not in ("methods", "tuned")}
    given = {**_clean(request), **changes}
    return _command(study, "benchmark", "harness.benchmark", {**request, **given}, given)


def sweep(study: Study, param: str) -> str:
    """Return the command of a sweep with the settings of the last request. param: "delta", "xi", ..."""
    request = {key: value for key, value in _request(study).items() if key not in NOT_OF_SWEEPS}
    return _command(study, "sweep", "sweeps.run", {"param": param, **request}, ("param",))


def compared(study: Study, baseline: str = BASELINE) -> str:
    """Return the command that trains a baseline and other methods."""
    others = [name for name in _methods(study) if name != baseline]
    return again(study, _with_methods(study, (baseline, *([] if others else [STUDIED]))))


def mixed(study: Study) -> str:
    """Return the command that trains methods that mix."""
    return again(study, _with_methods(study, (STUDIED,)))


def ablation(study: Study) -> str:
    """Return the command that trains the ablation of MS-Mix."""
    return again(study, {"matrix": "ablation"})


def occluded(study: Study, ratio: float = 0.5, *methods: str) -> str:
    """Return the command that evaluates on occluded inputs, too, and trains these methods."""
    return again(study, {"occlusion.ratios": f"[0,{ratio:g}]", **_with_labels(study, methods)})


def trained(study: Study, *methods: str) -> str:
    """Return the command that trains these methods, too. methods: labels, which may name variants."""
    return again(study, _with_labels(study, methods))


def on_synthetic(study: Study, *methods: str) -> str:
    """Return the command that trains these methods, too, on synthetic data."""
    changes = _with_labels(study, methods)
    if not any(name in study.synthetic for name in _asked(study, "dataset")):
        changes["datasets"] = "[synthetic_mosi]"
    return again(study, changes)


def seeded(study: Study, count: int) -> str:
    """Return the command that trains so many seeds of the last request, or more if it has more."""
    seeds = sorted(map(int, _asked(study, "seed")))
    while len(seeds) < count:
        seeds.append(seeds[-1] + 1 if seeds else 1111)
    return again(study, {"seeds": f"[{','.join(map(str, seeds))}]"})


def of_kinds(study: Study, kinds: Collection[str]) -> str:
    """Return the command that trains on data of these kinds of metrics, synthetic if none was requested."""
    kind_of = {entry["name"]: entry["metrics"] for entry in study.datasets} | dict(study.kinds)
    asked = _asked(study, "dataset")
    if not asked or any(kind_of.get(name) in kinds for name in asked):
        return again(study)
    return again(study, {"datasets": f"[synthetic_{min(kinds)}]"})


def sampled(study: Study, *methods: str) -> str:
    """Return the command that trains these methods (default: any) and stores a sample of their latents."""
    changes = _with_methods(study, methods)
    done = {base_method(name) for name in study.frame["variant"].unique()}
    if done & set(methods) if methods else done:
        # Finished cells are not trained again, and the first seed stores the sample.
        seeds = _asked(study, "seed") or list(study.frame["seed"].unique())
        changes["seeds"] = f"[{','.join(map(str, [max(study.frame['seed']) + 1, *seeds]))}]"
    return again(study, changes)


def _with_methods(study: Study, needed: Collection[str]) -> dict[str, str]:
    """Return the setting that adds the methods that the last request lacks; empty if it lacks none."""
    known = _methods(study)
    lacking = [name for name in needed if name not in map(base_method, known)]
    if not lacking or not (known or study.request):
        return {}
    return {"methods": f"[{','.join(sorted([*lacking, *known], key=lambda name: name != BASELINE))}]"}


def _with_labels(study: Study, needed: Collection[str]) -> dict[str, str]:
    """Return the setting that adds the labels that the last request lacks; empty if it lacks none."""
    known = _methods(study)
    lacking = [label for label in dict.fromkeys(needed) if label not in known]
    return {"methods": f"[{','.join([*known, *lacking])}]"} if lacking else {}


def _methods(study: Study) -> list[str]:
    """Return the methods of the last request as a request names them."""
    return list(dict.fromkeys(name.removesuffix(tuned_label("")) for name in _asked(study, "method")))


def _asked(study: Study, column: str) -> list:
    requested = study.outcomes[study.outcomes["requested"].astype(bool)]
    return list(dict.fromkeys(requested[column]))


def _request(study: Study) -> dict[str, str]:
    """Return the last request without what locates the study, and without report=false."""
    request = dict(argument.partition("=")[::2] for argument in study.request)
    request = {key: value for key, value in request.items() if key not in (*LOCATING, "report")}
    return request or ({} if study.request else {"profile": "quick"})


def _clean(request: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that add clean training and test data to a request that excludes them."""
    changes = {}
    protocols = split_list("", request.get("occlusion.protocols", "test"))
    ratios = split_list("", request.get("occlusion.ratios", "0"))
    if "test" not in protocols:
        changes["occlusion.protocols"] = f"[{','.join(['test', *protocols])}]"
    if not any(float(ratio) == 0 for ratio in ratios):
        changes["occlusion.ratios"] = f"[{','.join(['0', *ratios])}]"
    return changes


def _command(
    study: Study, target: str, module: str, settings: Mapping[str, str], first: Collection[str]
) -> str:
    """Return ``make TARGET ...`` if that is enough, else ``python -m MODULE ...``.

    first: the settings that stand before the study's name, or in make's ARGS.
    """
    shown, rest = ([f"{k}={v}" for k, v in settings.items() if (k in first) == own] for own in (True, False))
    plain = PLAIN_NAME.fullmatch(study.name) and all(map(PLAIN.fullmatch, shown))
    if rest != ["profile=quick"] or not plain or study.located:
        return f"python -m {module} {shlex.join([*shown, f'study={study.name}', *study.located, *rest])}"
    if target == "sweep":
        arguments = f" PARAM={settings['param']}"
    else:
        arguments = f" ARGS={shlex.quote(' '.join(shown))}" if shown else ""
    return f"make {target}{arguments}" + (
        "" if study.name == "quick" else f" STUDY={shlex.quote(study.name)}"
    )
