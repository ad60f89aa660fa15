"""Foreign model folders: whole or refused by name, and none of their code ever runs."""

import ast
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from mipo import logprobs, models
from mipo.lm import checkpoints

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tiny_llama, tmp_path):
    """A copy of the tiny Llama whose files a test may spoil."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def edit(file, **changes):
    value = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(value | changes))


def spoil(folder, change):
    """Rewrite the weights of a folder."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def refusal(folder):
    with pytest.raises(ValueError) as error:
        models.load_model(folder, device="cpu")
    message = str(error.value)
    assert str(folder) in message and "\n" not in message
    return message


# ---- weights ----


def test_a_whole_folder_gives_the_same_log_probs_twice(folder):
    scores = []
    for _ in range(2):
        model, tokenizer = models.load_model(folder, device="cpu")
        found = logprobs.response_logps(model, tokenizer, ["Ask"], ["I am a baker."])
        scores.append(found.summed)
    assert torch.equal(*scores) and torch.isfinite(scores[0]).all()


def test_tied_weights_are_not_missing(tiny_qwen2):
    stored = load_file(tiny_qwen2 / "model.safetensors")
    assert "lm_head.weight" not in stored  # it is the embedding
    model, _ = models.load_model(tiny_qwen2, device="cpu")
    tied = model.get_output_embeddings().weight
    assert torch.equal(tied, stored["model.embed_tokens.weight"])


def test_a_layer_more_than_the_weights_have_is_refused(folder):
    edit(folder / "config.json", num_hidden_layers=3, layer_types=None)
    message = refusal(folder)
    assert "weights that the files do not have" in message
    assert "model.layers.2." in message


def test_a_layer_fewer_than_the_weights_have_is_refused(folder):
    edit(folder / "config.json", num_hidden_layers=1, layer_types=None)
    message = refusal(folder)
    assert "weights that the model does not use" in message
    assert "model.layers.1." in message


def test_one_missing_weight_is_named(folder):
    spoil(folder, lambda weights: weights.pop("model.norm.weight"))
    assert "do not have: model.norm.weight." in refusal(folder)


def test_a_weight_of_another_shape_is_named(folder):
    name = "model.layers.0.mlp.up_proj.weight"  # (64, 32)

    def widen(weights):
        weights[name] = torch.zeros(66, 32)

    spoil(folder, widen)
    message = refusal(folder)
    assert f"another shape: {name} (66, 32) where the config says (64, 32)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(folder, value):
    name = "model.layers.1.self_attn.q_proj.weight"

    def poison(weights):
        weights[name][3, 5] = value

    spoil(folder, poison)
    assert f"NaN or infinite: {name}." in refusal(folder)


def test_many_faulty_weights_are_counted(folder):
    def poison(weights):
        for weight in weights.values():
            weight[...] = float("nan")

    spoil(folder, poison)
    stored = len(load_file(folder / "model.safetensors"))
    assert f"and {stored - 5} more" in refusal(folder)


# ---- which files are read ----


def index(folder, file):
    """Put the weights into `file`, and an index that names it in their place."""
    weights = folder / "model.safetensors"
    names = dict.fromkeys(load_file(weights), file)
    content = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return weights


