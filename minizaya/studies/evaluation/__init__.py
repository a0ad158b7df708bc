"""Any model on a file of questions: `minizaya evaluate`.

In reading order: `questions` (what is asked, in the layouts of public benchmarks, or by our own tasks), `answers` (what
a text answers, and whether that is right), `math_judge` (a process of its own that compares mathematics), `asking` (a
server or a model of this process, with a run file, so that nothing is asked twice), `scores` (avg@k, pass@k, maj@k, and
the table), `published` (the report's own numbers).
"""
