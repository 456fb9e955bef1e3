"""Annotations: what a user draws on target images in his own tool – clicks, boxes, scribbles, labels, tags."""
