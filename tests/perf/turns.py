"""Training speed, from processes that take turns: against plain PyTorch, steps, methods, growth, a revision.

Ratios are medians over rounds in which both sides train on the same batches of the synthetic MOSI of full
size: the reference as a script would start it, this project's as its workers run.
"""

import contextlib
import math
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from backbones import BACKBONES
from harness.errors import UserError
from methods import METHODS
from tests.perf.bounds import Section
from tests.perf.child import ROOT, Child, ChildError

# Least ratios of the reference's time to ours, two threads each.
RATIOS = {"tfn": 1.4, "lmf": 1.2, "mult": 3.0}
WITHOUT_DROPOUT = 4.0
PAIR = 2.0  # two processes of one thread each against the reference's with two
MULT_MB = 3000.0
ROUNDS = {"tfn": 5, "lmf": 5, "mult": 3}
STEPS = {"tfn": 20, "lmf": 21, "mult": 1}  # of a round
DROPOUTS = ("text_dropout", "output_dropout", "embed_dropout")
DROPOUTS += tuple(f"{m}_attn_dropout" for m in ("text", "audio", "vision"))

HARNESS_SHARE = 10.0  # percent of an epoch
BUDGET_S, MOST_STEPS, LEAST_STEPS = 1.5, 20, 2
ARITHMETIC = ("forward", "method", "backward", "optimizer")
STEP_PARTS = ("data", *ARITHMETIC, "rest")

# Maximum share of a step that a method's own work may take, in percent; AdvMixUp's attack needs another pass.
OWN_WORK, OWN_WORK_OF = 10.0, {"ms_mix": 15.0, "ms_mix_released": 15.0, "advmixup": None}
METHOD_ROUNDS = 15

# An epoch in proportion to its clips, a step at most to the square of its lengths; the rest is noise.
CLIPS_EXPONENT, LENGTH_EXPONENT = 1.3, 2.2
CLIPS, FRACTIONS, LENGTH_ROUNDS = (128, 256, 512), (0.25, 0.5, 1.0), 3

COMPARED_METHODS, COMPARED_ROUNDS = ("none", "ms_mix"), 5


def reference(data):
    """Compare with plain PyTorch; data: folder of the stored dataset."""
    how = (
        "Seconds of a training epoch at MOSI's size, from a few steps of it; medians of rounds in which both "
        "sides take turns. Two threads each. Peak memory is the whole process's."
    )
    part = Section("reference", "Against plain PyTorch", how)
    for model in RATIOS:
        _against_reference(part, model, _reference_times(data, model))
    return [part]


def _reference_times(data, model):
    """Return what each side measured in each round; "pair": of two processes at once, as if they were one."""
    request = {"steps": STEPS[model]}
    with contextlib.ExitStack() as stack:

        def warm(child):
            stack.enter_context(child).ask(steps=1)
            return child

        def plain(dropouts):
            more = {"data": data, "model": model, "threads": 2, "dropouts": dropouts}
            return warm(Child("tests.perf.steps:plain", as_worker=False, **more))

        mine, *pair = [warm(ours(data, model, threads=threads)) for threads in (2, 1, 1)]
        turns = {"plain": (plain(True), request), "ours": (mine, request)}
        if model == "mult":
            full = request | {"size": {"padded": False}}
            bare = warm(ours(data, model, threads=2, settings=dict.fromkeys(DROPOUTS, 0.0)))
            turns |= {"full": (mine, full), "plain bare": (plain(False), request)}
            turns |= {"bare": (bare, request), "full bare": (bare, full)}
        times = {name: [] for name in [*turns, "pair"]}
        for _ in range(ROUNDS[model]):
            for name, (child, asked) in turns.items():
                times[name].append(child.ask(**asked))
            for child in pair:
                child.begin(**request)
            times["pair"].append({"step_s": 1 / sum(1 / child.end()["step_s"] for child in pair)})
    return times


