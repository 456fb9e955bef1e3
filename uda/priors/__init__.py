"""Priors on the target's class ratios, sizes and places: their sources, their checks and their files."""

from uda.networks.size_distribution import SizeDistribution
from uda.priors.image_level import (
    image_level_ratios,
    logistic_ratios,
    nearest_ratios,
    ridge_ratios,
)
from uda.priors.labels import (
    label_maps,
    label_ratios,
    label_table,
    mean_ratios,
    size_distribution,
)
from uda.priors.landmarks import Landmarks
from uda.priors.makers import (
    from_areas_mm2,
    from_image_level,
    from_predictions,
    from_size_counts,
    from_sizes_ml,
    from_source_labels,
    from_source_maps,
    from_tags,
    presence_ratio,
    select_tags,
)
from uda.priors.maps import relative_maps
from uda.priors.prior import PRIOR_FILE, Prior
from uda.priors.seeds import Seeds
from uda.priors.size_csv import read_sizes

__all__ = [
    "PRIOR_FILE",
    "Landmarks",
    "Prior",
    "Seeds",
    "SizeDistribution",
    "from_areas_mm2",
    "from_image_level",
    "from_predictions",
    "from_size_counts",
    "from_sizes_ml",
    "from_source_labels",
    "from_source_maps",
    "from_tags",
    "image_level_ratios",
    "label_maps",
    "label_ratios",
    "label_table",
    "logistic_ratios",
    "mean_ratios",
    "nearest_ratios",
    "presence_ratio",
    "read_sizes",
    "relative_maps",
    "ridge_ratios",
    "select_tags",
    "size_distribution",
]
