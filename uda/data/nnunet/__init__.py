"""Make dataset cards from data sets of nnU-Net and the Medical Segmentation Decathlon."""

from uda.data.nnunet.card import Written, write_card
from uda.data.nnunet.listing import Listing, read_listing

__all__ = ["Listing", "Written", "read_listing", "write_card"]
