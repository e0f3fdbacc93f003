"""Policies against each other, live, in turns. Read: compare (the arithmetic), trace, then the two places where
contenders run: offline (an engine in this process) and http (a server each, started by subprocess_server).
"""