def _against_reference(part, model, times):
    def ratio(name, theirs, own, bound):
        rounds = zip(times[theirs], times[own], strict=True)
        value = statistics.median(a["step_s"] / b["step_s"] for a, b in rounds)
        part.add(f"{model}{name}", value, "times", bound, least=True)

    def peak(name, side, bound=None):
        part.add(f"{model}, {name} peak memory", max(t["peak_mb"] for t in times[side]), "MB", bound)

    for name, side in (("reference", "plain"), ("ours", "ours")):
        part.add(f"{model}, {name}", statistics.median(t["step_s"] * t["steps"] for t in times[side]), "s")
    ratio(", ratio", "plain", "ours", RATIOS[model])
    ratio(", two processes at once, ratio", "plain", "pair", PAIR)
    peak("reference's", "plain")
    peak("our", "ours", MULT_MB if model == "mult" else None)
    if model == "mult":
        ratio(", no step is padding, ratio", "plain", "full", RATIOS["mult"])
        peak("no step is padding, our", "full", MULT_MB)
        ratio(" without dropout, ratio", "plain bare", "bare", WITHOUT_DROPOUT)
        name = " without dropout, no step is padding, ratio to the reference with dropout"
        ratio(name, "plain", "full bare", WITHOUT_DROPOUT)


def ours(data, backbone, **more):
    """Return a process that trains a backbone of this project; more: see `steps.ours` and `Child`."""
    return Child("tests.perf.steps:ours", data=data, backbone=backbone, **more)


def steps(data):
    """Measure every backbone with every method, and the parts of an epoch without mixing."""
    how = "One thread, as workers train; the epoch is that of 1,284 clips, validation included."
    part = Section("steps", "Training steps", how)
    how = "Without mixing. The harness's share is what is neither forward, backward nor optimizer."
    parts = Section("parts", "Parts of an epoch", how)
    for backbone in BACKBONES:
        with ours(data, backbone) as child:
            evaluation = child.ask(steps=1, evaluate=True)
            valid = {key: evaluation[key] for key in ("valid_s", "valid_forward_s")}
            for method in METHODS:
                times = child.ask(method=method, steps=_fitting([child], method)) | valid
                part.add(f"{backbone}, {method}, step", 1e3 * times["step_s"], "ms")
                part.add(f"{backbone}, {method}, epoch", epoch_s(times), "s")
                part.add(f"{backbone}, {method}, peak memory", times["peak_mb"], "MB")
                if method == "none":
                    _add_parts(parts, backbone, times)
    return [part, parts]


def _fitting(children, method):
    """Return how many steps fit into the budget, estimated from one step."""
    step_s = max(child.ask(method=method, steps=1)["step_s"] for child in children)
    return max(LEAST_STEPS, min(MOST_STEPS, int(BUDGET_S / step_s)))


def epoch_s(times):
    """Return the seconds of an epoch: its steps and one evaluation."""
    return times["step_s"] * times["steps"] + times["valid_s"]


def _add_parts(parts, backbone, times):
    """Add the shares of an epoch; the validation split's forward passes are arithmetic, not the harness."""
    percent = 100 / epoch_s(times)
    share = {part: percent * times[f"{part}_s"] * times["steps"] for part in STEP_PARTS}
    for part, value in {**share, "evaluation": percent * times["valid_s"]}.items():
        parts.add(f"{backbone}, {part}", value, "%")
    arithmetic = sum(share[part] for part in ARITHMETIC) + percent * times["valid_forward_s"]
    parts.add(f"{backbone}, harness", 100 - arithmetic, "%", HARNESS_SHARE)


