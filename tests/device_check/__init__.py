"""Checks and measurements on a real GPU, some minutes in all: python -m tests.device_check --out=FOLDER

Each part of `parts.PARTS` runs in a process of its own with a time limit, the most important first. After each part the
folder has all that was found so far: report.txt to read, report.json with every number and its spread, junit.xml of the
tests, losses.csv, and log.txt with all output.
"""
