"""The shape of a model: what its weights and its KV occupy, and what a token computes in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fastserve.hardware.json_fields import Fields

MOST_EXPERTS = 4096
"""Of a layer."""


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts: of the `count` experts of a layer a token goes through `per_token`.

    intermediate: of one expert. shared_intermediate: of the experts that every token goes through, together.
    dense_layers: layers that have the model's plain MLP instead. bits: of a weight of these experts; 0: as elsewhere.
    """

    count: int
    per_token: int
    intermediate: int
    shared_intermediate: int = 0
    dense_layers: int = 0
    bits: float = 0.0


@dataclass(frozen=True, slots=True)
class Latents:
    """Multi-head latent attention (MLA): a token keeps kv_rank + rope numbers in each layer, for all heads together.

    query_rank 0: queries are not compressed. rope, nope, value: numbers of a head's key with and without position, and
    of its value, computed from the latents. A prompt attends to those; a decode, to the latents themselves.
    """

    query_rank: int
    kv_rank: int
    rope: int
    nope: int
    value: int


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Layers of linear attention (the gated delta rule of Qwen3-Next and Qwen3.5): they keep a state for each job, of
    value_heads x key_size x value_size numbers in each of so many layers, instead of KV for each token.

    state_bytes: of a number of it.
    """

    layers: int
    key_heads: int
    key_size: int
    value_heads: int
    value_size: int
    state_bytes: int = 4

    @property
    def numbers(self) -> int:
        """Of a job's states in all of these layers."""
        return self.layers * self.value_heads * self.key_size * self.value_size

    def parameters(self, hidden: int) -> int:
        """Of one layer: queries, keys, values, output gate, two numbers a head, and the way back."""
        keys, values = self.key_heads * self.key_size, self.value_heads * self.value_size
        return hidden * (2 * keys + 3 * values + 2 * self.value_heads)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder. mlp_matrices: 3 for a gated MLP, 2 for a plain one; head_size is in numbers.

    kv_size: numbers that a token keeps in each layer, where these are not the keys and values of its heads; 0: they
    are. latents say that, and more. weight_bits: of a weight of the layers, 0 for 8 x dtype_bytes; embeddings and KV
    have dtype_bytes. window: tokens that `window_layers` of the layers attend to, and keep; the others all of them, but
    for those of `linear`. output_gate: attention has one more matrix, as large as that of the queries.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocab: int
    mlp_matrices: int = 3
    tied_embeddings: bool = False
    dtype_bytes: int = 2
    kv_size: int = 0
    weight_bits: float = 0.0
    window: int = 0
    window_layers: int = 0
    experts: Experts | None = None
    latents: Latents | None = None
    output_gate: bool = False
    linear: LinearAttention | None = None

    @property
    def full_layers(self) -> int:
        """Those that attend to all tokens, and keep them."""
        return self.layers - self.window_layers - (0 if self.linear is None else self.linear.layers)

    @property
    def attention_parameters(self) -> int:
        """Of one layer, not of linear attention."""
        latents, heads = self.latents, self.heads
        if latents is None:
            gate = heads if self.output_gate else 0
            return self.hidden * self.head_size * (2 * heads + 2 * self.kv_heads + gate)
        key, rank = latents.rope + latents.nope, latents.query_rank
        query = rank * (self.hidden + heads * key) if rank else self.hidden * heads * key
        down = self.hidden * (latents.kv_rank + latents.rope)
        return (
            query
            + down
            + latents.kv_rank * heads * (latents.nope + latents.value)
            + heads * latents.value * self.hidden
        )

    @property
    def expert_parameters(self) -> int:
        """Of one expert in one layer; 0 where there are none."""
        return 0 if self.experts is None else self.mlp_matrices * self.hidden * self.experts.intermediate

    @property
    def expert_layers(self) -> int:
        return 0 if self.experts is None else self.layers - self.experts.dense_layers

    @property
    def shared_parameters(self) -> int:
        """Of all layers together, what every token goes through; biases and norms left out."""
        mlp = self.mlp_matrices * self.hidden
        attention = self.layers * self.attention_parameters
        if self.linear is not None:
            attention += self.linear.layers * (self.linear.parameters(self.hidden) - self.attention_parameters)
        if self.experts is None:
            return attention + self.layers * mlp * self.intermediate
        router = self.hidden * self.experts.count
        return (
            attention
            + self.experts.dense_layers * mlp * self.intermediate
            + self.expert_layers * (mlp * self.experts.shared_intermediate + router)
        )

    @property
    def layer_parameters(self) -> int:
        """Of all layers and all experts together, biases and norms left out."""
        routed = 0 if self.experts is None else self.experts.count * self.expert_parameters
        return self.shared_parameters + self.expert_layers * routed

    @property
    def active_parameters(self) -> int:
        """Of these, what one token goes through."""
        routed = 0 if self.experts is None else self.experts.per_token * self.expert_parameters
        return self.shared_parameters + self.expert_layers * routed

    @property
    def head_parameters(self) -> int:
        """Of the output projection."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """Of everything, the input embedding included."""
        return self.layer_parameters + self.head_parameters * (1 if self.tied_embeddings else 2)

    @property
    def shared_bytes(self) -> float:
        """What an iteration reads of the layers' weights whoever is in it."""
        return self.shared_parameters * self._bits / 8

    @property
    def expert_bytes(self) -> float:
        """One expert in every layer that has any."""
        bits = self.experts.bits if self.experts is not None else 0
        return self.expert_layers * self.expert_parameters * (bits or self._bits) / 8

    @property
    def weight_bytes(self) -> int:
        """What the weights occupy, the input embedding included."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2) * self.dtype_bytes
        count = 0 if self.experts is None else self.experts.count
        return round(self.shared_bytes + count * self.expert_bytes) + embeddings

    @property
    def kv_bytes_per_token(self) -> int:
        """Of the layers that keep all tokens."""
        return self.kv_bytes(1)

    def kv_bytes(self, devices: int) -> int:
        """The same on each of so many devices that share the heads.

        A device holds one KV head at least, so that heads are kept twice where there are fewer of them than devices;
        latents belong to no head, and every device keeps all of them.
        """
        return self.full_layers * self._kept(devices)

    def window_bytes(self, devices: int) -> int:
        """What a job keeps and a decode reads in the layers with a window, on each of so many devices."""
        return self.window_layers * self.window * self._kept(devices)

    @property
    def state_bytes(self) -> int:
        """What a job keeps in the layers of linear attention; an iteration reads it and writes it."""
        return 0 if self.linear is None else self.linear.numbers * self.linear.state_bytes

    @property
    def state_flops(self) -> int:
        """For a token: its state decays, is read with the key, changed, and read with the query."""
        return 0 if self.linear is None else 7 * self.linear.numbers

    def pair_flops(self, decode: bool) -> int:
        """For a token and one that it attends to, in one layer, all heads."""
        if self.latents is None:
            return 4 * self.heads * self.head_size
        if decode:
            return 2 * self.heads * (2 * self.latents.kv_rank + self.latents.rope)
        return 2 * self.heads * (self.latents.rope + self.latents.nope + self.latents.value)

    def to_json(self) -> dict[str, object]:
        """Parts and later keys only where they say something."""
        data = asdict(self)
        for key in ("weight_bits", "window", "window_layers", "experts", "latents", "output_gate", "linear"):
            if not data[key]:
                del data[key]
        return data

    @property
    def _bits(self) -> float:
        return self.weight_bits or 8 * self.dtype_bytes

    def _kept(self, devices: int) -> int:
        """Bytes of a token in one layer on one device."""
        if self.latents is not None:
            return (self.latents.kv_rank + self.latents.rope) * self.dtype_bytes
        return (self.kv_size or 2 * -(-self.kv_heads // devices) * self.head_size) * self.dtype_bytes


def read_model(fields: Fields) -> ModelConfig:
    """kv_heads defaults to heads, head_size to hidden / heads."""
    layers, hidden = fields.integer("layers", least=1), fields.integer("hidden", least=1)
    heads = fields.integer("heads", least=1)
    model = ModelConfig(
        layers,
        hidden,
        heads,
        fields.integer("kv_heads", heads, least=1),
        fields.integer("head_size", max(1, hidden // heads), least=1),
        fields.integer("intermediate", least=1),
        fields.integer("vocab", least=1),
        fields.integer("mlp_matrices", 3, least=1),
        fields.flag("tied_embeddings", False),
        fields.integer("dtype_bytes", 2, least=1),
        fields.integer("kv_size", 0),
        fields.number("weight_bits", 0),
        fields.integer("window", 0),
        fields.integer("window_layers", 0),
        _experts(fields.part("experts"), layers) if "experts" in fields else None,
        _latents(fields.part("latents")) if "latents" in fields else None,
        fields.flag("output_gate", False),
        _linear(fields.part("linear")) if "linear" in fields else None,
    )
    if bool(model.window) != bool(model.window_layers):
        raise ValueError(f"{fields.where}: 'window' and 'window_layers' belong together; give both or none")
    if model.kv_size and model.latents is not None:
        raise ValueError(f"{fields.where}: 'latents' say what a token keeps; leave out 'kv_size'")
    if model.full_layers < 1:
        raise ValueError(
            f"{fields.where}: of {layers} layers {layers - model.full_layers} have a window or linear attention; one "
            "at least keeps all tokens"
        )
    fields.close()
    return model


def _experts(fields: Fields, layers: int) -> Experts:
    experts = Experts(
        fields.integer("count", least=1),
        fields.integer("per_token", least=1),
        fields.integer("intermediate", least=1),
        fields.integer("shared_intermediate", 0),
        fields.integer("dense_layers", 0),
        fields.number("bits", 0),
    )
    limits = (
        ("count", experts.count, MOST_EXPERTS, "experts in a layer"),
        ("per_token", experts.per_token, experts.count, "experts"),
        ("dense_layers", experts.dense_layers, layers, "layers"),
    )
    for key, value, most, of in limits:
        if value > most:
            raise ValueError(f"{fields.where}: '{key}' {value} of at most {most} {of}; give fewer")
    fields.close()
    return experts


def _latents(fields: Fields) -> Latents:
    latents = Latents(
        fields.integer("query_rank", 0),
        fields.integer("kv_rank", least=1),
        fields.integer("rope", 0),
        fields.integer("nope", least=1),
        fields.integer("value", least=1),
    )
    fields.close()
    return latents


def _linear(fields: Fields) -> LinearAttention:
    linear = LinearAttention(
        fields.integer("layers", least=1),
        fields.integer("key_heads", least=1),
        fields.integer("key_size", least=1),
        fields.integer("value_heads", least=1),
        fields.integer("value_size", least=1),
        fields.integer("state_bytes", 4, least=1),
    )
    fields.close()
    return linear
