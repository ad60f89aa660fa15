"""Model folders in hub format: refused by name unless they are safe to read and whole.

What a stranger's folder may do is decided here, before transformers sees it: no code of
the repository runs, no pickle is read, and no file outside the folder is opened.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mipo.network import offline

INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
MOST_LAYERS = 1000  # the deepest published language models have some 130
_DEPTH = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_SHOWN = 5  # weights that an error names


def check_files(name: str) -> None:
    """Look through a model's files before anything is built from them.

    Parameters
    ----------
    name : str
        A folder, or a model's name on the hub.

    Raises
    ------
    ValueError
        Naming the model: there is no such folder or model; ``config.json`` is missing,
        or asks for what is not loaded here (an absurd depth, attention code from the
        hub, weights under another name); the index names a weight file that is no plain
        ``*.safetensors`` of the same folder; the folder holds an adapter only.
    """
    if _file_of(name, "adapter_config.json"):
        raise ValueError(
            f"{name} holds an adapter, not a whole model: merge it into its base model "
            "(merge_and_unload of PEFT) and save that"
        )
    file = _file_of(name, "config.json")
    if file is None and Path(name).is_dir():
        raise ValueError(
            f"{name} has no config.json: it is not a model folder in hub format"
        )
    if file is None:
        raise ValueError(
            f"{name} is neither a folder nor a model on the hub{offline_note()}"
        )
    _check_config(name, _read_object(file))
    index = _file_of(name, INDEX)
    if index is not None:
        _check_index(name, _read_object(index))


def _file_of(name: str, file: str) -> Path | None:
    """A file of a folder, or of a model on the hub; None where it has no such file."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} is neither a folder nor a model on the hub that can be read"
            f"{offline_note()}: {first_line(error)}"
        ) from error


