"""Open exercises: no answer is in the repository, and there may be a better one than anybody's.

    open_exercises.check("late_balancer", my_late_balancer)      in a lesson: the law first, then what it costs

A law must hold before anything is measured. What is measured is a cost, counted and never timed, beside that of a
baseline, which is computed on the same draws; the score is how many times cheaper an answer is. `judging` has the
frame; the exercises are `balancer` (lesson 06), `reads` (09), `tail` (12) and `traffic` (14). `renamed` hides from a
function which token is which. `board` is the file of a class.
"""

from .judging import EXERCISES, LESSON, Result, baseline, check, judge

__all__ = ["EXERCISES", "LESSON", "Result", "baseline", "check", "judge"]
