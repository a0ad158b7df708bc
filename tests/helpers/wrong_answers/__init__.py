"""Wrong answers to the lessons' exercises, one module a lesson: WRONG[exercise][what is wrong] = source.

Each is a mistake that a student could make and that runs. The checks must reject all of them.
"""
