"""What a modelled machine is, and how one's own is made: python -m sim.machines list | show NAME | make OUT.

Read: listing, showing, making, command.
"""
