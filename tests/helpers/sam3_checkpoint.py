"""A very small SAM 3 with random weights as a folder in transformers' layout, with a tokenizer of single letters."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Sam3Config, Sam3Model

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = sorted(ByteLevel.alphabet())
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), START, END]
SIZE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


def tiny_config() -> Sam3Config:
    """56 px, windows of 28 px, two blocks of which the second one is global, eight instances."""
    tokens = {"bos_token_id": len(VOCABULARY) - 2, "eos_token_id": len(VOCABULARY) - 1}
    return Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", "num_hidden_layers": 2, "image_size": 56, "pretrain_image_size": 28,
                "patch_size": 14, "window_size": 2, "global_attn_indexes": [1], **SIZE,
            },
            "fpn_hidden_size": 32,
        },
        text_config={
            "model_type": "clip_text_model", "vocab_size": len(VOCABULARY), "projection_dim": 16,
            "num_hidden_layers": 1, "max_position_embeddings": 32, **tokens, **SIZE,
        },
        geometry_encoder_config={"num_layers": 1, "roi_size": 2, **SIZE},
        detr_encoder_config={"num_layers": 1, **SIZE},
        detr_decoder_config={"num_layers": 1, "num_queries": 8, **SIZE},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json."""
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(VOCABULARY)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")


def write_checkpoint(folder: Path, seed: int = 2) -> Path:
    """Weights eight times as large as transformers makes them: so the scores and the masks of instances differ."""
    torch.manual_seed(seed)
    model = Sam3Model(tiny_config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def as_video_model(folder: Path) -> None:
    """Rewrite the folder as the hub has SAM 3: the detector is a part of a video model, beside a tracker."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    video = {"model_type": "sam3_video", "detector_config": config, "tracker_config": {"model_type": "sam3_tracker"}}
    (folder / "config.json").write_text(json.dumps(video), encoding="utf-8")
    weights = {f"detector_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    weights |= {"tracker_model.no_memory_embedding": torch.ones(2), "tracker_neck.weight": torch.ones(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
