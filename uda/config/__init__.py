"""Settings of recipes and dataset cards with every default; finding, reading and overriding them."""
