"""Terms of an objective as a recipe writes them: a loss by name, its weight, its ramp, its parameters."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from uda.config.annotations import LABELS, Kind
from uda.config.fields import Amount, Count, Frozen, Positive, Probability, Rate, Share

Knowledge = Literal["ratio", "maps", "sizes", "landmarks", "seeds"]
"""what a prior may know: class ratios, where each class lies, how its size varies, the class of some superpixels
or of some pixels"""

Fraction = Annotated[float, Field(gt=0, le=1)]


class View(Frozen):
    """Random change of an image under which a prediction should stay the same: an affine map, which is undone on the
    prediction, and intensities. Each bound is the half-width of a uniform draw, as in ``augment``."""

    rotate: Amount = 10.0
    """degrees"""
    scale: Share = 0.1
    """relative"""
    shift: Share = 0.0
    """fraction of the image"""
    mirror: bool = False
    """swap left and right with probability 1/2, for photographs"""
    gamma: Amount = 0.2
    contrast: Share = 0.1
    brightness: Amount = 0.1
    """in units of the image's sd"""


class _Term(Frozen):
    weight: Amount = 1.0
    aux: Amount = 0.0
    """Weight of the same term on the logits of an auxiliary head."""
    ramp: Literal["constant", "linear", "cosine", "sigmoid"] = "constant"
    ramp_steps: Count = 0
    """Steps over which the weight rises from 0; 0 = at once."""

    compares: ClassVar[bool] = False
    """whether it compares sums over the images with what is known of all images, of which marked ones are no sample"""
    optional: ClassVar[bool] = False
    """whether it also works without the annotations that it reads"""

    def needs(self) -> frozenset[Knowledge]:
        """What the prior of the target has to know."""
        return frozenset()

    def reads(self) -> frozenset[Kind]:
        """Kinds of annotations of which it uses any."""
        return frozenset()


class _RatioTerm(_Term):
    compares = True

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"ratio"})


class CrossEntropyTerm(_Term):
    """Cross-entropy with the source's labels."""

    term: Literal["cross_entropy"] = "cross_entropy"


class PartialCrossEntropyTerm(_Term):
    """Cross-entropy with the source's labels where there are any: scribbles, points."""

    term: Literal["partial_cross_entropy"] = "partial_cross_entropy"


class DiceTerm(_Term):
    """Soft Dice with the source's labels."""

    term: Literal["dice"] = "dice"


class ViewAgreementTerm(_Term):
    """Divergence of the predictions of an image's two appearances (``augment.views: 2``) from their mean (IPA)."""

    term: Literal["view_agreement"] = "view_agreement"


class EntropyTerm(_Term):
    """Entropy of the target prediction."""

    term: Literal["entropy"] = "entropy"
    normalized: bool = True
    class_weights: Literal["uniform", "inverse_ratio"] | tuple[Amount, ...] = "uniform"
    """One weight a class, or a rule. ``inverse_ratio``: ν_c proportional to 1/τ̄_c of the prior, summing to 1
    (AdaEnt, AdaMI)."""

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"ratio"} if self.class_weights == "inverse_ratio" else ())


class MinEntropyTerm(_Term):
    """Min-entropy: hard self-training on every pixel."""

    term: Literal["min_entropy"] = "min_entropy"


class MaxSquareTerm(_Term):
    """Maximum squares (Chen et al. 2019)."""

    term: Literal["max_square"] = "max_square"
    image_weighted: bool = False
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.2


class MutualInformationTerm(_Term):
    """Mutual information of pixel and class: sure pixels, diverse classes."""

    term: Literal["mutual_information"] = "mutual_information"
    compares = True
    alpha: Amount = 1.0
    """weight of the pixels' entropy beside that of the marginal"""
    over: Literal["image", "batch"] = "batch"


class ClassRatioTerm(_RatioTerm):
    """Divergence between predicted class ratio and prior."""

    term: Literal["class_ratio_kl"] = "class_ratio_kl"
    direction: Literal["prediction_to_prior", "prior_to_prediction"]
    over: Literal["image", "batch"] = "image"
    kind: Literal["mean", "max_normalized"] = "mean"
    power: Rate = 1.0
    eps: Amount = 1e-10
    tolerance: Probability = 0.0
    """Uncertainty t of the prior: any ratio within τ (1 ± t) is as good as the prior itself."""
    LATER: ClassVar[frozenset[str]] = frozenset({"tolerance"})


