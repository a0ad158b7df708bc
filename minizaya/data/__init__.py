"""What the model reads: tokenizers, real English, tasks with checkable answers, and the n-gram baseline."""
