"""Data: files, cases, preparation, stores, augmentation and batches."""
