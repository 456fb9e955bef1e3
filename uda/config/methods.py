"""Published methods by name: the settings of an adaptation variant that make it that method.

All are source-free but ``advent``, which is nothing without source images; several were published with the
source's cross-entropy beside them (``minent``, ``maxsquare``, ``curriculum``, the CBST family): add a
``cross_entropy`` term and ``source_free: false`` for that. A teacher labels images in evaluation mode, so
its BatchNorm statistics have to be the target's before the first round: ``batchnorm: warmed``.
"""

from __future__ import annotations

from typing import Any

from uda.errors import nearest

_WEIGHTED = {"term": "entropy", "normalized": False, "class_weights": "inverse_ratio"}
_RATIO = {"term": "class_ratio_kl", "over": "batch"}
_SURE_TEACHER = {
    "term": "pseudo_labels",
    "teacher": "ema",
    "portion": 0.6,
    "portion_limit": 0.6,
    "confidence": "pixel",
}
_SLICE_TEACHER = {**_SURE_TEACHER, "dice": 1.0, "smooth": 0.8, "largest": "ignore"}
_STRONG = {
    "rotate": 30,
    "scale": 0.2,
    "shift": 0.1,
    "gamma": 0.4,
    "contrast": 0.2,
    "brightness": 0.2,
    "noise": 0.1,
}

_TOLERANT = {**_RATIO, "direction": "prior_to_prediction", "tolerance": 0.1, "weight": 10.0}
"""Free where the ratio is not known better, firm outside: a structure that covers 1 % of the pixels and is drawn 22 %
too large costs 0.0002 at weight 1, its Dice loss 0.1."""
_EVEN_TEACHER = {
    "term": "pseudo_labels",
    "teacher": "ema",
    "portion": 1.0,
    "portion_limit": 1.0,
    "threshold": 0.9,
    "confidence": "pixel",
    "dice": 1.0,
}
"""one threshold for all classes, so that the unlabelled zone lies evenly on both sides of a border"""

_MARKED = {
    "batchnorm": "warmed",
    "augment": _STRONG,
    "select": "last",
    "annotated_share": 1.0,
}
"""training on annotations alone: every image of a batch is a marked one"""
_PIXELS = {"term": "partial_labels"}

_RECOLOURED = {
    "contrast": 0.25,
    "brightness": 0.25,
    "color": 0.25,
    "gamma": 0.3,
    "blur": 1.5,
}

