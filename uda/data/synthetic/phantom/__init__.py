"""The thorax phantom: synthetic MR and CT scans of unpaired subjects."""
