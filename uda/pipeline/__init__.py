"""Recipes as stages: what each does, what depends on what, running what is missing."""
