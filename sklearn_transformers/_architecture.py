"""Configuration -> the class of transformers that reads texts."""

from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    PreTrainedModel,
)
from transformers import PreTrainedConfig as Config

__all__ = ["architecture_of"]


def architecture_of(config: Config) -> type[PreTrainedModel]:
    """Class of the backbone; of encoder-decoders, the encoder's.

    Raises
    ------
    ValueError
        When transformers has no class for an encoder-decoder's encoder alone, or none that ends
        in hidden states, as for parts of models of pictures and sound.
    """
    # An encoder's own configuration, as T5EncoderModel saves it, says that it has no decoder.
    if config.is_encoder_decoder or type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        encoder: type[PreTrainedModel] | None = MODEL_FOR_TEXT_ENCODING_MAPPING.get(
            type(config), None
        )
        if encoder is None:
            raise ValueError(
                f"of encoder-decoders only T5 and its kin can be used, not {config.model_type}; "
                "take an encoder such as BERT or a decoder such as GPT-2."
            )
        return encoder
    if type(config) not in MODEL_MAPPING:
        raise ValueError(
            f"transformers has no plain model for model_type={config.model_type!r}, one that turns "
            "texts into hidden states; take an encoder such as BERT or a decoder such as GPT-2."
        )
    classes = MODEL_MAPPING[type(config)]
    if not isinstance(classes, tuple):
        return classes
    by_name = {cls.__name__: cls for cls in classes}
    stated = [by_name[name] for name in config.architectures or [] if name in by_name]
    return (stated or classes)[0]
