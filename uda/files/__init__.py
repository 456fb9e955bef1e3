"""Files: atomic writing, safe reading, stage folders, and checks for links that leave an output folder."""
