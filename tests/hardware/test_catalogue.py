"""The catalogue: sizes as their publishers state them, groups that share a model by tensors, several devices as one."""

from __future__ import annotations

import json

import pytest

from fastserve.hardware import Hardware, Link, RooflineLatency, hardware_from_json, load_hardware
from fastserve.hardware.catalogue import read_catalogue

CATALOGUE = read_catalogue()
MS = 10**9


def roofline(name: str) -> RooflineLatency:
    latency = load_hardware(f"roofline:{name}").latency
    assert isinstance(latency, RooflineLatency)
    return latency


@pytest.mark.parametrize("name", [name for name, model in CATALOGUE.models.items() if model.stated])
def test_the_sizes_add_up_to_the_parameters_that_the_publisher_states(name: str) -> None:
    model = CATALOGUE.models[name]
    assert model.shape.parameters == pytest.approx(model.stated, rel=0.02)


def test_every_entry_says_where_its_sizes_stand() -> None:
    assert all(entry.source for entry in (*CATALOGUE.models.values(), *CATALOGUE.accelerators.values()))
    assert len([model for model in CATALOGUE.models.values() if model.stated]) >= 20
    assert len(CATALOGUE.accelerators) >= 8


@pytest.mark.parametrize(
    ("name", "active"),
    [("gpt-oss-120b", 5.1), ("deepseek-v3", 37), ("kimi-k2.5", 32), ("qwen3-235b-a22b", 22)],
)
def test_a_token_goes_through_the_active_parameters_that_are_stated(name: str, active: float) -> None:
    shape = CATALOGUE.models[name].shape
    assert (shape.active_parameters + shape.head_parameters) / 1e9 == pytest.approx(active, rel=0.03)


def test_weights_of_fewer_bits_take_what_the_published_files_take() -> None:
    assert CATALOGUE.models["gpt-oss-120b"].shape.weight_bytes == pytest.approx(65.2e9, rel=0.01)
    assert CATALOGUE.models["kimi-k2.5"].shape.weight_bytes == pytest.approx(594e9, rel=0.01)


def test_several_devices_are_one_with_all_their_memory() -> None:
    one, four = load_hardware("roofline:llama-3-8b/a100-80g"), load_hardware("roofline:llama-3-8b/4xa100-80g")
    assert four.link == Link(128 * 10**9, 128 * 10**9, 0, True)
    assert four.memory.bytes_per_token == one.memory.bytes_per_token
    weights = 16_059_990_016  # 2 bytes a parameter, norms left out
    for count, hardware in ((1, one), (4, four)):
        tokens = (count * 72 * 10**9 - weights) // one.memory.bytes_per_token  # type: ignore[operator]
        assert hardware.memory.device_tokens == tokens // 16 * 16
    overhead = 1_000_000
    quick, slow = four.latency.prefill_ns(4096) - overhead, one.latency.prefill_ns(4096) - overhead
    assert slow == pytest.approx(4 * quick, rel=1e-4)
    assert "on 4xa100-80g" in four.about


def test_a_model_that_fits_no_single_device_fits_several() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        load_hardware("roofline:llama-3-70b/a100-80g")
    assert load_hardware("roofline:llama-3-70b/4xa100-80g").memory.device_tokens == 448_288
    assert load_hardware("roofline:llama-3-70b/a100-80g*4").memory.device_tokens == 448_288


def test_a_group_takes_what_one_device_of_its_rates_takes_and_two_all_reduces_a_layer() -> None:
    """2 x 80 all-reduces of 10 us, and for each token 7/8 x 2 x 8192 x 2 bytes at 0.7 x 450 GB/s."""
    group, one = roofline("llama-3-70b/h100*8"), roofline("llama-3-70b/8xh100")
    per_token = 160 * 2 * 7 / 8 * 8192 * 2 / (0.7 * 450e9) * 1e12
    for work, tokens in (((8, 8000, ()), 8), ((0, 0, ((0, 2048),)), 2048), ((8, 8000, ((512, 512),)), 520)):
        extra = group.iteration_ps(*work) - one.iteration_ps(*work)
        assert extra == pytest.approx(1.6 * MS + tokens * per_token, rel=1e-4)
    hardware = load_hardware("roofline:llama-3-70b/h100*8")
    assert hardware.link.out_bytes_per_s == 8 * 64 * 10**9 and hardware.memory.host_bytes == 8 * 56 * 2**30
    assert "h100*8" in hardware.about and "tensor parallel" in hardware.about


