"""Data sets in the layouts of nnU-Net and the Medical Segmentation Decathlon, made into a card."""

from uda.nnunet.card import Written, write_card
from uda.nnunet.listing import Listing, read_listing

__all__ = ["Listing", "Written", "read_listing", "write_card"]
