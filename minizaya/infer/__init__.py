"""How the model answers: one token after another, many prompts at once, and many short thoughts instead of a long one.

In reading order: `sample` (from logits to a token), `generate` (many prompts at once, and the plain loop that says what
that means), `slots` and `engine` (requests that join and leave as they finish), `calls` (one tool call, exactly in its
grammar) and `parse` (reasoning, answer and calls told apart), `rsa` (Markovian recursive self-aggregation),
`endpoint` (any OpenAI-compatible server as a generator, its finished requests kept on disk).
"""
