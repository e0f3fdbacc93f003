"""Speculation: several tokens of a job in one iteration, by guessing the next ones and verifying them all at once.

Read: spec (the setting), proposer (who guesses), ngram (guesses from the text itself), draft (what draft models of all
bodies share), control (how many are worth it), acceptance (how often they are right), drafting (all that a body asks).
Imports neither a body nor a model.
"""
