"""Terms at work: what each adds to the loss, and for some a life of its own beside the network.

A part with a life of its own (a teacher, a discriminator, dual variables) is trained in the one loop and kept
in its checkpoint; see :class:`uda.training.parts.part.Part` for the moments at which the loop calls it.
"""

from uda.training.parts.make_part import make_part
from uda.training.parts.part import Part, PriorTensors, StepInputs, TrainingContext

__all__ = ["Part", "PriorTensors", "StepInputs", "TrainingContext", "make_part"]
