"""Import of user policies: module:Class, or a file as ./mine.py:Mine or /abs/mine.py:Mine."""

from __future__ import annotations

import inspect

from fastserve.sched.importing import SUFFIX, module_of
from fastserve.sched.policy import Policy


def imported(name: str, known: str) -> type[Policy]:
    """The class behind module:Class or file:Class; the current folder is importable. known: names for messages.

    Raises ValueError with what was looked for and what there is; whatever the module itself raises goes through.
    """
    where, _, class_name = name.rpartition(":")
    if not where:
        hint = " (a file too takes its class: ./mine.py:Mine)" if name.endswith(SUFFIX) else ""
        raise ValueError(f"no policy {name!r}; there are {known}, or give your own as module:Class{hint}")
    module = module_of(f"policy {name!r}", where)
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Policy)):
        mine = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Policy)]
        what = "is no subclass of fastserve.Policy" if found is not None else "does not exist"
        raise ValueError(f"policy {name!r}: {class_name} {what}; {where} has {', '.join(mine) or 'no policies'}")
    return found
