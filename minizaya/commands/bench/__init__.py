"""`python -m minizaya bench`: this machine's limits, ours beside transformers (`command`), data and training parts (`data`), the
full 8B from its file (`full`)."""
