"""What a recipe and a card may say, every default, and how they are found, read and changed."""