METHODS: dict[str, dict[str, Any]] = {
    # Grandvalet & Bengio 2005; Vu et al. (ADVENT) 2019
    "minent": {"objective": [{"term": "entropy"}]},
    # Chen et al. 2019
    "maxsquare": {"objective": [{"term": "max_square"}]},
    # Bateson et al. 2020
    "adaent": {"objective": [_WEIGHTED, {**_RATIO, "direction": "prior_to_prediction"}]},
    # Bateson et al. 2022
    "adami": {"objective": [_WEIGHTED, {**_RATIO, "direction": "prediction_to_prior"}]},
    # Liang et al. (SHOT) 2020, without and with its pseudo-labels
    "im": {"objective": [{"term": "mutual_information"}]},
    "shot": {
        "freeze_head": True,
        "objective": [
            {"term": "mutual_information"},
            {"term": "centroid_pseudo_labels", "weight": 0.3},
        ],
    },
    # Zhang et al. 2017
    "curriculum": {
        "objective": [{"term": "size_cross_entropy", "kind": "max_normalized", "power": 5.0}]
    },
    "class_ratio": {"objective": [{**_RATIO, "direction": "prior_to_prediction"}]},
    # Zou et al. 2018, without and with spatial priors
    "cbst": {"batchnorm": "warmed", "objective": [{"term": "pseudo_labels"}]},
    "cbst_sp": {
        "batchnorm": "warmed",
        "objective": [{"term": "pseudo_labels", "spatial": True}],
    },
    # Zou et al. 2019, MRKLD
    "crst": {"batchnorm": "warmed", "objective": [{"term": "pseudo_labels", "mrkld": 0.1}]},
    # Tarvainen & Valpola 2017 with the class-balanced labels of CBST and a strongly augmented student
    "mean_teacher": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [_SURE_TEACHER],
    },
    # An EMA teacher whose student keeps the class ratio: ours, what `default` stands for
    "ratio_teacher": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [
            {**_SURE_TEACHER, "dice": 1.0},
            {**_RATIO, "direction": "prior_to_prediction"},
        ],
    },
    # ratio_teacher whose teacher averages over a slice and its neighbours, and labels nothing outside a structure's
    # largest component; without and with random views: ours
    "slice_teacher": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [
            _SLICE_TEACHER,
            {**_RATIO, "direction": "prior_to_prediction"},
        ],
    },
    "slice_view_teacher": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [
            {**_SLICE_TEACHER, "views": 3},
            {**_RATIO, "direction": "prior_to_prediction"},
        ],
    },
    # ratio_teacher with a class ratio of ±10 % at ten times the weight: ours
    "ratio_teacher_soft": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [{**_SURE_TEACHER, "dice": 1.0}, _TOLERANT],
    },
    # ratio_teacher_soft with one threshold for all classes, after UPL-SFDA's, in place of portions: ours
    "threshold_teacher": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [_EVEN_TEACHER, _TOLERANT],
    },
    # threshold_teacher that labels by the mean of views (UPL-SFDA) and drops structures whose size varies over them
    # (SHAPE, 2026), with a slower teacher: ours
    "view_teacher": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "objective": [
            {**_EVEN_TEACHER, "decay": 0.995, "views": 5, "prune": 0.25, "largest": "ignore"},
            _TOLERANT,
        ],
    },
    # Wu et al. (UPL-SFDA) 2023: Dice on labels that are sure in the mean of four views, their largest components, and
    # the entropy of the mean; here the views are small random changes of the image instead of quarter turns, dropout
    # and four decoders, and the labels' network is renewed every 100 steps
    "upl": {
        "batchnorm": "warmed",
        "augment": {"rotate": 10, "scale": 0.1, "gamma": 0.2, "contrast": 0.1, "brightness": 0.1},
        "objective": [
            {
                "term": "pseudo_labels",
                "portion": 1.0,
                "portion_limit": 1.0,
                "views": 4,
                "threshold": 0.9,
                "largest": "background",
                "cross_entropy": 0.0,
                "dice": 1.0,
            },
            {"term": "view_consistency", "loss": "mean_entropy", "views": 3},
        ],
    },
    # Weihsbach et al. (DG-TTA) 2023, over the whole target in place of one case at a time and without MIND features
    "dg_tta": {
        "batchnorm": "warmed",
        "augment": {"rotate": 15, "scale": 0.15, "shift": 0.05},
        "objective": [
            {
                "term": "view_consistency",
                "view": {
                    "rotate": 15,
                    "scale": 0.15,
                    "shift": 0.05,
                    "gamma": 0,
                    "contrast": 0,
                    "brightness": 0,
                },
            }
        ],
    },
    # Wang et al. (TENT) 2021, over the whole target; predictions take running statistics, which began as the target's
    "tent": {
        "batchnorm": "warmed",
        "train": "batchnorm",
        "objective": [{"term": "entropy", "normalized": False}],
    },
    # mean_teacher for photographs: nothing turned upside down, ClassMix (Olsson et al. 2021) among target images
    "street_teacher": {
        "batchnorm": "warmed",
        "augment": {**_RECOLOURED, "mirror": True},
        "objective": [{**_SURE_TEACHER, "classmix": "target"}],
    },
    # ratio_teacher for photographs, whose smallest classes are often lost at first; the ratio may bring them back
    "street_ratio_teacher": {
        "batchnorm": "warmed",
        "guard": {"unsafe": 8},
        "augment": {**_RECOLOURED, "mirror": True},
        "objective": [
            {**_SURE_TEACHER, "classmix": "target", "dice": 1.0},
            {**_RATIO, "direction": "prior_to_prediction"},
        ],
    },
    # Tranheden et al. 2021 (DACS): source classes pasted onto the target, labels weighed by an image's sure pixels
    "dacs": {
        "batchnorm": "warmed",
        "source_free": False,
        "augment": _RECOLOURED,
        "objective": [
            {"term": "cross_entropy"},
            {
                "term": "pseudo_labels",
                "teacher": "ema",
                "portion": 1.0,
                "portion_limit": 1.0,
                "confidence": "image",
                "classmix": "source",
            },
        ],
    },
    # Vu et al. 2019
    "advent": {
        "source_free": False,
        "objective": [{"term": "cross_entropy"}, {"term": "adversarial", "weight": 1e-3}],
    },
    # Kervadec et al. 2019; 1e-2 a squared pixel over the image's pixels is 100 a squared share at 100×100
    "size_bounds": {
        "objective": [
            {"term": "entropy"},
            {"term": "size_bounds", "weight": 100.0, "over": "batch"},
        ]
    },
    # Weak labels of target images. Each stands alone, and joined by + to an adaptation (`ratio_teacher+points`)
    # Bearman et al. 2016, without their objectness
    "points": {**_MARKED, "annotations": ["points"], "objective": [_PIXELS]},
    # Tang et al. 2018, without and with the dense CRF
    "scribbles": {**_MARKED, "annotations": ["scribbles"], "objective": [_PIXELS]},
    "scribbles_crf": {
        **_MARKED,
        "annotations": ["scribbles"],
        "objective": [_PIXELS, {"term": "dense_crf"}],
    },
    # Marin et al. 2019: a grid CRF labels what the scribbles leave open, in every step anew
    "scribbles_adm": {
        **_MARKED,
        "annotations": ["scribbles"],
        "objective": [_PIXELS, {"term": "grid_crf", "potts": 2.0}],
    },
    # Kervadec et al. 2020, by penalties in place of their log-barrier
    "boxes": {
        **_MARKED,
        "annotations": ["boxes"],
        "objective": [{"term": "boxes"}],
    },
    # Rajchl et al. 2017
    "deepcut": {**_MARKED, "annotations": ["boxes"], "objective": [{"term": "deepcut"}]},
    # Pathak et al. (CCNN) 2015: with a prior of tags, which structures an image shows and about how large they are
    "ccnn": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "select": "last",
        "objective": [{"term": "latent_distribution"}],
    },
    # Zhou et al. 2016; Kolesnikov & Lampert (SEC) 2016: seeds of class activation maps, spread by a dense CRF
    "tags_cam": {
        "batchnorm": "warmed",
        "augment": _STRONG,
        "select": "last",
        "objective": [{"term": "seeds"}, {"term": "dense_crf"}],
    },
    # complete labels of a few images
    "labels": {
        **_MARKED,
        "annotations": ["labels"],
        "objective": [{**_PIXELS, "dice": 1.0}],
    },
    # Boudiaf et al. (TIM) 2020, with the prior in place of equal class sizes as in their RePRI of 2021: the labelled
    # images, sure pixels and the class ratio of images drawn from all
    "few_shot": {
        **_MARKED,
        "annotations": ["labels"],
        "annotated_share": 0.5,
        "objective": [
            _PIXELS,
            {"term": "entropy", "normalized": False, "weight": 0.1},
            {**_RATIO, "direction": "prediction_to_prior"},
        ],
    },
    # Zhou et al. (PaNN) 2019: labels of some classes, and the class ratio of the data set by primal-dual updates
    "partial": {
        **_MARKED,
        "annotations": ["partial"],
        "annotated_share": 0.5,
        "objective": [_PIXELS, {"term": "dual_class_ratio"}],
    },
}

