"""What objectives are written as, and what is said of what is none."""

import pytest

from fastserve.metrics.slo import Slo, attained


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("ttft=1s", Slo(ttft_s=1.0)),
        ("ttft=1.5,tpot=100ms , e2e=2min", Slo(1.5, 0.1, 120.0)),
        ("jct=30s,attain=95%", Slo(e2e_s=30.0, attain=0.95)),
        ("TTFT=250us,attain=1", Slo(ttft_s=0.00025, attain=1.0)),
        ("attain=0.9", Slo(attain=0.9)),  # of a trace whose requests bring their own
    ],
)
def test_objectives_are_read_and_written_again(text: str, slo: Slo) -> None:
    assert Slo.parse(text) == slo
    assert Slo.parse(str(slo)) == slo and Slo.parse(slo) is slo


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no objective in it"),
        ("ttft", "ttft has no value"),
        ("tftt=1", "'tftt' is no objective; there are ttft, tpot, e2e, attain; did you mean ttft?"),
        ("itl=0.1", "no objective for single gaps"),
        ("ttft=1,ttft=2", "ttft is given twice"),
        ("e2e=1,jct=2", "e2e is given twice"),
        ("ttft=soon", "ttft=soon is no time; write 1.5s or 1500ms"),
        ("ttft=0", "ttft=0 must be above 0"),
        ("ttft=nan", "must be above 0"),
        ("e2e=1e999", "a time that a job can take"),
        ("ttft=1,attain=95", "did you mean 95%?"),
        ("ttft=1,attain=most", "write 0.95 or 95%"),
        ("ttft=1,attain=0", "above 0 and at most 1"),
    ],
)
def test_what_is_none_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="objectives are written ttft=1s") as raised:
        Slo.parse(text)
    assert said in str(raised.value)


def test_who_reached_the_share_that_was_asked_for() -> None:
    shares = {"fcfs": 0.9, "las": 0.95, "srpt": None, "mlfq": 0.99}
    assert attained(Slo(ttft_s=1.0, attain=0.95), shares) == "attain=0.95: las, mlfq met it; fcfs, srpt did not"
    assert attained(Slo(attain=0.5), {"fcfs": 0.5}) == "attain=0.5: fcfs met it"
    assert attained(Slo(ttft_s=1.0), shares) == ""