class ClassRatioHingeTerm(_RatioTerm):
    """A class may not fall below the share ``mu`` of its prior (ADVENT)."""

    term: Literal["class_ratio_hinge"] = "class_ratio_hinge"
    mu: Fraction = 0.5
    over: Literal["image", "batch"] = "image"


class SizeCrossEntropyTerm(_RatioTerm):
    """The curriculum's size loss: cross-entropy of the predicted sizes under the prior's."""

    term: Literal["size_cross_entropy"] = "size_cross_entropy"
    kind: Literal["mean", "max_normalized"] = "mean"
    power: Rate = 1.0


class LandmarksTerm(_Term):
    """The curriculum's second loss: the mean prediction of some superpixels against the class each was given."""

    term: Literal["landmarks"] = "landmarks"

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"landmarks"})


class SeedsTerm(_Term):
    """Cross-entropy with the prior's seeds: pixels of which class activation maps are sure (SEC)."""

    term: Literal["seeds"] = "seeds"

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"seeds"})


class DualClassRatioTerm(_RatioTerm):
    """Divergence of the data set's class ratio from the prior, by primal–dual updates (PaNN)."""

    term: Literal["dual_class_ratio"] = "dual_class_ratio"
    rate: Fraction = 0.1
    """step of the dual ascent"""


