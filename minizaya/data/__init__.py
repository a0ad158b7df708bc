"""What the model reads: text to ids, problems whose answers a program can check, and rows of one length.

In reading order: `ids` (what a token id is), `tokenizer_base`, `hf_tokenizer` and `tokenizer` (text to ids and back),
`chat` (conversations with reasoning blocks) and `template` (a checkpoint's own way to write them), `trim` (making a
conversation fit: reasoning is cut, answers never), `text` (English that is already on your disk), `tasks` (small
problems, each with a difficulty dial), `gyms` (other people's problems behind the same interface), `aggregation`
(problems with the ends of several attempts at them), `pack` (documents into rows), `ngram` (the baseline).
"""
