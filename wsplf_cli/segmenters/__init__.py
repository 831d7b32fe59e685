"""One file is one segmentation model: ``build(classes, **options) -> torch.nn.Module``, [B,3,H,W] to [B,C,H,W] logits."""