class _BoundedTerm(_Term):
    compares = True
    bounds: Literal["ratio", "quantiles", "tags"] = "ratio"
    """``ratio``: τ (1 ∓ margin), a class with τ = 0 is suppressed; ``quantiles``: at most the 95 %
    quantile of the source's sizes; ``tags``: a class with τ = 0 is suppressed, any other has a pixel."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.5
    over: Literal["image", "batch"] = "image"

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"sizes"} if self.bounds == "quantiles" else {"ratio"})


class SizeBoundsTerm(_BoundedTerm):
    """Sizes between bounds, by a penalty (Kervadec et al. 2019)."""

    term: Literal["size_bounds"] = "size_bounds"
    squared: bool = True


class LogBarrierTerm(_BoundedTerm):
    """Sizes between bounds, by the extended log-barrier, whose t rises during the training."""

    term: Literal["log_barrier"] = "log_barrier"
    start: Rate = 5.0
    growth: Annotated[float, Field(ge=1)] = 1.1
    every: Positive = 100
    """steps between two rises of t"""
    limit: Rate = 50.0


class LatentDistributionTerm(_BoundedTerm):
    """Cross-entropy with the distribution nearest to the prediction whose sizes lie between bounds (CCNN).

    One number for each class is solved for on the CPU, for which a GPU waits."""

    term: Literal["latent_distribution"] = "latent_distribution"


class BalancedAssignmentTerm(_RatioTerm):
    """Cross-entropy with pseudo-labels that have the class ratio of the prior, by optimal transport.

    One number for each class is solved for on the CPU, for which a GPU waits."""

    term: Literal["balanced_assignment"] = "balanced_assignment"
    epsilon: Rate = 0.05
    """temperature of the labels; the smaller, the harder"""
    over: Literal["image", "batch"] = "batch"


class SortedAreaTerm(_RatioTerm):
    """As many sure pixels a class as its prior has (Fong et al. 2019)."""

    term: Literal["sorted_area"] = "sorted_area"


class SpatialPriorTerm(_Term):
    """Divergence between the prediction at a pixel and how often each class is there."""

    term: Literal["spatial_prior_kl"] = "spatial_prior_kl"
    direction: Literal["prediction_to_prior", "prior_to_prediction"] = "prior_to_prediction"
    over: Literal["image", "batch"] = "batch"

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"maps"})


class PottsTerm(_Term):
    """Neighbours that look alike have one class: the relaxed dense Potts energy."""

    term: Literal["potts"] = "potts"
    sigma_color: Rate = 0.25
    """in units of the prepared image, which has unit sd after ``normalize: zscore``"""
    sigma_space: Rate = 3.0
    """pixels"""
    radius: Positive = 3
    dilation: Positive = 1


class LaplacianTerm(_Term):
    """Neighbours that look alike have like probabilities: the energy of the graph Laplacian."""

    term: Literal["laplacian"] = "laplacian"
    weights: Literal["grid", "window"] = "grid"
    """pairs that share a face, or pairs within a window"""
    sigma_color: Rate = 0.25
    """in units of the prepared image, which has unit sd after ``normalize: zscore``"""
    sigma_space: Rate = 3.0
    """pixels; of the window, as are the next two"""
    radius: Positive = 3
    dilation: Positive = 1


class DenseCrfTerm(_Term):
    """Pixels that look alike have one class, however far apart: the dense CRF over the whole image."""

    term: Literal["dense_crf"] = "dense_crf"
    sigma_color: Rate = 0.25
    """in units of the prepared image, which has unit sd after ``normalize: zscore``"""
    sigma_space: Rate = 100.0
    """pixels"""
    spacing: Fraction = 0.5
    """of the nodes of the grid that stands for all pairs, in ``sigma_space``; less is more exact"""


class PseudoLabelTerm(_Term):
    """Self-training on class-balanced pseudo-labels of a teacher: CBST, CRST, mean teacher."""

    term: Literal["pseudo_labels"] = "pseudo_labels"
    teacher: Literal["round", "ema"] = "round"
    """a copy of the student made when a round begins, or the running average of its weights"""
    decay: Share = 0.99
    """of the running average, a step"""
    round_steps: Positive = 100
    """Steps between two new sets of thresholds (and copies of the student)."""
    portion: Fraction = 0.2
    """Share of each class's pixels that is labelled in the first round, the most confident ones."""
    portion_step: Amount = 0.05
    portion_limit: Fraction = 0.5
    spatial: bool = False
    """Multiply probabilities by the prior's maps first (CBST-SP)."""
    soft: Amount = 0.0
    """Temperature α of CRST's soft labels (LRENT); 0 = hard labels."""
    mrkld: Amount = 0.0
    """Weight of CRST's model regularisation towards the uniform prediction."""
    confidence: Literal["none", "pixel", "image"] = "none"
    """Weigh a label by the teacher's probability, or an image's labels by its share of sure pixels."""
    dice: Amount = 0.0
    """Weight of a soft Dice loss on the labels, beside their cross-entropy."""
    classmix: Literal["none", "source", "target"] = "none"
    """Paste half the classes of a source image (DACS), or of another target image by its pseudo-labels
    (ClassMix), onto each target image before the student sees it."""
    views: Positive = 1
    """The teacher's probabilities are the mean over so many views: the image itself and ``views`` − 1 random ones. Each
    costs a forward pass of the teacher, also where thresholds are made (``portion`` below 1)."""
    view: View = View()
    """how a random view differs from the image"""
    prune: Amount | Literal["median"] = 0.0
    """Drop the labels of a structure in an image where its size, in pixels of the part that all views see, varies over
    the views: its coefficient of variation is above this value, or above the median of the structure over the batch's
    images that show it. Every pixel that some view takes for the structure is then unlabelled. 0 = off."""
    threshold: Share = 0.0
    """Label a pixel only where the teacher's largest probability, of the mean over the views, is above this value; 0 =
    off. Cross-entropy and Dice then count these pixels alone."""
    largest: Literal["off", "ignore", "background"] = "off"
    """Keep the largest component of each structure of an image's labels; the others become unlabelled or background.
    Pixels are connected through their faces. It runs on the CPU, for which a GPU waits."""
    smooth: Share = 0.0
    """Standard deviation, in slices, of a Gaussian over the teacher's probabilities of a slice and of the slice before
    and after it in its case; 0 = off. The two cost a forward pass of the teacher each. Thresholds are made without
    them. For slices of volumes alone."""
    cross_entropy: Amount = 1.0
    """Weight of the cross-entropy of the labels."""
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"views", "view", "prune", "threshold", "largest", "smooth", "cross_entropy"}
    )

    @model_validator(mode="after")
    def _possible(self) -> PseudoLabelTerm:
        if self.dice and self.soft:
            raise ValueError("dice compares with hard labels; soft must be 0")
        if self.largest != "off" and self.soft:
            raise ValueError("largest finds components of hard labels; soft must be 0")
        if self.prune and self.views == 1:
            raise ValueError("prune compares views; views must be 2 or more")
        if not self.cross_entropy and not self.dice:
            raise ValueError("cross_entropy and dice are both 0; one must be above 0")
        return self

    def needs(self) -> frozenset[Knowledge]:
        return frozenset({"maps"} if self.spatial else ())


class PartialLabelsTerm(_Term):
    """Cross-entropy with what is marked on target images: points, scribbles, labels, also of some classes only."""

    term: Literal["partial_labels"] = "partial_labels"
    dice: Amount = 0.0
    """Weight of a soft Dice loss on the marked pixels, beside their cross-entropy; for complete labels."""

    def reads(self) -> frozenset[Kind]:
        return frozenset(LABELS)


