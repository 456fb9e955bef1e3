"""Foreign networks: registered factories, stored programs (TorchScript, torch.export), matching state dicts."""

from uda.networks.foreign.adapter import ForeignModel
from uda.networks.foreign.matching import Matches, match_state, read_state
from uda.networks.foreign.programs import digest, kind_of, load_program
from uda.networks.foreign.registry import register_network, registered

__all__ = [
    "ForeignModel",
    "Matches",
    "digest",
    "kind_of",
    "load_program",
    "match_state",
    "read_state",
    "register_network",
    "registered",
]