def _read_object(file: Path) -> dict:
    """A JSON object from a small file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} must hold a JSON object")
    return value


def _check_config(name: str, config: dict) -> None:
    inner = config.get("text_config")
    parts = [config, inner] if isinstance(inner, dict) else [config]
    for part in parts:
        for key in _DEPTH:
            layers = part.get(key, 1)
            if isinstance(layers, (int, float)) and layers > MOST_LAYERS:
                raise ValueError(
                    f"{name}: its config.json asks for {key} = {layers:g}, and more "
                    f"than {MOST_LAYERS} layers are not built"
                )
        for key in ("attn_implementation", "_attn_implementation"):
            if "/" in str(part.get(key, "")):
                raise ValueError(
                    f"{name}: its config.json asks for attention code from the hub "
                    f"({part[key]}), and no such code is run"
                )
    if config.get("transformers_weights"):
        raise ValueError(
            f"{name}: its config.json names weights of its own "
            f"({config['transformers_weights']}); call them model.safetensors"
        )


def _check_index(name: str, index: dict) -> None:
    """Every weight file that an index names is a plain ``*.safetensors``."""
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(
            f"{name}: {INDEX} has no weight_map, so no weight can be found"
        )
    for weight, file in names.items():
        if not is_plain(file):
            raise ValueError(
                f"{name}: {INDEX} looks for {weight} in {file!r}; weights must lie in "
                "*.safetensors files of the folder itself"
            )


def is_plain(file: object) -> bool:
    """Whether a name is that of a safetensors file, without any folder before it."""
    if not isinstance(file, str) or not file.endswith(".safetensors"):
        return False
    return not any(mark in file for mark in ("/", "\\", ":", "\0"))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a chat template, an end and a padding token.

    Parameters
    ----------
    name : str
        A folder, or a model's name on the hub.

    Returns
    -------
    PreTrainedTokenizerBase
        Where it has no padding token, it pads with its end-of-sequence token.

    Raises
    ------
    ValueError
        Naming the model and the part that is missing.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of any kind: the files are a stranger's
        raise ValueError(
            f"{name} has no tokenizer that can be loaded (tokenizer.json is missing?)"
            f"{offline_note()}: {first_line(error)}"
        ) from error
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of {name} has no chat template: use an instruction-tuned "
            "model, or set tokenizer.chat_template and save it again"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_weights(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with every weight read from its files, all of them finite.

    Parameters
    ----------
    name : str
        A folder, or a model's name on the hub; see `check_files`, which comes first.
    dtype : torch.dtype
        What the weights are held in.

    Returns
    -------
    PreTrainedModel
        On the CPU, as transformers builds it.

    Raises
    ------
    ValueError
        Naming the model and the weights that are missing, left over, of another shape
        than the config says, or not finite; or why transformers cannot build it.

    Notes
    -----
    transformers fills missing weights with random numbers and goes on, so the same
    folder would score a reply differently at each load. Weights that the config ties to
    others (an output layer that is the input embedding) are not missing.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that the report names them all
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind: the files are a stranger's
        raise ValueError(
            f"the model of {name} could not be loaded{offline_note()}: "
            f"{first_line(error)}"
        ) from error
    mismatched = [
        f"{weight} {tuple(stored)} where the config says {tuple(wanted)}"
        for weight, stored, wanted in report["mismatched_keys"]
    ]
    faults = {
        "weights that the files do not have": sorted(report["missing_keys"]),
        "weights that the model does not use": sorted(report["unexpected_keys"]),
        "weights of another shape": sorted(mismatched),
        "weights that are NaN or infinite": not_finite(model),
    }
    _refuse(f"the model of {name}", faults)
    return model


def load_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """A model with an adapter of PEFT, every weight of it read from its file.

    Parameters
    ----------
    model : PreTrainedModel
        The adapter's base model; it is changed in place.
    folder : Path
        Holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns
    -------
    peft.PeftModel
        In evaluation mode.

    Raises
    ------
    ValueError
        Naming the folder and what is wrong, as `load_weights` does.

    Notes
    -----
    PEFT reads a pickle where there is no safetensors file, fills missing weights with
    random numbers and leaves out those that it does not know.
    """
    from peft import PeftModel, get_peft_model_state_dict

    file = folder / ADAPTER
    if not file.is_file():
        raise ValueError(f"{folder} has no {ADAPTER}, and pickles are not read")
    try:
        with safe_open(file, "pt") as weights:
            stored = set(weights.keys())
        with warnings.catch_warnings(action="ignore"):  # what is missing is named below
            adapted = PeftModel.from_pretrained(model, str(folder)).eval()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind: the files may be a stranger's
        raise ValueError(
            f"the adapter of {folder} could not be loaded: {first_line(error)}"
        ) from error
    wanted = set(get_peft_model_state_dict(adapted))
    faults = {
        "weights that the file does not have": sorted(wanted - stored),
        "weights that the model does not use": sorted(stored - wanted),
        "weights that are NaN or infinite": not_finite(adapted),
    }
    _refuse(f"the adapter of {folder}", faults)
    return adapted


def _refuse(what: str, faults: dict[str, list[str]]) -> None:
    """ValueError that names the weights, if any are at fault."""
    parts = [f"{fault}: {_few(names)}" for fault, names in faults.items() if names]
    if parts:
        raise ValueError(
            f"{what} is not whole: {'; '.join(parts)}. Config and weight files must "
            "come from the same model; fetch or save it again"
        )


def not_finite(model: torch.nn.Module) -> list[str]:
    """Names of the weights that hold a NaN or an infinity."""
    return [
        name
        for name, weight in model.named_parameters()
        if not torch.isfinite(weight).all()
    ]


def check_vocabulary(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """ValueError if the tokenizer's special tokens have no row in the embedding."""
    size = model.get_input_embeddings().num_embeddings
    for role in ("eos", "pad", "bos"):
        token = getattr(tokenizer, f"{role}_token_id")
        if token is not None and token >= size:
            raise ValueError(
                f"the tokenizer of {name} has the {role}_token "
                f"{getattr(tokenizer, f'{role}_token')!r} with id {token}, outside the "
                f"model's vocabulary of {size}: they are not of the same model"
            )


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def offline_note() -> str:
    """A remark for errors, empty where the network may be used."""
    return " (HF_HUB_OFFLINE is set)" if offline() else ""
