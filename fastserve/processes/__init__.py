"""Servers as child processes that end with their parent: what starts them has (compare, gateway.models).

Read: child (the command, its environment, how it says that it serves), served (what runs in the child), parent
(how a child finds out that its parent is gone).
"""