def methods(data, backbone="tfn"):
    """Measure what the methods cost, as shares of a training step."""
    how = (
        f"Shares of a training step of {backbone} at MOSI's size: CPU time of one thread, medians of "
        f"{METHOD_ROUNDS} rounds. Own work is the step against the same step with its mixed examples given."
    )
    part = Section("methods", "What methods cost", how)
    arguments = {"data": data, "backbone": backbone, "rounds": METHOD_ROUNDS}
    with Child("tests.perf.steps:method_cost", **arguments) as child:
        for method in [name for name in METHODS if name != "none"]:
            cost, bound = child.ask(method=method), OWN_WORK_OF.get(method, OWN_WORK)
            part.add(f"{method}, step", 1e3 * cost["step_s"], "ms")
            part.add(f"{method}, own work", 100 * cost["own"], "%", bound)
    return [part]


def growth(data):
    """Measure how an epoch grows with the clips, and a step with the length of the sequences."""
    how = "Without mixing, one thread. Lengths: of all three sequences, every step valid."
    part = Section("growth", "Growth", how)

    def add(name, sizes, seconds, bound):
        for size, value in seconds.items():
            part.add(f"{name}, {size}", value, "s")
        power = exponent(sizes, list(seconds.values()))
        part.add(f"{name}, exponent", power, "", bound)

    for backbone in BACKBONES:
        with ours(data, backbone) as child:
            epochs, lengths = {}, {}
            for clips in CLIPS:
                # No batch is smaller than a clip, so that as many steps are the whole epoch.
                times = child.ask(size={"clips": clips}, steps=clips)
                epochs[f"{clips} clips"] = times["step_s"] * times["steps"]
            for fraction in FRACTIONS:
                asked = {"size": {"fraction": fraction, "padded": False}, "steps": 1}
                rounds = [child.ask(**asked)["step_s"] for _ in range(LENGTH_ROUNDS)]
                lengths[f"{fraction:.0%} of the steps"] = statistics.median(rounds)
        add(f"{backbone}, epoch", CLIPS, epochs, CLIPS_EXPONENT)
        add(f"{backbone}, step", FRACTIONS, lengths, LENGTH_EXPONENT)
    return [part]


def exponent(sizes, seconds):
    """Return the power of the size with which the time grows, between the ends: 1 in proportion."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def compare(data, revision):
    """Measure how many times as fast this checkout trains as another revision; raises UserError."""
    how = (
        f"Epochs of {revision} over epochs of this checkout: above 1 this one is faster, or smaller. One "
        f"thread, medians of {COMPARED_ROUNDS} rounds in which both take turns."
    )
    part = Section("compare", f"Against {revision}", how)
    try:
        with checkout(revision) as root:
            for backbone in BACKBONES:
                with ours(data, backbone, root=root) as theirs, ours(data, backbone) as mine:
                    for method in COMPARED_METHODS:
                        _compare(part, f"{backbone}, {method}", theirs, mine, method)
    except ChildError as error:
        raise UserError(f"The other revision cannot be measured: {str(error).splitlines()[-1]}") from error
    return [part]


def _compare(part, name, theirs, mine, method):
    asked = {"method": method, "steps": _fitting([theirs, mine], method), "evaluate": True}
    rounds = [(theirs.ask(**asked), mine.ask(**asked)) for _ in range(COMPARED_ROUNDS)]
    for what, value in (("epoch", epoch_s), ("peak memory", lambda times: times["peak_mb"])):
        part.add(f"{name}, {what}", statistics.median(value(a) / value(b) for a, b in rounds), "times")


@contextlib.contextmanager
def checkout(revision):
    """Check another revision out into a temporary worktree, with this measurement; raises UserError."""
    worktree = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "base"
        command = [*worktree, "add", "--detach", str(root), revision]
        added = subprocess.run(command, capture_output=True, text=True, check=False)
        if added.returncode:
            raise UserError(f"BASE={revision} cannot be checked out: {added.stderr.strip().splitlines()[-1]}")
        try:
            for name in ("perf", "support"):
                shutil.rmtree(root / "tests" / name, ignore_errors=True)
                shutil.copytree(ROOT / "tests" / name, root / "tests" / name)
            yield root
        finally:
            subprocess.run([*worktree, "remove", "--force", str(root)], capture_output=True, check=False)
