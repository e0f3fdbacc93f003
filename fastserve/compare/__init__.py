"""Live A/B comparison of policies. Read: contender, compare (schedule, statistics), trace, then where contenders run:
offline (an engine in this process) and http (a server each, started by subprocess_server).
"""
