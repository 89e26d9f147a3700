"""The fault rig: the whole system is broken at random while studies arrive, and nothing may get lost.

`python -m tests.faults` (or `make faults`) runs it; FAULTS_STUDIES, FAULTS_SEED and FAULTS_DATABASE
say how long, in which order and on which database.
"""
