"""Evaluation against reference labels: Dice, surface distances, IoU, and the rows of the table."""
