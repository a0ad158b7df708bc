"""`transformers`' ZAYA as ours and back, bit for bit. `transformers` itself is needed for `to_transformers` alone."""

from typing import TYPE_CHECKING

from ..arch.model import Zaya
from ..config import ZayaConfig
from . import config_json
from .names import rename, unrename

if TYPE_CHECKING:
    import transformers


def config_from_transformers(theirs: "transformers.ZayaConfig") -> ZayaConfig:
    """A `transformers.ZayaConfig` as ours. Raises ValueError for a feature that no released ZAYA uses."""
    return config_json.from_transformers(theirs.to_dict())


def config_to_transformers(config: ZayaConfig) -> "transformers.ZayaConfig":
    """Our config as a `transformers.ZayaConfig`. Raises ValueError for an ablation, which the released model lacks."""
    from transformers import ZayaConfig as Theirs

    return Theirs(**config_json.to_transformers(config))


def from_transformers(theirs: "transformers.ZayaForCausalLM") -> Zaya:
    """A `transformers.ZayaForCausalLM` -> `Zaya` with the same weights (copied), type and device."""
    weight = next(theirs.parameters())
    model = Zaya(config_from_transformers(theirs.config)).to(weight.device, weight.dtype)
    model.load_state_dict(unrename(theirs.state_dict()))
    return model.train(theirs.training)


def to_transformers(model: Zaya) -> "transformers.ZayaForCausalLM":
    """`Zaya` -> a `transformers.ZayaForCausalLM` with the same weights, bit for bit. Needs `transformers`."""
    from transformers import ZayaForCausalLM

    theirs = ZayaForCausalLM(config_to_transformers(model.config)).to(model.embed.weight.device)
    # trap: theirs.to(torch.bfloat16) would also round the rotary tables and the balancing biases, which are float32.
    # Assigning copies lets every tensor bring its own type.
    weights = {name: tensor.clone() for name, tensor in rename(model.state_dict(), model.config).items()}
    theirs.load_state_dict(weights, assign=True)
    theirs.tie_weights()
    return theirs.train(model.training)
