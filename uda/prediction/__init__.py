"""Label maps of volumes and photographs on their own grid, and how far to trust them."""