WEAK = (
    *("points", "scribbles", "scribbles_crf", "scribbles_adm", "boxes", "deepcut"),
    *("ccnn", "tags_cam", "labels", "few_shot", "partial"),
)
"""methods of weak labels, which can be joined to others"""


def method_settings(name: str) -> dict[str, Any]:
    """Settings of a method, or of one joined by ``+`` with methods of weak labels: it gets their terms and annotations.

    Raises:
        ValueError: there is no such method, or a joined one is none of weak labels.
    """
    first, *joined = name.split("+")
    for one in (first, *joined):
        if one not in METHODS:
            raise ValueError(f"no preset {one!r}; {nearest(one, METHODS)}")
    settings = dict(METHODS[first])
    for one in joined:
        if one not in WEAK:
            raise ValueError(f"preset {one!r} is none of weak labels; {nearest(one, WEAK)}")
        own = METHODS[one]
        settings["objective"] = [*settings["objective"], *own["objective"]]
        kinds = (*settings.get("annotations", ()), *own.get("annotations", ()))
        settings["annotations"] = list(dict.fromkeys(kinds))
    return settings


SOURCE_FREE = ("adabn", *(n for n, raw in METHODS.items() if raw.get("source_free", True)))
"""what a model and a folder of images are enough for"""
DEFAULT = "default"
"""stands for the one that fits the model"""
OWN = (DEFAULT, *SOURCE_FREE)
"""names for one's own model and images"""
