"""Three datasets in MMSA's format for which it is known which delta of MS-Mix is best, by construction.

Every clip has a number u ~ N(0, 1), shown in all modalities along one axis, and a look, a unit vector at
right angles to the axis: x = LOOK * look + SIGNAL * u * axis + noise. The law is y = u. A look is shared by
the clips of a home ("at home") or the clip's own ("stray"). As LOOK is larger than SIGNAL, and looks of
strays are nearly orthogonal (random directions in many dimensions), two clips are similar where they share
a home. So a high delta mixes clips of one home only, and a low delta mixes any.

SETTINGS make the argument exact. The encoder keeps its random weights (its learning rate is 0), so latents
are as similar as clips are. The network learns from mixed clips alone (`mode=replace`), so delta decides
from which labels it learns. Reversed labels, -u, are in the training split only: two mixed clips of one
kind teach the sign of that kind, two of different kinds neither, and under the absolute loss the majority
wins.
"""

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS

EVALUATED = {"valid": 256, "test": 128}
WIDTH = 64
LOOK, SIGNAL, NOISE, LABEL_NOISE = 6.0, 1.5, 0.1, 0.2
BACKBONE = "text_hidden=64 audio_hidden=32 vision_hidden=32 rank=4 audio_dropout=0 vision_dropout=0"
BACKBONE += " batch_size=32 max_epochs=15 learning_rate=0 factor_lr=0.02 weight_decay=0"
# What a command line needs besides `datasets=[NAME] dataset.NAME.path=FILE dataset.NAME.like=mosi`.
SETTINGS = ["backbones=[lmf]", *(f"backbone.lmf.{setting}" for setting in BACKBONE.split())]
SETTINGS += [f"method.ms_mix.{setting}" for setting in ("sig=false", "sal=false", "mode=replace")]


def islands(seed):
    """A high delta is best: clips of one of three homes follow the law, strays its reverse.

    Training has both in equal numbers; validation and test have clips at home only. Of all pairs a quarter is
    at home, a quarter stray: below the similarity of strays the two signs cancel, and the best that can be
    learned is a constant. Above it, half of the clips are in three homes: about 40 pairs of each batch of 32
    share a home, more than are drawn, and all of them teach the law. Loss falls where strays drop out.
    """
    return _world(seed, homes=3, clips=256, at_home=(0.5, 1.0), reversed_home=False)


def plain(seed):
    """A low delta is best: strays follow the law, the clips of one home its reverse.

    Training has 40% at home; validation and test have strays only. Of all pairs 36% are of two strays and 16%
    at home: at delta = 0 the law wins by more than two to one. Raising delta takes pairs of strays away and
    none at home, so it gets worse step by step; above the similarity of strays only reversed pairs are left,
    and nothing that helps can be learned. Below it, thresholds that take few pairs away are nearly equal.
    """
    return _world(seed, homes=1, clips=512, at_home=(0.4, 0.0), reversed_home=True)


def noise(seed):
    """No delta is best: the clips of `islands`, with labels drawn on their own in every split.

    Whatever pairs are mixed, a mixed label says nothing of the mixed clip; the best prediction is a constant.
    """
    return _world(seed, homes=3, clips=256, at_home=(0.5, 1.0), reversed_home=None)


def _world(seed, homes, clips, at_home, reversed_home):
    """Split -> key -> array or list; clips: of training; at_home: their share there and in other splits.

    reversed_home: whether clips at home or strays have the label -u; None: labels are independent of u.
    """
    rng = np.random.default_rng(seed)
    axes = {m: _unit(rng.normal(size=WIDTH)) for m in MODALITIES}
    places = {m: rng.normal(size=(homes, WIDTH)) for m in MODALITIES}
    world = {}
    for split in SPLITS:
        n = EVALUATED.get(split, clips)
        u, home = rng.normal(size=n), rng.integers(homes, size=n)
        housed = rng.permutation(n) < round(at_home[split != "train"] * n)
        lawful = np.where(housed == reversed_home, -u, u)
        labels = rng.normal(size=n) if reversed_home is None else lawful
        labels = labels + LABEL_NOISE * rng.normal(size=n)
        world[split] = {
            "id": [f"{split}_{i}" for i in range(n)],
            "regression_labels": np.clip(labels, -3, 3).astype(np.float32),
        }
        for m in MODALITIES:
            look = np.where(housed[:, None], places[m][home], rng.normal(size=(n, WIDTH)))
            look = _unit(look - (look @ axes[m])[:, None] * axes[m])
            x = LOOK * look + SIGNAL * u[:, None] * axes[m] + NOISE * rng.normal(size=(n, WIDTH))
            world[split][m] = x[:, None].astype(np.float32)  # (N, 1, WIDTH)
    return world


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
