"""Programs and salts of tenants: with tokens, nobody's program is another's, and nobody finds another's KV.

The engine knows one space of names and one cache. A client that could say another's program could end it, be held back
for it, or learn from usage whether a text was asked before; so the engine is told names and salts with the client in
them. Without tokens everybody is one client, and they are told as they come.
"""

from __future__ import annotations

from collections import OrderedDict

from fastserve.server.api.program_names import Named

MOST_CHILDREN = 4096
"""Sessions of subagents that are remembered, the latest: who outlives that is a program of its own."""


class Programs:
    """apart: whether clients share no KV unless they are one client (with tokens alone)."""

    def __init__(self, apart: bool) -> None:
        self.apart = apart
        self.roots: OrderedDict[str, str] = OrderedDict()  # a subagent's session -> the program that it works for

    def of(self, client: str | None, named: Named) -> tuple[str, bool]:
        """(the program for the engine, whether it ends with this request). client: None without tokens.

        A subagent's requests belong to the program of its parent, and so its own end ends nothing.
        """
        own = of_client(client, named.program)
        if not named.parent or named.parent == named.program:
            root = self.roots.get(own, own)
            return root, named.final and root == own
        parent = of_client(client, named.parent)
        root = self.roots.get(parent, parent)
        if own and root != own:  # they are the same of two that call each other their parent
            self.roots[own] = root
            self.roots.move_to_end(own)
            if len(self.roots) > MOST_CHILDREN:
                self.roots.popitem(last=False)
        return root, False

    def ended(self, client: str | None, name: str) -> str:
        """The program that ends when a client says that `name` has: none, for a subagent's."""
        own = of_client(client, name)
        return "" if self.roots.pop(own, None) is not None else own

    def salt(self, client: str | None, given: str | None) -> str:
        """The salt for the engine; empty: KV is shared with whoever has none either."""
        if client is None or not self.apart:
            return given or ""
        return f"{escaped(client)}/{given or ''}"


def of_client(client: str | None, name: str) -> str:
    """A client's own name, as no other client can write it; empty for an empty name."""
    return name if client is None or not name else f"{escaped(client)}/{name}"


def escaped(client: str) -> str:
    return client.replace("%", "%25").replace("/", "%2F")


def owns(client: str, program: str) -> bool:
    """Whether this client has named the program."""
    return program.startswith(f"{escaped(client)}/")


def shown(client: str | None, program: str) -> str:
    """A program as its own client has named it."""
    return program if client is None else program.removeprefix(f"{escaped(client)}/")
