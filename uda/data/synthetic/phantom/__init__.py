"""The thorax phantom: MR and CT renderings of unpaired subjects."""
