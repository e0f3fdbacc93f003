"""ServeGen services, on archives made here: counts, laws, parts of the day."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fastserve.workload import TraceError, read_trace


def archive(folder: Path, members: dict[str, str]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"service/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    path = folder / "service.tar.gz"
    path.write_bytes(buffer.getvalue())
    return path


def lengths(day: dict[int, tuple[str, str]]) -> str:
    return json.dumps({str(s): {"input_tokens": i, "output_tokens": o} for s, (i, o) in day.items()})


@pytest.fixture
def service(tmp_path: Path) -> Path:
    rows = "0,0.5,1,Gamma,1,2\n600,2,1,Weibull,0.5,1\n1200,0,0,,0,0\n"
    busy = {
        0: ("{5: 0.25, 9: 0.75}", "{3: 1.0}"),
        21600: ("{}", "{}"),
        43200: ("{7: 1}", "{8: 1}"),
        64800: ("{}", "{}"),
    }
    empty = dict.fromkeys((0, 21600, 43200, 64800), ("{}", "{}"))
    return archive(
        tmp_path,
        {
            "chunk-10-trace.csv": rows.replace("0.5,1,G", "0.25,1,G") + "43200,1,1,Gamma,2,1\n50000,1,1,Gamma,2,1\n",
            "chunk-10-dataset.json": lengths(busy),
            "chunk-2-trace.csv": rows,
            "chunk-2-dataset.json": lengths(busy),
            "chunk-3-trace.csv": "0,0.1,1,Gamma,1,1\n",
            "chunk-3-dataset.json": lengths(empty),
            "README": "not a member of interest",
        },
    )


def test_counts_lengths_clients_and_what_is_left_out(service: Path) -> None:
    trace = read_trace(service, duration_s=1800.0)
    assert trace.client is not None
    clients = np.array(trace.client)
    assert {name: int((clients == name).sum()) for name in set(trace.client)} == {"2": 1500, "10": 1350}
    assert trace.dropped == {"client without lengths": 60}
    assert set(trace.prompt.tolist()) == {5, 9}
    assert (trace.prompt == 9).mean() == pytest.approx(0.75, abs=0.04)
    assert set(trace.output.tolist()) == {3}
    assert 1150 < trace.span / 1e9 < 1200


def test_a_part_of_the_day_uses_its_own_lengths_or_the_nearest(service: Path) -> None:
    noon = read_trace(service, start_s=43_200, duration_s=600)
    assert len(noon) == 600
    assert set(noon.prompt.tolist()) == {7}
    assert set(noon.output.tolist()) == {8}


def test_a_part_holds_the_same_requests_whichever_part_is_asked_for(service: Path) -> None:
    whole = read_trace(service, duration_s=1200.0, seed=5)
    part = read_trace(service, start_s=700.0, duration_s=100.0, seed=5)
    size = len(part)
    rows = list(zip(whole.prompt.tolist(), whole.client or [], strict=True))
    gaps = np.diff(whole.arrival).tolist()
    wanted = (np.diff(part.arrival).tolist(), list(zip(part.prompt.tolist(), part.client or [], strict=True)))
    assert any((gaps[i : i + size - 1], rows[i : i + size]) == wanted for i in range(len(whole) - size + 1))
    assert read_trace(service, start_s=700.0, duration_s=100.0, seed=6).digest() != part.digest()


def test_gaps_follow_the_law_inside_a_window(tmp_path: Path) -> None:
    day = lengths({0: ("{5: 1}", "{3: 1}")})
    for law, shape, cv in (("Gamma", 0.25, 2.0), ("Weibull", 0.5, 5**0.5), ("Gamma", 1e-9, None)):
        path = archive(tmp_path, {"chunk-0-trace.csv": f"0,50,1,{law},{shape},1", "chunk-0-dataset.json": day})
        trace = read_trace(path)
        assert len(trace) == 30_000
        gaps = np.diff(trace.arrival)
        assert cv is None or gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_images_add_to_the_prompt(tmp_path: Path) -> None:
    fields = {"text_tokens": "{10: 1}", "image_tokens": "{600: 1}", "image_count": "{3: 1}", "output_tokens": "{0: 1}"}
    path = archive(
        tmp_path, {"chunk-0-trace.csv": "0,1,1,Gamma,1,1", "chunk-0-dataset.json": json.dumps({"0": fields})}
    )
    trace = read_trace(path)
    assert set(trace.prompt.tolist()) == {1810}
    assert set(trace.output.tolist()) == {1}


RATES = "client,window_start_s,rate_rps,cv,dist,param1,param2\n0,0,1,1,Gamma,1,1\n7,600,2,1,Weibull,0.5,1\n"


def test_client_rates_need_lengths(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv.gz"
    path.write_bytes(gzip.compress(RATES.encode()))
    with pytest.raises(TraceError, match="--lengths"):
        read_trace(path)
    trace = read_trace(path, lengths="fixed:9")
    assert trace.client is not None
    assert (trace.client.count("0"), trace.client.count("7")) == (600, 1200)
    assert set(trace.prompt.tolist()) == {9}
    assert read_trace(path, lengths="fixed:9", start_s=600.0, rate=5.0).rate == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,0,100000,1,Gamma,1,1", "choose a shorter one"),
        ("0,0,1,1,Cauchy,1,1", ":2: gaps of law 'Cauchy'"),
        ("0,0,x,1,Gamma,1,1", ":2: window start, rate and shape must be numbers"),
        ("0,0,-1,1,Gamma,1,1", ":2: window start and rate"),
        ("0,0,1,1,Gamma", ":2: the row has 5 cells"),
        ("0,0,0,1,Gamma,1,1", "no request in the window"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(RATES.splitlines()[0] + "\n" + row + "\n")
    with pytest.raises(TraceError) as caught:
        read_trace(path, lengths="fixed:9")
    assert message in str(caught.value)


def test_dict_texts_are_data_and_never_code(tmp_path: Path) -> None:
    day = lengths({0: ("{5: 1}", "{__import__('os').getpid(): 1}")})
    path = archive(tmp_path, {"chunk-0-trace.csv": "0,1,1,Gamma,1,1", "chunk-0-dataset.json": day})
    with pytest.raises(TraceError, match="output_tokens is not a dict"):
        read_trace(path)
    for text in ('{"0": 3}', '{"x": {}}', "[]", "{"):
        with pytest.raises(TraceError, match="archive cannot be read"):
            read_trace(archive(tmp_path, {"chunk-0-trace.csv": "0,1,1,Gamma,1,1", "chunk-0-dataset.json": text}))
    with pytest.raises(TraceError, match="holds no chunk-N-trace"):
        read_trace(archive(tmp_path, {"x.csv": "1"}))
