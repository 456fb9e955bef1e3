"""Files: written whole or not at all, read without trust; stage folders; links that lead out of a results folder."""
