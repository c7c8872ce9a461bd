"""What clones of facebookresearch/sam3 have since SAM 3.1, on top of the package's classes, which lack it."""

import torch
from sam3.model import vitdet
from torch import Tensor


class CloneAttention(vitdet.Attention):
    """With `use_rope_real` it turns by two real buffers; the complex one is there, too, and not used."""

    use_rope_real = False

    def _apply_rope(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if not self.use_rope_real:
            return super()._apply_rope(q, k)
        return self._turned(q), self._turned(k)

    def _turned(self, x: Tensor) -> Tensor:
        real, imaginary = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
        cos, sin = (vitdet.reshape_for_broadcast(t, real) for t in (self.freqs_cis_real, self.freqs_cis_imag))
        turned = real * cos - imaginary * sin, real * sin + imaginary * cos
        return torch.stack(turned, dim=-1).flatten(3).type_as(x)


class CloneMlp(vitdet.Mlp):
    """Without a gradient, `fc1` is computed from its bare weight in bfloat16: for inference under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.fc2(self.act(self.fc1(x)))
        weight, bias = (value.detach().to(torch.bfloat16) for value in (self.fc1.weight, self.fc1.bias))
        return self.fc2(self.act(torch.nn.functional.linear(x.to(torch.bfloat16), weight, bias)))


class CloneViT(vitdet.ViT):
    """The trunk: one more argument."""

    def __init__(self, *arguments: object, use_rope_real: bool = False, **options: object) -> None:
        super().__init__(*arguments, **options)
        for block in self.blocks:
            block.mlp.__class__ = CloneMlp
            block.attn.__class__ = CloneAttention
            block.attn.use_rope_real = use_rope_real
            if use_rope_real:
                block.attn.register_buffer("freqs_cis_real", block.attn.freqs_cis.real)
                block.attn.register_buffer("freqs_cis_imag", block.attn.freqs_cis.imag)