class GridCrfTerm(_Term):
    """Cross-entropy with the labels of least energy in a grid CRF, found anew in every step (ADM).

    Marked pixels keep their class. The labels are found on the CPU, for which a GPU waits."""

    term: Literal["grid_crf"] = "grid_crf"
    optional = True
    potts: Rate = 80.0
    """weight of a pair of neighbours that look alike, in nats; the value is for photographs"""
    cycles: Positive = 5
    """most passes over the classes"""

    def reads(self) -> frozenset[Kind]:
        return frozenset(LABELS)


class BoxesTerm(_Term):
    """Bounding boxes as constraints: nothing outside, something on every line inside, most of each filled.

    Which pixels lie in which box is found on the CPU, for which a GPU waits."""

    term: Literal["boxes"] = "boxes"
    width: Positive = 5
    """lines in a band, which has as many pixels of the class at the least"""
    filled: tuple[Probability, Probability] = (0.2, 1.0)
    """bounds of a structure's share of its box; a thin ring fills 0.3, a disk 0.79"""
    outside: Amount = 1.0
    """weight of the emptiness outside of the boxes"""
    tight: Amount = 1.0
    """weight of the lines that a box's structure has to cross"""
    size: Amount = 1.0
    """weight of the share of the box"""

    def reads(self) -> frozenset[Kind]:
        return frozenset({"boxes"})


class DeepCutTerm(_Term):
    """Cross-entropy with pseudo-labels inside of boxes, which a dense CRF makes of the prediction in rounds.

    The boxes are read on the CPU, for which a GPU waits."""

    term: Literal["deepcut"] = "deepcut"
    round_steps: Positive = 100
    """Steps between two copies of the student, whose prediction the CRF starts from."""
    first: Literal["network", "boxes"] = "network"
    """What the CRF starts from in the first round: ``network``, its prediction, or ``boxes`` themselves, for a network
    that knows nothing yet."""
    sigma_color: Rate = 0.25
    """of the CRF, in units of the prepared image"""
    sigma_space: Rate = 10.0
    """pixels"""
    appearance: Amount = 3.0
    """weight of pairs that look alike"""
    smoothness: Amount = 1.0
    """weight of near pairs"""
    iterations: Positive = 5

    def reads(self) -> frozenset[Kind]:
        return frozenset({"boxes"})


class CentroidTerm(_Term):
    """Pseudo-labels of the nearest class centroid in the features (SHOT)."""

    term: Literal["centroid_pseudo_labels"] = "centroid_pseudo_labels"
    round_steps: Positive = 100
    """Steps between two new sets of centroids."""
    pixels: Positive = 256
    """Pixels a class in the sample of each batch of images from which the centroids are made."""


class ViewConsistencyTerm(_Term):
    """The prediction agrees with the network's own prediction of other views of the image (DG-TTA, UPL-SFDA)."""

    term: Literal["view_consistency"] = "view_consistency"
    loss: Literal["dice", "mean_entropy"] = "dice"
    """``dice``: 1 − soft Dice with the mean of the views; ``mean_entropy``: entropy of the mean of all predictions."""
    views: Positive = 1
    """Random views beside the student's augmented image; each costs a forward pass without gradients."""
    view: View = View()
    """how a view differs from the image"""


class AdversarialTerm(_Term):
    """A discriminator of source and target self-information, trained against the network (AdvEnt)."""

    term: Literal["adversarial"] = "adversarial"
    lr: Rate = 1e-4
    """of the discriminator's Adam"""
    width: Positive = 64
    """channels of the discriminator's first layer"""


SourceTerm = CrossEntropyTerm | PartialCrossEntropyTerm | DiceTerm | ViewAgreementTerm
Term = Annotated[
    SourceTerm
    | EntropyTerm
    | MinEntropyTerm
    | MaxSquareTerm
    | MutualInformationTerm
    | ClassRatioTerm
    | ClassRatioHingeTerm
    | SizeCrossEntropyTerm
    | LandmarksTerm
    | SeedsTerm
    | DualClassRatioTerm
    | SizeBoundsTerm
    | LogBarrierTerm
    | LatentDistributionTerm
    | BalancedAssignmentTerm
    | SortedAreaTerm
    | SpatialPriorTerm
    | PottsTerm
    | LaplacianTerm
    | DenseCrfTerm
    | PseudoLabelTerm
    | PartialLabelsTerm
    | GridCrfTerm
    | BoxesTerm
    | DeepCutTerm
    | CentroidTerm
    | ViewConsistencyTerm
    | AdversarialTerm,
    Field(discriminator="term"),
]
