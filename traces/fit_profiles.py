"""Regenerates fastserve/workload/profiles/*.json from the real traces.

    python traces/fit_profiles.py [FOLDER]

FOLDER holds the public traces (traces/README.md says which and where they come from); default: the environment's
FASTSERVE_TRACES, else ../shared/traces beside the checkout. The result depends on the files alone, not on a seed.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastserve.workload import Trace, TraceError, describe, read_trace
from fastserve.workload.statistics import rank_correlation

CHECKOUT = Path(__file__).resolve().parent.parent
PROFILES = CHECKOUT / "fastserve" / "workload" / "profiles"

LEVELS = [k / 128 for k in range(128)] + [0.995, 0.9975, 0.999, 0.9995, 1.0]
"""128ths, and a finer tail: a straight line from p99.2 to the maximum would overstate the mean."""


@dataclass(frozen=True)
class Source:
    profile: str
    file: str
    source: str
    licence: str
    cite: str
    timed: bool
    fastserve_filter: bool = False
    """Keep prompt <= 1024 and total <= 2048, and drop rows whose prompt and output are both below 4 tokens."""


CC_BY = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); only quantiles are kept"

SOURCES = [
    Source(
        "azure-conv-2023",
        "azure_2023/AzureLLMInferenceTrace_conv.csv",
        "Azure LLM inference trace 2023, conversation (repository Azure/AzurePublicDataset)",
        CC_BY,
        "P. Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024",
        timed=True,
    ),
    Source(
        "azure-code-2023",
        "azure_2023/AzureLLMInferenceTrace_code.first40min.csv",
        "Azure LLM inference trace 2023, code, its first 40 minutes (repository Azure/AzurePublicDataset)",
        CC_BY,
        "P. Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024",
        timed=True,
    ),
    Source(
        "sharegpt",
        "lengths/nanoflow_sharegpt.csv",
        "ShareGPT V3, first two turns, lengths by NanoFlow (repository efeslab/Nanoflow), then the filters of "
        "FastServe's artifact: prompt <= 1024, total <= 2048 (OPT's context), rows with both below 4 tokens dropped",
        "Apache-2.0 (NanoFlow's lists); the licence of the texts was not verified, only quantiles are kept",
        "K. Zhu et al., NanoFlow: Towards optimal large language model serving throughput, OSDI 2025",
        timed=False,
        fastserve_filter=True,
    ),
    Source(
        "alpaca",
        "lengths/helix_alpaca.csv",
        "Stanford Alpaca, lengths by Helix (repository Thesys-lab/Helix-ASPLOS25), then the filters of FastServe's "
        "artifact: prompt <= 1024, total <= 2048, rows with both below 4 tokens dropped",
        "Apache-2.0 (Helix's lists); the texts are CC BY-NC 4.0 (non-commercial), only quantiles are kept",
        "R. Taori et al., Stanford Alpaca, 2023; Y. Mei et al., Helix, ASPLOS 2025",
        timed=False,
        fastserve_filter=True,
    ),
    Source(
        "arena",
        "lmsys_arena/vtc_arena_600s.csv",
        "Chatbot Arena log sample of the VTC artifact, 27 clients, rescaled to 600 s by its authors "
        "(repository Ying1123/VTC-artifact)",
        "Apache-2.0; only quantiles are kept",
        "Y. Sheng et al., Fairness in serving large language models, OSDI 2024",
        timed=True,
    ),
]


def fit(source: Source, trace: Trace) -> dict[str, object]:
    """The profile as it is stored; arrivals only where the source recorded them."""
    prompt, output = trace.prompt, trace.output
    if source.fastserve_filter:
        keep = ((prompt >= 4) | (output >= 4)) & (prompt <= 1024) & (prompt + output <= 2048)
        prompt, output = prompt[keep], output[keep]
    shape = describe(trace)
    correlation = rank_correlation(prompt, output)
    arrivals = {"rate_rps": shape.rate_rps, "cv": shape.gap_cv} if source.timed else None
    return {
        "name": source.profile,
        "source": source.source,
        "licence": source.licence,
        "cite": source.cite,
        "n": len(prompt),
        "mean_prompt": round(float(prompt.mean()), 2),
        "mean_output": round(float(output.mean()), 2),
        "rank_correlation": correlation and round(correlation, 3),
        "max_total": 2048 if source.fastserve_filter else None,
        "arrivals": arrivals and {key: round(value or 0.0, 3) for key, value in arrivals.items()},
        "levels": LEVELS,
        "prompt": np.round(np.quantile(prompt, LEVELS), 1).tolist(),
        "output": np.round(np.quantile(output, LEVELS), 1).tolist(),
    }


def main() -> None:
    default = os.environ.get("FASTSERVE_TRACES", CHECKOUT.parent / "shared" / "traces")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    PROFILES.mkdir(exist_ok=True)
    for source in SOURCES:
        # A rate is asked of length sets and has no bearing on the lengths.
        trace = read_trace(folder / source.file, lenient=not source.timed, rate=None if source.timed else 1.0)
        profile = fit(source, trace)
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in profile.items()]
        (PROFILES / f"{source.profile}.json").write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf-8")
        print(source.profile, profile["n"], profile["mean_prompt"], profile["mean_output"], profile["arrivals"])


if __name__ == "__main__":
    try:
        main()
    except TraceError as error:
        sys.exit(str(error))
