"""Predict label maps of volumes and photographs on the file's grid, and flag doubtful cases."""
