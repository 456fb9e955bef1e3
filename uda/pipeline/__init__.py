"""The stages of a recipe: their work, their dependencies, and running those that are missing or changed."""
