"""Rendered streets in the files of GTA5, SYNTHIA and Cityscapes."""
