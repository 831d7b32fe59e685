"""One file is one MIL head: ``build(in_features, classes) -> torch.nn.Module`` from [N, D] to BagOutput."""
