"""Helium 1."""

from octavo.models.decoder import Decoder


class Helium(Decoder):
    """Llama whose heads are rotated in neighbouring pairs (Kyutai 2025)."""

    architectures = ("HeliumForCausalLM",)
    model_types = ("helium",)
    defaults = {"rope_theta": 100000.0, "rms_norm_eps": 1e-8}
    interleaved = True
