"""One file is one prompt strategy: ``build(options) -> (cam, rng) -> list[Prompt]``; numpy only."""
