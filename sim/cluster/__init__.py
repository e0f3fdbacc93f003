"""Cluster: several replicas behind one router. `python -m sim TRACE --replicas 4 --router least-tokens`.

Read: cluster (time, and who goes where), replica (one Scheduler that runs ahead), inbox, view (what a router sees),
faults (what befalls replicas); settings, arguments, run (from settings to a Run), records; docs/routers.md.
"""
