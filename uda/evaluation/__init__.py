"""Scores against labels, structure by structure, and the rows of the table."""
