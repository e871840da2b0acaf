"""Files that appear whole or not at all, tell when they were damaged, and hold nothing that could be executed."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

FORMAT = 2  # of everything that is written; what another version wrote is refused by name
PART = ".pyro_vae-part"  # ends the name of a file that is not whole yet


class whole:
    """A temporary file that takes the place of ``path`` once it is written and on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.part = self.path.with_name(f".{self.path.name}-{uuid.uuid4().hex}{PART}")
        self.part.touch()
        self.mode = self.part.stat().st_mode  # what the user's umask makes of a new file, whoever writes it
        return self.part

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self.part.chmod(self.mode)
                with self.part.open("rb") as file:
                    os.fsync(file.fileno())
                self.part.replace(self.path)
        finally:
            self.part.unlink(missing_ok=True)


def check_folder(folder: Path, argument: str = "") -> None:
    """Raise where a file stands in the place of a folder, in words that name the argument that gave it."""
    if folder.exists() and not folder.is_dir():
        named = f"{argument}: " if argument else ""
        raise FileExistsError(f"{named}{folder}: expected a folder, found a file")


def sweep(folder: Path) -> None:
    """Remove what a process that was killed has left half written."""
    for left in folder.glob(f".*{PART}"):
        left.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``value`` as an indented file."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Nested mappings, lists and tuples of tensors, numbers and words, as one safetensors file.

    Raises:
        TypeError: where the state holds anything else.
        OSError: where the file cannot be written; what stood there before is left as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> write_state(path, {"step": 3, "betas": (0.9, 0.999), "moments": {0: torch.ones(2)}})
    >>> read_state(path)
    {'step': 3, 'betas': (0.9, 0.999), 'moments': {0: tensor([1., 1.])}}
    """
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_outline(state, "", tensors, {}))
    notes = {"pyro_vae": str(FORMAT), "outline": outline, "digest": digest(tensors, outline)}
    with whole(path) as part:
        try:
            safetensors.torch.save_file(tensors, str(part), notes)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from None


def read_state(path: Path) -> Any:
    """What :func:`write_state` wrote, on the CPU.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is damaged, or another program's or version's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(str(path), "pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, not a safetensors file ({error})") from None
    if "pyro_vae" not in notes:
        raise ValueError(f"{path}: not written by pyro_vae")
    if notes["pyro_vae"] != str(FORMAT):
        raise ValueError(f"{path}: written in format {notes['pyro_vae']}, this version reads format {FORMAT}")
    if notes.get("digest") != digest(tensors, notes.get("outline", "")):
        raise ValueError(f"{path}: damaged, its content is not what was written")
    return _restored(json.loads(notes["outline"]), tensors)


def _outline(value: Any, path: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """``value`` as JSON, its tensors taken out under the path that first leads to them."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        first = seen.setdefault(key, path) if value.numel() else path  # tied weights are one tensor
        if first == path:
            # the file holds whole storages: a slice or another view of one is copied
            view = storage.nbytes() != value.nbytes or seen.setdefault(storage.data_ptr(), path) != path
            tensors[path] = (value.clone() if view else value).detach().cpu().contiguous()
        return {"tensor": first}
    if isinstance(value, Mapping):
        return {"mapping": [[key, _outline(v, f"{path}/{key}", tensors, seen)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_outline(v, f"{path}/{i}", tensors, seen) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path.lstrip('/')}: a {type(value).__name__} cannot be saved, only tensors, numbers and words")


def _restored(outline: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(outline, list):
        return [_restored(item, tensors) for item in outline]
    if not isinstance(outline, dict):
        return outline
    if "tensor" in outline:
        return tensors[outline["tensor"]]
    if "tuple" in outline:
        return tuple(_restored(item, tensors) for item in outline["tuple"])
    return {key: _restored(item, tensors) for key, item in outline["mapping"]}


def digest(tensors: Mapping[str, Tensor], outline: str = "") -> str:
    """A number that changes with any bit of the tensors, their names, types and shapes."""
    found = hashlib.sha256(outline.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