def test_heads_are_kept_twice_where_there_are_fewer_than_devices() -> None:
    four, eight = (load_hardware(f"roofline:qwen3-8b/h100*{count}") for count in (4, 8))
    assert four.memory.bytes_per_token == eight.memory.bytes_per_token == 36 * 2 * 8 * 128 * 2
    two, twice = (load_hardware(f"roofline:qwen3-30b-a3b/h100*{count}") for count in (2, 8))  # 4 KV heads
    assert twice.memory.bytes_per_token == 2 * two.memory.bytes_per_token
    latents = load_hardware("roofline:deepseek-v3/h200*8")
    assert latents.memory.bytes_per_token == 8 * 61 * 576 * 2, "all of them on every device"


def test_a_group_of_one_is_the_device() -> None:
    group, one = roofline("llama-3-8b/h100*1"), roofline("llama-3-8b/h100")
    assert group.iteration_ps(9, 9000, ((0, 9),)) == one.iteration_ps(9, 9000, ((0, 9),))
    assert group.span_ps(99, 9, 9000) == one.span_ps(99, 9, 9000)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("h100*3", "64 heads cannot be shared evenly among 3 devices; of the counts up to 8, 2, 4, 8 can"),
        ("h100*16", "16 devices, and a node has 8"),
        ("apple-m3-max*2", "nothing is known of what joins 2"),
        ("h100*0", "no roofline for the device"),
        ("h100*100", "no roofline for the device"),
        ("4xh100*2", "no roofline for the device"),
        ("h100*", r"several of one as a group: h100\*8"),
    ],
)
def test_groups_that_there_cannot_be_are_refused(device: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_hardware(f"roofline:llama-3-70b/{device}")


def test_names_are_found_in_any_case() -> None:
    typed, named = (load_hardware(f"roofline:{name}") for name in ("Qwen3-8B/H100*4", "qwen3-8b/h100*4"))
    assert (typed.about, typed.memory, typed.latency.name) == (named.about, named.memory, named.latency.name)


@pytest.mark.parametrize("device", ["1xa100-80g", "0xa100-80g", "4xa100", "4x4xa100-80g", "100xa100-80g"])
def test_other_names_are_refused_with_those_that_there_are(device: str) -> None:
    with pytest.raises(ValueError, match=r"devices: .*several as one: 4xa100-80g"):
        load_hardware(f"roofline:llama-3-8b/{device}")


@pytest.mark.parametrize(
    "name",
    ["llama-3.3-70b/h100*8", "deepseek-v3/h200*8", "gpt-oss-120b/h100", "kimi-k2.5/b200*8", "qwen3.5-35b-a3b/h100"],
)
def test_a_file_of_it_is_the_same_machine_again(name: str) -> None:
    hardware = load_hardware(f"roofline:{name}")
    again: Hardware = hardware_from_json(json.loads(json.dumps(hardware.to_json())), "file")
    assert again.to_json() == hardware.to_json()
    work = (32, 64_000, ((0, 1000), (500, 77)))
    assert again.latency.iteration_ps(*work) == hardware.latency.iteration_ps(*work)


@pytest.mark.parametrize(
    "name", ["llama-3.3-70b/h100*8", "deepseek-v3/h200*8", "gpt-oss-120b/h100", "qwen3-32b/b200*2"]
)
@pytest.mark.parametrize("batch", [1, 7, 64, 3000])
def test_spans_are_sums_of_iterations(name: str, batch: int) -> None:
    model = roofline(name)
    times = [model.iteration_ps(batch, batch * 500 + batch * i, ()) for i in range(400)]
    assert model.span_ps(400, batch, batch * 500) == sum(times)
    for reach in (1, times[0], sum(times[:200]), sum(times[:200]) + 1, sum(times)):
        steps = model.steps_for(reach, batch, batch * 500)
        assert sum(times[:steps]) >= reach and (steps == 1 or sum(times[: steps - 1]) < reach)


def test_experts_are_read_as_the_batch_touches_them() -> None:
    """Uniform choice of 8 of 128: one token reads 8 of them, 16 tokens 128 x (1 - (120/128) ** 16) in the mean."""
    model = roofline("qwen3-30b-a3b/h100")
    shape, device = model.model, model.device
    per_byte = 1e12 / (device.bytes_per_s * device.memory_efficiency)
    fixed = MS + (shape.shared_bytes + shape.head_parameters * 2) * per_byte
    for batch in (1, 16, 100):
        touched = 128 * (1 - (120 / 128) ** batch)
        kv = (batch + batch) * shape.kv_bytes_per_token * per_byte
        assert model.iteration_ps(batch, batch, ()) == pytest.approx(
            fixed + touched * shape.expert_bytes * per_byte + kv, rel=1e-6
        )
    assert model.iteration_ps(4000, 4000, ()) > model.iteration_ps(1, 1, ()), "all of them, and then no more"


def test_a_long_prompt_computes_the_active_parameters() -> None:
    """8,192 tokens: each goes through 8 of 128 experts, and 8192 x 8193 / 2 pairs of 48 layers of 32 heads of 128."""
    model = roofline("qwen3-30b-a3b/h100")
    shape, device = model.model, model.device
    flops = 2 * (8192 * shape.active_parameters + shape.head_parameters) + 8192 * 8193 // 2 * 48 * 4 * 32 * 128
    wanted = MS + flops / (device.flops_per_s * device.compute_efficiency) * 1e12
    assert model.iteration_ps(0, 0, ((0, 8192),)) == pytest.approx(wanted, rel=1e-4)


def test_latents_are_smaller_than_keys_and_values() -> None:
    usual, latent = load_hardware("roofline:llama-3-8b/a100-80g"), load_hardware("roofline:llama-3-8b-mla/a100-80g")
    assert usual.memory.bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert latent.memory.bytes_per_token == 32 * 576 * 2
    assert latent.latency.prefill_ns(4096) == usual.latency.prefill_ns(4096)  # the arithmetic is the same
    assert latent.latency.span_ps(1, 64, 64 * 8192) < usual.latency.span_ps(1, 64, 64 * 8192)


def test_a_decode_attends_to_latents_and_a_prompt_to_keys_and_values() -> None:
    shape = CATALOGUE.models["deepseek-v3"].shape
    assert shape.kv_bytes_per_token == 61 * 576 * 2
    assert shape.pair_flops(decode=True) == 2 * 128 * (576 + 512)
    assert shape.pair_flops(decode=False) == 2 * 128 * (192 + 128)


def test_layers_with_a_window_keep_and_read_no_more_than_it() -> None:
    shape = CATALOGUE.models["gpt-oss-20b"].shape
    assert shape.kv_bytes_per_token == 12 * 2 * 8 * 64 * 2, "of the other half of the layers"
    model = roofline("gpt-oss-20b/h100")
    per_byte = 1e12 / (model.device.bytes_per_s * model.device.memory_efficiency)
    step = model.iteration_ps(1, 20_001, ()) - model.iteration_ps(1, 20_000, ())
    assert step == pytest.approx(12 * 2048 * per_byte, rel=1e-3)
    whole, parts = model.iteration_ps(0, 0, ((0, 40_000),)), 0
    for cached in range(0, 40_000, 8000):
        parts += model.iteration_ps(0, 0, ((cached, 8000),)) - MS - model._sample
    assert parts == whole - MS - model._sample, "chunks attend to as many tokens as the whole prompt"


def test_weights_of_eight_bits_are_computed_at_the_rate_of_eight_bits_where_there_is_one() -> None:
    quick, plain = roofline("glm-4.7/h200*8"), roofline("glm-4.7/a100-80g*8")
    assert quick.model == plain.model and plain.device.fp8_flops_per_s == 0
    for model, rate in ((quick, 1979e12), (plain, 312e12)):
        wanted = 2 * model.model.active_parameters / (8 * rate * 0.7) * 1e12
        assert model._token == pytest.approx(wanted, rel=1e-6)
