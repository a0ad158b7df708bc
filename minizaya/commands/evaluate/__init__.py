"""The command `evaluate`, in `command`; what it does stands in `studies/evaluation`."""
