"""How programs come, for the commands that send a trace to an engine or a server: the flags of SessionSettings."""

from __future__ import annotations

import argparse
from dataclasses import fields

from fastserve.cli.arguments import add_settings
from fastserve.workload.session_settings import SessionSettings

OWN_ANSWERS = (
    "continue the recorded text: every prompt is what the trace says, whatever was answered, so that all servers and "
    "policies are sent the same; what a server finds of earlier prompts is what the trace says, of its own answers "
    "nothing. By default what the server has answered stands in the next prompt, as an agent would send it, where it "
    "tells what that was (chat: the text; else return_token_ids), and elsewhere the recorded text"
)


def add_sessions(parser: argparse._ActionsContainer) -> None:
    """Those flags, and --own-answers."""
    add_settings(parser, SessionSettings)
    parser.add_argument("--own-answers", action="store_true", help=OWN_ANSWERS)
    parser.add_argument("--programs-csv", metavar="FILE", help="write a row per program")


def sessions_of(args: argparse.Namespace) -> SessionSettings:
    """Raises ValueError for what cannot be."""
    return SessionSettings(**{field.name: getattr(args, field.name) for field in fields(SessionSettings)})


def check_programs(args: argparse.Namespace, in_sessions: bool) -> None:
    """Raises ValueError for flags that are about programs where no request waits for another."""
    if in_sessions:
        return
    for flag, given in (("--own-answers", args.own_answers), ("--programs-csv", args.programs_csv)):
        if given:
            raise ValueError(
                f"{flag}: no request of this workload waits for an answer; --sessions N makes a program of each"
            )
