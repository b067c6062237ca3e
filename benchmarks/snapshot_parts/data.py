"""Two revisions of a model, and a set of LoRA adapters that both have."""

import json
from pathlib import Path

import numpy as np

SEED = 20261126
HIDDEN, FEED = 2048, 5632
LORAS = 200
BF16 = 2
CHANGED = 0.25


def tensors(total_bytes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a decoder's tensors, layer by layer, until there are enough bytes."""
    shapes: dict[str, tuple[int, ...]] = {}
    layer, held = 0, 0
    while held < total_bytes:
        one = {
            "input_layernorm": (HIDDEN,),
            "mlp.down_proj": (HIDDEN, FEED),
            "mlp.gate_proj": (FEED, HIDDEN),
            "mlp.up_proj": (FEED, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.k_proj": (HIDDEN, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.v_proj": (HIDDEN, HIDDEN),
        }
        for name, shape in one.items():
            if held >= total_bytes:
                break
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            held += int(np.prod(shape)) * BF16
        layer += 1
    return shapes


def revisions(folder: Path, total_bytes: int) -> tuple[int, int]:
    """Write `r1` and `r2` into a folder: a quarter of the tensors changed, and one inserted.

    Returns:
        Bytes of the second revision, and how many of them the first has not.
    """
    shapes = tensors(total_bytes)
    names = list(shapes)
    dice = np.random.default_rng(SEED)
    changed = set(dice.choice(names, round(len(names) * CHANGED), replace=False).tolist())
    inserted = "model.layers.0.self_attn.rotary.weight"
    second: dict[str, tuple[int, ...]] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        second[name] = shape
        if number == len(shapes) // 3:
            second[inserted] = (HIDDEN, HIDDEN // 4)
    different = sum(_bytes(second[name]) for name in [*changed, inserted])
    for revision, listed, salted in (("r1", shapes, set()), ("r2", second, changed)):
        into = folder / revision
        (into / "loras").mkdir(parents=True)
        _write_model(into / "model.safetensors", listed, salted)
        (into / "config.json").write_text(json.dumps({"hidden_size": HIDDEN}))
        for number in range(LORAS):
            source = np.random.default_rng((SEED, number))
            size = int(source.integers(20_000, 900_000))
            (into / "loras" / f"adapter-{number:03}.bin").write_bytes(source.bytes(size))
    total = sum(file.stat().st_size for file in (folder / "r2").rglob("*") if file.is_file())
    return total, different


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * BF16


def _write_model(file: Path, shapes: dict[str, tuple[int, ...]], salted: set[str]) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            seed = [SEED, int(name in salted), *name.encode()]
            out.write(np.random.Generator(np.random.SFC64(seed)).bytes(_bytes(shape)))