def test_an_index_of_plain_safetensors_files_is_followed(folder):
    whole = load_file(folder / "model.safetensors")
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, weight) in enumerate(whole.items()):
        parts[list(parts)[i % 2]][name] = weight
    for file, weights in parts.items():
        save_file(weights, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    places = {name: file for file, part in parts.items() for name in part}
    content = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    model, _ = models.load_model(folder, device="cpu")
    assert all(torch.equal(model.state_dict()[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    "file",
    [
        "w.bin",
        "../outside.safetensors",
        "/tmp/outside.safetensors",
        "sub/w.safetensors",
        "..\\outside.safetensors",
        "C:w.safetensors",
        "w.safetensors\0.bin",
        ".safetensors.bin",
        3,
        None,
    ],
)
def test_an_index_may_only_name_safetensors_of_its_folder(folder, file):
    weights = index(folder, file)
    shutil.copy(weights, folder.parent / "outside.safetensors")
    weights.unlink()
    assert "*.safetensors files of the folder itself" in refusal(folder)


def test_the_index_of_a_model_on_the_hub_is_held_to_the_same(folder, monkeypatch):
    index(folder, "../outside.safetensors")

    def download(name, file):
        if not (folder / file).exists():
            raise EntryNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(
        ValueError, match="somebody/model: .*files of the folder itself"
    ):
        checkpoints.check_files("somebody/model")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', "[]", "{", "[" * 9999])
def test_a_broken_index_is_refused(folder, content):
    file = folder / "model.safetensors.index.json"
    file.write_text(content)
    assert "index.json" in refusal(folder)


class Canary:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_no_pickle_is_read(folder):
    touched = folder.parent / "touched"
    poison = pickle.dumps(Canary(touched))
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
        (folder / name).write_bytes(poison)
    models.load_model(folder, device="cpu")  # they lie beside the weights
    (folder / "model.safetensors").unlink()
    refusal(folder)
    (folder / "model.safetensors").write_bytes(poison)  # renamed
    refusal(folder)
    assert not touched.exists()
    pickle.loads(poison)
    assert touched.exists()  # the canary sings


def test_weights_in_a_harmless_pickle_are_refused_as_well(folder):
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    assert "could not be loaded" in refusal(folder)


def test_an_adapter_is_no_model(folder):
    edit(folder / "adapter_config.json", base_model_name_or_path="somewhere/else")
    assert "holds an adapter" in refusal(folder)


# ---- adapters ----


@pytest.fixture
def adapter(tiny_qwen2, tmp_path):
    """(base, folder): an adapter of the tiny Qwen2 whose files a test may spoil."""
    base, _ = models.load_model(tiny_qwen2, device="cpu")
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path / "adapter")
    return tuned.unload(), tmp_path / "adapter"


def adapter_refusal(adapter):
    with pytest.raises(ValueError) as error:
        checkpoints.load_adapter(*adapter)
    assert str(adapter[1]) in str(error.value)
    return str(error.value)


def spoil_adapter(folder, change):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


A_WEIGHT = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"  # (2, 32)


def test_a_whole_adapter_is_put_on(adapter):
    stored = load_file(adapter[1] / "adapter_model.safetensors")[A_WEIGHT]
    tuned = checkpoints.load_adapter(*adapter)
    layer = tuned.base_model.model.model.layers[1].self_attn.q_proj
    assert torch.equal(layer.lora_A["default"].weight, stored)
    assert not tuned.training


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop(A_WEIGHT), f"the file does not have: {A_WEIGHT}."),
        (lambda w: w.update(x=torch.ones(1)), "that the model does not use: x."),
        (lambda w: w[A_WEIGHT].fill_(float("nan")), "NaN or infinite: .*lora_A"),
        (lambda w: w.update({A_WEIGHT: torch.ones(3, 32)}), "could not be loaded"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(adapter, change, message):
    spoil_adapter(adapter[1], change)
    assert re.search(message, adapter_refusal(adapter))


def test_an_adapter_in_a_pickle_is_not_read(adapter):
    touched = adapter[1].parent / "touched"
    (adapter[1] / "adapter_model.safetensors").unlink()
    (adapter[1] / "adapter_model.bin").write_bytes(pickle.dumps(Canary(touched)))
    assert "no adapter_model.safetensors" in adapter_refusal(adapter)
    assert not touched.exists()


# ---- code ----

EVIL = """
from pathlib import Path
Path({touched!r}).touch()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
"""
CODE = {
    "AutoConfig": "evil.Config",
    "AutoModelForCausalLM": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}


@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_repository_never_runs(folder, monkeypatch, known):
    """As in `yes | python …`: transformers would ask on stdin, and be told yes."""
    touched = folder.parent / "touched"
    (folder / "evil.py").write_text(EVIL.format(touched=str(touched)))
    kind = {} if known else {"model_type": "evil"}
    edit(folder / "config.json", auto_map=CODE, **kind)
    edit(folder / "tokenizer_config.json", auto_map=CODE)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.input", input, raising=False)
    if known:
        model, _ = models.load_model(folder, device="cpu")
        assert type(model).__module__.startswith("transformers.models.llama")
    else:
        refusal(folder)
    assert not touched.exists()
    exec(compile((folder / "evil.py").read_text(), "evil.py", "exec"), {})
    assert touched.exists()  # the canary sings


def test_attention_code_from_the_hub_is_refused(folder):
    edit(folder / "config.json", attn_implementation="somebody/fast-attention")
    assert "attention code from the hub (somebody/fast-attention)" in refusal(folder)


def test_weights_under_another_name_are_refused(folder):
    edit(folder / "config.json", transformers_weights="other.safetensors.index.json")
    assert "names weights of its own" in refusal(folder)


def sources():
    """(file, Python source) of everything that we run."""
    for part in ("src", "tests", "scripts", "benchmarks"):
        for file in sorted((ROOT / part).rglob("*.py")):
            yield file, file.read_text(encoding="utf-8")
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(file.read_bytes())["cells"]:
            if cell["cell_type"] == "code":
                yield file, "".join(cell["source"])


LOADERS = ("from_pretrained", "from_config", "pipeline")
SWITCH = "trust_remote_code"


def trusting(source):
    """Lines that load a model or tokenizer and leave code switched on, or switch it on."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            words = {ast.unparse(k): v for k, v in zip(node.keys, node.values) if k}
            if ast.unparse(words.get(repr(SWITCH), ast.Constant(False))) != "False":
                yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).split(".")
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        # PeftModel puts weights on a model that is already there
        loads = called[-1] in LOADERS and called[0] != "PeftModel"
        if given.get(SWITCH, "None" if loads else "False") != "False":
            yield node.lineno


def test_every_load_switches_foreign_code_off():
    faults = [f"{file}:{line}" for file, text in sources() for line in trusting(text)]
    assert faults == []


def test_the_search_finds_a_load_that_trusts():
    name, word = "from_" + "pretrained", "trust_" + "remote_code"
    fine = f"AutoModel.{name}(x, {word}=False)\nPeftModel.{name}(m, x)"
    assert list(trusting(fine)) == []
    bad = [
        f"transformers.AutoConfig.{name}(x)",
        f"AutoModel.{name}(x, {word}=t)",
        f"Loader.{name}(x, {word}=None)",
        "pipeline('text-generation', x)",
        f"options = {{'{word}': True}}",
        f"trainer(model, {word}=True)",
    ]
    assert list(trusting("\n".join(bad))) == [1, 2, 3, 4, 5, 6]
    loads = [file for file, text in sources() if f"Auto{'Tokenizer'}.{name}" in text]
    assert ROOT / "src" / "mipo" / "lm" / "checkpoints.py" in loads


# ---- what would hang or fail later ----


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer"])
def test_an_absurd_depth_is_refused_before_anything_is_built(folder, key, monkeypatch):
    edit(folder / "config.json", **{key: 100_000})
    monkeypatch.setattr(checkpoints, "load_weights", lambda *_: pytest.fail("built"))
    assert f"{key} = 100000" in refusal(folder)


def test_an_absurd_depth_of_the_inner_config_is_refused(folder):
    edit(folder / "config.json", text_config={"num_hidden_layers": 10**9})
    assert "more than 1000 layers" in refusal(folder)


@pytest.mark.parametrize("role", ["eos_token", "pad_token", "bos_token"])
def test_a_special_token_outside_the_vocabulary_is_refused(folder, role):
    edit(folder / "tokenizer_config.json", **{role: "<|new|>"})
    special = folder / "special_tokens_map.json"
    if special.exists():
        edit(special, **{role: "<|new|>"})
    assert f"the {role} '<|new|>'" in refusal(folder)


def test_a_type_that_holds_no_weights_is_refused(folder):
    for dtype in ("int8", "floaty", "nn"):
        with pytest.raises(ValueError, match=f'dtype "{dtype}" is no floating type'):
            models.load_model(folder, dtype=dtype)
