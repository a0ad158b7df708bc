"""What several commands share: `device` (the flag `--device`), `flags` (none is left without effect)."""
